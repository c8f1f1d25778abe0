package storetest

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
)

// maxSegmentPart is the largest number of a partition.
const maxSegmentPart = 1<<12 - 1

func segmentOf(epoch int64, part int32, first, last int64) store.Segment {
	return store.Segment{Epoch: epoch, Part: part, First: first, Last: last, Newest: 1000 + last, Codec: 7, Checksum: -last, Body: []byte{0, 255, byte(last)}}
}

// segments are those of a range, at most limit.
func segments(t *testing.T, s *store.Store, r store.SegmentRange, limit int) []store.Segment {
	t.Helper()
	var all []store.Segment
	require.NoError(t, s.EachSegment(t.Context(), r, limit, func(segment store.Segment) (bool, error) {
		all = append(all, segment)
		return true, nil
	}))
	return all
}

func testSegments(t *testing.T, opener Opener) {
	s := open(t, opener)
	var all []store.Segment
	// Neighbours in the order of ids; the last number is the largest there is.
	for _, place := range []struct {
		epoch int64
		part  int32
	}{{1, 0}, {1, 1}, {1, maxSegmentPart}, {2, 0}, {127, maxSegmentPart}} {
		all = append(all, segmentOf(place.epoch, place.part, 1, 1), segmentOf(place.epoch, place.part, 2, 10),
			segmentOf(place.epoch, place.part, 11, 20), segmentOf(place.epoch, place.part, 21, 1<<38-1))
	}
	shuffled := slices.Clone(all)
	slices.Reverse(shuffled)
	write(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.AppendSegments(t.Context(), nil), tx.AppendSegments(t.Context(), shuffled))
	})
	for i := 0; i < len(all); i += 4 {
		of := store.SegmentRange{Epoch: all[i].Epoch, Part: all[i].Part}
		assert.Equal(t, all[i:i+4], segments(t, s, of, 100))
		assert.Equal(t, all[i:i+2], segments(t, s, of, 2))
		for after, skipped := range map[int64]int{1: 1, 2: 1, 9: 1, 10: 2, 20: 3, 21: 3, 1<<38 - 2: 3, 1<<38 - 1: 4} {
			of.After = after
			assert.ElementsMatch(t, all[i+skipped:i+4], segments(t, s, of, 100), "after %d", after)
		}
		first, last, found, err := s.FirstSegmentSince(t.Context(), of.Epoch, of.Part, 1011)
		require.NoError(t, err)
		assert.Equal(t, []any{int64(11), int64(20), true}, []any{first, last, found})
	}
	for _, none := range []store.SegmentRange{{Epoch: 1, Part: 2}, {Epoch: 1, Part: maxSegmentPart - 1}, {Epoch: 2, Part: 1}, {Epoch: 3}} {
		assert.Empty(t, segments(t, s, none, 100), none)
		_, _, found, err := s.FirstSegmentSince(t.Context(), none.Epoch, none.Part, 0)
		require.NoError(t, err)
		assert.False(t, found)
	}

	// f decides when it is enough.
	var read int
	of := store.SegmentRange{Epoch: 1}
	require.NoError(t, s.EachSegment(t.Context(), of, 100, func(store.Segment) (bool, error) { read++; return read < 2, nil }))
	assert.Equal(t, 2, read)
	cause := errors.New("no")
	require.Equal(t, cause, s.EachSegment(t.Context(), of, 100, func(store.Segment) (bool, error) { return true, cause }))

	// A number is given once: the second row is an error, of values.
	var data *store.DataError
	require.ErrorAs(t, s.Write(t.Context(), func(tx *store.Tx) error { return tx.AppendSegments(t.Context(), all[:1]) }), &data)

	// More than one statement takes.
	var many []store.Segment
	for i := range int64(2500) {
		many = append(many, segmentOf(5, 1, i+1, i+1))
	}
	large := make([]byte, 3<<20)
	large[len(large)-1] = 1
	many = append(many, store.Segment{Epoch: 5, Part: 1, First: 2501, Last: 2501, Body: large}, store.Segment{Epoch: 5, Part: 1, First: 2502, Last: 2502, Body: large})
	write(t, s, func(tx *store.Tx) error { return tx.AppendSegments(t.Context(), many) })
	assert.Equal(t, many, segments(t, s, store.SegmentRange{Epoch: 5, Part: 1}, 5000))
}

