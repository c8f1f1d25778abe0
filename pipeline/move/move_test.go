package move_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/kafkatest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/move"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

func newStore(t *testing.T) *store.Store {
	t.Helper()
	engine, err := sqlite.Open(filepath.Join(t.TempDir(), "db"), sqlite.Expendable)
	require.NoError(t, err)
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

// TestEveryTableHasATreatment: a migration that makes a table has to say what a move does
// with it.
func TestEveryTableHasATreatment(t *testing.T) {
	t.Parallel()
	view, err := newStore(t).Snapshot(t.Context())
	require.NoError(t, err)
	defer view.Close()
	tables, err := view.Tables(t.Context())
	require.NoError(t, err)
	var listed []string
	for _, treatment := range move.Treatments {
		listed = append(listed, treatment.Table)
	}
	assert.Equal(t, slices.DeleteFunc(tables, func(name string) bool { return name == "goose_db_version" }), listed)
}

// rig is an installation that is to be moved.
type rig struct {
	t      *testing.T
	source *store.Store
	log    *table.Log
	sent   int
}

const partitions = 3

var topics = []schema.Topic{schema.RawQuotes, schema.PriceEvents}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, source: newStore(t)}
	require.NoError(t, r.source.RecordLog(t.Context(), store.TableLog))
	r.log = table.Open(table.Config{Store: r.source, Partitions: partitions})
	t.Cleanup(func() { assert.NoError(t, r.log.Close()) })
	infos, err := r.log.EnsureTopics(t.Context(), topics)
	require.NoError(t, err)
	r.append(20)
	at := schema.NewTime(time.Unix(1, 0))
	require.NoError(t, r.source.Write(t.Context(), func(tx *store.Tx) error {
		var letters []store.DeadLetter
		for i := range 3 {
			letters = append(letters, store.DeadLetter{Stage: "raw-store", Topic: string(schema.RawQuotes), TopicID: infos[schema.RawQuotes].ID, Offset: int64(i),
				Headers: []byte{0, 255}, Payload: []byte{0}, Reason: "no", CreatedAt: at, Epoch: 1})
		}
		if err := tx.AddDeadLetters(t.Context(), letters); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), `DELETE FROM dead_letters WHERE id = 3`) // no other has this id again
		return errors.Join(err,
			tx.CreatePositions(t.Context(), []store.Position{
				{Stage: "raw-store", Topic: string(schema.RawQuotes), TopicID: infos[schema.RawQuotes].ID, Next: 5, MovedAt: at},
				{Stage: "spare.g2", Topic: string(schema.RawQuotes), TopicID: infos[schema.RawQuotes].ID, Next: 5, MovedAt: at}}),
			tx.Insert(t.Context(), store.Rows{Table: "normalized_quotes", Columns: []string{"quote_key", "price", "timestamp"},
				Values: []any{"a", "1.50", at, "b", "2", at}}),
			tx.Insert(t.Context(), store.Rows{Table: "raw_market_data", Columns: []string{"id", "event_id", "symbol", "provider", "raw_response", "raw_bytes", "timestamp", "request_id"},
				Values: []any{int64(1), "e1", "S", "p", "{}", nil, at, "", int64(2), "e2", "S", "p", nil, []byte{0, 255}, at, ""}}))
	}))
	return r
}

// append appends records to all partitions of all topics.
func (r *rig) append(n int) {
	r.t.Helper()
	for range n {
		r.sent++
		for _, topic := range topics {
			for partition := range int32(partitions) {
				require.NoError(r.t, errors.Join(r.log.Send(r.t.Context(), []log.PartitionBatch{{
					TopicPartition: pipeline.TopicPartition{Topic: topic, Partition: partition},
					Records: []log.OutgoingRecord{{Key: []byte("k"), Value: fmt.Appendf(nil, "value %d", r.sent),
						Headers: []schema.Header{{Key: "h", Value: []byte("1")}}, Timestamp: time.UnixMilli(int64(1000 + r.sent))}}}})...))
			}
		}
	}
}

// choice does not take the stage spare.g2 along.
type choice struct{}

func (choice) Stage(name string) bool                   { return name != "spare.g2" }
func (choice) Generation(string, int64) bool            { return false }
func (choice) Spare(string) bool                        { return false }
func (choice) Cancelled(state string) string            { return state }
func (choice) Make(context.Context, *store.Store) error { return nil }
func (choice) Drop(context.Context, *store.Store) error { return nil }

// goal is where an installation is moved to.
type goal struct {
	db      *store.Store
	log     *table.Log
	cluster *kafka.Broker // nil: the log stays a table
}

