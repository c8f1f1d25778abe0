package rowid

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRowIDs(t *testing.T) {
	t.Parallel()
	low, err := Of(1, 2, 3, 0)
	require.NoError(t, err)
	high, err := Of(1, 2, 4, 0)
	require.NoError(t, err)
	assert.Less(t, low, high)
	most, err := Of(MaxEpoch, MaxPartitions-1, maxOffset, MaxIndex)
	require.NoError(t, err)
	assert.Equal(t, int64(1<<63-1), most)
	for _, wrong := range [][4]int64{{MaxEpoch + 1, 0, 0, 0}, {0, MaxPartitions, 0, 0}, {0, 0, maxOffset + 1, 0}, {0, 0, 0, MaxIndex + 1}, {-1, 0, 0, 0}} {
		_, err := Of(wrong[0], int32(wrong[1]), wrong[2], int(wrong[3]))
		assert.Error(t, err, "%v", wrong)
	}
}
