package pipeline

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

// resolutions works out what an action would do everywhere, as the command does in a
// process of its own.
func (r *rig) resolutions(action Action) ([]Resolution, error) {
	r.t.Helper()
	topology, err := LookupTopology(r.t.Context(), r.db, r.broker, rigTopics, byLastDigit)
	require.NoError(r.t, err)
	return PlanResolutions(r.t.Context(), r.db, r.broker, topology, action, func(store.Position) bool { return true })
}

// resolve is resolutions, applied.
func (r *rig) resolve(action Action) []Resolution {
	r.t.Helper()
	resolutions, err := r.resolutions(action)
	require.NoError(r.t, err)
	require.NoError(r.t, ApplyResolutions(r.t.Context(), r.db, resolutions))
	return resolutions
}

// consume delivers all that the log still holds behind the positions, in a new
// session.
func (r *rig) consume() {
	r.t.Helper()
	starts := r.assign()
	for tp, next := range starts {
		require.NoError(r.t, r.deliver(r.t.Context(), r.broker.log[tp][next:]...))
	}
}

// emit publishes prices through the outbox, and relay brings them into the log.
func (r *rig) emit(partition int32, n int) {
	r.t.Helper()
	r.emitAs(r.topology(), partition, n)
}

// emitAs is emit in a process that knows the topics as they were.
func (r *rig) emitAs(topology *Topology, partition int32, n int) {
	r.t.Helper()
	emit := &emitter{Store: r.db, outbox: outbox{topology}, wake: func() {}}
	_, err := emit.Emit(r.t.Context(), func(*Tx) ([]schema.Event, error) {
		var events []schema.Event
		for i := range n {
			events = append(events, schema.Event{ID: uuid.NewString(), Source: "test", Payload: price(fmt.Sprintf("S%d", partition), i)})
		}
		return events, nil
	})
	require.NoError(r.t, err)
}

func (r *rig) relay() {
	r.t.Helper()
	relay := newRelay(r.db, r.broker, r.topology(), "test", slog.New(slog.DiscardHandler))
	held, err := relay.takeLease(r.t.Context())
	require.NoError(r.t, err)
	require.True(r.t, held)
	for more := true; more; {
		var err error
		more, err = relay.round(r.t.Context())
		require.NoError(r.t, err)
	}
	require.NoError(r.t, relay.note())
	require.NoError(r.t, relay.Trouble())
}

// lostOne is the one resolution there must be.
func lostOne(t *testing.T, resolutions []Resolution) Resolution {
	t.Helper()
	require.Len(t, resolutions, 1)
	return resolutions[0]
}

func at(partition int32) TopicPartition { return TopicPartition{schema.PriceEvents, partition} }

func TestSkipRecordsThatWereDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(0, 3)
	r.emit(1, 10)
	r.relay()
	r.assign()
	require.NoError(t, r.deliver(t.Context(), r.log(1)[:4]...))
	r.broker.oldest[at(1)] = 7
	assert.NotContains(t, r.assign(), at(1))
	assert.Contains(t, r.position(1).Halted, "3 records are gone; to go on: pricemill stages skip test price-events 1")
	_, err := r.resolutions(Resume)
	require.ErrorIs(t, err, ErrNotResolved)
	resolution := lostOne(t, r.resolve(Skip))
	assert.Equal(t, int64(3), resolution.Lost)
	assert.Contains(t, resolution.Loses, "offsets 4 to 6")
	r.consume()
	assert.Len(t, r.effects(), 3+10-3)
	assert.Equal(t, int64(10), r.position(1).Seq, "the chain goes on behind what is lost")
}

func TestResumeWithMorePartitions(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	for p := range int32(partitions) {
		r.emit(p, 3)
	}
	r.relay()
	r.consume()
	r.broker.infos[schema.PriceEvents] = TopicInfo{testTopicID, 9}
	assert.Empty(t, r.assign())
	assert.Contains(t, r.position(2).Halted, "has 9 partitions, and had 4; to go on: pricemill stages resume test price-events 2")
	_, err := r.resolutions(Skip)
	require.ErrorIs(t, err, ErrNotResolved)
	for _, l := range r.resolve(Resume) {
		assert.Zero(t, l.Lost)
		assert.Contains(t, l.Loses, "nothing: keys stay on the 4 partitions they were on")
	}
	for p := range int32(partitions) {
		r.emit(p, 2)
	}
	for p := range int32(9) {
		partition, err := r.topology().PartitionOf(schema.PriceEvents, []byte(fmt.Sprint("S", p)))
		require.NoError(t, err)
		assert.Equal(t, p%partitions, partition, "keys stay where they were")
	}
	r.relay()
	r.consume()
	assert.Len(t, r.effects(), partitions*(3+2))
	assert.Empty(t, r.letters())
}

func TestSkipATopicThatWasCreatedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 6)
	r.relay()
	r.assign()
	require.NoError(t, r.deliver(t.Context(), r.log(1)[:4]...))
	before := r.effects()
	r.emit(1, 2) // waits in the outbox
	r.broker.infos[schema.PriceEvents] = TopicInfo{"topic-9", partitions}
	r.broker.log = map[TopicPartition][]Record{}
	assert.NotContains(t, r.assign(), at(1))
	assert.Contains(t, r.position(1).Halted, "its id is topic-9, and was topic-1; to go on: pricemill stages skip test price-events 1")
	resolutions := r.resolve(Skip)
	require.Len(t, resolutions, partitions)
	assert.Equal(t, int64(2), resolutions[1].Lost)
	assert.Contains(t, resolutions[1].Loses, "2 records that pricemill had sent to the topic that is gone")
	assert.Contains(t, resolutions[1].Loses, "from offset 4 on")
	assert.Equal(t, chain.Link{}, chain.Link{Timeline: r.position(1).Timeline, Seq: r.position(1).Seq}, "the new log begins with the first number of a chain")
	r.relay() // what waited is not lost
	r.emit(1, 3)
	r.relay()
	r.consume()
	after := r.effects()
	require.Len(t, after, 4+2+3)
	assert.Greater(t, after[4], before[3], "rows of the new topic come behind those of the former one")
	assert.Empty(t, r.letters())
}

func TestSkipALogThatLostItsEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 10)
	r.relay()
	r.assign()
	require.NoError(t, r.deliver(t.Context(), r.log(1)[:8]...))
	r.broker.log[at(1)] = r.broker.log[at(1)][:5]
	r.emit(1, 1)

	r.topology() // the next start notices, before the relay fills the difference
	assert.Contains(t, r.position(1).Halted, "the log ended at offset 5, and the stage has applied up to 8: the log lost its end")
	resolution := lostOne(t, r.resolve(Skip))
	assert.Equal(t, int64(2), resolution.Lost)
	assert.Contains(t, resolution.Loses, "2 records that pricemill had sent and that this stage had not applied")
	r.relay()
	r.emit(1, 3)
	r.relay()
	r.consume()
	assert.Len(t, r.effects(), 8+1+3, "offsets that are given out again make other rows")
	assert.Empty(t, r.letters())
	r.relay()
	ids := map[string]bool{}
	for _, record := range r.outcomes(1) {
		ids[schema.EventID(record.Headers)] = true
	}
	assert.Len(t, ids, 8+1+3, "and other events")
}

// ignorer consumes records and does nothing.
type ignorer struct{}

func (ignorer) Handle(context.Context, *Tx, []Record) ([]schema.Event, error) { return nil, nil }

// A stage that had not come to the lost end must not step over it in silence.
func TestAnEndThatIsLostIsMissedByThoseBehind(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 10)
	r.relay()
	r.assign()
	require.NoError(t, r.deliver(t.Context(), r.log(1)[:8]...))
	r.broker.log[at(1)] = r.broker.log[at(1)][:5]
	r.topology()
	r.resolve(Skip)
	r.emit(1, 3)
	r.relay()

	behind := newStage(StageSpec{Name: "behind", Consumes: r.stage.spec.Consumes, Produces: r.stage.spec.Produces, Handler: ignorer{}},
		r.db, r.topology(), slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})
	r.stage = behind
	r.consume()
	positions, err := store.Positions(t.Context(), r.db, "behind")
	require.NoError(t, err)
	assert.Equal(t, int64(5), positions[1].Next)
	assert.Contains(t, positions[1].Halted, "the log lost 5 records before offset 5")
	assert.Equal(t, int64(5), lostOne(t, r.resolve(Skip)).Lost)
	r.consume()
	positions, err = store.Positions(t.Context(), r.db, "behind")
	require.NoError(t, err)
	assert.Equal(t, int64(8), positions[1].Next)
}

func TestSkipAGap(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	for _, seq := range []int64{1, 2, 5, 6} {
		r.append(0, seq, nil)
	}
	r.consume()
	assert.Len(t, r.effects(), 2)
	_, err := r.resolutions(Resume)
	require.ErrorIs(t, err, ErrNotResolved)
	resolution := lostOne(t, r.resolve(Skip))
	assert.Equal(t, int64(2), resolution.Lost)
	assert.Equal(t, "2 records that are missing from the log before offset 2", resolution.Loses)
	r.consume()
	assert.Len(t, r.effects(), 4)
	assert.Equal(t, int64(6), r.position(0).Seq)
}

