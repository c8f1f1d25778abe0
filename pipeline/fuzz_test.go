package pipeline

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// Whatever headers say of a chain, they name a place in it, none, or nonsense; and
// whatever was applied last, one step is decided, after which the same record is a
// repeat.
func FuzzChainLink(f *testing.F) {
	for _, seed := range []string{"1", "2", "0", "-1", "", "x", "007", "+3", "9223372036854775807", "9223372036854775808"} {
		f.Add("a", []byte(seed), true, "a", int64(1))
		f.Add("b", []byte(seed), false, "a", int64(-6))
	}
	f.Add("", []byte(nil), false, "", int64(0))
	f.Fuzz(func(t *testing.T, outbox string, number []byte, hasNumber bool, lastOutbox string, lastSeq int64) {
		headers := []schema.Header{{Key: "ce_id", Value: []byte("1")}, {Key: headerOutbox, Value: []byte(outbox)}}
		if hasNumber {
			headers = append(headers, schema.Header{Key: headerSeq, Value: number})
		}
		link, _, err := linkOf(headers)
		if err != nil {
			require.ErrorIs(t, err, schema.ErrEnvelope)
			require.Equal(t, Link{}, link)
			return
		}
		require.Equal(t, link == Link{}, outbox == "")
		if link != (Link{}) {
			again, _, err := linkOf(link.headers())
			require.NoError(t, err)
			require.Equal(t, link, again)
			size := 0
			for _, h := range link.headers() {
				size += len(h.Key) + len(h.Value)
			}
			require.LessOrEqual(t, size-len(outbox), linkBytes-2*40+20, "an outbox's event has room for it")
		}
		last := Link{lastOutbox, lastSeq}
		names := timelines{"a": {0, 5, 7}, "b": {1, unlimited, unlimited}}
		for _, derived := range []bool{false, true} {
			switch step := last.follow(link, derived, names); step {
			case apply, stepOver:
				after := last.advance(link)
				if link != (Link{}) && link.Seq < unlimited {
					require.Equal(t, repeat, after.follow(link, derived, names), "%v after %v", link, last)
				}
			case repeat, gap, foreign:
				require.NotEqual(t, Link{}, link, "a record of no chain is applied")
			default:
				t.Fatalf("step %d", step)
			}
		}
	})
}

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
