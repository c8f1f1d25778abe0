package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// order has dead letters retried, and returns the order's id.
func (r *Rig) order(which store.Letters) string {
	r.T.Helper()
	order, err := r.DB.OrderRetry(r.T.Context(), which)
	require.NoError(r.T, err)
	return order.ID
}

// outcome is what became of an order, without what differs from run to run.
func (r *Rig) outcome(id string) store.LetterRetry {
	r.T.Helper()
	order, err := AwaitRetry(r.T.Context(), r.DB, id, 0)
	require.NoError(r.T, err)
	order.ID, order.OrderedAt = "", schema.Time{}
	return order
}

// A retry gives the rows and the events that the record would have given at first,
// and is accounted for as if it had.
func TestARetryAppliesOnceAsAtFirst(t *testing.T) {
	t.Parallel()
	h := &picky{refuses: "2"}
	r := NewRig(t, h)
	r.Emit(1, 5)
	r.Append(1, 0, func(record *pipeline.Record) { record.Value = []byte("\xffno price") })
	r.Relay()
	r.Consume()
	letters := r.letters()
	require.Len(t, letters, 2)
	refused, broken := letters[1], letters[0]
	if refused.Offset == 0 {
		refused, broken = broken, refused
	}
	want := pipeline.DerivedID("test", &pipeline.Record{TopicPartition: at(1), TopicID: TestTopicID, Offset: refused.Offset}, 0, 0)

	// It fails again, and stays.
	again := r.order(store.Letters{ID: refused.ID})
	require.NoError(t, r.Stage.retryLetters(t.Context()))
	assert.Equal(t, store.LetterRetry{Letters: 1, Failed: 1, Reason: "2 is refused"}, r.outcome(again))
	AuditHolds(r)

	h.refuses = ""
	both := r.order(store.Letters{})
	require.NoError(t, r.Stage.retryLetters(t.Context()))
	outcome := r.outcome(both)
	assert.Contains(t, outcome.Reason, "not valid UTF-8")
	outcome.Reason = ""
	assert.Equal(t, store.LetterRetry{Letters: 2, Applied: 1, Failed: 1}, outcome)
	assert.Len(t, r.effects(), 5)
	left := r.letters()
	require.Len(t, left, 1)
	assert.Equal(t, broken.ID, left[0].ID)

	r.Relay()
	var ids []string
	for _, record := range r.Outcomes(1) {
		ids = append(ids, schema.EventID(record.Headers))
	}
	assert.Len(t, ids, 5)
	assert.Contains(t, ids, want, "the id that it would have given at first")
	assert.Equal(t, int64(5), AuditHolds(r)["stage test"]["applied"])

	// What is discarded is accounted for as well.
	_, err := r.DB.Discard(t.Context(), store.Letters{})
	require.NoError(t, err)
	AuditHolds(r)
	assert.Empty(t, r.letters())
}

// A process that remembers what was before a retry is fenced off: in this process, in a
// batch under way, and in a process that believes that the partition is still its
// own.
func TestARetryMakesLanesForget(t *testing.T) {
	t.Parallel()
	var refuse bool
	h := &counter{fail: func() bool { return false }}
	refusing := handlerFunc(func(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
		if refuse {
			return nil, pipeline.Permanent(errors.New("not now"))
		}
		return h.Handle(ctx, tx, in)
	})
	r := NewRig(t, refusing)
	r.fill(1, 6)
	zombie := newStage(r.Stage.spec, r.DB, r.topics(), slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})
	r.assign()
	deliver := func(s *Stage, from, to int) {
		t.Helper()
		mine := r.Stage
		r.Stage = s
		defer func() { r.Stage = mine }()
		require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[from:to]...))
	}
	deliver(r.Stage, 0, 2)
	refuse = true
	deliver(r.Stage, 2, 3)
	refuse = false
	deliver(r.Stage, 3, 4) // it remembers 3
	_, err := zombie.Assign(t.Context(), r.claims(), func() {})
	require.NoError(t, err)
	deliver(zombie, 4, 5) // and the other one 4
	count := func() (n int) {
		require.NoError(t, r.DB.Get(t.Context(), &n, `SELECT price FROM effects WHERE id = 1`))
		return n
	}
	require.Equal(t, 4, count())

	id := r.order(store.Letters{})
	require.NoError(t, r.Stage.retryLetters(t.Context()))
	require.Equal(t, int64(1), r.outcome(id).Applied)
	require.Equal(t, 5, count())
	deliver(zombie, 5, 6)
	assert.Equal(t, 6, count(), "each record once")
}