func newGoal(t *testing.T) goal {
	t.Helper()
	g := goal{db: newStore(t)}
	g.log = table.Open(table.Config{Store: g.db})
	t.Cleanup(func() { assert.NoError(t, g.log.Close()) })
	return g
}

func newKafkaGoal(t *testing.T) goal {
	t.Helper()
	g := newGoal(t)
	broker, err := kafkatest.Start(kafkatest.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	g.cluster, err = kafka.New(t.Context(), kafka.Config{Brokers: []string{broker.Addr()}, Partitions: partitions})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, g.cluster.Close()) })
	return g
}

func (r *rig) config(g goal, at func(step string)) move.Config {
	c := move.Config{Source: r.source, Log: r.log, Target: g.db, TargetLog: store.TableLog, TargetTable: g.log, Choice: choice{}, Step: at}
	if g.cluster != nil {
		c.TargetLog = "cluster"
		c.Cluster = func(context.Context, int32) (move.Cluster, error) { return g.cluster, nil }
	}
	return c
}

// move moves, and calls at before each step.
func (r *rig) move(ctx context.Context, g goal, at func(step string)) (move.Result, error) {
	return move.Run(ctx, r.config(g, at))
}

// equal looks whether the target is what the source is.
func (r *rig) equal(g goal) {
	r.t.Helper()
	ctx := r.t.Context()
	var logger string
	require.NoError(r.t, g.db.Get(ctx, &logger, `SELECT log FROM instance`))
	assert.Equal(r.t, map[bool]string{true: store.TableLog, false: "cluster"}[g.cluster == nil], logger)
	var stages []string
	require.NoError(r.t, g.db.Select(ctx, &stages, `SELECT stage FROM positions`))
	assert.Equal(r.t, []string{"raw-store"}, stages)
	var broker log.Broker = g.log
	if g.cluster != nil {
		broker = g.cluster
	}
	infos, err := broker.Topics(ctx, topics)
	require.NoError(r.t, err)
	for _, topic := range topics {
		assert.Equal(r.t, r.records(r.log, topic), r.records(broker, topic))
		known, err := g.db.Topics(ctx)
		require.NoError(r.t, err)
		at := slices.IndexFunc(known, func(k store.Topic) bool { return k.Name == string(topic) })
		assert.Equal(r.t, infos[topic].ID, known[at].ID)
		former, err := r.log.Topics(ctx, topics)
		require.NoError(r.t, err)
		assert.Equal(r.t, former[topic].ID, known[at].Lineage(), "events keep their ids")
	}
	for _, table := range []string{"dead_letters", "positions"} {
		var id string
		require.NoError(r.t, g.db.Get(ctx, &id, `SELECT DISTINCT topic_id FROM `+table))
		assert.Equal(r.t, infos[schema.RawQuotes].ID, id, table)
	}
	var raw []byte
	require.NoError(r.t, g.db.Get(ctx, &raw, `SELECT raw_bytes FROM raw_market_data WHERE id = 2`))
	assert.Equal(r.t, []byte{0, 255}, raw)
	var id int64
	require.ErrorIs(r.t, g.db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.AddDeadLetters(ctx, []store.DeadLetter{{Stage: "new", Topic: "t", TopicID: "t", Headers: []byte{}, Reason: "no", CreatedAt: schema.NewTime(time.Unix(1, 0))}}); err != nil {
			return err
		}
		return errors.Join(tx.Get(ctx, &id, `SELECT MAX(id) FROM dead_letters`), errUndone)
	}), errUndone)
	assert.EqualValues(r.t, 4, id, "ids are not used again")
}

var errUndone = errors.New("undone")

// records are all that a topic holds, in words.
func (r *rig) records(broker log.Broker, topic schema.Topic) (all []string) {
	r.t.Helper()
	ranges, err := broker.Offsets(r.t.Context(), topic)
	require.NoError(r.t, err)
	for partition, held := range ranges {
		tp := pipeline.TopicPartition{Topic: topic, Partition: int32(partition)}
		require.NoError(r.t, broker.Read(r.t.Context(), tp, 0, held.End, func(records []pipeline.Record) error {
			for _, record := range records {
				all = append(all, fmt.Sprint(record.TopicPartition, record.Offset, record.Timestamp.UnixMilli(), string(record.Key), string(record.Value), record.Headers))
			}
			return nil
		}))
	}
	return all
}

// onBoth runs a test for a log that stays a table, and for one that goes to Kafka.
func onBoth(t *testing.T, f func(t *testing.T, newGoal func(*testing.T) goal)) {
	t.Run("table", func(t *testing.T) { t.Parallel(); f(t, newGoal) })
	t.Run("kafka", func(t *testing.T) { t.Parallel(); f(t, newKafkaGoal) })
}

