package projections_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// ledger is a log in memory.
type ledger struct {
	mu     sync.Mutex
	log    map[pipeline.TopicPartition][]pipeline.Record
	oldest map[pipeline.TopicPartition]int64
	// reading, if not nil, is called before records are read.
	reading func()
}

const ledgerPartitions = 3

func (l *ledger) EnsureTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	return l.Topics(ctx, topics)
}

func (l *ledger) Topics(_ context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	infos := map[schema.Topic]log.TopicInfo{}
	for _, topic := range topics {
		infos[topic] = log.TopicInfo{ID: "id of " + string(topic), Partitions: ledgerPartitions}
	}
	return infos, nil
}

func (l *ledger) LimitedRetention(context.Context, []schema.Topic) (map[schema.Topic]string, error) {
	return nil, nil
}

func (l *ledger) Offsets(_ context.Context, topic schema.Topic) ([]log.OffsetRange, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ranges := make([]log.OffsetRange, ledgerPartitions)
	for i := range ranges {
		tp := pipeline.TopicPartition{Topic: topic, Partition: int32(i)}
		ranges[i] = log.OffsetRange{Oldest: l.oldest[tp], End: int64(len(l.log[tp]))}
	}
	return ranges, nil
}

func (l *ledger) Send(context.Context, []log.PartitionBatch) []error {
	panic("the test itself appends")
}

func (l *ledger) Subscriber(log.SubscriberConfig) (message.Subscriber, error) {
	panic("nothing subscribes")
}

func (l *ledger) Read(_ context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error {
	if l.reading != nil {
		l.reading()
	}
	l.mu.Lock()
	records := slices.Clone(l.log[tp][from:to])
	l.mu.Unlock()
	for part := range slices.Chunk(records, 50) {
		if err := f(part); err != nil {
			return err
		}
	}
	return nil
}

// append appends n prices of five symbols.
func (l *ledger) append(t testing.TB, n int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		number := 0
		for _, records := range l.log {
			number += len(records)
		}
		at := schema.NewTime(time.Unix(int64(number), 0))
		price := schema.PriceObserved{Symbol: schema.Symbol("S" + string(rune('0'+number%5))), Source: "p",
			Price: schema.MustDecimal("1.5"), Timestamp: at, ReceivedAt: at}
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: partitionOf([]byte(price.Key()), ledgerPartitions)}
		headers, value, err := schema.Event{ID: fmt.Sprint(number), Source: "test", Payload: price}.Encode()
		require.NoError(t, err)
		l.log[tp] = append(l.log[tp], pipeline.Record{TopicPartition: tp, TopicID: "id of " + string(tp.Topic),
			Offset: int64(len(l.log[tp])), Key: []byte(price.Key()), Headers: headers, Value: value})
	}
}

func partitionOf(key []byte, partitions int32) int32 { return int32(key[len(key)-1]) % partitions }

// bench is a database and a log, with what works on them.
type bench struct {
	t      *testing.T
	db     *store.Store
	ledger *ledger
	topics *topics.Set
}

func newBench(t *testing.T, prices int) *bench {
	t.Helper()
	b := &bench{t: t, db: pipelinetest.OpenStore(t, filepath.Join(t.TempDir(), "db")),
		ledger: &ledger{log: map[pipeline.TopicPartition][]pipeline.Record{}, oldest: map[pipeline.TopicPartition]int64{}}}
	var err error
	b.topics, err = topics.New(t.Context(), b.db, b.ledger, schema.Topics(), partitionOf)
	require.NoError(t, err)
	b.ledger.append(t, prices)
	return b
}

// work runs the stages that follow the log with these folds, up to its end.
func (b *bench) work(folds ...pipeline.Projection) {
	b.t.Helper()
	stages, err := projections.RunnableStages(b.t.Context(), b.db, folds)
	require.NoError(b.t, err)
	for _, stage := range stages {
		require.NoError(b.t, b.feed(stage))
	}
}

func (b *bench) feed(stage engine.StageSpec) error {
	ranges, err := b.ledger.Offsets(b.t.Context(), schema.PriceEvents)
	require.NoError(b.t, err)
	targets := map[pipeline.TopicPartition]int64{}
	for i, r := range ranges {
		targets[pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: int32(i)}] = r.End
	}
	return engine.NewFill(engine.FillConfig{Store: b.db, Broker: b.ledger, Topics: b.topics, Stage: stage, Log: quiet}).To(b.t.Context(), targets)
}

