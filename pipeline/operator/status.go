package operator

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// StageStatus is how far a stage has come on one partition.
type StageStatus struct {
	Stage     string       `json:"stage"`
	Topic     schema.Topic `json:"topic"`
	Partition int32        `json:"partition"`
	// Position is the offset of the next record, End that of the next record
	// to be written; their difference is Lag.
	Position int64 `json:"position"`
	End      int64 `json:"end"`
	Lag      int64 `json:"lag"`
	// Halted says why the stage stopped there; empty while it continues.
	Halted  string      `json:"halted,omitempty"`
	MovedAt schema.Time `json:"moved_at"`
}

// Status reports all stages that ever ran on this database.
func Status(ctx context.Context, db store.Querier, broker log.Broker) ([]StageStatus, error) {
	positions, err := store.Positions(ctx, db, "")
	if err != nil {
		return nil, err
	}
	ranges := map[schema.Topic][]log.OffsetRange{}
	var all []StageStatus
	for _, p := range positions {
		topic := schema.Topic(p.Topic)
		if _, asked := ranges[topic]; !asked {
			if ranges[topic], err = broker.Offsets(ctx, topic); err != nil {
				return nil, fmt.Errorf("asking for the ends of %s: %w", topic, err)
			}
		}
		status := StageStatus{Stage: p.Stage, Topic: topic, Partition: p.Part, Position: p.Next, Halted: p.Halted, MovedAt: p.MovedAt}
		if int(p.Part) < len(ranges[topic]) {
			status.End = ranges[topic][p.Part].End
			status.Lag = status.End - status.Position
		}
		all = append(all, status)
	}
	return all, nil
}
