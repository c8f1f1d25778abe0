package deletion

import (
	"context"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// log replaces the records, counts those that were, and appends the event that says so.
func (d *deleting) log(ctx context.Context) error {
	at := schema.NewTime(d.Now())
	for topic, ends := range d.ends {
		for part, end := range ends {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			if err := d.Log.Replace(ctx, tp, end, d.replacement(at), func(ctx context.Context) error { return d.Step(ctx, "replacing records of "+tp.String()) }); err != nil {
				return err
			}
		}
	}
	records, err := d.countReplaced(ctx)
	if err != nil {
		return err
	}
	d.counted.Records = records
	event := d.event()
	event.DeletedAt = at
	err = d.write(ctx, "appending the event", func(tx *store.Tx, counted string) error {
		if err := tx.UpdateDeletion(ctx, d.ID, stateFiles, counted); err != nil {
			return err
		}
		row, err := d.row(ctx, event)
		if err != nil {
			return err
		}
		return d.Log.AppendTx(ctx, tx, []store.OutboxRow{row})
	})
	if err == nil {
		d.State = stateFiles
	}
	return err
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
		for part, end := range ends {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			err := d.Log.Read(ctx, tp, 0, end, func(records []pipeline.Record) error {
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

// row is an event on its way into the log.
func (d *deleting) row(ctx context.Context, payload schema.DataDeleted) (store.OutboxRow, error) {
	headers, value, err := schema.Event{ID: schema.DeriveID("deletion", d.ID), Source: Source, Payload: payload}.Encode()
	if err != nil {
		return store.OutboxRow{}, fmt.Errorf("making the event of the deletion: %w", err)
	}
	topics, err := d.Store.Topics(ctx)
	if err != nil {
		return store.OutboxRow{}, err
	}
	at := slices.IndexFunc(topics, func(t store.Topic) bool { return t.Name == string(payload.Topic()) })
	if at < 0 {
		return store.OutboxRow{}, fmt.Errorf("%w: the log has no topic %s", ErrRefused, payload.Topic())
	}
	key := []byte(payload.Key())
	return store.OutboxRow{Epoch: topics[at].Epoch, Part: d.Partition(key, topics[at].Partitions), Key: key, Headers: store.EncodeHeaders(headers), Payload: value}, nil
}
