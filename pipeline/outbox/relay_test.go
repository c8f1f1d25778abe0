package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// flakyBroker keeps what is sent, and often says that it did not, or did not.
type flakyBroker struct {
	log.Broker
	mu     sync.Mutex
	random *rand.Rand
	log    map[pipeline.TopicPartition][]chain.Link
}

func (b *flakyBroker) Send(_ context.Context, batches []log.PartitionBatch) []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	errs := make([]error, len(batches))
	for i, batch := range batches {
		fate := b.random.IntN(4)
		if fate > 0 { // it arrives …
			for _, record := range batch.Records {
				link, _, err := chain.LinkOf(record.Headers)
				errs[i] = errors.Join(errs[i], err)
				b.log[batch.TopicPartition] = append(b.log[batch.TopicPartition], link)
			}
		}
		if fate < 2 { // … but the answer does not
			errs[i] = errors.New("no answer")
		}
	}
	return errs
}

// Whatever the broker answers, and with two relays at once, each log is a chain
// that a consumer can follow to its end, and the outbox empties.
func TestTwoRelaysAndAFlakyBroker(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := newRig(t)
	broker := &flakyBroker{Broker: r.Broker, random: rand.New(rand.NewPCG(seed, 0)), log: map[pipeline.TopicPartition][]chain.Link{}}
	const events = 300
	var emitting sync.WaitGroup
	emitting.Go(func() {
		for i := range events {
			r.publish(schema.Event{ID: fmt.Sprint(i), Source: "test", Payload: priceNo(fmt.Sprintf("S%d", i%partitions), i)})
		}
	})
	var relaying sync.WaitGroup
	done := make(chan struct{})
	for i := range 2 {
		relay := NewRelay(r.DB, broker, r.known, fmt.Sprint(i), slog.New(slog.DiscardHandler))
		relaying.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_, _ = relay.round(t.Context()) // the broker's errors are meant
				}
			}
		})
	}
	emitting.Wait()
	require.Eventually(t, func() bool {
		pending, err := r.DB.Pending(t.Context())
		return err == nil && len(pending) == 0
	}, 20*time.Second, time.Millisecond)
	close(done)
	relaying.Wait()

	applied, repeats := followAll(t, r.DB, broker.log)
	t.Logf("%d repeats", repeats)
	assert.Equal(t, events, applied)
	var left int
	require.NoError(t, r.DB.Get(t.Context(), &left, `SELECT count(*) FROM outbox`))
	assert.Zero(t, left)
}

// followAll counts what consumers of all partitions apply and drop.
func followAll(t *testing.T, db *store.Store, logs map[pipeline.TopicPartition][]chain.Link) (applied, repeats int) {
	t.Helper()
	known, err := store.KnownChains(t.Context(), db)
	require.NoError(t, err)
	for tp, log := range logs {
		var last chain.Link
		for at, next := range log {
			switch last.Follow(next, false, halt.TimelinesOf(known, false)[tp]) {
			case chain.Apply:
				applied++
				last = last.Advance(next)
			case chain.Repeat:
				repeats++
			case chain.Gap:
				require.Failf(t, "gap", "%s at %d: %v after %v", tp, at, next, last)
			}
		}
	}
	return applied, repeats
}

// A relay that is asked to stop sends what was committed last, and lets the
// lease go.
func TestARelayThatStopsEmptiesTheOutbox(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	broker := &steadyBroker{Broker: r.Broker}
	relay := NewRelay(r.DB, broker, r.known, "me", slog.New(slog.DiscardHandler))
	r.publish(schema.Event{ID: "1", Source: "test", Payload: priceNo("S1", 1)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	relay.Run(ctx)
	assert.Equal(t, 1, broker.sent)
	held, err := r.DB.AcquireLease(t.Context(), LeaseName, "another", time.Second)
	require.NoError(t, err)
	assert.True(t, held)
	var chains []store.Chain
	chains, err = r.DB.Pending(t.Context())
	require.NoError(t, err)
	assert.Empty(t, chains)
}

type steadyBroker struct {
	log.Broker
	sent int
}

func (b *steadyBroker) Send(_ context.Context, batches []log.PartitionBatch) []error {
	for _, batch := range batches {
		b.sent += len(batch.Records)
	}
	return make([]error, len(batches))
}

// Each round sends more, however large the events, checkpointed or not.
func TestARelayGoesOnBehindALargeEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	broker := &steadyBroker{Broker: r.Broker}
	relay := NewRelay(r.DB, broker, r.known, "me", slog.New(slog.DiscardHandler))
	const events = 3
	rows := make([]store.OutboxRow, events)
	for i := range rows {
		rows[i] = store.OutboxRow{Epoch: r.epoch(schema.PriceEvents), Part: 1, Key: []byte("k"), Headers: store.EncodeHeaders(nil),
			Payload: make([]byte, log.MaxEventBytes-100)}
	}
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error { return r.writer.Insert(t.Context(), tx, rows) }))
	for i := range events {
		_, err := relay.round(t.Context())
		require.NoError(t, err)
		require.Equal(t, i+1, broker.sent)
	}
}
