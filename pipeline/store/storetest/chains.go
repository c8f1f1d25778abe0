package storetest

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
)

// take takes n numbers of one chain, and returns the last.
func take(t *testing.T, tx *store.Tx, topic store.Topic, part int32, n int) (int64, error) {
	numbers := []store.Numbers{{Epoch: topic.Epoch, Part: part, N: n}}
	err := tx.TakeNumbers(t.Context(), numbers)
	return numbers[0].Last, err
}

// emit puts n events with these keys into a chain.
func emit(t *testing.T, s *store.Store, topic store.Topic, part int32, keys ...string) {
	t.Helper()
	write(t, s, func(tx *store.Tx) error {
		last, err := take(t, tx, topic, part, len(keys))
		if err != nil {
			return err
		}
		rows := make([]store.OutboxRow, len(keys))
		for i, key := range keys {
			rows[i] = store.OutboxRow{Epoch: topic.Epoch, Part: part, Seq: last - int64(len(keys)) + 1 + int64(i),
				Key: []byte(key), Headers: []byte{1}, Payload: []byte(key)}
		}
		return tx.Append(t.Context(), rows)
	})
}

// waiting are the keys of the rows of a chain, which must be numbered densely
// after what was sent.
func waiting(t *testing.T, s *store.Store, topic store.Topic, part int32) []string {
	t.Helper()
	chain := chainOf(t, s, topic, part)
	rows, err := s.ReadOutbox(t.Context(), 1000, 1<<20, store.Behind{Epoch: topic.Epoch, Part: part})
	require.NoError(t, err)
	var keys []string
	for i, row := range rows {
		require.Equal(t, chain.Sent+int64(i)+1, row.Seq)
		keys = append(keys, string(row.Key))
	}
	require.Equal(t, chain.Last, chain.Sent+int64(len(rows)))
	return keys
}

func chainOf(t *testing.T, s *store.Store, topic store.Topic, part int32) store.Chain {
	t.Helper()
	chains, err := store.Chains(t.Context(), s)
	require.NoError(t, err)
	for _, chain := range chains {
		if chain.Epoch == topic.Epoch && chain.Part == part {
			return chain
		}
	}
	require.Fail(t, "no such chain")
	return store.Chain{}
}

// sentUpTo says that a chain is in the log up to a number, as a relay does that read
// the event.
func sentUpTo(t *testing.T, s *store.Store, chain store.Chain, now int64) store.Sent {
	t.Helper()
	rows, err := s.ReadOutbox(t.Context(), 1, 1<<20, store.Behind{Epoch: chain.Epoch, Part: chain.Part, After: now - 1})
	require.NoError(t, err)
	sent := store.Sent{Chain: chain, Now: now}
	if len(rows) > 0 {
		sent.Headers = rows[0].Headers
	}
	return sent
}

func markSent(t *testing.T, s *store.Store, chain store.Chain, now int64) error {
	t.Helper()
	return s.MarkSent(t.Context(), []store.Sent{sentUpTo(t, s, chain, now)})
}

