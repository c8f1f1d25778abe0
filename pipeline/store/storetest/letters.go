package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// addLetters makes n dead letters of a stage on partition 1, and returns them in
// the order of the log.
func addLetters(t *testing.T, s *store.Store, stage string, n int) []store.DeadLetter {
	t.Helper()
	var letters []store.DeadLetter
	for i := range n {
		letters = append(letters, store.DeadLetter{Stage: stage, Topic: "t", TopicID: "id", Part: 1, Offset: int64(i), Headers: []byte{1},
			Payload: []byte{byte(i)}, Reason: "no", CreatedAt: schema.NewTime(time.Unix(1, 0)), Epoch: 7})
	}
	write(t, s, func(tx *store.Tx) error { return tx.AddDeadLetters(t.Context(), letters) })
	stored, err := store.DeadLettersOf(t.Context(), s, stage, "id", 1, -1, n)
	require.NoError(t, err)
	return stored
}

func testRetries(t *testing.T, opener Opener) {
	s := open(t, opener)
	at := store.LetterPlace{Topic: "t", Part: 1}
	a := addLetters(t, s, "a", 4)
	addLetters(t, s, "b", 2)
	addLetters(t, s, store.Scratch+"a", 1)
	counts := func() []store.StageLetters {
		counts, err := store.CountLetters(t.Context(), s, store.Letters{})
		require.NoError(t, err)
		return counts
	}
	assert.Equal(t, []store.StageLetters{{Stage: "a", Letters: 4}, {Stage: "b", Letters: 2}}, counts())

	first, err := s.OrderRetry(t.Context(), store.Letters{ID: a[0].ID})
	require.NoError(t, err)
	assert.Equal(t, int64(1), first.Pending)
	_, err = s.OrderRetry(t.Context(), store.Letters{ID: a[0].ID})
	require.ErrorIs(t, err, store.ErrRetrying, "it is ordered once")
	_, err = s.OrderRetry(t.Context(), store.Letters{ID: 1 << 40})
	require.ErrorIs(t, err, store.ErrNoDeadLetter)
	rest, err := s.OrderRetry(t.Context(), store.Letters{Stage: "a"})
	require.NoError(t, err)
	assert.Equal(t, int64(3), rest.Letters, "but for the one that waits")
	assert.Equal(t, []store.StageLetters{{Stage: "a", Letters: 4, Retrying: 4}, {Stage: "b", Letters: 2}}, counts())

	waiting, err := store.StagesToRetry(t.Context(), s)
	require.NoError(t, err)
	assert.Equal(t, []string{"a"}, waiting)
	places, err := store.PlacesToRetry(t.Context(), s, "a")
	require.NoError(t, err)
	assert.Equal(t, []store.LetterPlace{at}, places)
	letters, err := store.LettersToRetry(t.Context(), s, "a", at, 10)
	require.NoError(t, err)
	require.Len(t, letters, 4)
	a[0].Retry = first.ID
	assert.Equal(t, a[0], letters[0])

	// One is discarded before they are carried out.
	n, err := s.Discard(t.Context(), store.Letters{ID: a[3].ID})
	require.NoError(t, err)
	assert.Equal(t, int64(1), n)
	write(t, s, func(tx *store.Tx) error {
		held, err := tx.HoldRetries(t.Context(), letters)
		require.NoError(t, err)
		assert.Equal(t, letters[:3], held)
		return tx.EndRetries(t.Context(), []store.Retried{{Letter: held[0]}, {Letter: held[1], Failed: "again no"}, {Letter: held[2], Refused: "not late"}})
	})
	for id, want := range map[string]store.LetterRetry{
		first.ID: {ID: first.ID, Letters: 1, Applied: 1, OrderedAt: first.OrderedAt},
		rest.ID:  {ID: rest.ID, Letters: 3, Failed: 1, Refused: 1, Withdrawn: 1, Reason: "not late", OrderedAt: rest.OrderedAt},
	} {
		got, err := store.ReadRetry(t.Context(), s, id)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	_, err = store.ReadRetry(t.Context(), s, "")
	require.ErrorIs(t, err, store.ErrNoRetry)
	_, err = store.ReadDeadLetter(t.Context(), s, a[0].ID)
	require.ErrorIs(t, err, store.ErrNoDeadLetter)
	listed, err := store.DeadLetters(t.Context(), s, "a", 10)
	require.NoError(t, err)
	require.Len(t, listed, 2)
	assert.Equal(t, "no", listed[0].Reason, "refused is not failed")
	assert.Equal(t, "again no", listed[1].Reason)
	assert.False(t, listed[0].Retrying || listed[1].Retrying)

	// What is discarded is hidden, and is there to be shown and retried by its id.
	_, err = s.Discard(t.Context(), store.Letters{ID: a[3].ID})
	require.ErrorIs(t, err, store.ErrNoDeadLetter, "discarded is discarded")
	all, err := s.OrderRetry(t.Context(), store.Letters{Stage: "a"})
	require.NoError(t, err)
	assert.Equal(t, int64(2), all.Pending)
	hidden, err := store.ReadDeadLetter(t.Context(), s, a[3].ID)
	require.NoError(t, err)
	assert.NotNil(t, hidden.DiscardedAt)
	_, err = s.OrderRetry(t.Context(), store.Letters{ID: a[3].ID})
	require.NoError(t, err)
	n, err = s.Discard(t.Context(), store.Letters{})
	require.NoError(t, err)
	assert.Equal(t, int64(5), n)
	assert.Empty(t, counts())
}

// testManyRetries: what is ordered in several transactions is ordered as a whole.
func testManyRetries(t *testing.T, opener Opener) {
	s := open(t, opener)
	const n = 11_000
	write(t, s, func(tx *store.Tx) error {
		var letters []store.DeadLetter
		for i := range n {
			letters = append(letters, store.DeadLetter{Stage: "a", Topic: "t", TopicID: "id", Offset: int64(i), Headers: []byte{1},
				Reason: fmt.Sprint(i), CreatedAt: schema.NewTime(time.Unix(1, 0))})
		}
		return tx.AddDeadLetters(t.Context(), letters)
	})
	ordered, err := s.OrderRetry(t.Context(), store.Letters{})
	require.NoError(t, err)
	assert.Equal(t, int64(n), ordered.Pending)
	assert.Equal(t, int64(n), ordered.Letters)
	discarded, err := s.Discard(t.Context(), store.Letters{Stage: "a"})
	require.NoError(t, err)
	assert.Equal(t, int64(n), discarded)
}

// testFenceRetry: who read a position before a retry must not continue with what it
// remembers.
func testFenceRetry(t *testing.T, opener Opener) {
	s := open(t, opener)
	write(t, s, func(tx *store.Tx) error { return tx.CreatePositions(t.Context(), []store.Position{position(0, 0)}) })
	write(t, s, func(tx *store.Tx) error {
		retried, err := tx.FenceRetry(t.Context(), "stage", "topic", 0)
		assert.Equal(t, int64(1), retried)
		return err
	})
	move := store.Move{From: position(0, 0), Next: 5}
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		return tx.MovePositions(t.Context(), schema.NewTime(time.Unix(2, 0)), []store.Move{move})
	})
	require.ErrorIs(t, err, store.ErrFenced)
	now, err := store.Positions(t.Context(), s, "stage")
	require.NoError(t, err)
	require.Equal(t, int64(1), now[0].Retried)
	move.From = now[0]
	write(t, s, func(tx *store.Tx) error {
		return tx.MovePositions(t.Context(), schema.NewTime(time.Unix(2, 0)), []store.Move{move})
	})
	err = s.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.FenceRetry(t.Context(), "other", "topic", 0)
		return err
	})
	assert.ErrorIs(t, err, store.ErrFenced)
}

