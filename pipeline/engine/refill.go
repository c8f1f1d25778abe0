package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
)

// Refill tells the handler of the stage, if it is a pipeline.Refiller, of the events that its
// own work published, from these offsets of the log, or else from its start, up to these ends. It
// comes after To, for all partitions.
func (f *Fill) Refill(ctx context.Context, from, ends map[pipeline.TopicPartition]int64) error {
	refiller, ok := f.cfg.Stage.Handler.(pipeline.Refiller)
	if !ok {
		return nil
	}
	types := refiller.RefillsFrom()
	topics := StageSpec{Consumes: types}.Topics()
	for tp, end := range ends {
		if !slices.Contains(topics, tp.Topic) {
			continue
		}
		err := f.cfg.Broker.Read(ctx, tp, from[tp], end, func(records []pipeline.Record) error {
			read := len(records)
			f.stage.decode(records)
			records = slices.DeleteFunc(records, func(r pipeline.Record) bool {
				return r.State.Fault != nil || !slices.Contains(types, r.Event.Payload.EventType())
			})
			for chunk := range slices.Chunk(records, fillBatch) {
				if err := f.tell(ctx, refiller, chunk); err != nil {
					return err
				}
			}
			f.cfg.Progress(read)
			return nil
		})
		if err != nil {
			return fmt.Errorf("telling %s of the events of %s: %w", f.cfg.Stage.Name, tp, err)
		}
	}
	return nil
}

func (f *Fill) tell(ctx context.Context, refiller pipeline.Refiller, in []pipeline.Record) error {
	return f.stage.retry(ctx, 0, func() error {
		return runTx(ctx, f.cfg.Store, &pipeline.Tx{}, func(tx *pipeline.Tx) error {
			return guard(func() error { return refiller.Refill(ctx, tx, in) })
		})
	})
}
