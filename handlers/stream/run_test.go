package stream_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/stream"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// world is an Emitter whose log and whose database can be made to fail.
type world struct {
	pipeline.Emitter
	logHangs atomic.Bool
	dbFails  atomic.Bool

	mu      sync.Mutex
	batches []int // sizes of what was given to the log, hanging or not
}

func (w *world) Append(ctx context.Context, events []schema.Event) error {
	w.mu.Lock()
	w.batches = append(w.batches, len(events))
	w.mu.Unlock()
	for w.logHangs.Load() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return w.Emitter.Append(ctx, events)
}

func (w *world) Emit(ctx context.Context, f func(*pipeline.Tx) ([]schema.Event, error)) ([]pipeline.Token, error) {
	if w.dbFails.Load() {
		return nil, errors.New("the database is down")
	}
	return w.Emitter.Emit(ctx, f)
}

func (w *world) largest() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	largest := 0
	for _, n := range w.batches {
		largest = max(largest, n)
	}
	return largest
}

// While the log takes nothing, a bounded number of messages is taken from the
// connection, the wait counts as no one's silence, and then all of them come.
func TestALogThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		w := &world{Emitter: rig.Emitter()}
		w.logHangs.Store(true)
		const all = 2000
		var taken atomic.Int64
		provider := scripts(func(ctx context.Context, f func(pipeline.StreamMessage) error) error {
			for n := int64(1); n <= all; n++ {
				if err := f(trade(n)); err != nil {
					return err
				}
				taken.Store(n)
			}
			return idle(ctx, f)
		})
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		defer process(t, w, runner)()
		settle(40 * time.Second)
		assert.LessOrEqual(t, taken.Load(), int64(2*256), "what is appended, and what waits")
		assert.Len(t, provider.connections(), 1, "the wait is not the provider's")
		assert.Zero(t, get(t, rig, "s").Messages)
		assert.True(t, get(t, rig, "s").Owned)
		w.logHangs.Store(false)
		settle(5 * time.Second)
		assert.Len(t, sent(rig), all)
		assert.LessOrEqual(t, w.largest(), 256)
		shown := get(t, rig, "s")
		assert.EqualValues(t, all, shown.Messages)
		assert.Zero(t, shown.Gaps)
	})
}

// A connection that breaks while the log hangs loses nothing that was taken.
func TestMessagesOutliveTheirConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		w := &world{Emitter: rig.Emitter()}
		w.logHangs.Store(true)
		runner := newHandler(t, scripts(sends(fails(errCut), 1, 2, 3), sends(idle, 3, 4)), nil)
		command(t, rig, runner, started("s", "p"))
		defer process(t, w, runner)()
		settle(5 * time.Second)
		w.logHangs.Store(false)
		settle(5 * time.Second)
		assert.Equal(t, []string{"trade-1", "trade-2", "trade-3", "trade-3", "trade-4"}, sent(rig))
	})
}

func TestStoppingDoesNotWaitForALogThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		w := &world{Emitter: rig.Emitter()}
		w.logHangs.Store(true)
		runner := newHandler(t, scripts(sends(idle, 1, 2)), nil)
		command(t, rig, runner, started("s", "p"))
		stop := process(t, w, runner)
		settle(time.Second)
		began := time.Now()
		stop()
		assert.LessOrEqual(t, time.Since(began), 2*time.Second)
		assert.False(t, get(t, rig, "s").Owned)
		assert.Zero(t, get(t, rig, "s").Messages, "only what is in the log counts")
	})
}

func TestTheStreamsOfADeadOwnerAreTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		first := newHandler(t, scripts(sends(idle, 1, 2)), nil)
		command(t, rig, first, started("s", "p"))
		stop := process(t, rig.Emitter(), first)
		settle(time.Second)
		stop()
		setClaim(t, rig.DB, "dead", 1<<60)

		provider := scripts(sends(idle, 2, 5))
		second := newHandler(t, provider, nil)
		defer process(t, rig.Emitter(), second)()
		settle(20 * time.Second)
		assert.Empty(t, provider.connections(), "someone else has it")
		setClaim(t, rig.DB, "dead", 1)
		settle(time.Second)
		assert.Len(t, provider.connections(), 1)
		assert.Equal(t, []string{"trade-1", "trade-2", "trade-2", "trade-5"}, sent(rig))
		shown := get(t, rig, "s")
		assert.EqualValues(t, 4, shown.Messages, "the numbers continue")
		assert.EqualValues(t, 1, shown.Gaps)
		assert.EqualValues(t, 2, shown.Missed, "between two owners too")
	})
}

// A worker that was paused finds its stream taken, and lets go of it.
func TestAnOwnerThatLostItsClaimStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		provider := scripts(idle)
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		defer process(t, rig.Emitter(), runner)()
		settle(time.Second)
		setClaim(t, rig.DB, "another", 1<<60)
		settle(time.Second)
		last := get(t, rig, "s").LastMessage
		settle(20 * time.Second)
		assert.Equal(t, last, get(t, rig, "s").LastMessage)
		assert.Len(t, provider.connections(), 1)
		setClaim(t, rig.DB, "another", 1)
		settle(time.Second)
		assert.Len(t, provider.connections(), 2, "it may have it again")
	})
}

// A database that is down for less than a claim lasts disturbs no one; beyond
// that others may own the streams, so they are let go.
func TestADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		w := &world{Emitter: rig.Emitter()}
		var ended atomic.Int32
		provider := scripts(func(ctx context.Context, f func(pipeline.StreamMessage) error) error {
			defer ended.Add(1)
			return idle(ctx, f)
		})
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		result := make(chan error, 1)
		go func() { result <- runner.Run(ctx, w) }()
		settle(time.Second)
		w.dbFails.Store(true)
		settle(8 * time.Second)
		w.dbFails.Store(false)
		settle(20 * time.Second)
		assert.Zero(t, ended.Load())
		w.dbFails.Store(true)
		settle(12 * time.Second)
		assert.EqualValues(t, 1, ended.Load())
		select {
		case err := <-result:
			assert.ErrorContains(t, err, "the database is down")
		default:
			assert.Fail(t, "it still runs")
		}
	})
}

func TestAProcessOwnsSoManyStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		provider := scripts(idle)
		runner := newHandler(t, provider, map[string]any{"concurrency": 2})
		command(t, rig, runner, started("a", "p"), started("b", "p"), started("c", "p"))
		stop := process(t, rig.Emitter(), runner)
		settle(time.Second)
		assert.Len(t, provider.connections(), 2)
		other := newHandler(t, provider, nil)
		defer process(t, rig.Emitter(), other)()
		settle(time.Second)
		assert.Len(t, provider.connections(), 3, "another takes what is left")
		stop()
		settle(time.Second)
		assert.Len(t, provider.connections(), 5, "and all once it is alone")
		for _, id := range []string{"a", "b", "c"} {
			assert.True(t, get(t, rig, id).Owned)
		}
	})
}

func TestReadingStreams(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	reader := stream.Reader{DB: rig.DB}
	none, err := reader.List(t.Context(), 10)
	require.NoError(t, err)
	assert.Empty(t, none)
	_, err = reader.Get(t.Context(), "s")
	require.Error(t, err)
	require.NoError(t, reader.WaitCaughtUp(t.Context()), "nothing is on its way")

	// A command that is in the outbox, and not applied.
	_, err = rig.Emitter().Emit(t.Context(), func(*pipeline.Tx) ([]schema.Event, error) {
		return []schema.Event{{ID: "e", Source: "test", Payload: started("s", "p")}}, nil
	})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, reader.WaitCaughtUp(ctx), context.DeadlineExceeded)
	require.NoError(t, rig.DB.Close())
	require.Error(t, reader.WaitCaughtUp(t.Context()))
	_, err = reader.List(t.Context(), 10)
	require.Error(t, err)
}
