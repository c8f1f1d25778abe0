package refill

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
)

// TestPartition: each record is at one place, none is where another one is, and what floats takes
// the first free place.
func TestPartition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		known := rapid.Int64Range(0, 300).Draw(t, "known")
		p := NewPartition(pipeline.TopicPartition{Topic: "a"}, known)
		at := map[int64]int64{} // the Ref of the record at each offset
		for ref := range rapid.Int64Range(0, 400).Draw(t, "records") {
			slot := Slot{Ref: ref, Link: LinkKind(rapid.IntRange(0, 2).Draw(t, "link"))}
			offset := rapid.Int64Range(-1, 310).Draw(t, "offset")
			_, taken := at[offset]
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				slot.Offset = offset
				require.Equal(t, offset >= 0 && offset < known && !taken, p.Put(slot))
				if offset >= 0 && offset < known && !taken {
					at[offset] = ref
				}
			case 1:
				want := max(offset, 0)
				for ; ; want++ {
					if _, taken := at[want]; !taken {
						break
					}
				}
				got, placed := p.Float(offset, slot)
				require.Equal(t, want < known, placed)
				if placed {
					require.Equal(t, want, got)
					at[got] = ref
				}
			default:
				at[p.End] = ref
				p.Append(slot)
			}
		}
		p.seal()
		require.Len(t, p.slots, len(at))
		linked := int64(0)
		for i, s := range p.slots {
			require.Equal(t, at[s.Offset], s.Ref)
			require.True(t, p.Has(s.Offset))
			require.Equal(t, linked, p.linkedBefore(s.Offset))
			require.True(t, i == 0 || p.slots[i-1].Offset < s.Offset)
			if s.Link != Unlinked {
				linked++
			}
		}
		assert.Equal(t, linked, p.linkedBefore(p.End))
	})
}
