package storetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
)

func testLease(t *testing.T, opener Opener) {
	s := open(t, opener)
	acquire := func(owner string, d time.Duration) bool {
		held, err := s.AcquireLease(t.Context(), "relay", owner, d)
		require.NoError(t, err)
		return held
	}
	assert.True(t, acquire("a", time.Hour))
	assert.False(t, acquire("b", time.Hour))
	assert.True(t, acquire("a", -time.Second), "the holder may continue, and here lets its time run out")
	assert.True(t, acquire("b", time.Hour), "time is up")
	assert.False(t, acquire("a", time.Hour))
	require.NoError(t, s.ReleaseLease(t.Context(), "relay", "a"), "not the holder: nothing happens")
	assert.False(t, acquire("a", time.Hour))
	require.NoError(t, s.ReleaseLease(t.Context(), "relay", "b"))
	assert.True(t, acquire("node_1/a", time.Hour))
	for _, prefix := range []string{"node_/", "nodex1/", "node_1/b"} {
		require.NoError(t, s.ReleaseLeases(t.Context(), prefix))
		assert.False(t, acquire("node-2/b", time.Hour), "%s is not the holder", prefix)
	}
	require.NoError(t, s.ReleaseLeases(t.Context(), "node_1/"))
	assert.True(t, acquire("node-2/b", time.Hour))

	// Several at once, of an owner that several processes share.
	renew := func(d time.Duration, names ...string) {
		require.NoError(t, s.RenewLeases(t.Context(), "any", names, d))
	}
	heldNow := func() []string {
		names, err := store.HeldLeases(t.Context(), s)
		require.NoError(t, err)
		return names
	}
	renew(time.Hour)
	assert.Equal(t, []string{"relay"}, heldNow())
	renew(time.Hour, "running/b", "relay", "running/a")
	renew(time.Hour, "running/b")
	assert.Equal(t, []string{"relay", "running/a", "running/b"}, heldNow())
	assert.True(t, acquire("node-2/b", time.Hour), "it was not taken away")
	renew(-time.Second, "running/b", "relay")
	assert.Equal(t, []string{"relay", "running/a"}, heldNow())

	// Those that do not expire, in place of all that the owner had.
	keep := func(names ...string) { require.NoError(t, s.KeepLeases(t.Context(), "any", names)) }
	renew(-time.Second, "running/d")
	keep("running/c", "relay", "running/b", "running/d")
	assert.Equal(t, []string{"relay", "running/b", "running/c", "running/d"}, heldNow())
	assert.True(t, acquire("node-2/b", time.Hour), "it was not taken away")
	keep("running/c")
	assert.Equal(t, []string{"relay", "running/c"}, heldNow())
	renew(time.Hour, "running/c")
	keep()
	assert.Equal(t, []string{"relay"}, heldNow())
}
