package engine

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// resolutions works out what an action would do everywhere, as the command does in a
// process of its own.
func (r *Rig) resolutions(action halt.Action) ([]operator.Resolution, error) {
	r.T.Helper()
	topics, err := topics.Lookup(r.T.Context(), r.DB, r.Broker, RigTopics, ByLastDigit)
	require.NoError(r.T, err)
	return operator.PlanResolutions(r.T.Context(), r.DB, r.Broker, topics, action, func(store.Position) bool { return true })
}

// Resolve is resolutions, applied.
func (r *Rig) Resolve(action halt.Action) []operator.Resolution {
	r.T.Helper()
	resolutions, err := r.resolutions(action)
	require.NoError(r.T, err)
	require.NoError(r.T, operator.ApplyResolutions(r.T.Context(), r.DB, resolutions))
	return resolutions
}

// Consume delivers all that the log still holds after the positions, in a new
// session.
func (r *Rig) Consume() {
	r.T.Helper()
	starts := r.assign()
	for tp, next := range starts {
		require.NoError(r.T, r.Deliver(r.T.Context(), r.Broker.Log[tp][next:]...))
	}
}

// Emit publishes prices through the outbox, and relay brings them into the log.
func (r *Rig) Emit(partition int32, n int) {
	r.T.Helper()
	r.emitAs(r.topics(), partition, n)
}

// emitAs is emit in a process that knows the topics as they were.
func (r *Rig) emitAs(topics *topics.Set, partition int32, n int) {
	r.T.Helper()
	emit := &emitter{Store: r.DB, outbox: outbox.NewWriter(topics)}
	_, err := emit.Emit(r.T.Context(), func(*pipeline.Tx) ([]schema.Event, error) {
		var events []schema.Event
		for i := range n {
			events = append(events, schema.Event{ID: uuid.NewString(), Source: "test", Payload: PriceNo(fmt.Sprintf("S%d", partition), i)})
		}
		return events, nil
	})
	require.NoError(r.T, err)
}

func (r *Rig) Relay() {
	r.T.Helper()
	relay := outbox.NewRelay(r.DB, r.Broker, r.topics(), "test", slog.New(slog.DiscardHandler))
	require.NoError(r.T, relay.Drain(r.T.Context()))
	require.NoError(r.T, relay.Trouble())
}

// lostOne is the one resolution there must be.
func lostOne(t *testing.T, resolutions []operator.Resolution) operator.Resolution {
	t.Helper()
	require.Len(t, resolutions, 1)
	return resolutions[0]
}

func at(partition int32) pipeline.TopicPartition {
	return pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: partition}
}

func TestSkipRecordsThatWereDeleted(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(0, 3)
	r.Emit(1, 10)
	r.Relay()
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:4]...))
	r.Broker.Oldest[at(1)] = 7
	assert.NotContains(t, r.assign(), at(1))
	assert.Contains(t, r.position(1).Halted, "3 records are gone; to continue: pricemill stages skip test price-events 1")
	_, err := r.resolutions(halt.Resume)
	require.ErrorIs(t, err, operator.ErrNotResolved)
	resolution := lostOne(t, r.Resolve(halt.Skip))
	assert.Equal(t, int64(3), resolution.Lost)
	assert.Contains(t, resolution.Loses, "offsets 4 to 6")
	r.Consume()
	assert.Len(t, r.effects(), 3+10-3)
	assert.Equal(t, int64(10), r.position(1).Reached.Seq, "the chain continues after what is lost")
}

