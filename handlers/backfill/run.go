package backfill

import (
	"context"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/handlers/claim"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// maxOwned is how many backfills a process owns at most, most of which pause or wait.
const maxOwned = 200

// Run works on the backfills that it can claim until ctx is done.
func (h *handler) Run(ctx context.Context, emit pipeline.Emitter) error {
	claims, err := table.Claims()
	if err != nil {
		return err
	}
	w := &worker{handler: h, emit: emit, claims: claims, jobs: map[string]*job{}}
	// Jobs end when Run does, whatever the reason.
	working, cancel := context.WithCancel(ctx)
	defer w.release(ctx)
	defer cancel()
	return claims.Run(ctx, h.log, h.wake, func(ctx context.Context) error { return w.step(ctx, working) })
}

// worker is one call of Run. Only its goroutine touches jobs.
type worker struct {
	*handler
	emit   pipeline.Emitter
	claims claim.Claims
	jobs   map[string]*job
}

// step renews claims, cancels the jobs whose backfills were stopped or lost, and takes others.
// Without jobs it only looks.
func (w *worker) step(ctx, working context.Context) error {
	maps.DeleteFunc(w.jobs, func(_ string, j *job) bool { return j.HasEnded() })
	some, err := table.AnyFree(ctx, w.emit)
	if err != nil || len(w.jobs) == 0 && !some {
		return err
	}
	free := maxOwned - len(w.jobs)
	owned := slices.Sorted(maps.Keys(w.jobs))
	var ours []string
	var taken []row
	_, err = w.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		var err error
		taken = nil
		if ours, err = claim.Renew[string](ctx, tx, w.claims, owned, table.ID); err == nil && some && free > 0 {
			taken, err = claim.Take[row](ctx, tx, w.claims, free, rowColumns)
		}
		return nil, err
	})
	if err != nil {
		return err
	}
	for id, j := range w.jobs {
		if !slices.Contains(ours, id) {
			j.Cancel()
		}
	}
	for _, r := range taken {
		if former := w.jobs[r.ID]; former != nil {
			former.Wait() // it was lost, and is ours again
		}
		w.jobs[r.ID] = w.begin(working, r)
	}
	return nil
}

// release ends all jobs and leaves their backfills to the next owner.
func (w *worker) release(ctx context.Context) {
	claim.EndAll(w.jobs)
	if len(w.jobs) == 0 {
		return
	}
	releasing, cancel := claim.Graceful(ctx)
	defer cancel()
	_, err := w.emit.Emit(releasing, func(tx *pipeline.Tx) ([]schema.Event, error) {
		return nil, w.claims.Release(releasing, tx, slices.Collect(maps.Keys(w.jobs)))
	})
	if err != nil {
		w.log.Warn("backfills are taken over only when their claims end", "error", err)
	}
}