func testDeadLetters(t *testing.T, opener Opener) {
	s := open(t, opener)
	letter := store.DeadLetter{Stage: "s", Topic: "t", TopicID: "id", Part: 3, Offset: 7, Key: []byte{0}, Headers: []byte{1, 2},
		Payload: []byte("\xff\x00 not json"), Reason: "it is not JSON", CreatedAt: schema.NewTime(time.Unix(5, 0))}
	empty := letter
	empty.Offset, empty.Key, empty.Payload = 8, nil, nil
	write(t, s, func(tx *store.Tx) error { return tx.AddDeadLetters(t.Context(), []store.DeadLetter{letter, empty}) })
	got := deadLetters(t, s)
	require.Len(t, got, 2)
	letter.ID, empty.ID = got[1].ID, got[0].ID
	assert.Equal(t, []store.DeadLetter{empty, letter}, got)
	listed, err := store.DeadLetters(t.Context(), s, "", 10)
	require.NoError(t, err)
	assert.Equal(t, store.DeadLetterSummary{ID: letter.ID, Stage: "s", Topic: "t", TopicID: "id", Part: 3, Offset: 7,
		Bytes: int64(len(letter.Payload)), Reason: letter.Reason, CreatedAt: letter.CreatedAt}, listed[1])
	assert.Zero(t, listed[0].Bytes)

	again := letter
	again.Key, again.Payload, again.Reason = nil, []byte{}, "another record"
	write(t, s, func(tx *store.Tx) error { return tx.AddDeadLetters(t.Context(), []store.DeadLetter{again}) })
	assert.Equal(t, []store.DeadLetter{empty, again}, deadLetters(t, s), "one record is one dead letter of a stage, and null is not empty")
	for _, from := range []store.Position{{Stage: "other", TopicID: "id", Part: 3}, {Stage: "s", TopicID: "other", Part: 3},
		{Stage: "s", TopicID: "id", Part: 2}, {Stage: "s", TopicID: "id", Part: 3, Next: 8}} {
		write(t, s, func(tx *store.Tx) error { return tx.ForgetDeadLetters(t.Context(), from) })
	}
	assert.Equal(t, []store.DeadLetter{again}, deadLetters(t, s), "those before the position stay")
	_, err = store.ReadDeadLetter(t.Context(), s, -1)
	assert.ErrorIs(t, err, store.ErrNoDeadLetter)
}

// deadLetters are all, newest first, with their bytes.
func deadLetters(t *testing.T, s *store.Store) []store.DeadLetter {
	t.Helper()
	listed, err := store.DeadLetters(t.Context(), s, "", 1000)
	require.NoError(t, err)
	letters := make([]store.DeadLetter, len(listed))
	for i, l := range listed {
		letters[i], err = store.ReadDeadLetter(t.Context(), s, l.ID)
		require.NoError(t, err)
	}
	return letters
}
