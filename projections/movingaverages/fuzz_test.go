package movingaverages

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// A stored window that is read is written as it was, with the sums of its prices,
// whatever the sizes are now.
func FuzzStoredWindow(f *testing.F) {
	sizes := []int{2, 3}
	var w window
	text, err := w.encode()
	require.NoError(f, err)
	f.Add(text)
	w.sums = make([]schema.Decimal, len(sizes))
	for i := range 4 {
		w.entries = append(w.entries, entry{schema.NewTime(time.Unix(int64(i), 0)), int64(i), schema.MustDecimal("1.5")})
	}
	text, err = w.encode()
	require.NoError(f, err)
	for _, seed := range []string{text, "", "null", "{}", `{"times":[],"ids":[1],"prices":[]}`, `{"prices":[1e999999]}`, `{"ids":[9223372036854775808]}`} {
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
		written, err := read.encode()
		require.NoError(t, err)
		again, err := decodeWindow(written, sizes)
		require.NoError(t, err)
		rewritten, err := again.encode()
		require.NoError(t, err)
		require.Equal(t, written, rewritten)
	})
}