func TestResumeWithMorePartitions(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	for p := range int32(Partitions) {
		r.Emit(p, 3)
	}
	r.Relay()
	r.Consume()
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: TestTopicID, Partitions: 9}
	assert.Empty(t, r.assign())
	assert.Contains(t, r.position(2).Halted, "has 9 partitions, and had 4; to continue: pricemill stages resume test price-events 2")
	_, err := r.resolutions(halt.Skip)
	require.ErrorIs(t, err, operator.ErrNotResolved)
	for _, l := range r.Resolve(halt.Resume) {
		assert.Zero(t, l.Lost)
		assert.Contains(t, l.Loses, "nothing: keys stay on the 4 partitions they were on")
	}
	for p := range int32(Partitions) {
		r.Emit(p, 2)
	}
	for p := range int32(9) {
		partition, err := r.topics().PartitionOf(schema.PriceEvents, []byte(fmt.Sprint("S", p)))
		require.NoError(t, err)
		assert.Equal(t, p%Partitions, partition, "keys stay where they were")
	}
	r.Relay()
	r.Consume()
	assert.Len(t, r.effects(), Partitions*(3+2))
	assert.Empty(t, r.letters())
}

func TestSkipATopicThatWasCreatedAgain(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 6)
	r.Relay()
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:4]...))
	before := r.effects()
	r.Emit(1, 2) // waits in the outbox
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: "topic-9", Partitions: Partitions}
	r.Broker.Log = map[pipeline.TopicPartition][]pipeline.Record{}
	assert.NotContains(t, r.assign(), at(1))
	assert.Contains(t, r.position(1).Halted, "its id is topic-9, and was topic-1; to continue: pricemill stages skip test price-events 1")
	resolutions := r.Resolve(halt.Skip)
	require.Len(t, resolutions, Partitions)
	assert.Equal(t, int64(2), resolutions[1].Lost)
	assert.Contains(t, resolutions[1].Loses, "2 records that pricemill had sent to the topic that is gone")
	assert.Contains(t, resolutions[1].Loses, "from offset 4 on")
	assert.Equal(t, chain.Link{}, r.position(1).Reached, "the new log begins with the first number of a chain")
	r.Relay() // what waited is not lost
	r.Emit(1, 3)
	r.Relay()
	r.Consume()
	after := r.effects()
	require.Len(t, after, 4+2+3)
	assert.Greater(t, after[4], before[3], "rows of the new topic come after those of the former one")
	assert.Empty(t, r.letters())
}

func TestSkipALogThatLostItsEnd(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 10)
	r.Relay()
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:8]...))
	r.Broker.Log[at(1)] = r.Broker.Log[at(1)][:5]
	r.Emit(1, 1)

	r.topics() // the next start notices, before the relay fills the difference
	assert.Contains(t, r.position(1).Halted, "the log ended at offset 5, and the stage has applied up to 8: the log lost its end")
	resolution := lostOne(t, r.Resolve(halt.Skip))
	assert.Equal(t, int64(2), resolution.Lost)
	assert.Contains(t, resolution.Loses, "2 records that pricemill had sent and that this stage had not applied")
	r.Relay()
	r.Emit(1, 3)
	r.Relay()
	r.Consume()
	assert.Len(t, r.effects(), 8+1+3, "offsets that are given out again make other rows")
	assert.Empty(t, r.letters())
	r.Relay()
	ids := map[string]bool{}
	for _, record := range r.Outcomes(1) {
		ids[schema.EventID(record.Headers)] = true
	}
	assert.Len(t, ids, 8+1+3, "and other events")
}

// ignorer consumes records and does nothing.
type ignorer struct{}

func (ignorer) Handle(context.Context, *pipeline.Tx, []pipeline.Record) ([]schema.Event, error) {
	return nil, nil
}

