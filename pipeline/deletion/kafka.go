package deletion

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// A topic of Kafka is written again: to a copy in which what is deleted was replaced, and, once that
// is complete, from there to a new topic of its own name. Each phase is recorded when it is over.
// There is never a moment in which a kept record is in no topic:
//
//   - the topic is deleted only if its copy is recorded as complete, and was compared with it;
//   - the copy is deleted only if the new topic is recorded as complete, and was compared with it.
const (
	phaseCopying = "" // the copy is made, or not yet begun
	phaseCopied  = "copied"
	phaseWritten = "written" // the new topic is complete, and the database knows it
	phaseDone    = "done"
)

// rewriting is how far a topic was written again.
type rewriting struct {
	Phase string `json:"phase,omitempty"`
	// ID is that of the topic as it was, Copy that of the copy, and New that of the new one.
	ID   string `json:"id"`
	Copy string `json:"copy,omitempty"`
	New  string `json:"new,omitempty"`
	// Shape is how the topic was created, Held what its partitions held, and Groups the offsets
	// that consumer groups had committed.
	Shape  kafka.Shape                `json:"shape"`
	Held   []log.OffsetRange          `json:"held,omitempty"`
	Groups map[string]map[int32]int64 `json:"groups,omitempty"`
}

// CopyOf is the name of the copy of a topic on Kafka.
func CopyOf(name string) string { return name + ".deletion" }

// copyOf is the copy of a topic: a role that the cluster knows by its own name.
func (c Config) copyOf(topic schema.Topic) schema.Topic {
	return schema.Topic(CopyOf(c.Kafka.Name(topic)))
}

// sendOutbox sends what waits in the outbox, so that the log has all there is of the data.
func (c Config) sendOutbox(ctx context.Context) error {
	set, err := c.Topics(ctx)
	if err != nil {
		return err
	}
	owner := uuid.NewString()
	relay := outbox.NewRelay(c.Store, c.Kafka, set, owner, slog.New(slog.DiscardHandler))
	err = relay.Drain(ctx)
	if err = errors.Join(err, c.Store.ReleaseLease(ctx, outbox.LeaseName, owner)); err != nil {
		return fmt.Errorf("sending the outbox: %w", err)
	}
	waiting, err := c.waiting(ctx)
	if err == nil && waiting > 0 {
		err = fmt.Errorf("%w: %d events of the outbox cannot be sent: start the service until it has sent them, and see pricemill stages list", ErrRefused, waiting)
	}
	return err
}

// waiting is how many events wait in the outbox.
func (c Config) waiting(ctx context.Context) (n int64, err error) {
	if err := c.Store.Get(ctx, &n, `SELECT COUNT(*) FROM outbox`); err != nil {
		return 0, fmt.Errorf("counting the events of the outbox: %w", err)
	}
	return n, nil
}

// checkTopics refuses topics that are not those that the database knows.
func (c Config) checkTopics(ctx context.Context) error {
	known, err := c.Store.Topics(ctx)
	if err != nil {
		return err
	}
	infos, err := c.Kafka.Topics(ctx, schema.Topics())
	if err != nil {
		return err
	}
	newest := map[schema.Topic]string{}
	for _, t := range known { // by epoch
		newest[schema.Topic(t.Name)] = t.ID
	}
	for _, topic := range schema.Topics() {
		if infos[topic].ID != newest[topic] {
			return fmt.Errorf("%w: topic %s of the cluster is not the one that the database knows: start the service, and see pricemill stages list", ErrRefused, c.Kafka.Name(topic))
		}
	}
	return nil
}

// readers are the consumer groups that have committed offsets on topics, and those of them that
// have members.
func (c Config) readers(ctx context.Context, topics []schema.Topic) (groups map[string][]schema.Topic, active []string, err error) {
	groups = map[string][]schema.Topic{}
	for _, topic := range topics {
		committed, err := c.Kafka.GroupOffsets(ctx, topic)
		if err != nil {
			return nil, nil, err
		}
		for group := range committed {
			groups[group] = append(groups[group], topic)
		}
	}
	working, err := c.Kafka.ActiveGroups(ctx, "")
	for _, group := range working {
		if groups[group] != nil {
			active = append(active, group)
		}
	}
	return groups, active, err
}

// planTopics adds to a plan what is to be known of the topics that are written again.
func (c Config) planTopics(ctx context.Context, p *Plan, f found) error {
	for topic := range p.Records {
		p.Rewritten = append(p.Rewritten, Rewritten{topic, f.total[topic], f.bytes[topic]})
	}
	slices.SortFunc(p.Rewritten, func(a, b Rewritten) int { return strings.Compare(string(a.Topic), string(b.Topic)) })
	groups, _, err := c.readers(ctx, slices.Collect(maps.Keys(p.Records)))
	if err != nil {
		return err
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		if !strings.HasPrefix(group, c.Groups) {
			slices.Sort(groups[group])
			p.Left = append(p.Left, Left{"consumer group " + group, 0, fmt.Sprintf("what it has read of %s", groups[group])})
		}
	}
	return nil
}

