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
	_, err := w.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		lost, ended, taken, symbols = nil, nil, nil, nil
		for _, id := range slices.Sorted(maps.Keys(w.owned)) {
			s := w.owned[id]
			if s.hasEnded() {
				if err := release(ctx, tx, w.owner, id, s.progress()); err != nil {
					return nil, err
				}
				ended = append(ended, id)
				continue
			}
			ours, err := renew(ctx, tx, w.owner, id, s.progress())
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
		if free <= 0 {
			return nil, nil
		}
		taken, err = take(ctx, tx, w.owner, free)
		return nil, err
	})
	if err != nil {
		return err
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
	_, err := w.emit.Emit(releasing, func(tx *pipeline.Tx) ([]schema.Event, error) {
		for _, id := range slices.Sorted(maps.Keys(w.owned)) {
			if err := release(releasing, tx, w.owner, id, w.owned[id].progress()); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	if err != nil {
		w.log.Warn("streams are taken over only when their claims end", "error", err)
	}
}
