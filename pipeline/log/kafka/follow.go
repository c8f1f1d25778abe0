package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
)

// Follow implements log.Follower. Each call has a connection of its own, over which
// a fetch waits at the broker for the next records. Failures that pass are waited out as
// long as Config.Timeout.
func (b *Broker) Follow(ctx context.Context, tp pipeline.TopicPartition, from int64, f func([]pipeline.Record) error) error {
	r, err := b.newReader(ctx, tp, from, from)
	if err != nil {
		return fmt.Errorf("following %s: %w", tp, err)
	}
	r.to = math.MaxInt64 // there is always a next record to wait for
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.life, func() { cancel(ErrClosed) })()
	defer r.disconnect()
	failures, answered := 0, time.Now()
	for {
		if ctx.Err() != nil {
			return fmt.Errorf("following %s: %w", tp, context.Cause(ctx))
		}
		began := time.Now()
		records, err := r.fetch(ctx)
		if errors.Is(err, errNothingFetched) {
			// The broker waits before it says so. One that does not is not itself yet.
			if time.Since(began) < fetchWait/10 && !log.Pause(ctx, backoff(1)) {
				continue // to the end of ctx
			}
			failures, answered = 0, time.Now()
			continue
		}
		if err != nil {
			failures++
			if err := r.recover(ctx, err, failures, time.Since(answered)); err != nil {
				return fmt.Errorf("following %s from offset %d: %w", tp, r.next, err)
			}
			continue
		}
		failures, answered = 0, time.Now()
		if len(records) > 0 {
			if err := f(records); err != nil {
				return err
			}
		}
	}
}
