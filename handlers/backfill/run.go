package backfill

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const (
	// poll is how soon backfills are seen that another process entered, stopped or left; it
	// is also how often claims are renewed.
	poll = 500 * time.Millisecond
	// grace is how long what must be stored may take once a backfill ends.
	grace = 2 * time.Second
	// maxOwned is how many backfills a process owns at most, most of which pause or wait.
	maxOwned = 200
	// claimTime is claimMillis by our clock.
	claimTime = claimMillis * time.Millisecond
)

// Run works on the backfills that it can claim until ctx is done.
func (h *handler) Run(ctx context.Context, emit pipeline.Emitter) error {
	owner, err := uuid.NewRandom()
	if err != nil {
		return fmt.Errorf("naming the owner of claims: %w", err)
	}
	w := &worker{handler: h, emit: emit, owner: owner.String(), jobs: map[string]*job{}}
	// Jobs end when Run does, whatever the reason.
	working, cancel := context.WithCancel(ctx)
	defer w.release(ctx)
	defer cancel()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	renewed := time.Now()
	for {
		began := time.Now()
		switch err := w.step(ctx, working, claimTime-began.Sub(renewed)); {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			renewed = began
		case time.Since(renewed) >= claimTime:
			return err // by now others may own our backfills
		default:
			h.log.Warn("renewing the claims of backfills", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		case <-ticker.C:
		}
	}
}

// worker is one call of Run. Only its goroutine touches jobs.
type worker struct {
	*handler
	emit  pipeline.Emitter
	owner string
	jobs  map[string]*job
}

// step renews claims, cancels the jobs whose backfills were stopped or lost, and takes others.
// Without jobs it only looks.
func (w *worker) step(ctx, working context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for id, j := range w.jobs {
		if j.hasEnded() {
			delete(w.jobs, id)
		}
	}
	some, err := anyToTake(ctx, w.emit)
	if err != nil {
		return err
	}
	free := maxOwned - len(w.jobs)
	if len(w.jobs) == 0 && !some {
		return nil
	}
	var ours []string
	var taken []row
	_, err = w.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		ours, taken = nil, nil
		var err error
		if len(w.jobs) > 0 {
			if ours, err = renew(ctx, tx, w.owner); err != nil {
				return nil, err
			}
		}
		if some && free > 0 {
			taken, err = take(ctx, tx, w.owner, free)
		}
		return nil, err
	})
	if err != nil {
		return err
	}
	for id, j := range w.jobs {
		if !slices.Contains(ours, id) {
			j.cancel()
		}
	}
	for _, r := range taken {
		if former := w.jobs[r.ID]; former != nil {
			<-former.ended // it was lost, and is ours again
		}
		w.jobs[r.ID] = w.begin(working, r)
	}
	return nil
}

// release ends all jobs and leaves their backfills to the next owner.
func (w *worker) release(ctx context.Context) {
	for _, j := range w.jobs {
		j.cancel()
	}
	for _, j := range w.jobs {
		<-j.ended
	}
	if len(w.jobs) == 0 {
		return
	}
	releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	_, err := w.emit.Emit(releasing, func(tx *pipeline.Tx) ([]schema.Event, error) {
		return nil, release(releasing, tx, w.owner)
	})
	if err != nil {
		w.log.Warn("backfills are taken over only when their claims end", "error", err)
	}
}
