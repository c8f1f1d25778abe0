package engine

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

var errDown = errors.New("the database is down")

// A batch costs one call of the handler and one transaction. Where the handler
// refuses a record, the second transaction finds it by halving; what fails for
// another reason meanwhile is tried again as it was.
func TestWhatABatchCosts(t *testing.T) {
	t.Parallel()
	var sizes []int
	refusing, failing := false, 0
	r := NewRig(t, &Recorder{before: func(in []pipeline.Record) error {
		sizes = append(sizes, len(in))
		if len(sizes) == failing {
			return pipeline.RetryAfter(time.Nanosecond, errDown)
		}
		if refusing {
			return refuse(in, in[len(in)-1].Offset|3)
		}
		return nil
	}})
	committed, worked := 0, 0
	r.Stage.committed = func() { committed++ }
	r.Stage.worked = func(time.Duration) { worked++ }
	r.fill(1, 4)
	r.fill(2, 4)
	r.fill(3, 4)
	r.assign()
	for _, step := range []struct {
		about             string
		refusing          bool
		failing           int
		records           []pipeline.Record
		sizes             []int
		committed, worked int
	}{
		{"nothing is refused", false, 0, r.LogOf(1), []int{4}, 1, 1},
		{"it comes again", false, 0, r.LogOf(1), nil, 0, 0},
		{"the last one is refused", true, 0, r.LogOf(2), []int{4, 4, 2, 2, 1, 1}, 1, 2},
		{"and a transaction fails", true, 2, r.LogOf(3), []int{4, 4, 4, 2, 2, 1, 1}, 1, 3},
	} {
		sizes, committed, worked, refusing, failing = nil, 0, 0, step.refusing, step.failing
		require.NoError(t, r.Deliver(t.Context(), step.records...), step.about)
		assert.Equal(t, step.sizes, sizes, step.about)
		assert.Equal(t, step.committed, committed, step.about)
		assert.Equal(t, step.worked, worked, step.about)
	}
	assert.Len(t, r.effects(), 4+3+3)
	assert.Len(t, r.letters(), 2)
}

// A strict stage stops before a record that is refused, alone or among others, and
// applies nothing of its transaction.
func TestAStrictStageStopsBeforeWhatIsRefused(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 4} {
		last := int64(n - 1)
		r := NewRig(t, &Recorder{before: func(in []pipeline.Record) error { return refuse(in, last) }})
		r.Stage.strict = true
		r.fill(1, n)
		r.assign()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := r.Deliver(ctx, r.LogOf(1)...)
		cancel()
		require.ErrorIs(t, err, ErrPoison, "of %d", n)
		assert.ErrorContains(t, err, "not this one")
		assert.Empty(t, r.effects(), "of %d", n)
		assert.Empty(t, r.letters(), "of %d", n)
		assert.Zero(t, r.position(1).Next)
	}
}

// Records that no transaction has time to bisect are halved; a record is not at
// fault for that.
func TestWhatNoTransactionCanBisectIsHalved(t *testing.T) {
	t.Parallel()
	const n = 8
	for _, strict := range []bool{false, true} {
		var r *Rig
		h := &Recorder{before: func(in []pipeline.Record) error { return refuse(in, n-1) }}
		calls := 0
		r = NewRig(t, handlerFunc(func(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
			if calls++; calls > 1 && len(in) == n {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			r.Stage.limit = 200 * time.Millisecond // from the second transaction on
			return h.Handle(ctx, tx, in)
		}))
		r.Stage.strict = strict
		r.fill(1, n)
		r.assign()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := r.Deliver(ctx, r.LogOf(1)...)
		cancel()
		if strict {
			require.ErrorIs(t, err, ErrPoison)
			assert.Less(t, r.position(1).Next, int64(n))
			continue
		}
		require.NoError(t, err)
		assert.Len(t, r.effects(), n-1)
		require.Len(t, r.letters(), 1)
		assert.Equal(t, "not this one", r.letters()[0].Reason)
	}
}

func TestATransactionThatTakesTooLongIsNotItsRecordsFault(t *testing.T) {
	t.Parallel()
	var r *Rig
	h := &Recorder{}
	calls := 0
	r = NewRig(t, handlerFunc(func(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
		r.Stage.limit = time.Hour
		if calls++; calls == 1 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return h.Handle(ctx, tx, in)
	}))
	r.Stage.limit = 20 * time.Millisecond
	r.fill(1, 1)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Equal(t, 2, calls)
	assert.Len(t, r.effects(), 1)
	assert.Empty(t, r.letters())
}

// Without its events, what a handler wrote is not committed either.
func TestWhatTheOutboxRefusesUndoesTheTransaction(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	exec := func(statement string) {
		t.Helper()
		require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), statement)
			return err
		}))
	}
	exec(`CREATE TRIGGER refused BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'the outbox is broken'); END`)
	r.fill(1, 3)
	r.assign()
	require.ErrorContains(t, r.inTrouble(r.LogOf(1)...), "the outbox is broken")
	assert.Empty(t, r.effects())
	assert.Zero(t, r.position(1).Next)
	exec(`DROP TRIGGER refused`)
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Len(t, r.effects(), 3)
	assert.Empty(t, r.letters())
}