func (b *bench) rebuilder(folds ...pipeline.Projection) *projections.Rebuilder {
	return &projections.Rebuilder{CompareConfig: projections.CompareConfig{Store: b.db, Broker: b.ledger, Topics: b.topics, Log: quiet, Most: 20},
		Projections: folds, Alone: true}
}

// rebuild orders a rebuild and works on it.
func (b *bench) rebuild(p pipeline.Projection, o projections.Order) projections.Rebuild {
	b.t.Helper()
	ordered, err := projections.NewRebuild(b.t.Context(), b.db, p, o)
	require.NoError(b.t, err)
	assert.Equal(b.t, projections.RebuildRunning, ordered.State)
	worked, err := b.rebuilder(p).Work(b.t.Context(), ordered.ID)
	require.NoError(b.t, err)
	assert.True(b.t, worked)
	return b.get(ordered.ID)
}

func (b *bench) get(id string) projections.Rebuild {
	b.t.Helper()
	r, err := projections.GetRebuild(b.t.Context(), b.db, id)
	require.NoError(b.t, err)
	return r
}

func (b *bench) exec(statement string, args ...any) {
	b.t.Helper()
	require.NoError(b.t, b.db.Write(b.t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(b.t.Context(), statement, args...)
		return err
	}))
}

// serving is the number of the generation that serves.
func (b *bench) serving() int {
	b.t.Helper()
	return count(b.t, b.db, `SELECT number FROM generations WHERE active = 1`)
}

var (
	first  = tally{version: 1}
	second = tally{version: 2}
)

// newFed is a bench whose first fold has applied all prices.
func newFed(t *testing.T, prices int) *bench {
	t.Helper()
	b := newBench(t, prices)
	_, err := projections.Open(t.Context(), b.db, first)
	require.NoError(t, err)
	b.work(first)
	return b
}

var manual = projections.Order{Promote: projections.PromoteManual}

func TestARebuildIsProvenAndSwappedBothWays(t *testing.T) {
	t.Parallel()
	b := newFed(t, 400)
	all := []pipeline.Projection{first}
	r := b.rebuild(first, manual)
	assert.Equal(t, projections.RebuildReady, r.State)
	assert.Equal(t, 2, r.Generation)
	assert.Equal(t, int64(400), r.Total)
	assert.Equal(t, r.Total, r.Done)
	assert.Len(t, r.Partitions, ledgerPartitions)
	assert.False(t, r.Working)
	require.NotNil(t, r.Proof)
	assert.True(t, r.Proof.Equal)
	require.Len(t, r.Proof.Tables, 1)
	assert.Equal(t, r.Proof.Tables[0].Hash, r.Proof.Tables[0].FreshHash)
	assert.Equal(t, 1, b.serving())
	require.ErrorIs(t, projections.RollBackRebuild(t.Context(), b.db, all, r.ID, false), projections.ErrRebuildState)

	for range 3 {
		require.NoError(t, projections.PromoteRebuild(t.Context(), b.db, all, r.ID, false))
		assert.Equal(t, 2, b.serving())
		assert.Equal(t, projections.RebuildPromoted, b.get(r.ID).State)
		require.ErrorIs(t, projections.CancelRebuild(t.Context(), b.db, all, r.ID), projections.ErrServes)
		require.ErrorIs(t, projections.PromoteRebuild(t.Context(), b.db, all, r.ID, false), projections.ErrRebuildState)
		b.ledger.append(t, 10)
		b.work(first) // both, each into its own tables
		want := count(t, b.db, total)
		assert.Equal(t, want, count(t, b.db, `SELECT SUM(n) FROM tally_g1`))

		require.NoError(t, projections.RollBackRebuild(t.Context(), b.db, all, r.ID, false))
		assert.Equal(t, 1, b.serving())
		b.ledger.append(t, 10)
		b.work(first)
		want += 10
		assert.Equal(t, want, count(t, b.db, total))
		assert.Equal(t, want, count(t, b.db, `SELECT SUM(n) FROM tally_g2`))
	}
	assert.Equal(t, projections.RebuildRolledBack, b.get(r.ID).State)
	serving, err := projections.Serving(t.Context(), b.db, all)
	require.NoError(t, err)
	require.Len(t, serving, 1)
	assert.Equal(t, "tally.g1", serving[0].Name)
	require.NoError(t, projections.CancelRebuild(t.Context(), b.db, all, r.ID))
	assert.Equal(t, projections.RebuildCancelled, b.get(r.ID).State)
	assert.Equal(t, 1, count(t, b.db, tables))
	assert.Zero(t, count(t, b.db, `SELECT COUNT(*) FROM positions WHERE stage LIKE '%g2'`))
	require.ErrorIs(t, projections.CancelRebuild(t.Context(), b.db, all, r.ID), projections.ErrRebuildState)
}