// A stage that had not come to the lost end must not skip it in silence.
func TestAnEndThatIsLostIsMissedByThoseBehind(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 10)
	r.Relay()
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:8]...))
	r.Broker.Log[at(1)] = r.Broker.Log[at(1)][:5]
	r.topics()
	r.Resolve(halt.Skip)
	r.Emit(1, 3)
	r.Relay()

	behind := newStage(StageSpec{Name: "behind", Consumes: r.Stage.spec.Consumes, Produces: r.Stage.spec.Produces, Handler: ignorer{}},
		r.DB, r.topics(), slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})
	r.Stage = behind
	r.Consume()
	positions, err := store.Positions(t.Context(), r.DB, "behind")
	require.NoError(t, err)
	assert.Equal(t, int64(5), positions[1].Next)
	assert.Contains(t, positions[1].Halted, "the log lost 5 records before offset 5")
	assert.Equal(t, int64(5), lostOne(t, r.Resolve(halt.Skip)).Lost)
	r.Consume()
	positions, err = store.Positions(t.Context(), r.DB, "behind")
	require.NoError(t, err)
	assert.Equal(t, int64(8), positions[1].Next)
}

func TestSkipAGap(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	for _, seq := range []int64{1, 2, 5, 6} {
		r.Append(0, seq, nil)
	}
	r.Consume()
	assert.Len(t, r.effects(), 2)
	_, err := r.resolutions(halt.Resume)
	require.ErrorIs(t, err, operator.ErrNotResolved)
	resolution := lostOne(t, r.Resolve(halt.Skip))
	assert.Equal(t, int64(2), resolution.Lost)
	assert.Equal(t, "2 records that are missing from the log before offset 2", resolution.Loses)
	r.Consume()
	assert.Len(t, r.effects(), 4)
	assert.Equal(t, int64(6), r.position(0).Reached.Seq)
}

// A database that is restored from a copy meets the records that its later state
// wrote. What stages derived comes again; the rest is applied; numbers that it
// gives are not taken for repeats.
func TestSkipWhatALaterStateWrote(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 4)
	r.Relay()
	r.Consume()
	copied := filepath.Join(t.TempDir(), "copy")
	r.CopyTo(copied)

	r.Emit(1, 3) // numbers 5 to 7: not derived
	r.Relay()
	known, err := store.Chains(t.Context(), r.DB)
	require.NoError(t, err)
	derived := func(seq int64) func(*pipeline.Record) {
		return func(record *pipeline.Record) {
			record.Headers = append(record.Headers[:len(record.Headers)-2], chain.Link{Timeline: known[1].Timeline, Seq: seq}.Headers()...)
			record.Headers = append(record.Headers, schema.Header{Key: chain.HeaderDerived, Value: []byte("true")})
		}
	}
	for seq := int64(8); seq <= 9; seq++ {
		r.Append(1, seq, derived(seq))
	}
	r.Append(1, 7, derived(7)) // a late repeat

	restored := r.Restore(copied)
	restored.Consume()
	p := restored.position(1)
	assert.Equal(t, int64(4), p.Next)
	assert.Contains(t, p.Halted, "was it restored from a copy?; to continue: pricemill stages skip test price-events 1")
	_, err = restored.resolutions(halt.Skip)
	require.ErrorIs(t, err, operator.ErrUnsettled, "before a relay has looked")
	restored.Relay()
	assert.Contains(t, lostOne(t, restored.Resolve(halt.Skip)).Loses, "the events that stages derived are skipped")
	restored.Emit(1, 2)
	restored.Relay()
	restored.Consume()
	assert.Empty(t, restored.position(1).Halted)
	assert.Len(t, restored.effects(), 4+3+2)
	assert.Equal(t, int64(2), restored.position(1).Reached.Seq, "the chain continues under another name")

	again := r.Restore(copied)
	again.Consume()
	_, err = again.resolutions(halt.Resume)
	require.ErrorIs(t, err, operator.ErrUnsettled, "before a relay has looked")
	again.Relay()
	assert.Contains(t, lostOne(t, again.Resolve(halt.Resume)).Loses, "is applied as it is")
	again.Consume()
	assert.Len(t, again.effects(), 4+3+2, "resume applies what the later state wrote, derived or not")
	lostOne(t, again.Resolve(halt.Resume)) // what the other copy wrote is strange too
	again.Consume()
	assert.Len(t, again.effects(), 4+3+2+2)
}