// An attempt of a session that is over does not end the next one.
func TestAnOldAttemptLeavesTheNextSessionAlone(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 4)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:2]...))
	old := r.Stage.current()
	r.Stage.decode(r.LogOf(1))
	p := r.Stage.plan(old, r.LogOf(1)[2:])
	require.Len(t, p.moves, 1)
	r.moveByHand(1, 1, 1)
	r.assign()
	next := r.Stage.current()
	require.ErrorIs(t, r.Stage.recover(t.Context(), old, &log.Batch{}, p, errDown), errDown)
	assert.Same(t, next, r.Stage.current())
	assert.Zero(t, r.restart)
}

// full is what the database says when it has no room left.
func (r *Rig) full() error {
	r.T.Helper()
	err := r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(r.T.Context(), `PRAGMA max_page_count = 1`); err != nil {
			return err
		}
		_, err := tx.Exec(r.T.Context(), `INSERT INTO effects (id, symbol, price) VALUES (1, $1, '1')`, strings.Repeat("x", 1<<20))
		return err
	})
	require.True(r.T, r.DB.IsFull(err), "%v", err)
	return err
}

func TestHowLongAStageTriesAgain(t *testing.T) {
	t.Parallel()
	r := NewRig(t, ignorer{})
	full := r.full()
	for name, test := range map[string]struct {
		patience time.Duration
		err      error
		tries    int
		consumes time.Duration
	}{
		"a pause within its patience":      {time.Second, pipeline.RetryAfter(900*time.Millisecond, errDown), 2, 900 * time.Millisecond},
		"a pause as long as its patience":  {time.Second, pipeline.RetryAfter(time.Second, errDown), 2, time.Second},
		"a pause beyond its patience":      {time.Second, pipeline.RetryAfter(1100*time.Millisecond, errDown), 1, 0},
		"without end":                      {0, pipeline.RetryAfter(time.Hour, errDown), 2, time.Hour},
		"no room, and the work can wait":   {time.Hour, pipeline.RetryAfter(time.Second, full), 1, 0},
		"no room, and the work can't wait": {0, pipeline.RetryAfter(time.Second, full), 2, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			r.Stage.patience = test.patience
			tries := 0
			began := time.Now()
			err := r.Stage.retry(t.Context(), 0, func() error {
				if tries++; tries == 1 {
					return test.err
				}
				return nil
			})
			if test.tries == 1 {
				require.ErrorIs(t, err, test.err, name)
			} else {
				require.NoError(t, err, name)
			}
			assert.Equal(t, test.tries, tries, name)
			assert.Equal(t, test.consumes, time.Since(began), name)
		})
	}
}

// The pauses of a stage whose database is down rise from hundredths of a second to
// seconds.
func TestThePausesOfAStageRise(t *testing.T) {
	t.Parallel()
	r := NewRig(t, ignorer{})
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		require.NoError(t, r.Stage.retry(t.Context(), 0, func() error {
			if at = append(at, time.Now()); len(at) < 40 {
				return errDown
			}
			return nil
		}))
		first, last := at[1].Sub(at[0]), at[39].Sub(at[38])
		assert.True(t, 10*time.Millisecond <= first && first <= 30*time.Millisecond, "%v", first)
		assert.True(t, time.Second <= last && last <= 3*time.Second, "%v", last)
	})
}