func testLogNumbers(t *testing.T, opener Opener) {
	s := open(t, opener)
	require.NoError(t, s.EnsureTopic(t.Context(), "prices", 3))
	cause := errors.New("rolled back")
	for _, c := range []struct {
		err    error
		wanted []store.Numbers
		last   []int64
	}{
		{nil, []store.Numbers{{Epoch: 1, Part: 2, N: 3}, {Epoch: 1, Part: 0, N: 1}}, []int64{3, 1}},
		{cause, []store.Numbers{{Epoch: 1, Part: 2, N: 5}}, []int64{8}},
		{nil, []store.Numbers{{Epoch: 1, Part: 0, N: 2}, {Epoch: 1, Part: 1, N: 4}, {Epoch: 1, Part: 2, N: 1}}, []int64{3, 4, 4}},
	} {
		err := s.Write(t.Context(), func(tx *store.Tx) error {
			require.NoError(t, tx.TakeLogNumbers(t.Context(), c.wanted))
			return c.err
		})
		require.Equal(t, c.err, err)
		for i, n := range c.wanted {
			assert.Equal(t, c.last[i], n.Last)
			assert.Equal(t, c.last[i]-int64(n.N)+1, n.First())
		}
	}
	chains, err := store.Chains(t.Context(), s)
	require.NoError(t, err)
	for part, last := range []int64{3, 4, 4} {
		assert.Equal(t, last, chains[part].Last)
		assert.Equal(t, last, chains[part].Sent, "nothing waits for a relay")
	}
	pending, err := s.Pending(t.Context())
	require.NoError(t, err)
	assert.Empty(t, pending)
	require.Error(t, s.Write(t.Context(), func(tx *store.Tx) error {
		return tx.TakeLogNumbers(t.Context(), []store.Numbers{{Epoch: 1, Part: 3, N: 1}})
	}), "there is no such partition")
}

func testEnsureTopic(t *testing.T, opener Opener) {
	s := open(t, opener)
	others := []*store.Store{s, open(t, opener), open(t, opener)}
	var wait sync.WaitGroup
	for i := range 9 {
		wait.Go(func() { assert.NoError(t, others[i%3].EnsureTopic(t.Context(), []string{"one", "two"}[i%2], 3)) })
	}
	wait.Wait()
	before, err := s.Topics(t.Context())
	require.NoError(t, err)
	require.Len(t, before, 2)
	assert.NotEqual(t, before[0].ID, before[1].ID)
	for i, topic := range before {
		assert.EqualValues(t, i+1, topic.Epoch)
		assert.EqualValues(t, 3, topic.Partitions)
		registered, err := s.RegisterTopic(t.Context(), topic.Name, topic.ID, 3)
		require.NoError(t, err)
		assert.Equal(t, topic, registered, "it is known")
	}
	require.NoError(t, s.EnsureTopic(t.Context(), "one", 17))
	after, err := s.Topics(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before, after)
	chains, err := store.Chains(t.Context(), s)
	require.NoError(t, err)
	assert.Len(t, chains, 6)
}