// A database that is restored from a copy gives the same events the same numbers
// again, some or all, before a relay comes to look: its lease was that of a process
// that was killed. They are in the log, so none of them is sent again, and a fold
// that halted at the first of them must not skip them.
func TestSkipWhatHasTheSameNumberAgain(t *testing.T) {
	t.Parallel()
	for _, again := range []int{1, 2, 3} {
		r := NewRig(t, &Recorder{})
		derive := func(r *Rig, from, n int) {
			emit := &emitter{Store: r.DB, outbox: outbox.NewWriter(r.topics())}
			require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
				var events []schema.Event
				for i := range n {
					events = append(events, schema.Event{ID: fmt.Sprint("derived ", from+i), Source: "test", Payload: PriceNo("S1", from+i)})
				}
				rows, err := emit.outbox.Rows(events, true)
				require.NoError(t, err)
				return emit.outbox.Insert(t.Context(), tx, rows)
			}))
		}
		derive(r, 0, 4)
		r.Relay()
		r.Consume()
		copied := filepath.Join(t.TempDir(), "copy")
		r.CopyTo(copied)
		derive(r, 4, 3)
		r.Relay()
		r.Consume()
		require.Len(t, r.effects(), 7)

		restored := r.Restore(copied)
		restored.Consume()
		assert.Contains(t, restored.position(1).Halted, "was it restored from a copy?")
		_, err := restored.resolutions(halt.Skip)
		require.ErrorIs(t, err, operator.ErrUnsettled)
		derive(restored, 4, again)
		restored.Resolve(halt.Skip) // it has these numbers itself by now
		restored.Consume()
		restored.Relay()
		derive(restored, 4+again, 3-again)
		restored.Relay()
		for restored.Consume(); restored.position(1).Halted != ""; restored.Consume() {
			restored.Resolve(halt.Skip)
		}
		assert.Len(t, restored.effects(), 7, "%d again", again)
		derive(restored, 7, 2)
		restored.Relay()
		restored.Consume()
		assert.Len(t, restored.effects(), 9, "%d again", again)
		assert.Empty(t, restored.letters())
	}
}

// CopyTo copies the database as it is.
func (r *Rig) CopyTo(path string) {
	r.T.Helper()
	db, err := sql.Open("sqlite", r.path)
	require.NoError(r.T, err)
	_, err = db.Exec(`VACUUM INTO ?`, path)
	require.NoError(r.T, err)
	require.NoError(r.T, db.Close())
}

// Restore is the rig as it continues with a copy of its database.
func (r *Rig) Restore(path string) *Rig {
	r.T.Helper()
	restored := &Rig{T: r.T, path: filepath.Join(r.T.TempDir(), "db"), Broker: r.Broker}
	if content, err := os.ReadFile(path); err == nil {
		require.NoError(r.T, os.WriteFile(restored.path, content, 0o600))
	}
	engine, err := sqlite.Open(restored.path)
	require.NoError(r.T, err)
	db, err := store.Open(r.T.Context(), engine)
	require.NoError(r.T, err)
	r.T.Cleanup(func() { assert.NoError(r.T, db.Close()) })
	restored.DB = db
	restored.Stage = newStage(r.Stage.spec, db, restored.topics(), slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})
	return restored
}