// TestARebuildAwaitsTheConsumersOfAService: where a service runs, and only there, a rebuild
// gives it time to feed the new generation before that serves.
func TestARebuildAwaitsTheConsumersOfAService(t *testing.T) {
	t.Parallel()
	for _, runs := range []bool{false, true} {
		b := newFed(t, 20)
		if runs {
			require.NoError(t, b.db.RenewLeases(t.Context(), "a service", []string{"running/tally.g1"}, time.Hour))
		}
		ordered, err := projections.NewRebuild(t.Context(), b.db, first, projections.Order{Promote: projections.PromoteIfEqual})
		require.NoError(t, err)
		r := b.rebuilder(first)
		r.Alone = false
		began := time.Now()
		worked := make(chan error, 1)
		go func() {
			_, err := r.Work(t.Context(), ordered.ID)
			worked <- err
		}()
		if runs {
			require.Eventually(t, func() bool { return b.get(ordered.ID).State == projections.RebuildReady }, time.Minute, time.Millisecond)
			assert.Equal(t, 1, b.serving(), "the consumers of the service are awaited")
			b.exec(`UPDATE positions SET claimed_at = 0 WHERE stage = 'tally.g2'`)
		}
		require.NoError(t, <-worked)
		assert.Equal(t, 2, b.serving())
		assert.Less(t, time.Since(began), 10*time.Second, "a service runs: %t", runs)
	}
}

// Generations that replace each other leave no name that a later one needs.
func TestRebuildsFollowEachOther(t *testing.T) {
	t.Parallel()
	b := newFed(t, 50)
	hashes := map[string]bool{}
	for i := range 5 {
		r := b.rebuild(first, projections.Order{Promote: projections.PromoteIfEqual})
		require.Equal(t, projections.RebuildPromoted, r.State, r.Error)
		assert.Equal(t, i+1, r.Replaced)
		assert.Equal(t, i+2, b.serving())
		hashes[r.Proof.Tables[0].FreshHash] = true
		require.NoError(t, projections.DropGeneration(t.Context(), b.db, first, i+1))
	}
	assert.Len(t, hashes, 1, "of one log, one hash")
	require.ErrorIs(t, projections.DropGeneration(t.Context(), b.db, first, 6), projections.ErrServes)
	require.ErrorIs(t, projections.DropGeneration(t.Context(), b.db, first, 1), projections.ErrNotFound)
	all, err := projections.Rebuilds(t.Context(), b.db, 3)
	require.NoError(t, err)
	require.Len(t, all, 3)
	assert.Equal(t, 6, all[0].Generation)
}

// What someone did to the tables is a difference, and is put right.
func TestARebuildOfTablesThatWereChanged(t *testing.T) {
	t.Parallel()
	b := newFed(t, 100)
	b.exec(`UPDATE tally SET n = n + 7 WHERE symbol = 'S1'`)
	b.exec(`DELETE FROM tally WHERE symbol = 'S2'`)
	r := b.rebuild(first, projections.Order{Promote: projections.PromoteIfEqual})
	assert.Equal(t, projections.RebuildReady, r.State)
	assert.False(t, r.Proof.Equal)
	assert.Equal(t, int64(2), r.Proof.Found)
	assert.Equal(t, []string{"tally symbol=S1: n is 27, and by the log 20", "tally symbol=S2 is missing; by the log it is symbol=S2 n=20"}, r.Proof.Differences)
	assert.Equal(t, "7", r.Proof.Tables[0].Largest)
	assert.Equal(t, "symbol=S1 n", r.Proof.Tables[0].LargestAt)
	require.NoError(t, projections.CancelRebuild(t.Context(), b.db, []pipeline.Projection{first}, r.ID))

	r = b.rebuild(first, projections.Order{Promote: projections.PromoteAuto})
	assert.Equal(t, projections.RebuildPromoted, r.State)
	assert.Equal(t, 100, count(t, b.db, total))
}