// A lane whose handler lost its transaction has no other one for it before it is back.
func TestALaneWaitsForItsHandler(t *testing.T) {
	t.Parallel()
	r := NewRig(t, ignorer{})
	synctest.Test(t, func(t *testing.T) {
		back := make(chan struct{})
		var isBack atomic.Bool
		go func() {
			time.Sleep(time.Hour) // of the test's own clock
			isBack.Store(true)
			close(back)
		}()
		tries := 0
		require.NoError(t, r.Stage.retry(t.Context(), 0, func() error {
			if tries++; tries == 1 {
				return pipeline.RetryAfter(time.Nanosecond, &watchdogError{err: errDown, back: back})
			}
			assert.True(t, isBack.Load())
			return nil
		}))
	})
}

func TestTheTroubleOfALaneIsItsOwn(t *testing.T) {
	t.Parallel()
	r := NewRig(t, ignorer{})
	r.assign()
	require.NoError(t, r.Stage.Trouble())
	r.Stage.setTrouble(asLane(0), errDown)
	r.Stage.setTrouble(asLane(12), errDown)
	r.Stage.setTrouble(asLane(0), nil)
	assert.EqualError(t, r.Stage.Trouble(), "lane 12: the database is down")
}

// preparing is a handler whose Prepare is a function.
type preparing struct {
	Recorder
	prepare func(in []pipeline.Record) error
}

func (h *preparing) Prepare(_ context.Context, in []pipeline.Record) error { return h.prepare(in) }

// What Prepare could not prepare is not handled, be it all records or only some.
func TestAStageThatCannotPrepareAppliesNothing(t *testing.T) {
	t.Parallel()
	down := pipeline.RetryAfter(time.Hour, errDown) // more than its patience
	for name, prepare := range map[string]func(in []pipeline.Record) error{
		"all": func([]pipeline.Record) error { return down },
		"the first half": func(in []pipeline.Record) error {
			if len(in) == 4 {
				return pipeline.Permanent(errors.New("one of these"))
			}
			return down
		},
		"the second half": func(in []pipeline.Record) error {
			switch {
			case len(in) == 4:
				return pipeline.Permanent(errors.New("one of these"))
			case in[0].Offset == 2:
				return down
			}
			return nil
		},
	} {
		h := &preparing{prepare: prepare}
		h.before = func(in []pipeline.Record) error {
			assert.Fail(t, "handled", "%s: %d records", name, len(in))
			return nil
		}
		r := NewRig(t, h)
		r.Stage.patience = time.Minute
		r.fill(1, 4)
		r.assign()
		require.ErrorIs(t, r.Deliver(t.Context(), r.LogOf(1)...), errDown, name)
		assert.Zero(t, r.position(1).Next, name)
	}
}

func TestPrepareIsNotCalledForNothing(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &preparing{prepare: func(in []pipeline.Record) error {
		assert.NotEmpty(t, in)
		return nil
	}})
	r.Stage.spec.Consumes = []schema.EventType{schema.QuoteUnchanged{}.EventType()}
	r.fill(1, 2)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Equal(t, int64(2), r.position(1).Next)
}

// A record must lie where the key of its event says; one of an outbox where its own key
// says as well. A producer that writes by itself may use any key.
func TestWhereARecordMayLie(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &counter{})
	place := chain.Link{Timeline: testOutbox, Seq: 1}
	for name, test := range map[string]struct {
		symbol, key string
		link        chain.Link
		direct      bool
		fault       string
	}{
		"where both keys say":                        {"S1", "simulated/S1", place, false, ""},
		"where only the event's key says":            {"S1", "simulated/S2", place, false, `key "simulated/S2" is on partition 1`},
		"where only its own key says":                {"S2", "simulated/S1", place, false, `key "simulated/S2" is on partition 1`},
		"of another producer, with a key of its own": {"S1", "S2", chain.Link{}, false, ""},
		"of another producer, elsewhere":             {"S2", "S1", chain.Link{}, false, `key "simulated/S2" is on partition 1`},
		"appended by itself, with a key of its own":  {"S1", "S2", place, true, ""},
	} {
		record := pipeline.Record{TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 1}, Key: []byte(test.key),
			Event: schema.Event{Payload: PriceNo(test.symbol, 1)}}
		if test.direct {
			record.Headers = chain.DirectHeaders(nil)
		}
		err := FaultOf(r.Stage.topics, &record, test.link, nil)
		if test.fault == "" {
			assert.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, schema.ErrEnvelope, name)
		assert.ErrorContains(t, err, test.fault, name)
	}
}