// A database that knows nothing of a log must not take it for its own, and give
// everything that follows from it a second time.
func TestAnEmptyDatabaseHaltsAtTheLogOfAnother(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 4)
	r.Relay()
	other := r.Restore("") // there is no copy
	require.NoError(t, other.DB.Write(t.Context(), func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE effects (id {int} PRIMARY KEY, symbol {text} NOT NULL, price {decimal} NOT NULL)`)
	}))
	other.Consume()
	assert.Contains(t, other.position(1).Halted, "was written by another database")
	other.Resolve(halt.Skip)
	other.Consume()
	assert.Len(t, other.effects(), 4, "what no stage derived is applied")
}

// setBack sets the database back to a copy, while processes work with it.
func (r *Rig) setBack(copied string) {
	r.T.Helper()
	db, err := sql.Open("sqlite", r.path)
	require.NoError(r.T, err)
	db.SetMaxOpenConns(1) // what is attached is attached to a connection
	exec := func(query string, args ...any) {
		r.T.Helper()
		_, err := db.Exec(query, args...)
		require.NoError(r.T, err, query)
	}
	exec(`ATTACH ? AS copy`, copied)
	rows, err := db.Query(`SELECT name FROM copy.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
	require.NoError(r.T, err)
	var tables []string
	for rows.Next() {
		var table string
		require.NoError(r.T, rows.Scan(&table))
		tables = append(tables, table)
	}
	require.NoError(r.T, rows.Err())
	require.NoError(r.T, rows.Close())
	exec(`BEGIN`)
	for _, table := range tables {
		exec(`DELETE FROM main.` + table)
		exec(`INSERT INTO main.` + table + ` SELECT * FROM copy.` + table)
	}
	exec(`COMMIT`)
	require.NoError(r.T, db.Close())
}

// A relay whose database goes back while it works sends no number again, and stages
// meet what the later state wrote.
func TestStagesAfterADatabaseWentBackUnderARelay(t *testing.T) {
	t.Parallel()
	for _, since := range []int{1, 2, 6} {
		r := NewRig(t, &Recorder{})
		relay, round := r.runningRelay()
		r.Emit(1, 4)
		round()
		copied := filepath.Join(t.TempDir(), "copy")
		r.CopyTo(copied)
		r.Emit(1, 4)
		round()

		r.setBack(copied)
		r.Emit(1, since)
		round()
		require.ErrorContains(t, relay.Trouble(), "was set back")
		round()
		require.NoError(t, relay.Trouble())
		r.Consume()
		assert.Contains(t, r.position(1).Halted, "was it restored from a copy?")
		lostOne(t, r.Resolve(halt.Skip))
		r.Consume()
		assert.Len(t, r.effects(), 4+4+since, "%d since", since)
		assert.Empty(t, r.letters())
	}
}

func TestAResolutionIsForWhatTheOperatorSaw(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	for _, seq := range []int64{1, 5} {
		r.Append(0, seq, nil)
	}
	r.Consume()
	resolutions, err := r.resolutions(halt.Skip)
	require.NoError(t, err)
	require.NoError(t, operator.ApplyResolutions(t.Context(), r.DB, resolutions))
	require.ErrorIs(t, operator.ApplyResolutions(t.Context(), r.DB, resolutions), store.ErrMoved)
}

func TestResetGoesForwardOnly(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(0, 2)
	r.Emit(1, 10)
	r.Relay()
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:4]...))
	on1 := func(p store.Position) bool { return p.Part == 1 }
	_, err := operator.Resets(t.Context(), r.DB, r.Broker, r.topics(), on1, operator.ToOffset(3))
	require.ErrorIs(t, err, operator.ErrReset)
	_, err = operator.Resets(t.Context(), r.DB, r.Broker, r.topics(), on1, operator.ToOffset(11))
	require.ErrorIs(t, err, operator.ErrReset)

	resets, err := operator.Resets(t.Context(), r.DB, r.Broker, r.topics(), on1, operator.ToOffset(6))
	require.NoError(t, err)
	require.Len(t, resets, 1)
	assert.Equal(t, int64(2), resets[0].Lost)
	require.NoError(t, operator.Reset(t.Context(), r.DB, resets, nil))
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[4:]...), "the holder of the partition continues from there")
	r.Consume()
	assert.Len(t, r.effects(), 2+10-2)

	resets, err = operator.Resets(t.Context(), r.DB, r.Broker, r.topics(), on1, operator.ToEnd)
	require.NoError(t, err)
	assert.Zero(t, resets[0].Lost)
}