// A batch that was planned before a retry, and begins after it, applies what the
// lane knows since.
func TestARetryBetweenPlanAndTransaction(t *testing.T) {
	t.Parallel()
	refuse := true
	h := &counter{fail: func() bool { return false }}
	r := NewRig(t, handlerFunc(func(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
		if refuse {
			return nil, pipeline.Permanent(errors.New("not now"))
		}
		return h.Handle(ctx, tx, in)
	}))
	r.fill(1, 3)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:1]...))
	refuse = false
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[1:2]...))
	sess := r.Stage.current()
	plan := r.Stage.plan(sess, r.decoded(1, 2))
	lane := r.Stage.lane(sess, 0)
	r.order(store.Letters{})
	require.NoError(t, r.Stage.retryLetters(t.Context()))
	err := lane.Run(t.Context(), r.DB, func(tx *pipeline.Tx) error { return r.Stage.apply(t.Context(), tx, &plan) })
	require.ErrorIs(t, err, store.ErrFenced)
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[2:]...))
	var n int
	require.NoError(t, r.DB.Get(t.Context(), &n, `SELECT price FROM effects WHERE id = 1`))
	assert.Equal(t, 3, n)
}

// decoded are the records of a partition from an offset on, as a stage has them.
func (r *Rig) decoded(partition int32, from int) []pipeline.Record {
	records := append([]pipeline.Record(nil), r.LogOf(partition)[from:]...)
	r.Stage.decode(records)
	return records
}

// Whatever comes at the same time, batches, retries of several processes, failures
// and new sessions: each record counts once.
func TestRandomRetriesCountEachRecordOnce(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range 6 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			var mu sync.Mutex
			roll := func(n int) bool { mu.Lock(); defer mu.Unlock(); return random.IntN(n) == 0 }
			h := &counter{fail: func() bool { return roll(5) }}
			picky := handlerFunc(func(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
				if roll(3) {
					return nil, pipeline.Permanent(errors.New("by chance"))
				}
				return h.Handle(ctx, tx, in)
			})
			r := NewRig(t, picky)
			const n = 60
			r.fill(1, n)
			r.assign()
			other := newStage(r.Stage.spec, r.DB, r.topics(), slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})
			_, err := other.Assign(t.Context(), r.claims(), func() {})
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			var background sync.WaitGroup
			for _, s := range []*Stage{r.Stage, other} {
				background.Go(func() {
					for ctx.Err() == nil {
						_, _ = r.DB.OrderRetry(ctx, store.Letters{}) // tried again
						_ = s.retryLetters(ctx)
					}
				})
			}
			for next := 0; next < n; {
				to := min(n, next+1+upTo(&mu, random, 5))
				require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[next:to]...))
				next = to
				if roll(8) {
					r.assign()
				}
			}
			require.Eventually(t, func() bool {
				left, err := store.CountLetters(t.Context(), r.DB, store.Letters{})
				return err == nil && len(left) == 0
			}, time.Minute, time.Millisecond)
			stop()
			background.Wait()
			var count int
			require.NoError(t, r.DB.Get(t.Context(), &count, `SELECT price FROM effects WHERE id = 1`))
			assert.Equal(t, n, count)
		})
	}
}

func upTo(mu *sync.Mutex, random *rand.Rand, n int) int {
	mu.Lock()
	defer mu.Unlock()
	return random.IntN(n)
}

// sequential takes records in their order only.
type sequential struct{ Recorder }

func (*sequential) RefusesLate() error { return errors.New("build it again") }

func TestAFoldOfTheLogsOrderIsNotRetried(t *testing.T) {
	t.Parallel()
	h := &sequential{Recorder{before: func([]pipeline.Record) error { return pipeline.Permanent(errors.New("refused")) }}}
	r := NewRig(t, h)
	r.fill(1, 1)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	h.before = nil
	id := r.order(store.Letters{})
	require.NoError(t, r.Stage.retryLetters(t.Context()))
	assert.Equal(t, store.LetterRetry{Letters: 1, Refused: 1, Reason: "build it again"}, r.outcome(id))
	assert.Equal(t, "refused", r.letters()[0].Reason)
	assert.Empty(t, r.effects())
}

// A letter of a topic that was created again gets the ids of the topic it is of;
// where that is not known, none.
func TestRetryAfterTheTopicWasCreatedAgain(t *testing.T) {
	t.Parallel()
	h := &picky{refuses: "1"}
	r := NewRig(t, h)
	r.Append(1, 0, nil)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	epoch := r.Epoch(schema.PriceEvents)
	want, err := rowid.Of(epoch, 1, 0, 0)
	require.NoError(t, err)
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: "topic-1-again", Partitions: Partitions}
	r.Stage.topics = r.topics()
	require.NotEqual(t, epoch, r.Epoch(schema.PriceEvents))
	r.Broker.Log[at(1)] = nil
	r.assign()
	h.refuses = ""
	id := r.order(store.Letters{})
	require.NoError(t, r.Stage.retryLetters(t.Context()))
	assert.Equal(t, store.LetterRetry{Letters: 1, Applied: 1}, r.outcome(id))
	assert.Equal(t, []int64{want}, r.effects())
}

