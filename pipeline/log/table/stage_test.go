package table_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// The chain of these tests: prices, a stage that calls each unchanged, a stage that stops a
// job for each of those, and a fold that counts and sums by symbol.

// killer ends a process at random moments inside of its transactions.
type killer struct {
	left atomic.Int64 // how many batches until it does
	kill context.CancelFunc
}

// hit returns an error where the process is to end: what it was doing is rolled back.
func (k *killer) hit() error {
	if k == nil || k.left.Add(-1) != 0 {
		return nil
	}
	k.kill()
	return errors.New("killed")
}

type unchange struct{ *killer }

func (h unchange) Handle(_ context.Context, _ *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	var events []schema.Event
	for i := range in {
		p := in[i].Event.Payload.(schema.PriceObserved)
		events = append(events, in[i].Derive(schema.QuoteUnchanged{Quote: schema.Quote{Provider: p.Source, Symbol: p.Symbol},
			RawResponseID: p.RawResponseID, Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: p.ReceivedAt}))
	}
	return events, h.hit()
}

type stopJobs struct{ *killer }

func (h stopJobs) Handle(_ context.Context, _ *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	var events []schema.Event
	for i := range in {
		p := in[i].Event.Payload.(schema.QuoteUnchanged)
		events = append(events, in[i].Derive(schema.PollingJobStopped{JobID: fmt.Sprintf("%s-%s", p.Symbol, p.Price), StoppedAt: p.Timestamp}))
	}
	return events, h.hit()
}

type fold struct{ *killer }

func (h fold) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	rows := store.Rows{Table: "folded", Columns: []string{"id", "job"}}
	counts := store.Rows{Table: "counted", Columns: []string{"part", "n"}, Clause: `ON CONFLICT (part) DO UPDATE SET n = counted.n + excluded.n`}
	n := map[int32]int{}
	for i := range in {
		id, err := in[i].RowID(0)
		if err != nil {
			return nil, err
		}
		rows.Add(id, in[i].Event.Payload.(schema.PollingJobStopped).JobID)
		n[in[i].Partition]++
	}
	for part, n := range n {
		counts.Add(part, n)
	}
	return nil, errors.Join(tx.Insert(ctx, rows), tx.Insert(ctx, counts), h.hit())
}

// life is one process's: it opens the database and the log, and runs the chain until ctx is done.
func life(ctx context.Context, t *testing.T, db *store.Store, k *killer) {
	l := table.Open(table.Config{Store: db, Partitions: 4, Partitioner: partitioner, NackPause: time.Millisecond, Grace: time.Second})
	defer func() { assert.NoError(t, l.Close()) }()
	topics, err := topics.New(context.Background(), db, l, schema.Topics(), partitioner)
	if !assert.NoError(t, err) {
		return
	}
	stage := func(name string, takes, gives schema.Payload, h pipeline.Handler) engine.StageSpec {
		spec := engine.StageSpec{Name: name, Consumes: []schema.EventType{takes.EventType()}, Handler: h}
		if gives != nil {
			spec.Produces = []schema.EventType{gives.EventType()}
		}
		return spec
	}
	runtime, err := engine.New(engine.Config{Store: db, Broker: l, Topics: topics, GroupPrefix: "test", Owner: "test", BatchSize: 50,
		Log: slog.New(slog.DiscardHandler), Stages: []engine.StageSpec{
			stage("unchange", schema.PriceObserved{}, schema.QuoteUnchanged{}, unchange{k}),
			stage("stop-jobs", schema.QuoteUnchanged{}, schema.PollingJobStopped{}, stopJobs{k}),
			stage("fold", schema.PollingJobStopped{}, nil, fold{k}),
		}})
	if assert.NoError(t, err) {
		assert.NoError(t, runtime.Run(ctx, nil))
	}
}

// newFolded returns a database with the tables of the fold.
func newFolded(t *testing.T, open opener) *store.Store {
	t.Helper()
	db := open(t)
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.DDL(t.Context(), `CREATE TABLE folded (id {int} PRIMARY KEY, job {text} NOT NULL)`),
			tx.DDL(t.Context(), `CREATE TABLE counted (part {int} PRIMARY KEY, n {int} NOT NULL)`))
	}))
	return db
}