// A fold that starts over reads the log again, into tables that were emptied in
// the same transaction, and meets again what it could not read.
func TestResetToTheStart(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Append(0, 0, func(record *pipeline.Record) { record.Value = nil })
	r.Emit(1, 10)
	r.Relay()
	r.Consume()
	before := r.effects()
	require.Len(t, r.letters(), 1)
	resets, err := operator.Resets(t.Context(), r.DB, r.Broker, r.topics(), func(store.Position) bool { return true }, operator.ToStart)
	require.NoError(t, err)
	require.NoError(t, operator.Reset(t.Context(), r.DB, resets, func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `DELETE FROM effects`)
		return err
	}))
	assert.Empty(t, r.effects())
	assert.Empty(t, r.letters(), "that record is taken again, too")
	r.Consume()
	assert.Equal(t, before, r.effects())
	assert.Len(t, r.letters(), 1)
}

// unsend makes the outbox one whose relay never got the answer for what it sent after a
// number: it will send that again.
func (r *Rig) unsend(partition int32, last int64) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(r.T.Context(), `UPDATE chains SET sent = $1 WHERE epoch = $2 AND part = $3`,
			last, r.Epoch(schema.PriceEvents), partition); err != nil {
			return err
		}
		var rows []store.OutboxRow
		for i, record := range r.LogOf(partition)[last:] {
			rows = append(rows, store.OutboxRow{Epoch: r.Epoch(schema.PriceEvents), Part: partition, Seq: last + 1 + int64(i),
				Key: record.Key, Headers: store.EncodeHeaders(record.Headers[:len(record.Headers)-2]), Payload: record.Value})
		}
		return tx.Append(r.T.Context(), rows)
	}))
}

// What a stage has applied was in the log, although the relay could not note it:
// it is not sent again when the log has lost it.
func TestWhatWasAppliedOfALostEndIsNotSentAgain(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 8)
	r.Relay()
	r.Consume()
	r.unsend(1, 6)
	r.Broker.Log[at(1)] = r.Broker.Log[at(1)][:5]
	r.topics()
	assert.Zero(t, lostOne(t, r.Resolve(halt.Skip)).Lost)
	r.Relay()
	r.Emit(1, 2)
	r.Relay()
	r.Consume()
	assert.Len(t, r.effects(), 8+2)
	assert.Empty(t, r.letters())
}

// A log that lost its end grows again while no one acts: what is at offsets that
// were given out before is applied all the same.
func TestALostEndIsRefilledBeforeAnybodyActs(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 8)
	r.Relay()
	r.Consume()
	r.Broker.Log[at(1)] = r.Broker.Log[at(1)][:5]
	r.topics()
	for range 6 { // of a stream: without links
		r.Append(1, 0, nil)
	}
	assert.NotContains(t, r.assign(), at(1), "it stays halted although the log is long enough")
	resolution := lostOne(t, r.Resolve(halt.Skip))
	assert.Zero(t, resolution.Lost)
	assert.Contains(t, resolution.Halted, "the log ended at offset 5")
	r.Consume()
	assert.Len(t, r.effects(), 8+6)
	assert.Empty(t, r.letters())
}

// A batch that a relay had in flight when the chain got another name may arrive
// late: its events are there under the new name.
func TestALateBatchUnderAFormerName(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 6)
	r.Relay()
	late := r.LogOf(1)[3:6]
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE instance SET server = 'another'`) // a failover
		return err
	}))
	r.Emit(1, 2)
	r.Relay()
	for _, record := range late {
		record.Offset = int64(len(r.LogOf(1)))
		r.Broker.Log[at(1)] = append(r.Broker.Log[at(1)], record)
	}
	r.Emit(1, 2)
	r.Relay()
	r.Consume()
	assert.Empty(t, r.position(1).Halted)
	assert.Len(t, r.effects(), 6+2+2)
}
