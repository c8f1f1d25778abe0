package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// silentHandler does nothing in its transaction until it is let go, and then writes.
type silentHandler struct {
	Recorder
	// minds has it come back when its context is done.
	minds   bool
	entered chan struct{}
	letGo   chan struct{}
	wrote   chan error
}

func newSilentHandler(minds bool) *silentHandler {
	return &silentHandler{minds: minds, entered: make(chan struct{}), letGo: make(chan struct{}), wrote: make(chan error, 10)}
}

func (h *silentHandler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	select {
	case h.entered <- struct{}{}:
	case <-h.letGo:
		return h.Recorder.Handle(ctx, tx, in)
	}
	if h.minds {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	<-h.letGo
	// What it remembers belongs to no one any more either.
	pipeline.CacheFor[int, int](tx, h).Put(1, 1)
	_, err := tx.Exec(context.WithoutCancel(ctx), `DELETE FROM instance`)
	h.wrote <- err
	return nil, nil
}

// A handler that blocks in its transaction loses it: others write, its lane waits,
// and what it still does with the transaction is refused.
func TestAHandlerThatBlocksLosesItsTransaction(t *testing.T) {
	t.Parallel()
	for name, minds := range map[string]bool{"and minds its context": true, "and minds nothing": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newSilentHandler(minds)
			r := NewRig(t, h)
			r.Stage.watchdogLimit = 20 * time.Millisecond
			r.fill(1, 3)
			r.assign()
			delivered := make(chan error, 1)
			began := time.Now()
			go func() { delivered <- r.Deliver(t.Context(), r.LogOf(1)...) }()
			<-h.entered
			// On SQLite this waits for the transaction.
			require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `DELETE FROM effects`)
				return err
			}))
			require.Eventually(t, func() bool { return r.Stage.Trouble() != nil }, time.Minute, time.Millisecond)
			assert.ErrorContains(t, r.Stage.Trouble(), "the handler did nothing in its transaction for ")
			assert.Empty(t, r.effects())
			until, why := r.Stage.resting, r.Stage.restsFor // the lane waits for the handler
			assert.GreaterOrEqual(t, until.Sub(began), (1+watchdogRest)*r.Stage.watchdogLimit, "others had to wait so long, and get ten times that")
			assert.ErrorContains(t, why, "the handler did nothing in its transaction for ")
			close(h.letGo)
			require.NoError(t, <-delivered)
			if !minds {
				assert.ErrorIs(t, <-h.wrote, store.ErrAbandoned)
			}
			assert.Len(t, r.effects(), 3, "applied once it is back")
			assert.Empty(t, r.letters())
		})
	}
}

// While one lane's handler has lost its transaction, no other lane of the stage
// begins one, also not one that waits for its turn already.
func TestAStageRestsForTheOthers(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 3)
	r.assign()
	r.Stage.restAfter(&watchdogError{err: errors.New("it slept"), rest: time.Hour})
	require.ErrorContains(t, r.Stage.rests(), "the stage rests: it slept")
	ctx, cancel := context.WithCancel(t.Context())
	delivered := make(chan error, 1)
	go func() { delivered <- r.Deliver(ctx, r.LogOf(1)...) }()
	require.Eventually(t, func() bool { return r.Stage.Trouble() != nil }, time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-delivered, context.Canceled)
	assert.Empty(t, r.effects())
}
