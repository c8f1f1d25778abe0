package stream

import (
	"context"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/handlers/claim"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Run streams what it can claim until ctx is done.
func (h *handler) Run(ctx context.Context, emit pipeline.Emitter) error {
	claims, err := table.Claims()
	if err != nil {
		return err
	}
	w := &worker{handler: h, emit: emit, claims: claims, owned: map[string]*subscription{}}
	// Streams end when Run does, whatever the reason.
	streaming, cancel := context.WithCancel(ctx)
	defer w.release(ctx)
	defer cancel()
	return claims.Run(ctx, h.log, h.wake, func(ctx context.Context) error { return w.step(ctx, streaming) })
}

// worker is one call of Run. Only its goroutine touches owned.
type worker struct {
	*handler
	emit   pipeline.Emitter
	claims claim.Claims
	owned  map[string]*subscription
}

// step gives up streams that have ended, renews the claims of the others, and takes more.
// Without streams it only looks.
func (w *worker) step(ctx, streaming context.Context) error {
	if err := w.leave(ctx, false); err != nil {
		return err
	}
	some, err := table.AnyFree(ctx, w.emit)
	if err != nil || len(w.owned) == 0 && !some {
		return err
	}
	free := w.settings.Concurrency - len(w.owned)
	ids := slices.Sorted(maps.Keys(w.owned))
	steps, fills, err := w.progress(ctx, ids, false)
	if err != nil {
		return err
	}
	var ours []wanted
	var taken []row
	_, err = w.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		var err error
		taken = nil
		if ours, err = claim.Renew[wanted](ctx, tx, w.claims, ids, wantedColumns); err != nil {
			return nil, err
		}
		for _, stream := range ours {
			p := steps[stream.ID].after
			if err := p.write(ctx, tx, w.claims.Owner, stream.ID, p.status()); err != nil {
				return nil, err
			}
		}
		if some && free > 0 {
			taken, err = claim.Take[row](ctx, tx, w.claims, free, rowColumns)
		}
		return fills, err
	})
	if err != nil {
		return err
	}
	for id, step := range steps {
		w.owned[id].note(func(p *progress) { p.filled(step.before, step.after) })
	}
	lost := maps.Clone(w.owned)
	for _, stream := range ours {
		delete(lost, stream.ID)
		if err := w.owned[stream.ID].change(stream.Symbols); err != nil {
			return err
		}
	}
	for _, s := range lost {
		s.Cancel()
	}
	for _, r := range taken {
		if former := w.owned[r.ID]; former != nil {
			former.Wait() // it was lost, and is ours again
		}
		s, err := w.subscribe(streaming, r)
		if err != nil {
			return err
		}
		w.owned[r.ID] = s
	}
	return nil
}

// leave writes the progress of streams that have ended, asks for all that they missed, and
// gives up the claims on them. What cannot be asked for now is left to a next owner, if any.
func (w *worker) leave(ctx context.Context, toNext bool) error {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(w.owned)) {
		if w.owned[id].HasEnded() {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	steps, fills, err := w.progress(ctx, ids, true)
	if err != nil {
		return err
	}
	_, err = w.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		for _, id := range ids {
			if err := steps[id].after.write(ctx, tx, w.claims.Owner, id, ""); err != nil {
				return nil, err
			}
		}
		return fills, w.claims.Release(ctx, tx, ids)
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		for symbol, h := range steps[id].after.holes {
			if !toNext {
				w.owned[id].notFilled(symbol, h.From, h.To, "too many backfills are under way")
			}
		}
		delete(w.owned, id)
	}
	return nil
}

// noted is the progress of a stream, and what of it is written along with the events that ask
// for what it missed.
type noted struct{ before, after progress }

// progress is that of streams, and the events that ask for what they missed: all of it at the
// end.
func (w *worker) progress(ctx context.Context, ids []string, end bool) (map[string]noted, []schema.Event, error) {
	room, err := w.room(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	steps := make(map[string]noted, len(ids))
	var events []schema.Event
	for _, id := range ids {
		s := w.owned[id]
		before := s.progress()
		fills, after := s.fills(before.clone(), schema.NewTime(w.now()), end, room-len(events))
		steps[id], events = noted{before, after}, append(events, fills...)
	}
	return steps, events, nil
}

// release ends all streams and leaves them to the next owner.
func (w *worker) release(ctx context.Context) {
	claim.EndAll(w.owned)
	releasing, cancel := claim.Graceful(ctx)
	defer cancel()
	if err := w.leave(releasing, true); err != nil {
		w.log.Warn("streams are taken over only when their claims end", "error", err)
	}
}
