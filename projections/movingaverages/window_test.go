package movingaverages

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// What a window keeps is stored after each price: no more than its largest average
// needs.
func TestAWindowKeepsWhatItsLargestAverageNeeds(t *testing.T) {
	t.Parallel()
	sizes := []int{2, 3}
	var w window
	for i := range 10 {
		w = w.add(entry{projections.Place{Timestamp: schema.NewTime(time.Unix(int64(i), 0)), ID: int64(i)}, schema.MustDecimal("1.5")}, sizes)
		assert.Len(t, w.entries, min(i+1, 3))
	}
}

func TestAStoredWindowThatIsDamagedIsAnError(t *testing.T) {
	t.Parallel()
	const at = `"2026-01-02T03:04:05Z"`
	for _, text := range []string{"", "{", `{"times":[],"sequences":[],"ids":[1],"prices":[]}`,
		`{"times":[],"sequences":[],"ids":[],"prices":[1]}`, `{"times":[` + at + `],"sequences":[0],"ids":[1],"prices":[]}`,
		`{"times":[` + at + `],"sequences":[0],"ids":[],"prices":[1]}`, `{"times":[` + at + `],"ids":[1],"prices":[1]}`} {
		_, err := decodeWindow(text, []int{2})
		require.ErrorContains(t, err, "reading a stored window", text)
	}
	w, err := decodeWindow(`{"times":[`+at+`],"sequences":[7],"ids":[1],"prices":[1]}`, []int{2})
	require.NoError(t, err)
	assert.Len(t, w.entries, 1)
}