// prepare has the topics of a plan written again, unless the cluster would refuse it. It makes a
// copy of each without records, and deletes it.
func (d *deleting) prepare(ctx context.Context, p Plan) (map[schema.Topic]*rewriting, error) {
	topics := slices.Sorted(maps.Keys(p.Records))
	_, active, err := d.readers(ctx, topics)
	if err != nil {
		return nil, err
	}
	if len(active) > 0 {
		return nil, fmt.Errorf("%w: consumer groups are reading topics that have to be written again: stop them first: %s", ErrRefused, strings.Join(active, ", "))
	}
	infos, err := d.Kafka.Topics(ctx, topics)
	if err != nil {
		return nil, err
	}
	all := map[schema.Topic]*rewriting{}
	for _, topic := range topics {
		if err := d.try(ctx, topic); err != nil {
			return nil, fmt.Errorf("%w: nothing was changed: %w", ErrRefused, err)
		}
		all[topic] = &rewriting{ID: infos[topic].ID}
	}
	return all, nil
}

// try finds out whether the cluster lets a topic be written again.
func (d *deleting) try(ctx context.Context, topic schema.Topic) error {
	if err := d.Kafka.CheckRights(ctx, topic); err != nil {
		return err
	}
	shape, err := d.Kafka.Shape(ctx, topic)
	if err != nil {
		return err
	}
	if _, err := d.Kafka.Create(ctx, topic, shape, true); err != nil {
		return err
	}
	groups, err := d.Kafka.GroupOffsets(ctx, topic)
	if err != nil {
		return err
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) { // as they are
		if err := d.Kafka.Commit(ctx, group, topic, groups[group]); err != nil {
			return err
		}
	}
	other := d.copyOf(topic)
	if err := d.Kafka.Delete(ctx, other); err != nil {
		return err
	}
	if _, err := d.Kafka.Create(ctx, other, shape, false); err != nil {
		return err
	}
	return errors.Join(d.Kafka.CheckRights(ctx, other), d.Kafka.Delete(ctx, other))
}

// rewrite writes the topics again that hold the data.
func (d *deleting) rewrite(ctx context.Context) error {
	for _, topic := range slices.Sorted(maps.Keys(d.counted.Topics)) {
		r := d.counted.Topics[topic]
		for r.Phase != phaseDone {
			var err error
			switch r.Phase {
			case phaseCopying:
				err = d.copyTopic(ctx, topic, r)
			case phaseCopied:
				err = d.writeTopic(ctx, topic, r)
			case phaseWritten:
				err = d.dropCopy(ctx, topic, r)
			}
			if err != nil {
				return fmt.Errorf("writing topic %s again: %w", d.Kafka.Name(topic), err)
			}
		}
	}
	return nil
}

// note records how far the topics are.
func (d *deleting) note(ctx context.Context, step string, also func(tx *store.Tx) error) error {
	return d.write(ctx, step, func(tx *store.Tx, counted string) error {
		if also != nil {
			if err := also(tx); err != nil {
				return err
			}
		}
		return tx.UpdateDeletion(ctx, d.ID, d.State, counted)
	})
}

// idOf is the id of a topic; empty where it does not exist.
func (d *deleting) idOf(ctx context.Context, topic schema.Topic) (string, error) {
	infos, err := d.Kafka.Topics(ctx, []schema.Topic{topic})
	return infos[topic].ID, err
}

// create makes sure that a topic is the one with the id that is recorded, and that there is one. One
// of another id was made by a run that did not come to record it, or by another client, and has
// no records: it is deleted.
func (d *deleting) create(ctx context.Context, topic schema.Topic, shape kafka.Shape, recorded *string) error {
	there, err := d.idOf(ctx, topic)
	if err != nil || there != "" && there == *recorded {
		return err
	}
	if there != "" {
		held, err := d.Kafka.Offsets(ctx, topic)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(held, func(r log.OffsetRange) bool { return r.End > 0 }) {
			return fmt.Errorf("%w: another client has created topic %s, and written to it: stop that client, and delete the topic", ErrRefused, d.Kafka.Name(topic))
		}
		if err := d.Step(ctx, "deleting an empty "+string(topic)); err != nil {
			return err
		}
		if err := d.Kafka.Delete(ctx, topic); err != nil {
			return err
		}
	}
	if err := d.Step(ctx, "creating "+string(topic)); err != nil {
		return err
	}
	info, err := d.Kafka.Create(ctx, topic, shape, false)
	if err != nil {
		return err
	}
	*recorded = info.ID
	return d.note(ctx, "recording "+string(topic), nil)
}

