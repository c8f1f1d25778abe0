package engine

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/internal/state"
)

// What a transaction put into a Cache is seen by it, and by later ones only if it
// committed, however it ended.
func TestALaneForgetsWhatWasNotCommitted(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	failed := errors.New("failed")
	for name, end := range map[string]func() error{
		"error": func() error { return failed },
		"panic": func() error { panic("of a driver, after the handler") },
	} {
		lane := NewLane()
		count := func(end func() error) (n int, err error) {
			err = lane.Run(t.Context(), r.DB, func(tx *pipeline.Tx) error {
				cache := pipeline.CacheFor[string, int](tx, t)
				n, _ = cache.Get("n")
				n++
				cache.Put("n", n)
				return end()
			})
			return n, err
		}
		n, err := count(func() error { return nil })
		require.NoError(t, err)
		assert.Equal(t, 1, n)
		if name == "panic" {
			assert.Panics(t, func() { _, _ = count(end) })
		} else {
			_, err = count(end)
			require.ErrorIs(t, err, failed)
		}
		n, err = count(func() error { return nil })
		require.NoError(t, err)
		assert.Equal(t, 2, n, name)
	}
}

// A cache that is full is emptied: what it no longer has is loaded again.
func TestACacheIsBounded(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	lane := NewLane()
	put := func(from, to int) {
		require.NoError(t, lane.Run(t.Context(), r.DB, func(tx *pipeline.Tx) error {
			for i := from; i < to; i++ {
				pipeline.CacheFor[int, int](tx, t).Put(i, -i)
			}
			return nil
		}))
	}
	remembers := func(key int) (known bool) {
		require.NoError(t, lane.Run(t.Context(), r.DB, func(tx *pipeline.Tx) error {
			_, known = pipeline.CacheFor[int, int](tx, t).Get(key)
			return nil
		}))
		return known
	}
	put(0, state.MaxCached-1)
	put(state.MaxCached-1, state.MaxCached)
	assert.True(t, remembers(0), "it is full")
	put(state.MaxCached, state.MaxCached+1)
	assert.False(t, remembers(0))
	assert.False(t, remembers(state.MaxCached-1))
	assert.True(t, remembers(state.MaxCached))
}
