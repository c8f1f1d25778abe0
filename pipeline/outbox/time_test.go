package outbox

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// askedBroker counts how often the topics are asked for, which the relay does each
// time it takes its lease, and may not answer.
type askedBroker struct {
	*logtest.Memory
	mu    sync.Mutex
	asked int
	away  error
}

func (b *askedBroker) Topics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	if b.away != nil {
		return nil, b.away
	}
	return b.Memory.Topics(ctx, topics)
}

// now has it not answer, or answer again, and returns how often it was asked.
func (b *askedBroker) now(away error) (asked int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	asked, b.asked, b.away = b.asked, 0, away
	return asked
}

// timed is a relay at work in virtual time.
type timed struct {
	*working
	topics *askedBroker
	logged *strings.Builder // to be read once the relay has stopped
}

// inVirtualTime runs a test of a relay that has not begun yet.
func inVirtualTime(t *testing.T, f func(t *testing.T, w timed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := timed{newWorking(t), nil, &strings.Builder{}}
		w.topics = &askedBroker{Memory: w.Broker}
		w.relay.topics = w.topicsOf(w.topics)
		w.topics.now(nil)
		w.relay.log = slog.New(slog.NewTextHandler(w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		f(t, w)
	})
}

// after lets time pass, and what is due then happen.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// A relay sees what another process committed by itself, what its own did at once,
// and renews its lease now and then.
func TestARelayInTheCourseOfTime(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, func(t *testing.T, w timed) {
		w.run()
		after(5 * time.Millisecond)
		w.insert(1, 1, 1)
		after(idlePoll)
		assert.Equal(t, 1, w.broker.count(), "without being woken")
		w.insert(1, 1, 1)
		after(poll + time.Millisecond)
		assert.Equal(t, 2, w.broker.count(), "sooner, while others write")
		w.emit("1")
		synctest.Wait()
		assert.Equal(t, 3, w.broker.count(), "woken, at once")
		after(checkpointEvery + 2*poll)
		assert.Zero(t, w.pending(), "checkpointed")
		assert.Zero(t, w.relay.Age())
		assert.Zero(t, w.relay.Lag())
		w.topics.now(nil)
		after(10 * time.Second)
		asked := w.topics.now(nil)
		assert.GreaterOrEqual(t, asked, 8, "the lease is renewed in good time")
		assert.LessOrEqual(t, asked, 10, "and not all the time")
		w.stop()
		assert.Empty(t, w.logged.String(), "there is nothing to say")
	})
}

// A relay that cannot look at the topics sends nothing, says why, and tries again.
func TestARelayThatCannotLookAtTheTopics(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, func(t *testing.T, w timed) {
		w.run()
		after(100 * time.Millisecond)
		away := errors.New("the broker is down")
		w.topics.now(away)
		after(leaseTime / 3)
		w.emit("1")
		after(10 * time.Second)
		assert.Zero(t, w.broker.count())
		assert.ErrorIs(t, w.relay.Trouble(), away)
		asked := w.topics.now(nil)
		assert.Less(t, asked, 30, "it pauses between two attempts")
		assert.Greater(t, asked, 3)
		after(5 * time.Second)
		assert.Equal(t, 1, w.broker.count())
		assert.NoError(t, w.relay.Trouble())
	})
}

// A relay without the lease looks for it about once a second.
func TestARelayThatIsNotTheOneThatWorks(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, func(t *testing.T, w timed) {
		held, err := w.DB.AcquireLease(t.Context(), LeaseName, "another", time.Hour)
		require.NoError(t, err)
		require.True(t, held)
		w.emit("1")
		w.relay.mark([]store.Chain{w.chain(1)})
		w.relay.setBusy(true)
		w.run()
		after(10 * time.Second)
		assert.Zero(t, w.broker.count())
		assert.Zero(t, w.relay.Age(), "what waits is the work of another")
		assert.Zero(t, w.relay.Lag())
		require.NoError(t, w.DB.ReleaseLease(t.Context(), LeaseName, "another"))
		after(leaseTime / 3)
		assert.Equal(t, 1, w.broker.count())
	})
}

// Chains that do not fit are held against the log before the next round, not when the
// lease is renewed.
func TestARelayLooksAgainAtOnce(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, func(t *testing.T, w timed) {
		w.run()
		after(100 * time.Millisecond)
		w.emit("1")
		after(200 * time.Millisecond)
		require.Zero(t, w.pending())
		w.topics.now(nil)
		w.exec(`UPDATE chains SET sent = 0 WHERE part = 1 AND sent = 1`) // it goes back
		after(100 * time.Millisecond)
		assert.Positive(t, w.topics.now(nil))
	})
}

