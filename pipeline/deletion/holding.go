package deletion

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// letters are the ids of dead letters of records that hold the data.
func (c Config) letters(ctx context.Context) ([]int64, error) {
	const page = 50 // each may be large
	var ids []int64
	for after := int64(0); ; {
		var letters []store.DeadLetter
		err := c.Store.Select(ctx, &letters, `SELECT id, topic, msg_key, headers, payload FROM dead_letters WHERE id > $1 ORDER BY id LIMIT $2`, after, page)
		if err != nil {
			return nil, fmt.Errorf("reading dead letters: %w", err)
		}
		for _, l := range letters {
			after = l.ID
			headers, err := store.DecodeHeaders(l.Headers)
			if err != nil {
				headers = nil
			}
			if c.holds(schema.Topic(l.Topic), l.Key, headers, l.Payload) {
				ids = append(ids, l.ID)
			}
		}
		if len(letters) < page {
			return ids, nil
		}
	}
}

// revision is the key of a row of revised_prices.
type revision struct {
	Renormalization string `db:"renormalization"`
	EventID         string `db:"event_id"`
}

// revisions are the revised prices of records that hold the data.
func (c Config) revisions(ctx context.Context) ([]revision, error) {
	const page = 1000
	topics, err := c.Store.Topics(ctx)
	if err != nil {
		return nil, err
	}
	var found []revision
	last := revision{}
	for {
		var rows []struct {
			revision
			RecordID int64            `db:"record_id"`
			Type     schema.EventType `db:"event_type"`
			Payload  string           `db:"payload"`
		}
		err := c.Store.Select(ctx, &rows, `SELECT renormalization, event_id, record_id, event_type, payload FROM revised_prices
			WHERE (renormalization, event_id) > ($1, $2) ORDER BY renormalization, event_id LIMIT $3`, last.Renormalization, last.EventID, page)
		if err != nil {
			return nil, fmt.Errorf("reading revised prices: %w", err)
		}
		for _, r := range rows {
			last = r.revision
			var holds bool
			if payload, err := schema.DecodePayload(r.Type, []byte(r.Payload)); err == nil {
				subject, ok := schema.SubjectOfKey(payload.Key())
				holds = ok && c.Subject.Holds(subject)
			} else if holds, err = c.recordHolds(ctx, topics, r.RecordID); err != nil { // one that was withdrawn has no payload
				return nil, err
			}
			if holds {
				found = append(found, r.revision)
			}
		}
		if len(rows) < page {
			return found, nil
		}
	}
}

// recordHolds reports whether the record that rows with an id follow from holds the data.
func (c Config) recordHolds(ctx context.Context, topics []store.Topic, id int64) (holds bool, err error) {
	for i, t := range topics {
		if c.Kafka != nil && slices.ContainsFunc(topics[i+1:], func(newer store.Topic) bool { return newer.Name == t.Name }) {
			continue // its records are gone
		}
		first, last := rowid.Range(t.Epoch, rowid.PartitionOf(id))
		if id < first || id > last {
			continue
		}
		tp := pipeline.TopicPartition{Topic: schema.Topic(t.Name), Partition: rowid.PartitionOf(id)}
		offset := rowid.Offset(id)
		ranges, err := c.log().Offsets(ctx, tp.Topic)
		if err != nil || int(tp.Partition) >= len(ranges) || offset < ranges[tp.Partition].Oldest || offset >= ranges[tp.Partition].End {
			return false, err
		}
		err = c.log().Read(ctx, tp, offset, offset+1, func(records []pipeline.Record) error {
			for _, r := range records {
				holds = holds || c.holds(r.Topic, r.Key, r.Headers, r.Value)
			}
			return nil
		})
		return holds, err
	}
	return false, nil
}

// holds reports whether a record holds the data.
func (c Config) holds(topic schema.Topic, key []byte, headers []schema.Header, value []byte) bool {
	subjects, _ := schema.SubjectsOf(topic, key, headers, value)
	return slices.ContainsFunc(subjects, c.Subject.Holds)
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