// A database that is restored from a copy meets the records that its later state
// wrote. What stages derived comes again; the rest is applied; numbers that it
// gives are not taken for repeats.
func TestSkipWhatALaterStateWrote(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 4)
	r.relay()
	r.consume()
	copied := filepath.Join(t.TempDir(), "copy")
	r.copyTo(copied)

	r.emit(1, 3) // numbers 5 to 7: not derived
	r.relay()
	known, err := store.Chains(t.Context(), r.db)
	require.NoError(t, err)
	derived := func(seq int64) func(*Record) {
		return func(record *Record) {
			record.Headers = append(record.Headers[:len(record.Headers)-2], chain.Link{Timeline: known[1].Timeline, Seq: seq}.Headers()...)
			record.Headers = append(record.Headers, schema.Header{Key: chain.HeaderDerived, Value: []byte("true")})
		}
	}
	for seq := int64(8); seq <= 9; seq++ {
		r.append(1, seq, derived(seq))
	}
	r.append(1, 7, derived(7)) // a late repeat

	restored := r.restore(copied)
	restored.consume()
	p := restored.position(1)
	assert.Equal(t, int64(4), p.Next)
	assert.Contains(t, p.Halted, "was it restored from a copy?; to go on: pricemill stages skip test price-events 1")
	_, err = restored.resolutions(Skip)
	require.ErrorIs(t, err, ErrUnsettled, "before a relay has looked")
	restored.relay()
	assert.Contains(t, lostOne(t, restored.resolve(Skip)).Loses, "the events that stages derived are stepped over")
	restored.emit(1, 2)
	restored.relay()
	restored.consume()
	assert.Empty(t, restored.position(1).Halted)
	assert.Len(t, restored.effects(), 4+3+2)
	assert.Equal(t, int64(2), restored.position(1).Seq, "the chain goes on under another name")

	again := r.restore(copied)
	again.consume()
	_, err = again.resolutions(Resume)
	require.ErrorIs(t, err, ErrUnsettled, "before a relay has looked")
	again.relay()
	assert.Contains(t, lostOne(t, again.resolve(Resume)).Loses, "is applied as it is")
	again.consume()
	assert.Len(t, again.effects(), 4+3+2, "resume applies what the later state wrote, derived or not")
	lostOne(t, again.resolve(Resume)) // what the other copy wrote is strange too
	again.consume()
	assert.Len(t, again.effects(), 4+3+2+2)
}

// A database that is restored from a copy gives the same events the same numbers
// again, some or all, before a relay comes to look: its lease was that of a process
// that was killed. They are in the log, so none of them is sent again, and a fold
// that halted at the first of them must not step over them.
func TestSkipWhatHasTheSameNumberAgain(t *testing.T) {
	t.Parallel()
	for _, again := range []int{1, 2, 3} {
		r := newRig(t, &recorder{})
		derive := func(r *rig, from, n int) {
			emit := &emitter{Store: r.db, outbox: outbox{r.topology()}}
			require.NoError(t, r.db.Write(t.Context(), func(tx *store.Tx) error {
				var events []schema.Event
				for i := range n {
					events = append(events, schema.Event{ID: fmt.Sprint("derived ", from+i), Source: "test", Payload: price("S1", from+i)})
				}
				rows, err := emit.outbox.rows(events, true)
				require.NoError(t, err)
				return emit.outbox.insert(t.Context(), tx, rows)
			}))
		}
		derive(r, 0, 4)
		r.relay()
		r.consume()
		copied := filepath.Join(t.TempDir(), "copy")
		r.copyTo(copied)
		derive(r, 4, 3)
		r.relay()
		r.consume()
		require.Len(t, r.effects(), 7)

		restored := r.restore(copied)
		restored.consume()
		assert.Contains(t, restored.position(1).Halted, "was it restored from a copy?")
		_, err := restored.resolutions(Skip)
		require.ErrorIs(t, err, ErrUnsettled)
		derive(restored, 4, again)
		restored.resolve(Skip) // it has these numbers itself by now
		restored.consume()
		restored.relay()
		derive(restored, 4+again, 3-again)
		restored.relay()
		for restored.consume(); restored.position(1).Halted != ""; restored.consume() {
			restored.resolve(Skip)
		}
		assert.Len(t, restored.effects(), 7, "%d again", again)
		derive(restored, 7, 2)
		restored.relay()
		restored.consume()
		assert.Len(t, restored.effects(), 9, "%d again", again)
		assert.Empty(t, restored.letters())
	}
}

