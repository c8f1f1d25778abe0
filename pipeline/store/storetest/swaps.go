package storetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func testClaims(t *testing.T, opener Opener) {
	s := open(t, opener)
	at := schema.NewTime(time.Unix(1, 0))
	positions := make([]store.Position, 3)
	for i := range positions {
		positions[i] = store.Position{Stage: "s", Topic: "t", Part: int32(i), TopicID: "id", MovedAt: at}
	}
	unclaimed := func() int {
		n, err := store.Unclaimed(t.Context(), s, "s")
		require.NoError(t, err)
		return n
	}
	require.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error { return tx.CreatePositions(t.Context(), positions) }))
	assert.Equal(t, 3, unclaimed())
	for range 2 {
		require.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error { return tx.ClaimPositions(t.Context(), at, positions[1:]) }))
		assert.Equal(t, 1, unclaimed())
	}
}

func testBoundLocks(t *testing.T, opener Opener) {
	s, other := open(t, opener), open(t, opener)
	if s.MaxWriteHold() > 0 {
		require.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error { return tx.BoundLocks(t.Context(), time.Millisecond) }))
		t.Skip("there is one writer: no one waits for a lock")
	}
	held, err := s.AcquireLease(t.Context(), "held", "a", time.Minute)
	require.NoError(t, err)
	require.True(t, held)
	const touch = `UPDATE leases SET owner = 'b' WHERE name = 'held'`
	require.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(t.Context(), touch); err != nil {
			return err
		}
		err := other.Write(t.Context(), func(tx *store.Tx) error {
			if err := tx.BoundLocks(t.Context(), 20*time.Millisecond); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), touch)
			return err
		})
		assert.ErrorContains(t, err, "lock timeout")
		assert.False(t, s.IsFull(err))
		return nil
	}))
}