// A relay that stops sends all that was committed, in as many rounds as it takes.
func TestARelayThatStopsSendsAll(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, func(t *testing.T, w timed) {
		const events = 3
		w.insert(1, events, log.MaxEventBytes-100)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.relay.Run(ctx)
		assert.Equal(t, events, w.broker.count())
		assert.Zero(t, w.pending())
		assert.Empty(t, w.logged.String())
	})
}

// A relay that stops sends nothing without the lease or the topics, and tries once.
func TestARelayThatStopsLeavesTheRest(t *testing.T) {
	t.Parallel()
	stopped := func(w timed) {
		ctx, cancel := context.WithCancel(w.T.Context())
		cancel()
		w.relay.Run(ctx)
	}
	for name, test := range map[string]struct {
		given func(w timed)
		calls int
	}{
		"it is another one's work": {func(w timed) {
			held, err := w.DB.AcquireLease(w.T.Context(), LeaseName, "another", time.Hour)
			require.NoError(w.T, err)
			require.True(w.T, held)
		}, 0},
		"the topics are not known": {func(w timed) { w.topics.now(errors.New("away")) }, 0},
		"the broker refuses": {func(w timed) {
			w.broker.now(func(context.Context) error { time.Sleep(100 * time.Millisecond); return errors.New("away") })
		}, 1},
	} {
		inVirtualTime(t, func(t *testing.T, w timed) {
			w.insert(1, 3, log.MaxEventBytes-100)
			test.given(w)
			stopped(w)
			assert.Equal(t, test.calls, w.broker.calls, name)
			assert.Equal(t, 1, w.pending(), name)
		})
	}
}

// An answer that comes too late is not checkpointed: a stop ends in time, and the events are
// sent again.
func TestARelayThatStopsDoesNotNoteTooLate(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, func(t *testing.T, w timed) {
		w.broker.now(func(context.Context) error { time.Sleep(2 * grace); return nil })
		w.run()
		w.emit("1")
		after(poll)
		w.stop()
		assert.Equal(t, 1, w.broker.count())
		assert.Equal(t, 1, w.pending())
	})
}

// A round that a stop ends is no failure.
func TestARelayThatStopsDoesNotComplain(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, func(t *testing.T, w timed) {
		w.broker.now(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		w.run()
		w.emit("1")
		after(poll)
		w.broker.now(sends)
		w.stop()
		assert.Equal(t, 1, w.broker.count())
		assert.Empty(t, w.logged.String())
	})
}

// A broker that is down is asked now and then.
func TestARelayPausesBetweenAttempts(t *testing.T) {
	t.Parallel()
	inVirtualTime(t, func(t *testing.T, w timed) {
		w.broker.now(func(context.Context) error { time.Sleep(10 * time.Millisecond); return errors.New("away") })
		w.run()
		w.emit("1")
		after(10 * time.Second)
		w.insert(1, 1, 1)
		assert.InDelta(t, 10, w.relay.Age().Seconds(), 0.1, "since the outbox is not empty")
		assert.InDelta(t, 10, w.relay.Lag().Seconds(), 0.1, "since the first event waits")
		w.stop()
		assert.Less(t, w.broker.calls, 30)
		assert.Contains(t, w.logged.String(), "relaying failed, trying again")
	})
}

// What counts is how long an event has waited, not that there is always one that does.
func TestTheLagOfARelayUnderSteadyLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		relay := newRig(t).relay()
		chain := store.Chain{Epoch: 1, Part: 1, Timeline: "a"}
		for range 120 {
			chain.Last += 5
			relay.mark([]store.Chain{chain})
			require.Zero(t, relay.Lag())
			time.Sleep(30 * time.Second)
			chain.Sent = chain.Last
		}
		chain.Last += 5
		relay.mark([]store.Chain{chain})
		time.Sleep(59 * time.Second)
		chain.Last, chain.Sent = chain.Last+100, chain.Sent+1 // it moves, and others come
		relay.mark([]store.Chain{chain})
		assert.Equal(t, 59*time.Second, relay.Lag())
		time.Sleep(time.Second)
		assert.Equal(t, time.Minute, relay.Lag())
		relay.mark(nil)
		assert.Zero(t, relay.Lag(), "another relay has the lease, or nothing waits")
	})
}