// TestAMoveThatIsInterrupted before any of its steps continues, and ends equal.
func TestAMoveThatIsInterrupted(t *testing.T) {
	onBoth(t, func(t *testing.T, newGoal func(*testing.T) goal) {
		r := newRig(t)
		var steps []string
		g := newGoal(t)
		result, err := r.move(t.Context(), g, func(step string) { steps = append(steps, step) })
		require.NoError(t, err)
		assert.Equal(t, move.Began, result.Start)
		r.equal(g)
		assert.Greater(t, len(steps), 20)
		result, err = r.move(t.Context(), g, nil)
		require.NoError(t, err)
		assert.Equal(t, move.Finished, result.Start)

		for at := range len(steps) {
			g := newGoal(t)
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			_, err := r.move(ctx, g, func(string) {
				if n++; n == at+1 {
					cancel()
				}
			})
			require.ErrorIs(t, err, context.Canceled, steps[at])
			result, err := r.move(t.Context(), g, nil)
			require.NoError(t, err, steps[at])
			if at > 0 { // before, nothing had begun
				assert.Equal(t, move.Resumed, result.Start, steps[at])
			}
			r.equal(g)
		}
	})
}

// TestASourceThatIsUsed between two attempts has the move start over; one that is used
// meanwhile has it fail.
func TestASourceThatIsUsed(t *testing.T) {
	onBoth(t, func(t *testing.T, newGoal func(*testing.T) goal) {
		r, g := newRig(t), newGoal(t)
		used := false
		_, err := r.move(t.Context(), g, func(step string) {
			if !used && strings.HasPrefix(step, "comparing") {
				used = true
				r.append(1)
			}
		})
		require.ErrorIs(t, err, move.ErrChanged)
		var log string
		require.NoError(t, g.db.Get(t.Context(), &log, `SELECT log FROM instance`))
		assert.Equal(t, store.MoveUnderWay, log)
		result, err := r.move(t.Context(), g, nil)
		require.NoError(t, err)
		assert.Equal(t, move.Restarted, result.Start)
		r.equal(g)

		r.append(1)
		_, err = r.move(t.Context(), g, nil)
		require.ErrorIs(t, err, move.ErrTarget, "a finished move is not undone")
	})
}

// TestATargetThatDiffers is not declared usable.
func TestATargetThatDiffers(t *testing.T) {
	onBoth(t, func(t *testing.T, newGoal func(*testing.T) goal) {
		r := newRig(t)
		for _, damage := range []string{`UPDATE normalized_quotes SET price = '1.5' WHERE quote_key = 'a'`, `DELETE FROM normalized_quotes WHERE quote_key = 'b'`,
			`INSERT INTO normalized_quotes VALUES ('c', '1', '2025-06-15T14:30:00.000000Z')`} {
			g := newGoal(t)
			damaged := false
			_, err := r.move(t.Context(), g, func(step string) {
				if !damaged && step == "copying topics" { // the last table

					damaged = true
					assert.NoError(t, g.db.Write(t.Context(), func(tx *store.Tx) error {
						_, err := tx.Exec(t.Context(), damage)
						return err
					}))
				}
			})
			require.ErrorIs(t, err, move.ErrDiffers, damage)
			assert.ErrorContains(t, err, "table normalized_quotes:")
			var log string
			require.NoError(t, g.db.Get(t.Context(), &log, `SELECT log FROM instance`))
			assert.Equal(t, store.MoveUnderWay, log)
		}
	})
}