// feed appends n prices through a log of its own, one after the other in small batches, as
// another process does.
func feed(t *testing.T, db *store.Store, n int) {
	l := openLog(t, db)
	topics, err := topics.New(t.Context(), db, l, schema.Topics(), partitioner)
	if !assert.NoError(t, err) {
		return
	}
	appender := engine.NewAppender(l, topics)
	for sent := 0; sent < n; {
		var events []schema.Event
		for range min(1+sent%13, n-sent) {
			at := schema.NewTime(time.Unix(int64(sent), 0))
			events = append(events, schema.Event{ID: fmt.Sprint("price-", sent), Source: "test", Payload: schema.PriceObserved{
				Symbol: schema.Symbol(fmt.Sprint("S", sent%7)), Price: schema.MustDecimal(fmt.Sprint(sent + 1)), Timestamp: at,
				Source: "simulated", ReceivedAt: at, RawResponseID: "1"}})
			sent++
		}
		if !assert.NoError(t, appender.Append(t.Context(), events)) {
			return
		}
	}
}

// done reports whether the fold has as many rows as there are prices.
func done(t *testing.T, db *store.Store, n int) bool {
	t.Helper()
	var rows int
	require.NoError(t, db.Get(t.Context(), &rows, `SELECT COUNT(*) FROM folded`))
	return rows >= n
}

// finish runs the chain until all prices are folded, and checks that each is there once.
func finish(t *testing.T, db *store.Store, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { life(ctx, t, db, nil) })
	for ctx.Err() == nil && !done(t, db, n) {
		<-time.After(10 * time.Millisecond)
	}
	cancel()
	running.Wait()
	var jobs []string
	require.NoError(t, db.Select(t.Context(), &jobs, `SELECT job FROM folded`))
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("S%d-%d", i%7, i+1))
	}
	assert.ElementsMatch(t, want, jobs, "none lost, none doubled")
	var counted int
	require.NoError(t, db.Get(t.Context(), &counted, `SELECT CAST(SUM(n) AS BIGINT) FROM counted`))
	assert.Equal(t, n, counted)
	letters, err := store.DeadLetters(t.Context(), db, "", 10)
	require.NoError(t, err)
	assert.Empty(t, letters)
	l := openLog(t, db)
	for _, topic := range []schema.Topic{schema.PriceEvents, schema.QuoteOutcomes, schema.PollingJobs} {
		ranges, err := l.Offsets(t.Context(), topic)
		require.NoError(t, err)
		var records int64
		for _, held := range ranges {
			records += held.End
		}
		assert.EqualValues(t, n, records, topic)
	}
}

// TestAChainOfStagesThatIsKilled: processes that end in the middle of a transaction, or at
// any other moment, lose nothing and double nothing.
func TestAChainOfStagesThatIsKilled(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		const n, lives = 1500, 12
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		db := newFolded(t, open)
		var feeding sync.WaitGroup
		other := open(t)
		feeding.Go(func() { feed(t, other, n) })
		for range lives {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(200+random.IntN(800))*time.Millisecond)
			k := &killer{kill: cancel}
			k.left.Store(1 + random.Int64N(40))
			life(ctx, t, db, k)
			cancel()
		}
		feeding.Wait()
		finish(t, db, n)
	})
}

// TestFailpointsOfAChain: the same with faults between any two steps.
func TestFailpointsOfAChain(t *testing.T) {
	const n = 400
	for _, point := range []failpoint.Point{failpoint.StageApplied, failpoint.StageCommitted, failpoint.StageAssigned, failpoint.StoreCommitting,
		failpoint.StoreCommitted, failpoint.StoreInserting, failpoint.SubscriberSetup} {
		t.Run(string(point), func(t *testing.T) {
			db := newFolded(t, onSQLite(t))
			feed(t, db, n)
			var hits atomic.Int64
			pipelinetest.Fail(t, point, 0, func(context.Context) error {
				if hits.Add(1)%3 == 1 {
					return errors.New("injected")
				}
				return nil
			})
			finish(t, db, n)
			assert.Positive(t, hits.Load())
		})
	}
}