// copyTopic makes the copy, in which what is deleted is replaced.
func (d *deleting) copyTopic(ctx context.Context, topic schema.Topic, r *rewriting) error {
	id, err := d.idOf(ctx, topic)
	if err != nil {
		return err
	}
	if id != r.ID {
		return fmt.Errorf("%w: it is not the topic that it was: its id is %q, and was %s", ErrRefused, id, r.ID)
	}
	if r.Shape, err = d.Kafka.Shape(ctx, topic); err != nil {
		return err
	}
	if r.Held, err = d.Kafka.Offsets(ctx, topic); err != nil {
		return err
	}
	other := d.copyOf(topic)
	if err := d.create(ctx, other, r.Shape, &r.Copy); err != nil {
		return err
	}
	if err := d.transfer(ctx, topic, other, r, d.replaced(topic)); err != nil {
		return err
	}
	if r.Groups, err = d.Kafka.GroupOffsets(ctx, topic); err != nil {
		return err
	}
	r.Phase = phaseCopied
	return d.note(ctx, "recording the copy of "+string(topic), nil)
}

// writeTopic puts a new topic in the place of the one that was copied.
func (d *deleting) writeTopic(ctx context.Context, topic schema.Topic, r *rewriting) error {
	other := d.copyOf(topic)
	if err := d.holdsAll(ctx, other, r.Copy, r.Held); err != nil {
		return err
	}
	there, err := d.idOf(ctx, topic)
	if err != nil {
		return err
	}
	if there == r.ID {
		held, err := d.Kafka.Offsets(ctx, topic)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(held, r.Held, func(a, b log.OffsetRange) bool { return a.End == b.End }) {
			r.Phase = phaseCopying // another client wrote to it: the copy gets that too
			return d.note(ctx, "copying what came to "+string(topic), nil)
		}
		if err := d.Step(ctx, "deleting "+string(topic)); err != nil {
			return err
		}
		if err := d.Kafka.Delete(ctx, topic); err != nil {
			return err
		}
	}
	if err := d.create(ctx, topic, r.Shape, &r.New); err != nil {
		return err
	}
	whole := *r
	whole.Held = slices.Clone(r.Held)
	for i := range whole.Held {
		whole.Held[i].Oldest = 0 // the copy has records at the offsets that were missing
	}
	if err := d.transfer(ctx, other, topic, &whole, asItIs); err != nil {
		return err
	}
	oldest := make([]int64, len(r.Held))
	for i, held := range r.Held {
		oldest[i] = held.Oldest
	}
	if err := d.Kafka.DeleteBefore(ctx, topic, oldest); err != nil {
		return err
	}
	if err := d.Kafka.Finish(ctx, topic, r.Shape); err != nil {
		return err
	}
	for _, group := range slices.Sorted(maps.Keys(r.Groups)) {
		if err := d.Kafka.Commit(ctx, group, topic, r.Groups[group]); err != nil {
			return err
		}
	}
	r.Phase = phaseWritten
	return d.note(ctx, "adopting "+string(topic), func(tx *store.Tx) error { return tx.ReplaceTopic(ctx, string(topic), r.ID, r.New) })
}

// holdsAll refuses to continue without a topic that has the only copy of records.
func (d *deleting) holdsAll(ctx context.Context, topic schema.Topic, id string, held []log.OffsetRange) error {
	there, err := d.idOf(ctx, topic)
	if err != nil {
		return err
	}
	if there != id {
		return fmt.Errorf("%w: topic %s is not the one that was written: its id is %q, and was %s", ErrRefused, d.Kafka.Name(topic), there, id)
	}
	now, err := d.Kafka.Offsets(ctx, topic)
	if err == nil && !slices.EqualFunc(now, held, func(a, b log.OffsetRange) bool { return a.End == b.End }) {
		err = fmt.Errorf("%w: topic %s does not end where it was written to", ErrRefused, d.Kafka.Name(topic))
	}
	return err
}

// dropCopy deletes the copy.
func (d *deleting) dropCopy(ctx context.Context, topic schema.Topic, r *rewriting) error {
	if err := d.holdsAll(ctx, topic, r.New, r.Held); err != nil {
		return err
	}
	other := d.copyOf(topic)
	if err := d.Step(ctx, "deleting "+string(other)); err != nil {
		return err
	}
	if err := d.Kafka.Delete(ctx, other); err != nil {
		return err
	}
	r.Phase = phaseDone
	return d.note(ctx, "recording the end of "+string(other), nil)
}

