package pipeline

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A token that is accepted is read as it is written, but for zeros and signs.
func FuzzParseToken(f *testing.F) {
	for _, seed := range []string{"price-events:3:4711", "a:0:1", "a:-1:1", "a:1:0", ":1:1", "a:1", "a:1:1:1", "a:+1:+1", "\x00:1:1", "a:2147483648:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			require.ErrorIs(t, err, ErrToken)
			return
		}
		require.True(t, token.Partition >= 0 && token.Seq > 0)
		again, err := ParseToken(token.String())
		require.NoError(t, err)
		require.Equal(t, token, again)
	})
}

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