// A raised version starts a rebuild, and what served continues.
func TestARaisedVersionStartsARebuild(t *testing.T) {
	t.Parallel()
	b := newFed(t, 60)
	renew := func(p tally, promote projections.Promotion) []projections.Rebuild {
		_, err := projections.Open(t.Context(), b.db, p)
		require.NoError(t, err)
		require.NoError(t, projections.Renew(t.Context(), b.db, p, promote, quiet))
		all, err := projections.Rebuilds(t.Context(), b.db, 10)
		require.NoError(t, err)
		return all
	}
	assert.Empty(t, renew(first, projections.PromoteAuto), "the same fold")
	b.ledger.append(t, 10) // which no one applies to the old tables
	ordered := renew(second, projections.PromoteManual)
	require.Len(t, ordered, 1)
	assert.True(t, ordered[0].SkipPoison)
	assert.Len(t, renew(second, projections.PromoteManual), 1, "it is under way")
	assert.Len(t, renew(first, projections.PromoteManual), 1, "what serves is its own")

	stale, err := projections.StaleGenerations(t.Context(), b.db, []pipeline.Projection{second})
	require.NoError(t, err)
	assert.Empty(t, stale, "as far as the outbox tells, nothing is missing")

	worked, err := b.rebuilder(first).Work(t.Context(), ordered[0].ID)
	require.NoError(t, err)
	assert.False(t, worked, "it is another fold's")
	worked, err = b.rebuilder(second).Work(t.Context(), ordered[0].ID)
	require.NoError(t, err)
	require.True(t, worked)
	r := b.get(ordered[0].ID)
	assert.Equal(t, projections.RebuildReady, r.State)
	assert.Equal(t, 1, b.serving())
	assert.Equal(t, 60, count(t, b.db, total))
	assert.False(t, r.Proof.Equal)
	assert.Contains(t, r.Proof.Differences[0], "tally_extra: there is no such table")
	assert.Equal(t, r.Proof.Tables[0].Hash, r.Proof.Tables[0].FreshHash, "at the positions of the old one")

	all := []pipeline.Projection{second}
	require.NoError(t, projections.PromoteRebuild(t.Context(), b.db, all, r.ID, false))
	assert.Equal(t, 70, count(t, b.db, total))
	assert.Equal(t, 3, count(t, b.db, tables))
	err = projections.RollBackRebuild(t.Context(), b.db, all, r.ID, false)
	require.ErrorIs(t, err, projections.ErrBehind)
	require.ErrorContains(t, err, "generation 1 of tally lacks 10 records")
	require.NoError(t, projections.RollBackRebuild(t.Context(), b.db, all, r.ID, true))
	assert.Equal(t, 60, count(t, b.db, total), "as it stood")
	assert.Len(t, renew(second, projections.PromoteAuto), 1, "the operator who rolled back decides")
	require.NoError(t, projections.PromoteRebuild(t.Context(), b.db, all, r.ID, false))
	assert.Equal(t, 70, count(t, b.db, total))
	assert.Len(t, renew(first, projections.PromoteAuto), 1, "an old binary changes nothing")

	// The next version gives up what the last one has not come to.
	third := tally{version: 2, configuration: "more"}
	assert.Len(t, renew(third, projections.PromoteAuto), 2)
	again := renew(tally{version: 3}, projections.PromoteAuto)
	require.Len(t, again, 3)
	assert.Equal(t, projections.RebuildCancelled, again[1].State)
}

// Settings that come back are built again, although what they replaced is there:
// no one may have fed it.
func TestSettingsComeBack(t *testing.T) {
	t.Parallel()
	b := newFed(t, 30)
	for i, fold := range []tally{{version: 1, configuration: "other"}, first, {version: 1, configuration: "other"}} {
		b.ledger.append(t, 5)
		require.NoError(t, projections.Renew(t.Context(), b.db, fold, projections.PromoteAuto, quiet))
		all, err := projections.Rebuilds(t.Context(), b.db, 10)
		require.NoError(t, err)
		require.Len(t, all, i+1)
		_, err = b.rebuilder(fold).Work(t.Context(), all[0].ID)
		require.NoError(t, err)
		assert.Equal(t, projections.RebuildPromoted, b.get(all[0].ID).State)
		assert.Equal(t, 30+5*(i+1), count(t, b.db, total))
	}
}