func testGroupOffsets(t *testing.T, opener Opener) {
	s := open(t, opener)
	get := func(group string) []store.GroupOffset {
		offsets, err := s.GroupOffsets(t.Context(), group)
		require.NoError(t, err)
		return offsets
	}
	assert.Empty(t, get("a"))
	require.NoError(t, s.CommitGroupOffsets(t.Context(), "a", []store.GroupOffset{{Epoch: 1, Part: 0, Next: 5}, {Epoch: 1, Part: 1, Next: 7}}))
	require.NoError(t, s.CommitGroupOffsets(t.Context(), "b", []store.GroupOffset{{Epoch: 1, Part: 0, Next: 1}}))
	require.NoError(t, s.CommitGroupOffsets(t.Context(), "a", []store.GroupOffset{{Epoch: 2, Part: 0, Next: 1 << 37}, {Epoch: 1, Part: 0, Next: 6}}))
	require.NoError(t, s.CommitGroupOffsets(t.Context(), "a", nil))
	assert.ElementsMatch(t, []store.GroupOffset{{Epoch: 1, Part: 0, Next: 6}, {Epoch: 1, Part: 1, Next: 7}, {Epoch: 2, Part: 0, Next: 1 << 37}}, get("a"))
	assert.Equal(t, []store.GroupOffset{{Epoch: 1, Part: 0, Next: 1}}, get("b"))
}

func testOpenToRefill(t *testing.T, opener Opener) {
	engine := opener(t)
	s, err := store.OpenToRefill(t.Context(), engine)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	recorded, used, err := store.RecordedLog(t.Context(), engine)
	require.NoError(t, err)
	assert.Equal(t, store.RefillUnderWay, recorded, "from the first row on")
	assert.False(t, used)
	again, err := store.OpenToRefill(t.Context(), opener(t))
	require.NoError(t, err, "it continues")
	require.NoError(t, again.RecordLog(t.Context(), store.RefillUnderWay))
	require.NoError(t, again.Close())
}

func testRecordedLog(t *testing.T, opener Opener) {
	engine := opener(t)
	recorded, used, err := store.RecordedLog(t.Context(), engine)
	require.NoError(t, err, "there are no tables yet")
	assert.Empty(t, recorded)
	assert.False(t, used)
	s, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	look := func(log string, topics bool) {
		t.Helper()
		recorded, used, err := store.RecordedLog(t.Context(), engine)
		require.NoError(t, err)
		assert.Equal(t, log, recorded)
		assert.Equal(t, topics, used)
	}
	look("", false)
	require.NoError(t, s.EnsureTopic(t.Context(), "one", 1))
	look("", true)
	// Of two that start at once with other settings, one is refused.
	other := open(t, opener)
	errs := make([]error, 2)
	var wait sync.WaitGroup
	wait.Go(func() { errs[0] = s.RecordLog(t.Context(), store.TableLog) })
	wait.Go(func() { errs[1] = other.RecordLog(t.Context(), "a cluster") })
	wait.Wait()
	winner, loser, refused := store.TableLog, "a cluster", errs[1]
	if errs[0] != nil {
		winner, loser, refused = loser, winner, errs[0]
	}
	require.ErrorIs(t, refused, store.ErrOtherLog)
	require.NoError(t, errors.Join(slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, store.ErrOtherLog) })...))
	look(winner, true)
	before := s.Writes()
	require.NoError(t, s.RecordLog(t.Context(), winner))
	assert.Equal(t, before, s.Writes(), "it is recorded already")
	require.ErrorIs(t, s.RecordLog(t.Context(), loser), store.ErrOtherLog)
	look(winner, true)
}

func testLeaseTaken(t *testing.T, opener Opener) {
	s := open(t, opener)
	taken := func() bool {
		held, err := store.HeldLeases(t.Context(), s)
		require.NoError(t, err)
		return slices.Contains(held, "log")
	}
	acquire := func(d time.Duration) {
		held, err := s.AcquireLease(t.Context(), "log", "a", d)
		require.NoError(t, err)
		require.True(t, held)
	}
	assert.False(t, taken())
	acquire(time.Hour)
	assert.True(t, taken())
	acquire(-time.Second)
	assert.False(t, taken(), "its time is up")
	acquire(time.Hour)
	require.NoError(t, s.ReleaseLease(t.Context(), "log", "a"))
	assert.False(t, taken())
}
