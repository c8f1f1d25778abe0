package refill

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// linked are records with these links; a derived one has an id.
func linked(links ...chain.Link) (records []pipeline.Record) {
	for i, l := range links {
		r := pipeline.Record{Offset: int64(i), Headers: []schema.Header{{Key: "ce_id", Value: fmt.Append(nil, i)}}}
		if l != (chain.Link{}) {
			r.Headers = append(r.Headers, l.Headers()...)
		}
		if l.Seq%2 == 0 && l.Seq > 0 {
			r.Headers = append(r.Headers, schema.Header{Key: chain.HeaderDerived, Value: []byte("true")})
		}
		records = append(records, r)
	}
	return records
}

// TestTimelines are found in their order, with the last number that was sent before the next
// one began, and the last that there is.
func TestTimelines(t *testing.T) {
	t.Parallel()
	at := func(timeline string, number int64) chain.Link { return chain.Link{Timeline: timeline, Seq: number} }
	log := linked(at("a", 1), at("a", 2), chain.Link{}, at("a", 1), at("a", 2), at("a", 3), // a relay died
		at("b", 1), at("a", 3), at("a", 4), // and was late: what was number 4 continues as number 1 of b
		at("b", 2), at("c", 1))
	broken := pipeline.Record{Headers: []schema.Header{{Key: chain.HeaderNumber, Value: []byte("seven")}}}
	log = append(log, broken)
	for _, size := range []int{1, 4, len(log)} {
		found := timelines{epoch: 3, part: 1}
		var derived []string
		for from := 0; from < len(log); from += size {
			derived = append(derived, found.follow(log[from:min(from+size, len(log))])...)
		}
		known := func(timeline string, sent, given int64) store.KnownChain {
			return store.KnownChain{Epoch: 3, Part: 1, Timeline: timeline, Sent: sent, Given: given}
		}
		assert.Equal(t, []store.KnownChain{known("a", 3, 4), known("b", 2, 2), known("c", 1, 1)}, found.found)
		assert.Equal(t, []string{"1", "8", "9"}, derived, "each once")
	}
}

// TestARestoredDatabaseOnWhichAServiceBegan is known by records beyond the end of a timeline that it
// has retired, where no stage has read them.
func TestARestoredDatabaseOnWhichAServiceBegan(t *testing.T) {
	t.Parallel()
	at := func(timeline string, number int64) chain.Link { return chain.Link{Timeline: timeline, Seq: number} }
	log := linked(at("a", 1), at("a", 2), at("a", 3), chain.Link{}, at("b", 1))
	retired := map[string]int64{"a": 2}
	require.ErrorIs(t, beyond(log, 0, retired), ErrBegun)
	require.ErrorIs(t, beyond(log, 2, retired), ErrBegun)
	require.NoError(t, beyond(log, 3, retired), "an operator had decided about them")
	require.NoError(t, beyond(log, 0, map[string]int64{"a": 3}))
	require.NoError(t, beyond(log, 0, nil))
}

// TestAllEventsOfARestoredOutbox may be in the log, those of clients among them.
func TestAllEventsOfARestoredOutbox(t *testing.T) {
	t.Parallel()
	at := func(number int64) chain.Link { return chain.Link{Timeline: "a", Seq: number} }
	log := linked(at(1), at(2), at(1), at(2), at(3))
	assert.Equal(t, []string{"1"}, (&timelines{}).follow(log), "derived")
	assert.Equal(t, []string{"0", "1", "4"}, (&timelines{all: true}).follow(log))
}

// TestEventsOfOtherTopics: where not one of many events is in the log, its ids are of another
// origin.
func TestEventsOfOtherTopics(t *testing.T) {
	t.Parallel()
	id := func(n int) string { return schema.DeriveID("a", fmt.Sprint(n)) }
	s := &eventSet{ids: map[[16]byte]struct{}{}}
	var ids []string
	for n := range 2 * strangers {
		ids = append(ids, id(n))
	}
	s.add(ids)
	s.add([]string{"no UUID"})
	require.Zero(t, s.twice)
	for n := range strangers + 1 {
		require.False(t, s.strange(), "%d may be new", n)
		require.False(t, s.has(id(-1-n)))
	}
	assert.True(t, s.strange())
	assert.True(t, s.has("no UUID"))
	assert.False(t, s.strange(), "one is there")
	assert.True(t, s.has(id(0)))
	s.add(ids[:3])
	assert.EqualValues(t, 3, s.twice)
}