// copyTo copies the database as it is.
func (r *rig) copyTo(path string) {
	r.t.Helper()
	db, err := sql.Open("sqlite", r.path)
	require.NoError(r.t, err)
	_, err = db.Exec(`VACUUM INTO ?`, path)
	require.NoError(r.t, err)
	require.NoError(r.t, db.Close())
}

// restore is the rig as it goes on with a copy of its database.
func (r *rig) restore(path string) *rig {
	r.t.Helper()
	restored := &rig{t: r.t, path: filepath.Join(r.t.TempDir(), "db"), broker: r.broker}
	if content, err := os.ReadFile(path); err == nil {
		require.NoError(r.t, os.WriteFile(restored.path, content, 0o600))
	}
	engine, err := sqlite.Open(restored.path)
	require.NoError(r.t, err)
	db, err := store.Open(r.t.Context(), engine)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { assert.NoError(r.t, db.Close()) })
	restored.db = db
	restored.stage = newStage(r.stage.spec, db, restored.topology(), slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})
	return restored
}

// A database that knows nothing of a log must not take it for its own, and give
// everything that follows from it a second time.
func TestAnEmptyDatabaseHaltsAtTheLogOfAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 4)
	r.relay()
	other := r.restore("") // there is no copy
	require.NoError(t, other.db.Write(t.Context(), func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE effects (id {int} PRIMARY KEY, symbol {text} NOT NULL, price {decimal} NOT NULL)`)
	}))
	other.consume()
	assert.Contains(t, other.position(1).Halted, "was written by another database")
	other.resolve(Skip)
	other.consume()
	assert.Len(t, other.effects(), 4, "what no stage derived is applied")
}

// A relay whose database goes back under it must not send numbers again: the
// chains get another name, however many numbers were given meanwhile.
// A database is set back while a relay runs: the relay notices by what was noted, or,
// where that was not yet, by the event that was sent last.
func TestARelayNoticesThatTheDatabaseWentBack(t *testing.T) {
	t.Parallel()
	for _, since := range []int{1, 2, 6} {
		for _, noted := range []bool{true, false} {
			r := newRig(t, &recorder{})
			topology := r.stage.outbox.topology
			relay := newRelay(r.db, r.broker, topology, "test", slog.New(slog.DiscardHandler))
			round := func() {
				held, err := relay.takeLease(t.Context())
				require.True(t, held)
				require.NoError(t, err)
				_, err = relay.round(t.Context())
				if !errors.Is(err, store.ErrOvertaken) { // a note that was due already
					require.NoError(t, err)
				}
			}
			r.emitAs(topology, 1, 4)
			round()
			require.NoError(t, relay.note())
			copied := filepath.Join(t.TempDir(), "copy")
			r.copyTo(copied)
			r.emitAs(topology, 1, 4)
			round()
			if noted {
				require.NoError(t, relay.note())
			}

			restored := r.restore(copied)
			relay.db, topology.db = restored.db, restored.db // what a connection leads to
			restored.emitAs(topology, 1, since)
			round()
			require.ErrorContains(t, relay.Trouble(), "was set back")
			round()
			require.NoError(t, relay.note())
			require.NoError(t, relay.Trouble())
			restored.consume()
			assert.Contains(t, restored.position(1).Halted, "was it restored from a copy?")
			lostOne(t, restored.resolve(Skip))
			restored.consume()
			assert.Len(t, restored.effects(), 4+4+since, "noted %v, %d since", noted, since)
			assert.Empty(t, restored.letters())
		}
	}
}

func TestAResolutionIsForWhatTheOperatorSaw(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	for _, seq := range []int64{1, 5} {
		r.append(0, seq, nil)
	}
	r.consume()
	resolutions, err := r.resolutions(Skip)
	require.NoError(t, err)
	require.NoError(t, ApplyResolutions(t.Context(), r.db, resolutions))
	require.ErrorIs(t, ApplyResolutions(t.Context(), r.db, resolutions), store.ErrMoved)
}

func TestResetGoesForwardOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(0, 2)
	r.emit(1, 10)
	r.relay()
	r.assign()
	require.NoError(t, r.deliver(t.Context(), r.log(1)[:4]...))
	on1 := func(p store.Position) bool { return p.Part == 1 }
	_, err := Resets(t.Context(), r.db, r.broker, r.topology(), on1, ToOffset(3))
	require.ErrorIs(t, err, ErrReset)
	_, err = Resets(t.Context(), r.db, r.broker, r.topology(), on1, ToOffset(11))
	require.ErrorIs(t, err, ErrReset)

	resets, err := Resets(t.Context(), r.db, r.broker, r.topology(), on1, ToOffset(6))
	require.NoError(t, err)
	require.Len(t, resets, 1)
	assert.Equal(t, int64(2), resets[0].Lost)
	require.NoError(t, Reset(t.Context(), r.db, resets, nil))
	require.NoError(t, r.deliver(t.Context(), r.log(1)[4:]...), "whoever holds the partition goes on from there")
	r.consume()
	assert.Len(t, r.effects(), 2+10-2)

	resets, err = Resets(t.Context(), r.db, r.broker, r.topology(), on1, ToEnd)
	require.NoError(t, err)
	assert.Zero(t, resets[0].Lost)
}

// A fold that starts over reads the log again, into tables that were emptied in
// the same transaction, and meets again what it could not read.
func TestResetToTheStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.append(0, 0, func(record *Record) { record.Value = nil })
	r.emit(1, 10)
	r.relay()
	r.consume()
	before := r.effects()
	require.Len(t, r.letters(), 1)
	resets, err := Resets(t.Context(), r.db, r.broker, r.topology(), func(store.Position) bool { return true }, ToStart)
	require.NoError(t, err)
	require.NoError(t, Reset(t.Context(), r.db, resets, func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `DELETE FROM effects`)
		return err
	}))
	assert.Empty(t, r.effects())
	assert.Empty(t, r.letters(), "that record is taken again, too")
	r.consume()
	assert.Equal(t, before, r.effects())
	assert.Len(t, r.letters(), 1)
}

// unsend makes the outbox one whose relay never got the answer for what it sent after a
// number: it will send that again.
func (r *rig) unsend(partition int32, last int64) {
	r.t.Helper()
	require.NoError(r.t, r.db.Write(r.t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(r.t.Context(), `UPDATE chains SET sent = $1 WHERE epoch = $2 AND part = $3`,
			last, r.epoch(schema.PriceEvents), partition); err != nil {
			return err
		}
		var rows []store.OutboxRow
		for i, record := range r.log(partition)[last:] {
			rows = append(rows, store.OutboxRow{Epoch: r.epoch(schema.PriceEvents), Part: partition, Seq: last + 1 + int64(i),
				Key: record.Key, Headers: store.EncodeHeaders(record.Headers[:len(record.Headers)-2]), Payload: record.Value})
		}
		return tx.Append(r.t.Context(), rows)
	}))
}

// What a stage has applied was in the log, although the relay could not note it:
// it is not sent again when the log has lost it.
func TestWhatWasAppliedOfALostEndIsNotSentAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 8)
	r.relay()
	r.consume()
	r.unsend(1, 6)
	r.broker.log[at(1)] = r.broker.log[at(1)][:5]
	r.topology()
	assert.Zero(t, lostOne(t, r.resolve(Skip)).Lost)
	r.relay()
	r.emit(1, 2)
	r.relay()
	r.consume()
	assert.Len(t, r.effects(), 8+2)
	assert.Empty(t, r.letters())
}

// A log that lost its end grows again while nobody acts: what lies at offsets that
// were given out before is applied all the same.
func TestALostEndIsRefilledBeforeAnybodyActs(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 8)
	r.relay()
	r.consume()
	r.broker.log[at(1)] = r.broker.log[at(1)][:5]
	r.topology()
	for range 6 { // of a stream: without links
		r.append(1, 0, nil)
	}
	assert.NotContains(t, r.assign(), at(1), "it stays halted although the log is long enough")
	resolution := lostOne(t, r.resolve(Skip))
	assert.Zero(t, resolution.Lost)
	assert.Contains(t, resolution.Halted, "the log ended at offset 5")
	r.consume()
	assert.Len(t, r.effects(), 8+6)
	assert.Empty(t, r.letters())
}

// A batch that a relay had in flight when the chain got another name may arrive
// late: its events are there under the new name.
func TestALateBatchUnderAFormerName(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 6)
	r.relay()
	late := r.log(1)[3:6]
	require.NoError(t, r.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE instance SET server = 'another'`) // a failover
		return err
	}))
	r.emit(1, 2)
	r.relay()
	for _, record := range late {
		record.Offset = int64(len(r.log(1)))
		r.broker.log[at(1)] = append(r.broker.log[at(1)], record)
	}
	r.emit(1, 2)
	r.relay()
	r.consume()
	assert.Empty(t, r.position(1).Halted)
	assert.Len(t, r.effects(), 6+2+2)
}
