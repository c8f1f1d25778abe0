package live

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

const (
	// viewPause is the least time between two readings of the read models.
	viewPause = 10 * time.Millisecond
	// viewLook is how soon a commit of another process is seen; the pause doubles up to
	// maxViewLook while a read model does not move.
	viewLook    = 10 * time.Millisecond
	maxViewLook = 200 * time.Millisecond
	// viewTimeout bounds a reading, so that a database that hangs is asked again.
	viewTimeout = 5 * time.Second
)

// wakeViews says that read models have prices to fold.
func (h *Hub) wakeViews() {
	select {
	case h.pending <- struct{}{}:
	default:
	}
}

// keepViews reads what read models say of watched symbols, each time they have folded
// more of their prices, until ctx is done.
func (h *Hub) keepViews(ctx context.Context) {
	look, failing := viewLook, false
	for {
		changed := h.cfg.Changed() // before the reading: a commit during it is seen
		kinds := h.pendingKinds()
		if len(kinds) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-h.pending:
			}
			continue
		}
		moved, err := h.readViews(ctx, kinds)
		if err != nil && ctx.Err() == nil && !failing {
			h.log.Warn("reading what has changed for streams of clients failed, trying again", "error", err)
		}
		failing = err != nil
		if look = min(2*look, maxViewLook); moved {
			look = viewLook
		}
		if !log.Pause(ctx, viewPause) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-h.pending:
		case <-changed:
		case <-time.After(look):
		}
	}
}

// pendingKinds are the projections that have prices of watched symbols to fold.
func (h *Hub) pendingKinds() map[string]struct{} {
	names := map[string]struct{}{}
	for _, f := range h.present() {
		f.mu.Lock()
		for _, m := range f.markets {
			for _, v := range m.views {
				if len(v.pending) > 0 {
					for _, name := range v.kind.from {
						names[name] = struct{}{}
					}
				}
			}
		}
		f.mu.Unlock()
	}
	return names
}

// reading is a value that is to be read.
type reading struct {
	market *market
	view   *view
	bucket int64
	// limit is the offset before which the value reflects all prices.
	limit int64
	value any
}

// readViews reads the values whose prices the read models have folded by now, and reports
// whether there were any.
func (h *Hub) readViews(ctx context.Context, names map[string]struct{}) (moved bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, viewTimeout)
	defer cancel()
	snapshot, err := h.cfg.Store.Snapshot(ctx)
	if err != nil {
		return false, err
	}
	defer snapshot.Close()
	reached, err := projections.Reached(ctx, snapshot, slices.Collect(maps.Keys(names)), schema.PriceEvents)
	if err != nil {
		return false, err
	}
	for _, f := range h.present() {
		// What a read model has folded is in the log, and comes in a moment.
		for _, parts := range reached {
			if err := f.reach(ctx, parts[f.tp.Partition]); err != nil {
				return false, err
			}
		}
		shown, err := f.refresh(ctx, snapshot, reached)
		if err != nil {
			return false, err
		}
		moved = moved || shown
	}
	return moved, nil
}

// reflected is the offset before which a kind's values reflect all prices of a partition,
// whichever projection they are read from.
func (k Kind) reflected(reached map[string]map[int32]int64, part int32) int64 {
	limit := int64(1<<63 - 1)
	for _, name := range k.from {
		limit = min(limit, reached[name][part])
	}
	return limit
}

// refresh reads the values of a feed's markets, and shows them.
func (f *feed) refresh(ctx context.Context, snapshot *store.Snapshot, reached map[string]map[int32]int64) (shown bool, err error) {
	readings := f.readings(reached)
	for i := range readings {
		r := &readings[i]
		var from string
		if r.value, from, err = r.view.kind.value(ctx, snapshot, r.market, r.bucket); err != nil {
			return false, err
		}
		r.limit = reached[from][f.tp.Partition]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range readings {
		r := &readings[i]
		waiting := r.view.pending[r.bucket]
		n := until(waiting, r.limit)
		if n == 0 {
			continue // the view is another one by now
		}
		label := waiting[n-1]
		if n == len(waiting) {
			delete(r.view.pending, r.bucket)
		} else {
			r.view.pending[r.bucket] = waiting[n:]
		}
		if r.value != nil {
			r.view.show(r.bucket, &entry{offset: label, market: r.market, data: Data{Value: r.value}})
		}
	}
	for i := range readings {
		readings[i].market.wake()
	}
	return len(readings) > 0, nil
}

// readings are those that are due.
func (f *feed) readings(reached map[string]map[int32]int64) []reading {
	f.mu.Lock()
	defer f.mu.Unlock()
	var due []reading
	for _, m := range f.markets {
		for _, v := range m.views {
			limit := v.kind.reflected(reached, f.tp.Partition)
			for bucket, waiting := range v.pending {
				if until(waiting, limit) > 0 {
					due = append(due, reading{market: m, view: v, bucket: bucket})
				}
			}
		}
	}
	return due
}
