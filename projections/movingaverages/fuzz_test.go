package movingaverages

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// A stored window that is read is written as it was, with the sums of its prices,
// whatever the sizes are now.
func FuzzStoredWindow(f *testing.F) {
	sizes := []int{2, 3}
	var w window
	f.Add(w.encode())
	w.sums = make([]schema.Decimal, len(sizes))
	for i := range 4 {
		w.entries = append(w.entries, entry{projections.Place{Timestamp: schema.NewTime(time.Unix(int64(i), 0)), ID: int64(i)}, schema.MustDecimal("1.5")})
	}
	for _, seed := range []string{w.encode(), "", "null", "{}", `{"times":[],"ids":[1],"prices":[]}`, `{"prices":[1e999999]}`, `{"ids":[9223372036854775808]}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		read, err := decodeWindow(text, sizes)
		if err != nil {
			return
		}
		for i, size := range sizes {
			var sum schema.Decimal
			for _, e := range read.entries[max(0, len(read.entries)-size):] {
				sum = sum.Add(e.price)
			}
			require.Zero(t, sum.Cmp(read.sums[i]))
			if len(read.entries) > 0 {
				_ = read.average(i, sizes) // of whatever prices
			}
		}
		written := read.encode()
		again, err := decodeWindow(written, sizes)
		require.NoError(t, err)
		require.Equal(t, written, again.encode())

		stored := storedWindow{Times: []schema.Time{}, Sequences: []schema.Sequence{}, IDs: []int64{}, Prices: []schema.Decimal{}}
		for _, e := range read.entries {
			stored.Times, stored.Sequences = append(stored.Times, e.place.Timestamp), append(stored.Sequences, e.place.Sequence)
			stored.IDs, stored.Prices = append(stored.IDs, e.place.ID), append(stored.Prices, e.price)
		}
		want, err := json.Marshal(stored)
		require.NoError(t, err)
		require.Equal(t, string(want), written)
	})
}

func BenchmarkEncodeWindow(b *testing.B) {
	var w window
	for i := range 5 {
		w = w.add(entry{projections.Place{Timestamp: schema.NewTime(time.Unix(1_750_000_000, int64(i)*1000)), ID: int64(i)}, schema.MustDecimal("182.55")}, []int{5})
	}
	for b.Loop() {
		w.encode()
	}
}
