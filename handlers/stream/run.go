package stream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const (
	// poll is how soon streams are seen that another process entered, stopped or
	// left; it is also how often claims are renewed.
	poll = 500 * time.Millisecond
	// grace is how long what was received may take to come into the log, and
	// then progress into the table, once a stream ends.
	grace = 2 * time.Second
	// claimTime is claimMillis by our clock.
	claimTime = claimMillis * time.Millisecond
)

// Run streams what it can claim until ctx is done.
func (h *handler) Run(ctx context.Context, emit pipeline.Emitter) error {
	owner, err := uuid.NewRandom()
	if err != nil {
		return fmt.Errorf("naming the owner of claims: %w", err)
	}
	w := &worker{handler: h, emit: emit, owner: owner.String(), owned: map[string]*subscription{}}
	// Streams end when Run does, whatever the reason.
	streaming, cancel := context.WithCancel(ctx)
	defer w.release(ctx)
	defer cancel()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	renewed := time.Now()
	for {
		began := time.Now()
		switch err := w.step(ctx, streaming, claimTime-began.Sub(renewed)); {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			renewed = began
		case time.Since(renewed) >= claimTime:
			return err // by now others may own our streams
		default:
			h.log.Warn("renewing the claims of streams", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		case <-ticker.C:
		}
	}
}

// worker is one call of Run. Only its goroutine touches owned.
type worker struct {
	*handler
	emit  pipeline.Emitter
	owner string
	owned map[string]*subscription
}

// step renews claims, gives up streams that have ended, and takes others.
func (w *worker) step(ctx, streaming context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var lost, ended []string
	var taken []row
	var symbols map[string]string
	steps, fills := w.progress(false)
	_, err := w.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		lost, ended, taken, symbols = nil, nil, nil, nil
		for _, id := range slices.Sorted(maps.Keys(w.owned)) {
			if steps[id].ended {
				if err := release(ctx, tx, w.owner, id, steps[id].after); err != nil {
					return nil, err
				}
				ended = append(ended, id)
				continue
			}
			ours, err := renew(ctx, tx, w.owner, id, steps[id].after)
			if err != nil {
				return nil, err
			}
			if !ours {
				lost = append(lost, id)
			}
		}
		var err error
		if len(w.owned) > 0 {
			if symbols, err = wanted(ctx, tx, w.owner); err != nil {
				return nil, err
			}
		}
		free := w.settings.Concurrency - len(w.owned) + len(ended)
		if free > 0 {
			taken, err = take(ctx, tx, w.owner, free)
		}
		return fills, err
	})
	if err != nil {
		return err
	}
	for id, step := range steps {
		w.owned[id].note(func(p *progress) { p.filled(step.before, step.after) })
	}
	for _, id := range lost {
		w.owned[id].cancel()
	}
	for _, id := range ended {
		delete(w.owned, id)
	}
	for id, text := range symbols {
		if s := w.owned[id]; s != nil {
			if err := s.change(text); err != nil {
				return err
			}
		}
	}
	for _, r := range taken {
		if former := w.owned[r.ID]; former != nil {
			<-former.ended // it was lost, and is ours again
		}
		s, err := w.subscribe(streaming, r)
		if err != nil {
			return err
		}
		w.owned[r.ID] = s
	}
	return nil
}

// noted is the progress of a stream, and what of it is written along with the events that ask
// for what it missed.
type noted struct {
	before, after progress
	ended         bool
}

// progress is that of all streams, and the events that ask for what they missed. At the end
// all of it is asked for.
func (w *worker) progress(end bool) (map[string]noted, []schema.Event) {
	steps := make(map[string]noted, len(w.owned))
	var events []schema.Event
	for _, id := range slices.Sorted(maps.Keys(w.owned)) {
		s := w.owned[id]
		ended := s.hasEnded()
		before := s.progress()
		fills, after := s.fills(before.clone(), schema.NewTime(w.now()), end || ended)
		steps[id], events = noted{before, after, ended}, append(events, fills...)
	}
	return steps, events
}

// release ends all streams and leaves them to the next owner.
func (w *worker) release(ctx context.Context) {
	for _, s := range w.owned {
		s.cancel()
	}
	for _, s := range w.owned {
		<-s.ended
	}
	releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	steps, fills := w.progress(true)
	_, err := w.emit.Emit(releasing, func(tx *pipeline.Tx) ([]schema.Event, error) {
		for _, id := range slices.Sorted(maps.Keys(w.owned)) {
			if err := release(releasing, tx, w.owner, id, steps[id].after); err != nil {
				return nil, err
			}
		}
		return fills, nil
	})
	if err != nil {
		w.log.Warn("streams are taken over only when their claims end", "error", err)
	}
}
