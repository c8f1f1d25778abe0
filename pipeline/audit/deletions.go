package audit

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/deletion"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// deletionAudit holds the deletions that are recorded against the log: what they replaced is
// there, and before the ends of then nothing else of their data is.
type deletionAudit struct {
	finding *Finding
	all     []*recordedDeletion

	mu sync.Mutex
	// replaced are the records that were, by deletion and topic, and said the deletions of
	// which the log has the event.
	replaced map[string]map[schema.Topic]int64
	said     map[string]bool
}

type recordedDeletion struct {
	store.DeletionRecord
	subject schema.Subject
	ends    map[schema.Topic][]int64
	// later says that data came after it.
	later bool
}

func (a *audit) loadDeletions(ctx context.Context) error {
	d := &deletionAudit{finding: NewFinding("deletions", a.Most), replaced: map[string]map[schema.Topic]int64{}, said: map[string]bool{}}
	a.deletions = d
	recorded, err := store.Deletions(ctx, a.View)
	if err != nil {
		return err
	}
	for _, r := range recorded {
		ends, err := deletion.Ends(r)
		if err != nil {
			d.finding.Differ("%v", err)
			continue
		}
		d.all = append(d.all, &recordedDeletion{DeletionRecord: r, subject: schema.Subject{Provider: r.Provider, Symbol: r.Symbol}, ends: ends})
	}
	return nil
}

// record looks at a record of the log.
func (d *deletionAudit) record(r *pipeline.Record) {
	if id, ok := deletion.Replaced(r.Headers, r.Value); ok {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.replaced[id] == nil {
			d.replaced[id] = map[schema.Topic]int64{}
		}
		d.replaced[id][r.Topic]++
		return
	}
	if r.Topic == schema.PollingJobs {
		if event, err := schema.DecodeEvent(r.Headers, r.Value); err == nil {
			if said, ok := event.Payload.(schema.DataDeleted); ok {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.said[said.DeletionID] = true
				return
			}
		}
	}
	if len(d.all) == 0 {
		return
	}
	subjects, _ := schema.SubjectsOf(r.Topic, r.Key, r.Headers, r.Value)
	for _, of := range d.all {
		if !slices.ContainsFunc(subjects, of.subject.Holds) {
			continue
		}
		if ends := of.ends[r.Topic]; int(r.Partition) < len(ends) && r.Offset < ends[r.Partition] {
			d.finding.Differ("the record at offset %d of %s holds data of %s, which deletion %s deleted", r.Offset, r.TopicPartition, of.subject, of.ID)
			continue
		}
		d.mu.Lock()
		of.later = true
		d.mu.Unlock()
	}
}

// end holds what was met against what is recorded. It returns nil where nothing was ever
// deleted.
func (a *audit) endDeletions(ctx context.Context) (*Finding, error) {
	d := a.deletions
	if len(d.all)+len(d.replaced)+len(d.said) == 0 && d.finding.Found == 0 {
		return nil, nil
	}
	d.finding.Count("deletions", int64(len(d.all)))
	for _, of := range d.all {
		if err := a.endDeletion(ctx, of); err != nil {
			return nil, err
		}
		delete(d.replaced, of.ID)
	}
	for _, id := range slices.Sorted(maps.Keys(d.replaced)) {
		if d.said[id] {
			d.finding.NotChecked("records were replaced by deletion %s, which the log tells of and the database does not", id)
			continue
		}
		d.finding.Differ("records were replaced by deletion %q, which is not recorded", id)
	}
	return d.finding, nil
}

func (a *audit) endDeletion(ctx context.Context, of *recordedDeletion) error {
	d := a.deletions
	recorded, _, err := deletion.Summary(of.DeletionRecord)
	if err != nil {
		d.finding.Differ("%v", err)
		return nil
	}
	met := d.replaced[of.ID]
	for _, n := range met {
		d.finding.Count("records replaced", n)
	}
	for topic := range maps.Keys(union(recorded, met)) {
		if recorded[topic] != met[topic] {
			d.finding.Differ("deletion %s replaced %d records of %s, as it is recorded, and %d are there", of.ID, recorded[topic], topic, met[topic])
		}
	}
	if !d.said[of.ID] {
		d.finding.Missing("the log has no event of deletion %s", of.ID)
	}
	if of.later || a.Remaining == nil {
		return nil
	}
	rows, err := a.Remaining(ctx, a.View, of.subject)
	if err != nil {
		return err
	}
	for _, table := range slices.Sorted(maps.Keys(rows)) {
		if n := rows[table]; n > 0 {
			d.finding.Add(n, 0, n, "rows of "+table+" are of "+of.subject.String()+", whose data were deleted by "+of.ID)
		}
	}
	return nil
}

func union(a, b map[schema.Topic]int64) map[schema.Topic]int64 {
	all := maps.Clone(a)
	if all == nil {
		all = map[schema.Topic]int64{}
	}
	maps.Copy(all, b)
	return all
}
