package movingaverages

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// entry is one price in a window.
type entry struct {
	place projections.Place
	price schema.Decimal
}

func (e entry) compare(f entry) int { return e.place.Compare(f.place) }

// window is the last prices of one key, oldest first: as many as the largest average
// needs. It is immutable.
type window struct {
	entries []entry
	// sums[i] is the sum of the last sizes[i] entries.
	sums []schema.Decimal
}

// add returns the window with one more price. The sizes are ascending and the
// same in every call.
func (w window) add(e entry, sizes []int) window {
	at, _ := slices.BinarySearchFunc(w.entries, e, entry.compare)
	next := window{entries: make([]entry, 0, len(w.entries)+1), sums: slices.Clone(w.sums)}
	next.entries = append(append(append(next.entries, w.entries[:at]...), e), w.entries[at:]...)
	if next.sums == nil {
		next.sums = make([]schema.Decimal, len(sizes))
	}
	n := len(next.entries)
	for i, size := range sizes {
		if at < n-size {
			continue // too old to belong to the last ones
		}
		next.sums[i] = next.sums[i].Add(e.price)
		if n > size {
			next.sums[i] = next.sums[i].Sub(next.entries[n-size-1].price)
		}
	}
	if largest := sizes[len(sizes)-1]; n > largest {
		next.entries = next.entries[n-largest:]
	}
	return next
}

// replace returns the window with another price in the place of one, or without it, and
// reports whether it was there. Where it was, one that is smaller by it may lack a price.
func (w window) replace(e entry, other *projections.Fact, sizes []int) (next window, held bool) {
	at, held := slices.BinarySearchFunc(w.entries, e, entry.compare)
	if !held {
		return w, false
	}
	next.entries = slices.Clone(w.entries)
	if other != nil {
		next.entries[at].price = other.Price
	} else {
		next.entries = slices.Delete(next.entries, at, at+1)
	}
	return next.sumUp(sizes), true
}

// sumUp returns the window with its sums.
func (w window) sumUp(sizes []int) window {
	w.sums = make([]schema.Decimal, len(sizes))
	for i, size := range sizes {
		for _, e := range w.entries[max(0, len(w.entries)-size):] {
			w.sums[i] = w.sums[i].Add(e.price)
		}
	}
	return w
}

// average of the last sizes[i] prices, or of those there are.
func (w window) average(i int, sizes []int) schema.Decimal {
	return w.sums[i].Quo(min(sizes[i], len(w.entries)))
}

// newest is the newest event time.
func (w window) newest() schema.Time { return w.entries[len(w.entries)-1].place.Timestamp }

// storedWindow is the text form of a window.
type storedWindow struct {
	Times     []schema.Time     `json:"times"`
	Sequences []schema.Sequence `json:"sequences"`
	IDs       []int64           `json:"ids"`
	Prices    []schema.Decimal  `json:"prices"`
}

// encode writes a storedWindow as encoding/json does, in a fifth of its time: there
// may be a window for each price (BenchmarkEncodeWindow).
func (w window) encode() string {
	b := make([]byte, 0, 64*(1+len(w.entries)))
	list := func(name string, each func(e entry)) {
		b = append(b, name...)
		for i, e := range w.entries {
			b = append(b, "[,"[min(i, 1)])
			each(e)
		}
		if len(w.entries) == 0 {
			b = append(b, '[')
		}
		b = append(b, ']')
	}
	list(`{"times":`, func(e entry) {
		b = append(append(append(b, '"'), e.place.Timestamp.Text()...), '"')
	})
	list(`,"sequences":`, func(e entry) { b = strconv.AppendInt(b, int64(e.place.Sequence), 10) })
	list(`,"ids":`, func(e entry) { b = strconv.AppendInt(b, e.place.ID, 10) })
	list(`,"prices":`, func(e entry) { b = append(b, e.price.String()...) })
	return string(append(b, '}'))
}

// decodeWindow reads what encode wrote, and sums up again.
func decodeWindow(text string, sizes []int) (window, error) {
	var s storedWindow
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return window{}, fmt.Errorf("reading a stored window: %w", err)
	}
	if n := len(s.Times); n != len(s.Sequences) || n != len(s.IDs) || n != len(s.Prices) {
		return window{}, fmt.Errorf("reading a stored window: %d times, %d sequences, %d ids, %d prices", n, len(s.Sequences), len(s.IDs), len(s.Prices))
	}
	var w window
	for i := range s.Times {
		w.entries = append(w.entries, entry{projections.Place{Timestamp: s.Times[i], Sequence: s.Sequences[i], ID: s.IDs[i]}, s.Prices[i]})
	}
	return w.sumUp(sizes), nil
}
