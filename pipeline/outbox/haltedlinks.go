package outbox

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// haltedRecord is a record that a stage halted before.
type haltedRecord struct {
	pipeline.TopicPartition
	offset int64
}

// haltedLinks are the links of the records that stages halted before, but for those
// in looked, to which it adds them, and the ids of their events.
func (r *Relay) haltedLinks(ctx context.Context, looked map[haltedRecord]bool) (map[pipeline.TopicPartition]map[chain.Link]string, error) {
	positions, err := store.Positions(ctx, r.db, "")
	if err != nil {
		return nil, err
	}
	links := map[pipeline.TopicPartition]map[chain.Link]string{}
	for _, p := range positions {
		at := haltedRecord{log.PartitionOf(p), p.Next}
		topic, ours := r.topics.Topic(at.Topic)
		if p.Halted == "" || !ours || topic.ID != p.TopicID || looked[at] {
			continue
		}
		r, err := r.recordAt(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("reading where %s halted on %s: %w", p.Stage, at.TopicPartition, err)
		}
		if link, _, err := chain.LinkOf(r.Headers); err == nil && link != (chain.Link{}) { // else its stage says so
			if links[at.TopicPartition] == nil {
				links[at.TopicPartition] = map[chain.Link]string{}
			}
			links[at.TopicPartition][link] = schema.EventID(r.Headers)
		}
		looked[at] = true
	}
	return links, nil
}

// recordAt is a record; the zero Record where there is none.
func (r *Relay) recordAt(ctx context.Context, at haltedRecord) (found pipeline.Record, err error) {
	ranges, err := r.broker.Offsets(ctx, at.Topic)
	if err != nil || int(at.Partition) >= len(ranges) || at.offset < ranges[at.Partition].Oldest || at.offset >= ranges[at.Partition].End {
		return pipeline.Record{}, err
	}
	err = r.broker.Read(ctx, at.TopicPartition, at.offset, at.offset+1, func(records []pipeline.Record) error {
		for _, r := range records {
			found = r
		}
		return nil
	})
	return found, err
}
