package fetch

import (
	"context"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/schema"
)

// outcome is a request with the event that ends it.
type outcome struct {
	request request
	payload schema.Payload
	// definition is the text that the answer is read by, if any: it is kept with it.
	definition string
	refused    bool          // no call was left for it
	pause      time.Duration // how long its provider wants to be left alone
}

// poll is how soon requests queued by another process, or left by one that
// died, are seen; those of our own lanes wake the runner.
const poll = 250 * time.Millisecond

// grace is how long outcomes may take to be stored once we are asked to stop.
// What is not stored by then is asked again by the process that takes over.
const grace = 2 * time.Second

// graceful returns a context that ends the grace time after ctx.
func graceful(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return longer, func() { stop(); cancel() }
}

// Run works on open requests until ctx is done.
func (h *handler) Run(ctx context.Context, emit pipeline.Emitter) error {
	q, err := newQueue(emit, h.log)
	if err != nil {
		return err
	}
	w := &worker{handler: h, queue: q, flight: map[string]request{}, sinceJob: map[schema.Provider]int{}, done: make(chan outcome)}
	// Requests under way end when Run does, whatever the reason.
	asking, cancel := context.WithCancel(ctx)
	defer w.release(ctx)
	defer w.asking.Wait()
	defer cancel()
	timer := time.NewTimer(poll)
	defer timer.Stop()
	for {
		wait, err := w.start(ctx, asking)
		if err != nil && ctx.Err() == nil {
			return err
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case first := <-w.done:
			if err := w.finish(ctx, first); err != nil {
				return err
			}
		case <-h.wake:
		case <-timer.C:
		}
	}
}

// showEvery is how old the gauges may be.
const showEvery = time.Second

// worker is one call of Run. Only its goroutine touches flight and the times.
type worker struct {
	*handler
	queue  *queue
	flight map[string]request // requests under way
	// sinceJob counts the calls for clients since the last one for a job.
	sinceJob map[schema.Provider]int
	renewed  time.Time // when the oldest claim on them was made
	shown    time.Time // when the gauges were set
	done     chan outcome
	asking   sync.WaitGroup
}

// start looks what there is to do, and only if there is anything, begins a
// transaction: it claims what may be asked now, asks side by side, and ends what
// will get no answer. It returns how soon to look again.
func (w *worker) start(ctx, asking context.Context) (time.Duration, error) {
	now := w.now()
	if now.Sub(w.shown) >= showEvery {
		w.shown = now
		if err := w.show(ctx, w.queue.emit); err != nil {
			return 0, err
		}
	}
	seen, err := w.queue.look(ctx, schema.NewTime(now), w.lineup)
	if err != nil {
		return 0, err
	}
	todo := seen.plan()
	// A third of a claim's time is left for two more attempts.
	renew := len(w.flight) > 0 && now.Sub(w.renewed) >= claimMillis*time.Millisecond/3
	switch {
	case !todo.empty():
		todo, err = w.queue.claim(ctx, seen, renew)
	case renew:
		err = w.queue.renew(ctx)
	default:
		return todo.wait, nil
	}
	if err != nil {
		return 0, err
	}
	if renew || len(w.flight) == 0 {
		w.renewed = now
	}
	for _, o := range todo.fail {
		w.count(o.payload)
	}
	for _, r := range todo.serve {
		w.flight[r.ID] = r
		w.sinceJob[r.Provider]++
		if r.Scheduled {
			w.sinceJob[r.Provider] = 0
		}
		g := w.gate(r.Provider)
		ended, refused := g.enter() // here, where lineup sees it next time
		w.asking.Go(func() {
			var o outcome
			if refused != nil {
				o = failed(r, refused, schema.NewTime(w.now()))
			} else {
				o = w.ask(asking, g, r, ended)
			}
			if asking.Err() != nil {
				return // it failed because we stop: the request stays open
			}
			select {
			case w.done <- o:
			case <-asking.Done():
			}
		})
	}
	return todo.wait, nil
}

// lineup is what this process knows about a provider.
func (w *worker) lineup(name schema.Provider) lineup {
	g := w.gate(name)
	free, shut := g.slots()
	slots := w.settings.Concurrency
	jobSlots := slots - slots/4 // the rest is for clients, however slow the calls of jobs are
	for _, busy := range w.flight {
		if busy.Provider == name {
			slots--
			if busy.Scheduled {
				jobSlots--
			}
		}
	}
	if g.pausedFor(w.now()) > 0 {
		slots = 0 // the database may not know yet
	}
	slots = min(slots, free)
	return lineup{provider: name, limits: w.limits(name), slots: slots, jobSlots: min(slots, jobSlots), sinceJob: w.sinceJob[name], shut: shut}
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
	if err := failpoint.Hit(ctx, failpoint.FetchAnswered); err != nil {
		return err
	}
	storing, cancel := graceful(ctx)
	defer cancel()
	counted, err := w.queue.finish(storing, outcomes, w.limits)
	for _, o := range counted {
		w.count(o.payload)
	}
	return err
}

// release leaves the requests under way to the next owner.
func (w *worker) release(ctx context.Context) {
	releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := w.queue.release(releasing); err != nil {
		w.log.Warn("requests under way are taken over only when their claims end", "error", err)
	}
}
