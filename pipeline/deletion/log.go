package deletion

import (
	"context"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// replace replaces the records, counts those that were, and appends the event that says so.
func (d *deleting) replace(ctx context.Context) error {
	replaceAll := d.replaceInTable
	if d.Kafka != nil {
		replaceAll = d.rewrite
	}
	if err := replaceAll(ctx); err != nil {
		return err
	}
	records, err := d.countReplaced(ctx)
	if err != nil {
		return err
	}
	d.counted.Records = records
	event := d.event()
	event.DeletedAt = d.counted.At
	if event.Topics, err = d.lineages(ctx); err != nil {
		return err
	}
	set, err := d.Topics(ctx)
	if err != nil {
		return err
	}
	err = d.write(ctx, "appending the event", func(tx *store.Tx, counted string) error {
		if err := tx.UpdateDeletion(ctx, d.ID, stateFiles, counted); err != nil {
			return err
		}
		_, err := outbox.NewWriter(set).Append(ctx, tx, []schema.Event{{ID: schema.DeriveID("deletion", d.ID), Source: Source, Payload: event}})
		return err
	})
	if err == nil {
		d.State = stateFiles
	}
	return err
}

// replaceInTable replaces the records of a log in a table.
func (d *deleting) replaceInTable(ctx context.Context) error {
	for topic, ends := range d.ends {
		for part, end := range ends {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			err := d.Table.Replace(ctx, tp, end, d.replacement(d.counted.At), func(ctx context.Context) error { return d.Step(ctx, "replacing records of "+tp.String()) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// lineages are what the log has to say of topics on Kafka that were written again: from which ids
// the ids of events follow.
func (d *deleting) lineages(ctx context.Context) ([]schema.TopicLineage, error) {
	if d.Kafka == nil {
		return nil, nil
	}
	known, err := d.Store.Topics(ctx)
	if err != nil {
		return nil, err
	}
	var all []schema.TopicLineage
	for i, t := range known {
		newer := slices.ContainsFunc(known[i+1:], func(newer store.Topic) bool { return newer.Name == t.Name })
		if t.Origin != "" && !newer {
			all = append(all, schema.TopicLineage{Name: schema.Topic(t.Name), TopicID: t.ID, Lineage: t.Origin})
		}
	}
	return all, nil
}

// Source is the source of the events that a deletion writes.
const Source = pipeline.SourcePrefix + "delete-data"

// replacement is what takes the place of a record that holds the data.
func (d *deleting) replacement(at schema.Time) func(r *pipeline.Record) (*table.Replacement, error) {
	payload := schema.RecordDeleted{DeletionID: d.ID, DeletedAt: at}
	return func(r *pipeline.Record) (*table.Replacement, error) {
		d.Progress(1)
		if !d.holds(r.Topic, r.Key, r.Headers, r.Value) {
			return nil, nil
		}
		id := fmt.Sprintf("%s/%s/%d/%d", d.ID, r.Topic, r.Partition, r.Offset)
		headers, value, err := schema.Event{ID: id, Source: Source, Payload: payload}.Encode()
		if err != nil {
			return nil, fmt.Errorf("making what takes the place of a record: %w", err)
		}
		return &table.Replacement{Headers: headers, Value: value}, nil
	}
}

// countReplaced counts the records that were replaced, in whatever run.
func (d *deleting) countReplaced(ctx context.Context) (map[schema.Topic]int64, error) {
	counts := map[schema.Topic]int64{}
	for topic, ends := range d.ends {
		ranges, err := d.Config.log().Offsets(ctx, topic)
		if err != nil {
			return nil, fmt.Errorf("asking for the ends of %s: %w", topic, err)
		}
		for part, end := range ends {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			err := d.Config.log().Read(ctx, tp, min(ranges[part].Oldest, end), end, func(records []pipeline.Record) error {
				for _, r := range records {
					if id, ok := Replaced(r.Headers, r.Value); ok && id == d.ID {
						counts[topic]++
					}
				}
				d.Progress(len(records))
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return counts, nil
}

// Replaced reports whether a record was put in the place of another one, and by which
// deletion; empty where that cannot be read.
func Replaced(headers []schema.Header, value []byte) (deletion string, ok bool) {
	if !schema.IsRecordDeleted(headers) {
		return "", false
	}
	event, err := schema.DecodeEvent(headers, value)
	if err != nil {
		return "", true
	}
	return event.Payload.(schema.RecordDeleted).DeletionID, true
}

// event says what was deleted.
func (d *deleting) event() schema.DataDeleted {
	return schema.DataDeleted{DeletionID: d.ID, Provider: d.Subject.Provider, Symbol: d.Subject.Symbol, Reason: d.DeletionRecord.Reason,
		RequestedBy: d.DeletionRecord.RequestedBy, Records: sum(d.counted.Records), Rows: sum(d.counted.Rows), BeganAt: d.BeganAt, DeletedAt: d.BeganAt}
}