func TestOutcomesOfRebuilds(t *testing.T) {
	t.Parallel()
	t.Run("an empty topic", func(t *testing.T) {
		t.Parallel()
		b := newFed(t, 0)
		r := b.rebuild(first, projections.Order{Promote: projections.PromoteIfEqual})
		assert.Equal(t, projections.RebuildPromoted, r.State)
		b.ledger.append(t, 5)
		b.work(first)
		assert.Equal(t, 5, count(t, b.db, total))
	})
	t.Run("tables that no one ever fed", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, 20)
		_, err := projections.Open(t.Context(), b.db, first)
		require.NoError(t, err)
		r := b.rebuild(first, projections.Order{Promote: projections.PromoteIfEqual})
		assert.Equal(t, projections.RebuildPromoted, r.State)
		assert.Equal(t, 20, count(t, b.db, total))
	})
	t.Run("two at once", func(t *testing.T) {
		t.Parallel()
		b := newFed(t, 5)
		errs := make([]error, 2)
		var both sync.WaitGroup
		for i := range errs {
			both.Go(func() { _, errs[i] = projections.NewRebuild(context.Background(), b.db, first, manual) })
		}
		both.Wait()
		assert.Equal(t, 1, count(t, b.db, `SELECT COUNT(*) FROM rebuilds`))
		require.ErrorIs(t, errors.Join(errs...), projections.ErrRebuilding)
		assert.Contains(t, errs, error(nil))
	})
	t.Run("the head of the log is gone", func(t *testing.T) {
		t.Parallel()
		b := newFed(t, 100)
		for i := range int32(ledgerPartitions) {
			b.ledger.oldest[pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: i}] = 10
		}
		r := b.rebuild(first, projections.Order{Promote: projections.PromoteAuto})
		assert.Equal(t, projections.RebuildReady, r.State, "what would be lost is for a person to decide")
		assert.Len(t, r.Proof.Limits, ledgerPartitions)
		assert.Contains(t, r.Proof.Limits[0], "price-events/0 begins at offset 10")
		assert.Equal(t, 1, b.serving())
		require.NoError(t, projections.PromoteRebuild(t.Context(), b.db, []pipeline.Projection{first}, r.ID, false))
		assert.Equal(t, 70, count(t, b.db, total))
	})
	t.Run("a record that cannot be applied", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, 100)
		_, err := projections.Open(t.Context(), b.db, first)
		require.NoError(t, err)
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 1}
		b.ledger.log[tp][7].Value = []byte("no price")
		b.work(first)
		r := b.rebuild(first, manual)
		assert.Equal(t, projections.RebuildFailed, r.State)
		assert.Contains(t, r.Error, "a record that cannot be applied at offset 7 of price-events/1")
		assert.Equal(t, 1, count(t, b.db, tables), "its tables are gone")
		assert.Equal(t, 99, count(t, b.db, total))
		r = b.rebuild(first, projections.Order{Promote: projections.PromoteIfEqual, SkipPoison: true})
		assert.Equal(t, projections.RebuildPromoted, r.State)
		assert.Equal(t, 1, count(t, b.db, `SELECT COUNT(*) FROM dead_letters WHERE stage = 'tally.g3'`), "a number is not given twice")
	})
	t.Run("no room is left", func(t *testing.T) {
		t.Parallel()
		b := newFed(t, 100)
		ordered, err := projections.NewRebuild(t.Context(), b.db, wide{first}, manual)
		require.NoError(t, err)
		b.exec(`PRAGMA max_page_count = 1`) // as many as there are, and no more
		_, err = b.rebuilder(wide{first}).Work(t.Context(), ordered.ID)
		require.NoError(t, err)
		r := b.get(ordered.ID)
		assert.Equal(t, projections.RebuildFailed, r.State)
		assert.Contains(t, r.Error, "full")
		assert.Equal(t, 1, count(t, b.db, tables), "it gives its room back")
		b.ledger.append(t, 50)
		b.work(first)
		assert.Equal(t, 150, count(t, b.db, total), "what serves continues")
	})
	t.Run("it is cancelled while it is filled", func(t *testing.T) {
		t.Parallel()
		b := newFed(t, 400)
		ordered, err := projections.NewRebuild(t.Context(), b.db, first, manual)
		require.NoError(t, err)
		cancel := sync.OnceFunc(func() {
			assert.NoError(t, projections.CancelRebuild(t.Context(), b.db, []pipeline.Projection{first}, ordered.ID))
		})
		b.ledger.reading = cancel
		_, err = b.rebuilder(first).Work(t.Context(), ordered.ID)
		require.NoError(t, err)
		assert.Equal(t, projections.RebuildCancelled, b.get(ordered.ID).State)
		assert.Equal(t, 1, count(t, b.db, tables))
		assert.Zero(t, count(t, b.db, `SELECT COUNT(*) FROM positions WHERE stage LIKE '%g2'`))
	})
	t.Run("its tables were read when it ended", func(t *testing.T) {
		t.Parallel()
		b := newFed(t, 10)
		r := b.rebuild(first, manual)
		b.exec(`UPDATE rebuilds SET state = 'cancelled' WHERE id = $1`, r.ID) // and no more
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.rebuilder(first).Run(ctx) })
		assert.Eventually(t, func() bool {
			var left int
			return b.db.Get(t.Context(), &left, tables) == nil && left == 1
		}, 20*time.Second, 5*time.Millisecond)
		stop()
		running.Wait()
	})
	t.Run("its process stops and another one continues", func(t *testing.T) {
		t.Parallel()
		b := newFed(t, 900)
		ordered, err := projections.NewRebuild(t.Context(), b.db, first, projections.Order{Promote: projections.PromoteIfEqual})
		require.NoError(t, err)
		random := rand.New(rand.NewPCG(1, 2))
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			var left atomic.Int64 // partitions are read side by side
			left.Store(random.Int64N(4))
			b.ledger.reading = func() {
				if left.Add(-1) < 0 {
					cancel()
				}
			}
			_, err := b.rebuilder(first).Work(ctx, ordered.ID)
			cancel()
			require.NoError(t, err)
			assert.Equal(t, 900, count(t, b.db, total))
		}
		b.ledger.reading = nil
		_, err = b.rebuilder(first).Work(t.Context(), ordered.ID)
		require.NoError(t, err)
		r := b.get(ordered.ID)
		assert.Equal(t, projections.RebuildPromoted, r.State, r.Error)
		assert.True(t, r.Proof.Equal)
	})
}