// TestADamagedLogIsNotMoved.
func TestADamagedLogIsNotMoved(t *testing.T) {
	onBoth(t, func(t *testing.T, newGoal func(*testing.T) goal) {
		r := newRig(t)
		require.NoError(t, r.source.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE log_segments SET checksum = checksum + 1 WHERE id = (SELECT MAX(id) FROM log_segments)`)
			return err
		}))
		_, err := r.move(t.Context(), newGoal(t), nil)
		require.ErrorIs(t, err, table.ErrDamaged)
		assert.ErrorContains(t, err, "price-events/2")
	})
}

// TestATopicThatHasRecordsTwice, as a batch is sent again whose answer was lost, is copied
// again.
func TestATopicThatHasRecordsTwice(t *testing.T) {
	t.Parallel()
	r, g := newRig(t), newKafkaGoal(t)
	again := func() {
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 1}
		assert.NoError(t, errors.Join(g.cluster.Send(t.Context(), []log.PartitionBatch{{TopicPartition: tp, Records: []log.OutgoingRecord{{Value: []byte("again")}}}})...))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	once := map[string]bool{}
	_, err := r.move(ctx, g, func(step string) {
		if step == "comparing topic price-events" && !once[step] {
			once[step] = true
			again()
		}
		if strings.HasPrefix(step, "starting over") {
			once["deleted"] = true
		}
		if strings.HasPrefix(step, "copying topic") && once["deleted"] {
			again() // and again, before an interruption
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	assert.True(t, once["deleted"])
	_, err = r.move(t.Context(), g, nil)
	require.NoError(t, err)
	r.equal(g)
}

// TestATopicOfAnother is neither used nor deleted.
func TestATopicOfAnother(t *testing.T) {
	t.Parallel()
	r, g := newRig(t), newKafkaGoal(t)
	_, err := g.cluster.EnsureTopics(t.Context(), topics)
	require.NoError(t, err)
	tp := pipeline.TopicPartition{Topic: schema.PriceEvents}
	require.NoError(t, errors.Join(g.cluster.Send(t.Context(), []log.PartitionBatch{{TopicPartition: tp, Records: []log.OutgoingRecord{{Value: []byte("theirs")}}}})...))
	_, err = r.move(t.Context(), g, nil)
	require.ErrorIs(t, err, move.ErrTarget)
	assert.ErrorContains(t, err, "topic price-events of the cluster has records")
	assert.Len(t, r.records(g.cluster, schema.PriceEvents), 1)
}

// TestTargetsThatAreRefused.
func TestTargetsThatAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	used := newGoal(t)
	require.NoError(t, used.db.EnsureTopic(t.Context(), "price-events", 4))
	_, err := r.move(t.Context(), used, nil)
	require.ErrorIs(t, err, move.ErrTarget)
	assert.ErrorContains(t, err, "not empty")

	others := newGoal(t)
	_, err = newRig(t).move(t.Context(), others, nil)
	require.NoError(t, err)
	_, err = r.move(t.Context(), others, nil)
	require.ErrorIs(t, err, move.ErrTarget)
	assert.ErrorContains(t, err, "another installation")
}

// TestAMoveThatLostItsLease writes nothing more.
func TestAMoveThatLostItsLease(t *testing.T) {
	t.Parallel()
	r, g := newRig(t), newGoal(t)
	_, err := r.move(t.Context(), g, func(step string) {
		if step == "copying topics" {
			assert.NoError(t, g.db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE leases SET owner = 'another'`)
				return err
			}))
		}
	})
	require.ErrorIs(t, err, store.ErrFenced)
	var topics int
	require.NoError(t, g.db.Get(t.Context(), &topics, `SELECT COUNT(*) FROM topics`))
	assert.Zero(t, topics)
}

// TestPlan: what would be moved is told without a change, and what would be refused, too.
func TestPlan(t *testing.T) {
	onBoth(t, func(t *testing.T, newGoal func(*testing.T) goal) {
		r, g := newRig(t), newGoal(t)
		plan := func(want move.Start) {
			t.Helper()
			writes := g.db.Writes()
			result, err := move.Plan(t.Context(), r.config(g, nil))
			require.NoError(t, err)
			assert.Equal(t, want, result.Start)
			assert.Contains(t, result.Topics, move.TopicCount{Topic: schema.PriceEvents, Partitions: partitions, Records: partitions * int64(r.sent)})
			assert.Contains(t, result.Tables, move.TableCount{Table: "raw_market_data", Rows: 2})
			assert.Equal(t, writes, g.db.Writes())
		}
		plan(move.Began)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := r.move(ctx, g, func(step string) {
			if step == "comparing topics" {
				cancel()
			}
		})
		require.ErrorIs(t, err, context.Canceled)
		plan(move.Resumed)
		r.append(1)
		plan(move.Restarted)
		_, err = r.move(t.Context(), g, nil)
		require.NoError(t, err)
		plan(move.Finished)
		_, err = move.Plan(t.Context(), newRig(t).config(g, nil))
		require.ErrorIs(t, err, move.ErrTarget)
	})
	g := newKafkaGoal(t)
	_, err := g.cluster.EnsureTopics(t.Context(), topics)
	require.NoError(t, err)
	tp := pipeline.TopicPartition{Topic: schema.PriceEvents}
	require.NoError(t, errors.Join(g.cluster.Send(t.Context(), []log.PartitionBatch{{TopicPartition: tp, Records: []log.OutgoingRecord{{Value: []byte("theirs")}}}})...))
	_, err = move.Plan(t.Context(), newRig(t).config(g, nil))
	require.ErrorIs(t, err, move.ErrTarget)
}
