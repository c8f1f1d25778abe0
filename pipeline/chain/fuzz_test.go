package chain

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
		f.Add("a", []byte(seed), true, "a", int64(1), uint8(0))
		f.Add("b", []byte(seed), false, "a", int64(2), uint8(2))
	}
	f.Add("", []byte(nil), false, "", int64(0), uint8(1))
	f.Fuzz(func(t *testing.T, outbox string, number []byte, hasNumber bool, lastOutbox string, lastSeq int64, mode uint8) {
		headers := []schema.Header{{Key: "ce_id", Value: []byte("1")}, {Key: HeaderTimeline, Value: []byte(outbox)}}
		if hasNumber {
			headers = append(headers, schema.Header{Key: HeaderNumber, Value: number})
		}
		link, _, err := LinkOf(headers)
		if err != nil {
			require.ErrorIs(t, err, schema.ErrEnvelope)
			require.Equal(t, Link{}, link)
			return
		}
		require.Equal(t, link == Link{}, outbox == "")
		if link != (Link{}) {
			again, _, err := LinkOf(link.Headers())
			require.NoError(t, err)
			require.Equal(t, link, again)
			size := 0
			for _, h := range link.Headers() {
				size += len(h.Key) + len(h.Value)
			}
			require.LessOrEqual(t, size-len(outbox), LinkBytes-2*40+20, "an outbox's event has room for it")
		}
		last := Link{lastOutbox, max(0, lastSeq), Mode(mode % 3)}
		names := Timelines{"a": {0, 5, 7}, "b": {1, Unlimited, Unlimited}}
		for _, derived := range []bool{false, true} {
			switch step := last.Follow(link, derived, names); step {
			case Apply, StepOver:
				after := last.Advance(link)
				if link != (Link{}) && link.Seq < Unlimited {
					require.Equal(t, Repeat, after.Follow(link, derived, names), "%v after %v", link, last)
				}
			case Repeat, Gap, Foreign:
				require.NotEqual(t, Link{}, link, "a record of no chain is applied")
			default:
				t.Fatalf("step %d", step)
			}
		}
	})
}
