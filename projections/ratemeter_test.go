package projections

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/pipeline/store"
)

func TestASpeedometerFollowsEachPartition(t *testing.T) {
	t.Parallel()
	var s rateMeter
	at := func(second int, next ...int64) map[string]int64 {
		positions := make([]store.Position, len(next))
		for part, n := range next {
			positions[part] = store.Position{Topic: "t", Part: int32(part), Next: n}
		}
		return s.observe(positions, time.Unix(int64(second), 0))
	}
	assert.Empty(t, at(0, 0, 0), "no one knows where they were")
	assert.Equal(t, map[string]int64{"t/0": 100}, at(2, 200, 0))
	assert.Equal(t, map[string]int64{"t/0": 125, "t/1": 50}, at(3, 400, 50), "smoothed, but for the first")
	assert.Equal(t, map[string]int64{"t/1": 50}, at(4, 400, 100), "one that stands has none")
}