// transfer writes the records of a topic to another one at their own offsets, and compares them. It
// continues where an earlier run was interrupted. A target that does not hold what was
// written is deleted.
func (d *deleting) transfer(ctx context.Context, from, to schema.Topic, r *rewriting, change changing) error {
	if err := d.Step(ctx, "writing "+string(to)); err != nil {
		return err
	}
	held, err := d.Kafka.Offsets(ctx, to)
	if err != nil {
		return err
	}
	err = log.EachPartition(ctx, to, len(r.Held), func(ctx context.Context, tp pipeline.TopicPartition) error {
		next, stop := d.sequence(ctx, from, tp.Partition, r.Held[tp.Partition], held[tp.Partition].End, change)
		defer stop()
		return log.WriteSequence(ctx, d.Kafka, tp, next, d.Progress)
	})
	if err != nil {
		return err
	}
	if err := d.Step(ctx, "comparing "+string(to)); err != nil {
		return err
	}
	if held, err = d.Kafka.Offsets(ctx, to); err != nil {
		return err
	}
	err = log.EachPartition(ctx, to, len(r.Held), func(ctx context.Context, tp pipeline.TopicPartition) error {
		oldest := min(held[tp.Partition].Oldest, r.Held[tp.Partition].End) // the head was deleted before
		next, stop := d.sequence(ctx, from, tp.Partition, r.Held[tp.Partition], oldest, change)
		defer stop()
		return log.CompareSequence(ctx, d.Kafka, tp, oldest, r.Held[tp.Partition].End, true, next, d.Progress)
	})
	if errors.Is(err, log.ErrOtherRecords) {
		err = fmt.Errorf("%w; it is deleted: run the command again", errors.Join(err, d.Kafka.Delete(ctx, to)))
	}
	return err
}

// changing makes of a record what is written.
type changing func(r *pipeline.Record) (log.OutgoingRecord, error)

// asItIs is a changing that does not.
func asItIs(r *pipeline.Record) (log.OutgoingRecord, error) {
	return log.OutgoingRecord{Key: r.Key, Headers: r.Headers, Value: r.Value, Timestamp: r.Timestamp}, nil
}

// replaced returns a changing that replaces what is deleted. What came after the deletion
// began stays.
func (d *deleting) replaced(topic schema.Topic) changing {
	replacement, ends := d.replacement(d.counted.At), d.ends[topic]
	return func(r *pipeline.Record) (log.OutgoingRecord, error) {
		other, err := asItIs(r)
		if err != nil || int(r.Partition) >= len(ends) || r.Offset >= ends[r.Partition] {
			return other, err
		}
		instead, err := replacement(r)
		if err == nil && instead != nil {
			other.Key, other.Value, other.Headers = nil, instead.Value, append(instead.Headers, placeOf(r.Headers)...)
		}
		return other, err
	}
}

// placeOf are the headers that say where a record is in the chain of its partition: numbers stay.
func placeOf(headers []schema.Header) (place []schema.Header) {
	if _, _, err := chain.LinkOf(headers); err != nil {
		return nil
	}
	for _, h := range headers {
		switch h.Key {
		case chain.HeaderTimeline, chain.HeaderNumber, chain.HeaderDerived, chain.HeaderDirect:
			place = append(place, h)
		}
	}
	return place
}

// errStopped ends a reading that is not needed any more.
var errStopped = errors.New("stopped")

// sequence returns what is to be written for a partition of a topic from an offset on. Offsets
// without a record, as those of transactions, and those before its first record get a
// LogGap, since Kafka gives each offset to the next record.
func (d *deleting) sequence(ctx context.Context, topic schema.Topic, part int32, held log.OffsetRange, from int64, change changing) (next log.Sequence, stop func()) {
	tp := pipeline.TopicPartition{Topic: topic, Partition: part}
	pull, stop := iter.Pull2(func(yield func([]log.OutgoingRecord, error) bool) {
		var batch []log.OutgoingRecord
		at := from
		gaps := func(upTo int64) error {
			for ; at < upTo; at++ {
				gap, err := log.Gap(tp, at, Source, d.BeganAt)
				if err != nil {
					return err
				}
				if batch = append(batch, gap); len(batch) == log.BatchRecords {
					if !yield(batch, nil) {
						return errStopped
					}
					batch = nil
				}
			}
			return nil
		}
		err := d.Kafka.Read(ctx, tp, min(max(from, held.Oldest), held.End), held.End, func(records []pipeline.Record) error {
			for i := range records {
				if err := gaps(records[i].Offset); err != nil {
					return err
				}
				other, err := change(&records[i])
				if err != nil {
					return err
				}
				batch, at = append(batch, other), at+1
			}
			if !yield(batch, nil) {
				return errStopped
			}
			batch = nil
			return nil
		})
		if err == nil {
			err = gaps(held.End)
		}
		if !errors.Is(err, errStopped) && (err != nil || len(batch) > 0) {
			yield(batch, err)
		}
	})
	return func(context.Context) ([]log.OutgoingRecord, error) {
		batch, err, more := pull()
		if !more {
			return nil, nil
		}
		return batch, err
	}, stop
}
