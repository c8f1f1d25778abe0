package outbox

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// workingBroker does with each Send what it is told at the time.
type workingBroker struct {
	log.Broker
	mu    sync.Mutex
	sent  int
	calls int
	send  func(ctx context.Context) error
}

func (b *workingBroker) Send(ctx context.Context, batches []log.PartitionBatch) []error {
	b.mu.Lock()
	b.calls++
	send := b.send
	b.mu.Unlock()
	errs := make([]error, len(batches))
	for i, batch := range batches {
		if errs[i] = send(ctx); errs[i] == nil {
			b.mu.Lock()
			b.sent += len(batch.Records)
			b.mu.Unlock()
		}
	}
	return errs
}

// now has it do this from now on.
func (b *workingBroker) now(send func(ctx context.Context) error) {
	b.mu.Lock()
	b.send = send
	b.mu.Unlock()
}

func (b *workingBroker) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent
}

func sends(context.Context) error { return nil }

// working is a relay at work, until stop.
type working struct {
	*rig
	relay  *Relay
	broker *workingBroker
	stop   func()
}

func newWorking(t *testing.T) *working {
	t.Helper()
	w := &working{rig: newRig(t)}
	w.broker = &workingBroker{Broker: w.Broker, send: sends}
	w.relay = NewRelay(w.DB, w.broker, w.known, "me", slog.New(slog.DiscardHandler))
	return w
}

func (w *working) run() {
	ctx, cancel := context.WithCancel(w.T.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.relay.Run(ctx) }()
	w.stop = sync.OnceFunc(func() { cancel(); <-ended })
	w.T.(*testing.T).Cleanup(w.stop)
}

func (w *working) emit(id string) {
	w.T.Helper()
	w.publishBy(w.relay.Writer(), schema.Event{ID: id, Source: "test", Payload: priceNo("S1", 1)})
}

func (w *working) becomes(what func() bool, why string) {
	w.T.Helper()
	require.Eventually(w.T, what, time.Minute, time.Millisecond, why)
}

func (w *working) pending() int {
	chains, err := w.DB.Pending(w.T.Context())
	require.NoError(w.T, err)
	return len(chains)
}

func TestARelaySendsAndNotesWhileItRuns(t *testing.T) {
	t.Parallel()
	w := newWorking(t)
	w.run()
	w.emit("1")
	w.becomes(func() bool { return w.broker.count() == 1 }, "the first event is sent")
	w.becomes(func() bool { return w.pending() == 0 }, "it is checkpointed, and its row is gone, while the relay runs")
	w.emit("2")
	w.becomes(func() bool { return w.broker.count() == 2 }, "so is the next one")
	w.becomes(func() bool { return w.relay.Age() == 0 }, "nothing waits")
	assert.NoError(t, w.relay.Trouble())
}

func TestARelayWaitsForItsLease(t *testing.T) {
	t.Parallel()
	w := newWorking(t)
	held, err := w.DB.AcquireLease(t.Context(), LeaseName, "another", time.Hour)
	require.NoError(t, err)
	require.True(t, held)
	w.emit("1")
	w.relay.setBusy(true)
	w.run()
	w.becomes(func() bool { return w.relay.Age() == 0 }, "what waits is the work of another")
	assert.Zero(t, w.broker.count())
	require.NoError(t, w.DB.ReleaseLease(t.Context(), LeaseName, "another"))
	w.becomes(func() bool { return w.broker.count() == 1 }, "the lease is free")
	held, err = w.DB.AcquireLease(t.Context(), LeaseName, "another", time.Hour)
	require.NoError(t, err)
	assert.False(t, held, "it is the relay's now")
}

func TestARelayGoesOnOnceItsBrokerIsBack(t *testing.T) {
	t.Parallel()
	w := newWorking(t)
	away := errors.New("the broker is down")
	w.broker.now(func(context.Context) error { return away })
	w.run()
	w.emit("1")
	w.becomes(func() bool { return errors.Is(w.relay.Trouble(), away) }, "it says what is wrong")
	assert.Positive(t, w.relay.Age(), "something waits")
	assert.Zero(t, w.broker.count())
	w.broker.now(sends)
	w.becomes(func() bool { return w.broker.count() == 1 && w.relay.Trouble() == nil && w.relay.Age() == 0 }, "it is sent, and nothing is wrong")
}

// A relay that is asked to stop waits for an answer a while, and no longer.
func TestARelayThatStopsDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	w := newWorking(t)
	asked := make(chan struct{})
	w.broker.now(func(ctx context.Context) error {
		select {
		case <-asked:
		default:
			close(asked)
		}
		<-ctx.Done()
		return ctx.Err()
	})
	w.run()
	w.emit("1")
	<-asked
	w.stop()
	assert.Zero(t, w.broker.count())
	assert.Equal(t, 1, w.pending(), "it stays in the outbox")
}

// A relay that takes the lease again believes nothing that it knew before.
func TestATenureBeginsWithWhatTheDatabaseSays(t *testing.T) {
	t.Parallel()
	w := newWorking(t)
	w.emit("1")
	held, err := w.relay.takeLease(t.Context())
	require.NoError(t, err)
	require.True(t, held)
	_, err = w.relay.round(t.Context())
	require.NoError(t, err)
	assert.Len(t, w.relay.sent, 1)
	assert.Len(t, w.relay.acked, 1)
	held, err = w.relay.takeLease(t.Context())
	require.NoError(t, err)
	require.True(t, held)
	assert.Len(t, w.relay.acked, 1, "it is the same tenure")

	require.NoError(t, w.DB.ReleaseLease(t.Context(), LeaseName, "me"))
	held, err = w.DB.AcquireLease(t.Context(), LeaseName, "another", time.Hour)
	require.NoError(t, err)
	require.True(t, held)
	held, err = w.relay.takeLease(t.Context())
	require.NoError(t, err)
	assert.False(t, held)
	require.NoError(t, w.DB.ReleaseLease(t.Context(), LeaseName, "another"))
	held, err = w.relay.takeLease(t.Context())
	require.NoError(t, err)
	require.True(t, held)
	assert.Empty(t, w.relay.sent)
	assert.Empty(t, w.relay.checkpointed)
	assert.Empty(t, w.relay.acked)
}
