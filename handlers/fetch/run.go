package fetch

import (
	"context"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// outcome is a request with the event that ends it.
type outcome struct {
	request request
	payload schema.Payload
}

// poll is how soon requests queued by another process, or left by one that
// died, are seen; those of our own lanes wake the runner.
const poll = 250 * time.Millisecond

// grace is how long outcomes may take to be stored once we are asked to stop.
// What is not stored by then is asked again by whoever takes over.
const grace = 2 * time.Second

// graceful returns a context that ends the grace time after ctx.
func graceful(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return longer, func() { stop(); cancel() }
}

// Run works on open requests until ctx is done.
func (h *handler) Run(ctx context.Context, emit pipeline.Emitter) error {
	q, err := newQueue(emit)
	if err != nil {
		return err
	}
	w := &worker{handler: h, queue: q, flight: map[string]schema.Provider{}, done: make(chan outcome)}
	// Requests under way end when Run does, whatever the reason.
	asking, cancel := context.WithCancel(ctx)
	defer w.release(ctx)
	defer w.asking.Wait()
	defer cancel()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		if err := w.start(ctx, asking); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case first := <-w.done:
			if err := w.finish(ctx, first); err != nil {
				return err
			}
		case <-h.wake:
		case <-ticker.C:
		}
	}
}

// worker is one call of Run. Only its goroutine touches flight.
type worker struct {
	*handler
	queue  *queue
	flight map[string]schema.Provider // requests under way
	done   chan outcome
	asking sync.WaitGroup
}

// start claims what there is room for and asks, side by side.
func (w *worker) start(ctx, asking context.Context) error {
	busy := map[schema.Provider]int{}
	for _, provider := range w.flight {
		busy[provider]++
	}
	requests, err := w.queue.claim(ctx, schema.NewTime(w.now()), func(p schema.Provider) int { return w.settings.Concurrency - busy[p] })
	if err != nil {
		return err
	}
	for _, r := range requests {
		w.flight[r.ID] = r.Provider
		w.asking.Go(func() {
			o := outcome{r, w.ask(asking, r)}
			if asking.Err() != nil {
				return // it failed because we stop: the request stays open
			}
			select {
			case w.done <- o:
			case <-asking.Done():
			}
		})
	}
	return nil
}

// finish stores the outcome of first, together with all others that are ready.
func (w *worker) finish(ctx context.Context, first outcome) error {
	outcomes := []outcome{first}
	for more := true; more; {
		select {
		case o := <-w.done:
			outcomes = append(outcomes, o)
		default:
			more = false
		}
	}
	for _, o := range outcomes {
		delete(w.flight, o.request.ID)
	}
	storing, cancel := graceful(ctx)
	defer cancel()
	return w.queue.finish(storing, outcomes)
}

// release leaves the requests under way to the next owner.
func (w *worker) release(ctx context.Context) {
	releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := w.queue.release(releasing); err != nil {
		w.log.Warn("requests under way are taken over only when their claims end", "error", err)
	}
}