func testRenewChain(t *testing.T, opener Opener) {
	s := open(t, opener)
	for name, test := range map[string]struct {
		inLog       string // under the numbers 1 to 5: s the same, x another, - nothing
		sent, given int64
		waiting     []string
	}{
		"what was noted":        {"ss---", 2, 5, []string{"c", "d", "e"}},
		"an answer was lost":    {"sss--", 3, 5, []string{"d", "e"}},
		"all answers were lost": {"sssss", 5, 5, nil},
		"a later state wrote":   {"ssxxx", 2, 2, []string{"c", "d", "e"}},
		"some, then another":    {"sssx-", 3, 3, []string{"d", "e"}},
		"the same after others": {"ssxs-", 2, 2, []string{"c", "d", "e"}},
	} {
		topic, err := s.RegisterTopic(t.Context(), name, name, 2)
		require.NoError(t, err)
		emit(t, s, topic, 1, "a", "b", "c", "d", "e")
		from := chainOf(t, s, topic, 1)
		to := from
		to.Sent = 2
		require.NoError(t, markSent(t, s, from, 2))
		look := func(row store.OutboxRow) (store.InLog, error) {
			return map[byte]store.InLog{'s': store.Same, 'x': store.Another, '-': store.Absent}[test.inLog[row.Seq-1]], nil
		}
		renew := func(tx *store.Tx) error { return tx.RenewChain(t.Context(), topic.Epoch, 1, from.Timeline, look) }
		write(t, s, renew)
		now := chainOf(t, s, topic, 1)
		assert.NotEqual(t, from.Timeline, now.Timeline)
		assert.Zero(t, now.Sent)
		assert.Equal(t, test.waiting, waiting(t, s, topic, 1), name)
		write(t, s, renew) // another process that found the same is late
		assert.Equal(t, now, chainOf(t, s, topic, 1))
		known, err := store.KnownChains(t.Context(), s)
		require.NoError(t, err)
		known = slices.DeleteFunc(known, func(k store.KnownChain) bool { return k.Topic != name })
		assert.Equal(t, []store.KnownChain{
			{Topic: name, Epoch: topic.Epoch, Part: 0, Timeline: from.Timeline, Current: true},
			{Topic: name, Epoch: topic.Epoch, Part: 1, Timeline: from.Timeline, Sent: test.sent, Given: test.given},
			{Topic: name, Epoch: topic.Epoch, Part: 1, Timeline: now.Timeline, Given: now.Last, Current: true},
		}, known, name)

		// A relay that began before must not take the new rows for its own.
		require.ErrorIs(t, markSent(t, s, to, 4), store.ErrOvertaken)
		assert.Equal(t, test.waiting, waiting(t, s, topic, 1))
	}
}

func testCarryOver(t *testing.T, opener Opener) {
	s := open(t, opener)
	former, err := s.RegisterTopic(t.Context(), "prices", "uuid-1", 2)
	require.NoError(t, err)
	emit(t, s, former, 1, "a", "b", "c0", "d1", "e0")
	chain := chainOf(t, s, former, 1)
	topic, err := s.RegisterTopic(t.Context(), "prices", "uuid-2", 3)
	require.NoError(t, err)
	emit(t, s, topic, 0, "x")
	// A stage has applied b, so b was in the log, although no one noted it.
	write(t, s, func(tx *store.Tx) error {
		return tx.CreatePositions(t.Context(), []store.Position{
			{Stage: "s", Topic: "prices", Part: 1, TopicID: "uuid-1", Next: 2, Reached: linkAt(chain.Timeline, 2)},
			{Stage: "one that is at a number that was never given", Topic: "prices", Part: 1, TopicID: "uuid-1", Next: 2, Reached: linkAt(chain.Timeline, 9)}})
	})
	byLastDigit := func(key []byte) int32 { return int32(key[len(key)-1] - '0') }
	for range 2 { // another relay does the same
		write(t, s, func(tx *store.Tx) error { return tx.CarryOver(t.Context(), chain, topic, byLastDigit) })
	}
	// A relay whose batch was acknowledged late notes it in vain.
	require.ErrorIs(t, markSent(t, s, chain, 4), store.ErrOvertaken)
	assert.Equal(t, []string{"x", "c0", "e0"}, waiting(t, s, topic, 0))
	assert.Equal(t, []string{"d1"}, waiting(t, s, topic, 1))
	closed := chainOf(t, s, former, 1)
	assert.Equal(t, []int64{2, 2}, []int64{closed.Last, closed.Sent})
	pending, err := s.Pending(t.Context())
	require.NoError(t, err)
	assert.Len(t, pending, 2)
	known, err := store.KnownChains(t.Context(), s)
	require.NoError(t, err)
	for _, k := range known {
		assert.Equal(t, k.Epoch == topic.Epoch, k.Current)
	}
}

