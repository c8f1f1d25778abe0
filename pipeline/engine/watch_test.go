package engine

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// What an operator does reaches the stage that it is for, and no other.
func TestWatchReachesTheStage(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{before: func(records []pipeline.Record) error {
		if records[0].Offset == 0 {
			return pipeline.Permanent(errors.New("refused"))
		}
		return nil
	}})
	r.fill(1, 3)
	other := r.another(&Recorder{})
	other.Stage.spec.Name = "other"
	runtime, err := New(Config{Store: r.DB, Broker: r.Broker, Topics: r.Stage.topics, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	runtime.stages = []*Stage{r.Stage, other.Stage}
	assign := func(of *Rig) *int {
		restarts := 0
		_, err := of.Stage.Assign(t.Context(), r.claims(), func() { restarts++ })
		require.NoError(t, err)
		return &restarts
	}
	own, others := assign(r), assign(other)
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	require.Len(t, r.letters(), 1)

	require.NoError(t, runtime.lookAtPositions(t.Context()))
	require.NoError(t, runtime.lookAtLetters(t.Context()))
	assert.Zero(t, *own+*others, "all stand where they are known to")
	assert.Empty(t, r.Stage.retries)

	r.order(store.Letters{})
	require.NoError(t, runtime.lookAtLetters(t.Context()))
	require.NoError(t, runtime.lookAtLetters(t.Context()), "it does not wait for a stage that is busy")
	assert.Len(t, r.Stage.retries, 1)
	assert.Empty(t, other.Stage.retries)

	r.moveByHand(1, 1, 0)
	require.NoError(t, runtime.lookAtPositions(t.Context()))
	assert.Equal(t, 1, *own)
	assert.Zero(t, *others)
	require.NoError(t, runtime.lookAtPositions(t.Context()), "it has no session now")
	assert.Equal(t, 1, *own)
}
