package engine

import (
	"context"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// watchPoll is how soon a process sees that an operator has moved a position or ordered a
// retry.
const watchPoll = time.Second

// watch looks at what operators did to the stages of this process, until ctx is done: with
// one statement for all of them, since most of the time there is nothing.
func (r *Runtime) watch(ctx context.Context) {
	ticker := time.NewTicker(watchPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for _, stage := range r.present() {
				stage.buried.flush(now)
			}
		}
		if err := r.lookAtPositions(ctx); err != nil {
			r.cfg.Log.Debug("looking for moved positions failed", "error", err)
		}
		if err := r.lookAtLetters(ctx); err != nil {
			r.cfg.Log.Debug("looking for dead letters to retry failed", "error", err)
		}
	}
}

// lookAtPositions has stages begin a new session whose positions were moved.
func (r *Runtime) lookAtPositions(ctx context.Context) error {
	// Before the tables, which may only be ahead then.
	assigned := map[*Stage]map[pipeline.TopicPartition]store.Position{}
	for _, stage := range r.present() {
		if positions := stage.assigned(); len(positions) > 0 {
			assigned[stage] = positions
		}
	}
	if len(assigned) == 0 {
		return nil
	}
	stored, err := store.AllPositions(ctx, r.cfg.Store)
	if err != nil {
		return err
	}
	for stage, positions := range assigned {
		stage.restartIfMoved(positions, byPartition(stored[stage.spec.Name]))
	}
	return nil
}

// lookAtLetters has stages retry dead letters for which that was ordered.
func (r *Runtime) lookAtLetters(ctx context.Context) error {
	waiting, err := store.StagesToRetry(ctx, r.cfg.Store)
	if err != nil {
		return err
	}
	for _, stage := range r.present() {
		if slices.Contains(waiting, stage.spec.Name) {
			select {
			case stage.retries <- struct{}{}:
			default: // it is about to look anyway
			}
		}
	}
	return nil
}
