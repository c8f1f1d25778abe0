package table

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// following is a call of Follow, as Close knows it.
type following struct{ end context.CancelCauseFunc }

// Close implements io.Closer.
func (f *following) Close() error {
	f.end(fmt.Errorf("log: %w", ErrClosed))
	return nil
}

// Follow implements log.Follower. The commit wakes it where this process writes the
// records; for those of others the log looks as it does for subscribers.
func (l *Log) Follow(ctx context.Context, tp pipeline.TopicPartition, from int64, f func([]pipeline.Record) error) error {
	topic, err := l.topic(ctx, tp.Topic)
	if err != nil {
		return fmt.Errorf("following %s: %w", tp, err)
	}
	ranges, err := l.Offsets(ctx, tp.Topic)
	if err != nil {
		return fmt.Errorf("following %s: %w", tp, err)
	}
	if tp.Partition < 0 || int(tp.Partition) >= len(ranges) {
		return fmt.Errorf("following %s: %w", tp, ErrUnknownTopic)
	}
	held := ranges[tp.Partition]
	if from < held.Oldest || from > held.End {
		return fmt.Errorf("following: %w", &OutOfRangeError{tp, from, from, held})
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	this := &following{end}
	if err := l.adopt(this); err != nil {
		return err
	}
	defer l.disown(this)
	p := l.partition(tp, topic, from)
	l.ends.raise(store.Chain{Epoch: p.epoch, Part: p.part, Last: held.End})
	for {
		ends, changed := l.ends.of([]place{p.place})
		if p.next < ends[0] {
			records, err := l.next(ctx, &p, ends[0], readRecords, readBytes)
			if err == nil {
				err = f(records)
			}
			if err != nil {
				return err
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("following %s: %w", tp, context.Cause(ctx))
		}
	}
}
