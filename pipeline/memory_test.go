package pipeline

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a transaction put into a Memory is seen by it, and by later ones only if it
// committed, however it ended.
func TestALaneForgetsWhatWasNotCommitted(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	failed := errors.New("failed")
	for name, end := range map[string]func() error{
		"error": func() error { return failed },
		"panic": func() error { panic("of a driver, behind the handler") },
	} {
		lane := NewLane()
		count := func(end func() error) (n int, err error) {
			err = lane.Run(t.Context(), r.db, func(tx *Tx) error {
				memory := Remember[string, int](tx, t)
				n, _ = memory.Get("n")
				n++
				memory.Put("n", n)
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
