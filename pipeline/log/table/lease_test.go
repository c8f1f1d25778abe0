package table_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
)

// newLease asks for a lease until the test ends.
func newLease(t testing.TB, db *store.Store, owner string, lasts, renews time.Duration) *table.Lease {
	t.Helper()
	l := table.NewLeaseThatLasts(db, owner, slog.New(slog.DiscardHandler), lasts, renews)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

func acquire(t testing.TB, l *table.Lease) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	held, err := l.Acquire(ctx)
	require.NoError(t, err)
	return held
}

// refused fails where a lease is acquired, although it was asked for many times.
func refused(t testing.TB, l *table.Lease) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := l.Acquire(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestALeaseHasOneHolder(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		db, other := open(t), open(t)
		taken, err := table.Taken(t.Context(), db)
		require.NoError(t, err)
		assert.False(t, taken)
		first := newLease(t, db, "first", time.Hour, 5*time.Millisecond)
		held := acquire(t, first)
		second := newLease(t, other, "second", time.Hour, 5*time.Millisecond)
		refused(t, second)
		taken, err = table.Taken(t.Context(), other)
		require.NoError(t, err)
		assert.True(t, taken)
		got, err := table.TryAcquire(t.Context(), other, "third")
		require.NoError(t, err)
		assert.False(t, got)
		require.NoError(t, held.Err())

		// An hour has not passed: it was given up.
		require.NoError(t, first.Close())
		require.Error(t, held.Err())
		held = acquire(t, second)
		require.NoError(t, held.Err())
		_, err = first.Acquire(t.Context())
		require.ErrorIs(t, err, table.ErrClosed)
		require.NoError(t, first.Close(), "it is no longer its lease, and may be closed again")
		got, err = table.TryAcquire(t.Context(), db, "third")
		require.NoError(t, err)
		assert.False(t, got)
		require.NoError(t, held.Err())
	})
}

func TestALeaseOfAProcessThatDied(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		db := open(t)
		held, err := db.AcquireLease(t.Context(), table.LeaseName, "dead", 300*time.Millisecond)
		require.NoError(t, err)
		require.True(t, held)
		l := newLease(t, db, "alive", time.Hour, 5*time.Millisecond)
		acquire(t, l)
		var owner string
		require.NoError(t, db.Get(t.Context(), &owner, `SELECT owner FROM leases WHERE name = $1`, table.LeaseName))
		assert.Equal(t, "alive", owner)
	})
}

// TestALeaseEndsBeforeAnotherMayHaveIt: while the database does not answer, the holder
// stops before the lease expires in the database, and has it again when that answers.
func TestALeaseEndsBeforeAnotherMayHaveIt(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		db, blocker := open(t), open(t)
		l := newLease(t, db, "holder", 3*time.Second, 20*time.Millisecond)
		held := acquire(t, l)
		blocked, release := make(chan struct{}), make(chan struct{})
		unblocked := make(chan error, 1)
		go func() {
			unblocked <- blocker.Write(context.Background(), func(tx *store.Tx) error {
				_, err := tx.Exec(context.Background(), `UPDATE leases SET owner = owner WHERE name = $1`, table.LeaseName)
				close(blocked)
				<-release
				return err
			})
		}()
		wait(t, "the lock", blocked)
		wait(t, "the end of the lease", held.Done())
		var left int64
		require.NoError(t, blocker.Get(t.Context(), &left, `SELECT expires_ms - `+blocker.NowMillis()+` FROM leases WHERE name = $1`, table.LeaseName))
		assert.Positive(t, left, "milliseconds for which no other process gets it")
		close(release)
		require.NoError(t, <-unblocked)
		require.NoError(t, acquire(t, l).Err())
	})
}

// TestSessionsNeedTheLease: they end when it is lost, and begin again when it is back.
func TestSessionsNeedTheLease(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		db := open(t)
		lease := newLease(t, db, "consumer", time.Hour, 5*time.Millisecond)
		l := openLog(t, db, func(c *table.Config) { c.Consumer = lease })
		topic := newTopic(t, l)
		send(t, l, at(topic, 0), numbered(0, 1)...)
		var assigned atomic.Int32
		reports := make(chan error, 1000)
		subscriber, err := l.Subscriber(log.SubscriberConfig{Group: unique("group"), Assignor: counted{&assigned}, Report: func(err error) { reports <- err }})
		require.NoError(t, err)
		messages, err := subscriber.Subscribe(t.Context(), string(topic))
		require.NoError(t, err)
		for session := range int32(3) {
			msg := wait(t, "a message", messages)
			assert.Equal(t, session+1, assigned.Load())
			// Another process has it, as after an outage.
			require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE leases SET owner = 'another' WHERE name = $1`, table.LeaseName)
				return err
			}))
			wait(t, "the end of the session", msg.Context().Done())
			msg.Nack()
			refused(t, lease)
			assert.Equal(t, session+1, assigned.Load())
			require.NoError(t, db.ReleaseLease(t.Context(), table.LeaseName, "another"))
		}
		for len(reports) > 0 {
			// Where it takes long until the lease is back, that it stands by is reported.
			if err := <-reports; err != nil {
				assert.ErrorIs(t, err, log.ErrStandby)
			}
		}
	})
}

// counted is an Assignor that counts its calls.
type counted struct{ calls *atomic.Int32 }

func (c counted) Assign(ctx context.Context, claims []log.Claim, restart func()) (map[pipeline.TopicPartition]int64, error) {
	c.calls.Add(1)
	return fromStart{}.Assign(ctx, claims, restart)
}