// A process that still feeds what was dropped brings nothing of it back.
func TestADroppedGenerationStaysAway(t *testing.T) {
	t.Parallel()
	b := newFed(t, 20)
	r := b.rebuild(first, projections.Order{Promote: projections.PromoteAuto})
	require.Equal(t, projections.RebuildPromoted, r.State)
	stages, err := projections.RunnableStages(t.Context(), b.db, []pipeline.Projection{first})
	require.NoError(t, err)
	require.Len(t, stages, 2)
	require.NoError(t, projections.DropGeneration(t.Context(), b.db, first, 1))
	b.ledger.append(t, 5)
	require.ErrorIs(t, b.feed(stages[0]), projections.ErrReplaced)
	require.NoError(t, b.feed(stages[1]))
	assert.Equal(t, 25, count(t, b.db, total))
	assert.Zero(t, count(t, b.db, `SELECT COUNT(*) FROM positions WHERE stage <> 'tally.g2'`))
	assert.Equal(t, 1, count(t, b.db, tables))
}

// wide is tally with so much in a row that a page holds a few.
type wide struct{ tally }

func (w wide) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	for i := range in {
		rows := store.Rows{Table: g.Table("tally"), Columns: []string{"symbol", "n"}}
		rows.Add(fmt.Sprintf("%01000d/%d", in[i].Partition, in[i].Offset), 1)
		if err := tx.Insert(ctx, rows); err != nil {
			return err
		}
	}
	return nil
}

// One process works on a rebuild; what one that was killed has begun, another one
// continues with, as soon as the time of the first is up. Time is virtual.
func TestOneProcessWorksOnARebuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFed(t, 100)
		ordered, err := projections.NewRebuild(t.Context(), b.db, first, projections.Order{Promote: projections.PromoteAuto})
		require.NoError(t, err)
		held, err := b.db.AcquireLease(t.Context(), "rebuild/"+ordered.ID, "killed", 10*time.Second)
		require.NoError(t, err)
		require.True(t, held)
		assert.True(t, b.get(ordered.ID).Working)
		worked, err := b.rebuilder(first).Work(t.Context(), ordered.ID)
		require.NoError(t, err)
		assert.False(t, worked)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.rebuilder(first).Run(ctx) })
		time.Sleep(9 * time.Second)
		assert.Equal(t, projections.RebuildRunning, b.get(ordered.ID).State)
		time.Sleep(2 * time.Second)
		assert.Equal(t, projections.RebuildPromoted, b.get(ordered.ID).State)
		stop()
		running.Wait()
	})
}