func testRenewEpoch(t *testing.T, opener Opener) {
	s := open(t, opener)
	topic, err := s.RegisterTopic(t.Context(), "prices", "uuid", 2)
	require.NoError(t, err)
	var renewed store.Topic
	for range 2 { // two operators at once
		write(t, s, func(tx *store.Tx) (err error) {
			renewed, err = tx.RenewEpoch(t.Context(), topic)
			return err
		})
		assert.Equal(t, topic.Epoch+1, renewed.Epoch)
	}
	again, err := s.RegisterTopic(t.Context(), "prices", "uuid", 2)
	require.NoError(t, err)
	assert.Equal(t, renewed, again, "the newest epoch of the topic")
	assert.Equal(t, 1, again.Renewed)
	other, err := s.RegisterTopic(t.Context(), "prices", "another", 2)
	require.NoError(t, err)
	assert.Zero(t, other.Renewed, "a topic that was created again is another one")
	topics, err := s.Topics(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []store.Topic{topic, again, other}, topics)
}

func testSetPosition(t *testing.T, opener Opener) {
	s := open(t, opener)
	p := store.Position{Stage: "s", Topic: "prices", Part: 1, TopicID: "uuid", Next: 5, Reached: linkAt("o", 4), Halted: "why"}
	write(t, s, func(tx *store.Tx) error { return tx.CreatePositions(t.Context(), []store.Position{p}) })
	to := p
	to.Next, to.Reached, to.Halted = 9, chain.Link{}.In(chain.AnyNext), ""
	write(t, s, func(tx *store.Tx) error {
		locked, err := tx.LockPositions(t.Context(), "s")
		require.NoError(t, err)
		require.Len(t, locked, 1)
		return tx.SetPosition(t.Context(), locked[0], to)
	})
	got, err := store.Positions(t.Context(), s, "s")
	require.NoError(t, err)
	assert.Equal(t, []store.Position{to}, got)
	err = s.Write(t.Context(), func(tx *store.Tx) error { return tx.SetPosition(t.Context(), p, to) })
	require.ErrorIs(t, err, store.ErrMoved)
}

func testNoteApplied(t *testing.T, opener Opener) {
	s := open(t, opener)
	topic, err := s.RegisterTopic(t.Context(), "prices", "uuid", 2)
	require.NoError(t, err)
	emit(t, s, topic, 1, "a", "b", "c")
	name := chainOf(t, s, topic, 1).Timeline
	for _, seq := range []int64{2, 1} { // a stage that is behind changes nothing
		write(t, s, func(tx *store.Tx) error { return tx.NoteApplied(t.Context(), "prices", 1, name, seq) })
		assert.Equal(t, []string{"c"}, waiting(t, s, topic, 1))
	}
	write(t, s, func(tx *store.Tx) error { return tx.NoteApplied(t.Context(), "prices", 1, "another", 3) })
	assert.Equal(t, []string{"c"}, waiting(t, s, topic, 1))
	write(t, s, func(tx *store.Tx) error { return tx.NoteApplied(t.Context(), "prices", 1, name, 4) })
	assert.Equal(t, []string{"c"}, waiting(t, s, topic, 1), "a number that was never given")

	chains, err := store.ChainsAt(t.Context(), s, []store.Chain{{Epoch: topic.Epoch, Part: 1}, {Epoch: topic.Epoch, Part: 9}})
	require.NoError(t, err)
	assert.Equal(t, []store.Chain{chainOf(t, s, topic, 1)}, chains)
	chains, err = store.ChainsAt(t.Context(), s, nil)
	require.NoError(t, err)
	assert.Empty(t, chains)
}

func testChainsTotal(t *testing.T, opener Opener) {
	s := open(t, opener)
	total := func() [2]int64 {
		n, last, err := store.ChainsTotal(t.Context(), s)
		require.NoError(t, err)
		return [2]int64{n, last}
	}
	assert.Equal(t, [2]int64{0, 0}, total())
	topic, err := s.RegisterTopic(t.Context(), "prices", "uuid", 2)
	require.NoError(t, err)
	emit(t, s, topic, 0, "a", "b", "c")
	before := total()
	assert.Equal(t, int64(3), before[1])
	emit(t, s, topic, 1, "d")
	emit(t, s, topic, 0, "e")
	assert.Equal(t, int64(5), total()[1])
	chains, err := store.Chains(t.Context(), s)
	require.NoError(t, err)
	assert.Len(t, chains, int(total()[0]))
}
