package operator

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A target is start, end or an offset of the log.
func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"start", "end", "0", "17", "-1", "+1", "START", "", "9223372036854775807", "1e3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		target, err := ParseTarget(text)
		if err != nil {
			return
		}
		require.True(t, target == ToStart || target == ToEnd || target == ToOffset(target.offset) && target.offset >= 0)
	})
}
