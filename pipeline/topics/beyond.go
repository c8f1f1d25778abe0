package topics

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
)

// HaltBeyond halts the stages whose position lies after the end of the log: once
// new records have filled the difference, nothing would show it any more. The
// topic begins another epoch, so that the rows of those records get other ids.
func (t *Set) HaltBeyond(ctx context.Context) error {
	// Before the ends: other processes may be at work meanwhile.
	positions, err := store.Positions(ctx, t.db, "")
	if err != nil {
		return err
	}
	for _, name := range t.names {
		topic, _ := t.Topic(name)
		ranges, err := t.broker.Offsets(ctx, name)
		if err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", name, err)
		}
		var beyond []store.Position
		for _, p := range positions {
			if p.Topic != string(name) || p.Halted != "" || p.TopicID != topic.ID || int(p.Part) >= len(ranges) || p.Next <= ranges[p.Part].End {
				continue
			}
			end := ranges[p.Part].End
			p.LogEnded = &end
			p.Halted = halt.At(p, topic, log.Claim{TopicPartition: log.PartitionOf(p), TopicInfo: log.TopicInfo{ID: topic.ID, Partitions: topic.Seen}, OffsetRange: ranges[p.Part]}).String()
			beyond = append(beyond, p)
		}
		if len(beyond) == 0 {
			continue
		}
		err = t.db.Write(ctx, func(tx *store.Tx) error {
			// A log in the database gives no offset twice.
			if t.inDatabase == nil {
				if _, err := tx.RenewEpoch(ctx, topic); err != nil {
					return err
				}
			}
			for _, p := range beyond {
				if err := tx.HaltPosition(ctx, p); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