func TestRetryAfterTheLogLostItsEnd(t *testing.T) {
	t.Parallel()
	h := &picky{refuses: "1"}
	r := NewRig(t, h)
	r.Append(1, 0, nil)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	r.Exec(`UPDATE dead_letters SET epoch = 0`) // from before that was kept
	topic, _ := r.Stage.topics.Topic(schema.PriceEvents)
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error { _, err := tx.RenewEpoch(t.Context(), topic); return err }))
	h.refuses = ""
	id := r.order(store.Letters{})
	require.NoError(t, r.Stage.retryLetters(t.Context()))
	outcome := r.outcome(id)
	assert.Equal(t, int64(1), outcome.Refused)
	assert.Contains(t, outcome.Reason, "lost its end")
	r.Exec(`UPDATE dead_letters SET epoch = $1`, topic.Epoch)
	id = r.order(store.Letters{})
	require.NoError(t, r.Stage.retryLetters(t.Context()))
	assert.Equal(t, int64(1), r.outcome(id).Applied)
}

// What no record is at fault for leaves the letters waiting.
func TestARetryWaitsForTheWorld(t *testing.T) {
	t.Parallel()
	fault := pipeline.Permanent(errors.New("refused"))
	h := &Recorder{before: func([]pipeline.Record) error { return fault }}
	r := NewRig(t, h)
	r.fill(1, 1)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	fault = errors.New("the database is down")
	id := r.order(store.Letters{})
	require.ErrorContains(t, r.Stage.retryLetters(t.Context()), "is down")
	assert.Equal(t, store.LetterRetry{Letters: 1, Pending: 1}, r.outcome(id))
	require.NoError(t, r.Stage.Trouble(), "batches continue")
	fault = nil
	require.NoError(t, r.Stage.retryLetters(t.Context()))
	assert.Equal(t, store.LetterRetry{Letters: 1, Applied: 1}, r.outcome(id))
}

// A plugin that refuses each record says so once a minute, with their number.
func TestDeadLettersAreSaidOnceAMinute(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	b := &buried{log: slog.New(slog.NewTextHandler(&out, nil)), stage: "test"}
	now := time.Unix(1000, 0)
	letters := func(n int, reason string) []pipeline.Record {
		records := make([]pipeline.Record, n)
		for i := range records {
			records[i].State.Fault = fmt.Errorf("%s %d\nstack", reason, i)
		}
		return records
	}
	lines := func() []string { return strings.Split(strings.TrimSpace(out.String()), "\n") }
	b.add(now, nil)
	b.flush(now)
	require.Empty(t, out.String())
	b.add(now, letters(2, "panic: oh"))
	require.Len(t, lines(), 1)
	assert.Contains(t, lines()[0], `level=WARN`)
	assert.Contains(t, lines()[0], `dead-letters list --stage test" count=2 first_reason="panic: oh 0"`)
	for i := range 50 {
		b.add(now.Add(time.Duration(i)*time.Second), letters(3, "later"))
	}
	b.flush(now.Add(59 * time.Second))
	require.Len(t, lines(), 1)
	b.flush(now.Add(time.Minute))
	require.Len(t, lines(), 2)
	assert.Contains(t, lines()[1], `count=150 first_reason="later 0"`)
	b.flush(now.Add(2 * time.Minute))
	require.Len(t, lines(), 2, "nothing new")
	b.add(now.Add(61*time.Second), letters(1, "last"))
	b.end()
	require.Len(t, lines(), 3)
}

func TestAStageSaysThatRecordsBecameDeadLetters(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := NewRig(t, &Recorder{before: func([]pipeline.Record) error { panic("oh") }})
	r.Stage.buried.log = slog.New(slog.NewTextHandler(&out, nil))
	r.fill(1, 3)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Contains(t, out.String(), `count=3 first_reason="panic: oh"`)
}

func TestFirstLine(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "panic: oh", FirstLine("panic: oh\ngoroutine 1"))
	long := FirstLine(strings.Repeat("é", 200))
	assert.Equal(t, strings.Repeat("é", maxFirstLine/2)+"…", long)
	assert.Equal(t, strings.Repeat("a", maxFirstLine), FirstLine(strings.Repeat("a", maxFirstLine)))
	assert.Equal(t, "\uFFFD", FirstLine("\xff"))
}

// Dead letters are a warning, until they are retried or discarded.
func TestChecksOfDeadLetters(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{before: func([]pipeline.Record) error { return pipeline.Permanent(errors.New("refused")) }})
	r.fill(1, 3)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	runtime, err := New(Config{Store: r.DB, Broker: r.Broker, Topics: r.Stage.topics, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	assert.Equal(t, []Check{{"dead letters", CheckWarning, "3 records were not applied (test 3): see pricemill dead-letters list"}},
		runtime.checkLetters(t.Context()))
	_, err = r.DB.Discard(t.Context(), store.Letters{})
	require.NoError(t, err)
	assert.Equal(t, []Check{{"dead letters", CheckOK, ""}}, runtime.checkLetters(t.Context()))
}
