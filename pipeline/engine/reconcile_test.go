package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// ofNoChain appends records from elsewhere.
func (r *Rig) ofNoChain(partition int32, n int) {
	for range n {
		r.Append(partition, 0, nil)
	}
}

// as appends a record of a chain of this name.
func (r *Rig) as(partition int32, link chain.Link) {
	r.Append(partition, 0, func(record *pipeline.Record) { record.Headers = append(record.Headers, link.Headers()...) })
}

func (r *Rig) tail(partition int32) tail {
	r.T.Helper()
	end, err := r.Stage.outbox.topology.tail(r.T.Context(), at(partition), r.Broker.held(at(partition)))
	require.NoError(r.T, err)
	return end
}

// The end of a chain is found after records from elsewhere, and those of the name
// that was written last are enough.
func TestTheTailOfAPartition(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	assert.Empty(t, r.tail(0).last, "an empty one")

	r.as(1, chain.Link{Timeline: "former", Seq: 7})
	r.ofNoChain(1, relayRows)
	r.as(1, chain.Link{Timeline: "latter", Seq: 1})
	r.Append(1, 0, func(record *pipeline.Record) {
		record.Headers = append(record.Headers, schema.Header{Key: chain.HeaderNumber, Value: []byte("x")})
	})
	r.ofNoChain(1, 10)
	end := r.tail(1)
	assert.Equal(t, "latter", end.last)
	assert.Equal(t, int64(1), end.highest("latter"))
	assert.Zero(t, end.highest("former"), "it is further back than what was looked at")

	r.as(2, chain.Link{Timeline: "former", Seq: 7})
	r.ofNoChain(2, relayRows+1)
	assert.Equal(t, "former", r.tail(2).last, "further back, since there was none")

	r.as(3, chain.Link{Timeline: "former", Seq: 7})
	r.ofNoChain(3, 3*relayRows)
	assert.Empty(t, r.tail(3).last, "too far back")

	topology := r.topology()
	topology.broker = unreadable{r.Broker}
	_, err := topology.tail(t.Context(), at(0), r.Broker.held(at(0)))
	assert.NoError(t, err, "an empty one is not read")
}

// unreadable is a broker whose records cannot be read.
type unreadable struct{ *RigBroker }

var errUnreadable = errors.New("unreadable")

func (unreadable) Read(context.Context, pipeline.TopicPartition, int64, int64, func([]pipeline.Record) error) error {
	return errUnreadable
}

func TestALogThatCannotBeReadIsNotHeldAgainstTheDatabase(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 1)
	topology := r.topology()
	topology.broker = unreadable{r.Broker}
	assert.ErrorIs(t, topology.reconcile(t.Context()), errUnreadable)
}

// What tells that the log was written by a later state of the database.
func TestALogOfALaterState(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 3) // given, and not sent
	rows, err := r.DB.ReadOutbox(t.Context(), 10, 1<<20, store.Behind{Epoch: r.Epoch(schema.PriceEvents), Part: 1})
	require.NoError(t, err)
	require.Len(t, rows, 3)
	headers, err := store.DecodeHeaders(rows[1].Headers)
	require.NoError(t, err)
	second := schema.EventID(headers)
	known := store.KnownChain{Topic: string(schema.PriceEvents), Epoch: r.Epoch(schema.PriceEvents), Part: 1, Timeline: testOutbox, Given: 3, Current: true}
	sent := known
	sent.Sent = 1
	tailOf := func(last string, ids map[chain.Link]string) tail { return tail{last: last, ids: ids} }
	for name, test := range map[string]struct {
		end   tail
		chain store.KnownChain
		later bool
	}{
		"an empty log":                          {tailOf("", nil), known, false},
		"an empty log, of what was sent":        {tailOf("", nil), sent, false},
		"what was sent":                         {tailOf(testOutbox, map[chain.Link]string{{Timeline: testOutbox, Seq: 1}: "x"}), sent, false},
		"the event that waits":                  {tailOf(testOutbox, map[chain.Link]string{{Timeline: testOutbox, Seq: 2}: second}), known, false},
		"another event of the same number":      {tailOf(testOutbox, map[chain.Link]string{{Timeline: testOutbox, Seq: 2}: "another"}), known, true},
		"the same, after what was sent":         {tailOf(testOutbox, map[chain.Link]string{{Timeline: testOutbox, Seq: 1}: "x", {Timeline: testOutbox, Seq: 2}: "another"}), sent, true},
		"a number that was never given":         {tailOf(testOutbox, map[chain.Link]string{{Timeline: testOutbox, Seq: 4}: "x"}), known, true},
		"another database's, before our first":  {tailOf("x", map[chain.Link]string{{Timeline: "x", Seq: 9}: "x"}), known, false},
		"another database's, after ours":        {tailOf("x", map[chain.Link]string{{Timeline: "x", Seq: 9}: "x", {Timeline: testOutbox, Seq: 1}: "x"}), sent, true},
		"another's, after the event that waits": {tailOf("x", map[chain.Link]string{{Timeline: "x", Seq: 9}: "x", {Timeline: testOutbox, Seq: 2}: second}), sent, true},
		"another's, after our number":           {tailOf("x", map[chain.Link]string{{Timeline: "x", Seq: 9}: "x", {Timeline: testOutbox, Seq: 2}: "another"}), known, true},
	} {
		later, err := r.Stage.outbox.topology.isLater(t.Context(), test.end, test.chain, []store.KnownChain{test.chain})
		require.NoError(t, err)
		assert.Equal(t, test.later, later, name)
	}

	ended, end := context.WithCancel(t.Context())
	end()
	later, err := r.Stage.outbox.topology.isLater(ended, tailOf(testOutbox, map[chain.Link]string{{Timeline: testOutbox, Seq: 1}: "x"}), sent, []store.KnownChain{sent})
	require.NoError(t, err, "where the log has no event that waits, the outbox is not read")
	assert.False(t, later)
	r.damageHeaders(2)
	_, err = r.Stage.outbox.topology.isLater(t.Context(), tailOf(testOutbox, map[chain.Link]string{{Timeline: testOutbox, Seq: 2}: second}), known, []store.KnownChain{known})
	assert.ErrorIs(t, err, store.ErrHeaders)
}

// damageHeaders makes the headers of an event in the outbox unreadable.
func (r *Rig) damageHeaders(seq int64) {
	r.T.Helper()
	r.Exec(`UPDATE outbox SET headers = X'FF' WHERE seq = $1`, seq)
}

// names are the names of all chains, by epoch and partition.
func (r *Rig) names() map[[2]int64]string {
	r.T.Helper()
	chains, err := store.Chains(r.T.Context(), r.DB)
	require.NoError(r.T, err)
	names := map[[2]int64]string{}
	for _, c := range chains {
		names[[2]int64{c.Epoch, int64(c.Part)}] = c.Timeline
	}
	return names
}

// A log of a later state has the chains of this run's topics named again, once, and
// those of no other.
func TestALogOfALaterStateRenamesOurChainsOnce(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	topology := r.topology()
	others, err := r.DB.RegisterTopic(t.Context(), "of-another-binary", "topic-3", 2)
	require.NoError(t, err)
	since, err := r.DB.RegisterTopic(t.Context(), string(schema.QuoteOutcomes), "topic-4", 2)
	require.NoError(t, err)
	before := r.names()
	require.NoError(t, topology.reconcile(t.Context()))
	require.Equal(t, before, r.names(), "nothing is wrong")
	r.as(1, chain.Link{Timeline: testOutbox, Seq: 9})
	require.NoError(t, topology.reconcile(t.Context()))
	after := r.names()
	for id, name := range before {
		if id[0] == others.Epoch || id[0] == since.Epoch {
			assert.Equal(t, name, after[id], "epoch %d is not one that this run knows", id[0])
		} else if id[0] == r.Epoch(schema.PriceEvents) {
			assert.NotEqual(t, name, after[id], "partition %d", id[1])
		}
	}
	require.NoError(t, topology.reconcile(t.Context()))
	assert.Equal(t, after, r.names(), "the name of that record is a former one by now")
}

// The record that a stage halted before counts, however far back it lies.
func TestALogOfALaterStateBeforeManyRecords(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 4)
	r.Consume()
	r.forge(1, 20)
	r.Consume()
	require.NotEmpty(t, r.position(1).Halted)
	r.ofNoChain(1, int(tailRecords[1]))
	before := r.names()
	require.NoError(t, r.topology().reconcile(t.Context()))
	assert.NotEqual(t, before, r.names())
}

// Where the chains cannot be named again, they stay as they are, and the relay gets the error.
func TestChainsThatCannotBeRenamed(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(r *Rig){
		"an event that cannot be read": func(r *Rig) { r.damageHeaders(2) },
		"a database that refuses": func(r *Rig) {
			require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
				return tx.DDL(r.T.Context(), `CREATE TRIGGER refusing BEFORE UPDATE ON instance BEGIN SELECT RAISE(ABORT, 'refused'); END`)
			}))
		},
	} {
		r := NewRig(t, &Recorder{})
		r.Emit(1, 3)
		r.as(1, chain.Link{Timeline: testOutbox, Seq: 2})
		r.as(1, chain.Link{Timeline: testOutbox, Seq: 9})
		damage(r)
		before := r.names()
		assert.Error(t, r.topology().reconcile(t.Context()), name)
		assert.Equal(t, before, r.names(), name)
	}
}

// Only a position that lies after the end of its own log is halted by it.
func TestWhatLiesBeyondTheLog(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.assign()
	topology := r.topology()
	set := func(change string) {
		require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE positions SET next_offset = 0, halted = '', log_ended = NULL`)
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), `UPDATE positions SET `+change)
			return err
		}))
	}
	halted := func() string {
		require.NoError(t, topology.haltBeyond(t.Context()))
		return r.position(3).Halted
	}
	r.fill(3, 2)
	set(`next_offset = 2 WHERE part = 3`)
	assert.Empty(t, halted(), "it is at the end")
	set(`next_offset = 3, halted = 'by hand' WHERE part = 3`)
	assert.Equal(t, "by hand", halted())
	now, err := r.DB.RegisterTopic(t.Context(), string(schema.PriceEvents), TestTopicID, Partitions)
	require.NoError(t, err)
	assert.Equal(t, r.Epoch(schema.PriceEvents), now.Epoch, "the topic begins no other epoch for what is halted already")
	set(`next_offset = 3 WHERE part = 3`)
	assert.NotEmpty(t, halted())
	assert.NotNil(t, r.position(3).LogEnded)
	set(`next_offset = 3 WHERE part = 3`)
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: TestTopicID, Partitions: 3}
	assert.Empty(t, halted(), "there is no such partition any more: assigning halts it")
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: TestTopicID, Partitions: Partitions}
	set(`next_offset = 3, topic_id = 'another' WHERE part = 3`)
	assert.Empty(t, halted(), "it is of another incarnation")
}

// Every position beyond the end of its log is halted, on all partitions
// and topics.
func TestAllThatLiesBeyondTheLog(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.assign()
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE positions SET next_offset = 1`)
		require.NoError(t, err)
		return tx.CreatePositions(t.Context(), []store.Position{{Stage: "test", Topic: string(schema.QuoteOutcomes),
			TopicID: "topic-2", Next: 1, MovedAt: schema.NewTime(time.Unix(1, 0))}})
	}))
	require.NoError(t, r.Stage.outbox.topology.haltBeyond(t.Context()))
	positions, err := store.Positions(t.Context(), r.DB, "test")
	require.NoError(t, err)
	require.Len(t, positions, Partitions+1)
	for _, p := range positions {
		assert.NotEmpty(t, p.Halted, "%s/%d", p.Topic, p.Part)
	}
}

// A halt whose reason has gone is resolved at no loss, by either action.
func TestResolveAHaltWhoseReasonHasGone(t *testing.T) {
	t.Parallel()
	for _, action := range []halt.Action{halt.Resume, halt.Skip} {
		r := NewRig(t, &Recorder{})
		r.Emit(1, 2)
		r.Relay()
		r.Consume()
		halt := func(part int32) {
			require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE positions SET halted = 'by hand' WHERE part = $1`, part)
				return err
			}))
		}
		halt(2) // at its end
		resolution := lostOne(t, r.Resolve(action))
		assert.Equal(t, "nothing", resolution.Loses, action)
		assert.Zero(t, resolution.Lost, action)
		r.Emit(1, 2)
		r.Relay()
		halt(1) // before a record that follows
		resolution = lostOne(t, r.Resolve(action))
		assert.Equal(t, "nothing", resolution.Loses, action)
		assert.Zero(t, resolution.Lost, action)
		r.Consume()
		assert.Len(t, r.effects(), 4, action)
	}
}

func TestResolveWhatTheBinaryOrTheTopicLacks(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.assign()
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE positions SET halted = 'by hand' WHERE part = 3`)
		return err
	}))
	topology := r.topology()
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: TestTopicID, Partitions: 3}
	all := func(store.Position) bool { return true }
	_, err := operator.PlanResolutions(t.Context(), r.DB, r.Broker, topology, halt.Skip, all)
	assert.ErrorContains(t, err, "the topic has 3 partitions now")
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE positions SET topic = 'of-another-binary' WHERE part = 3`)
		return err
	}))
	_, err = operator.PlanResolutions(t.Context(), r.DB, r.Broker, topology, halt.Skip, all)
	assert.ErrorContains(t, err, "no event of this binary is on topic of-another-binary")
}

// A topic that was created again, and has lost its head since, continues with what it
// has.
func TestSkipATopicThatWasCreatedAgainAndLostItsHead(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 2)
	r.Relay()
	r.Consume()
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: "topic-9", Partitions: Partitions}
	r.Broker.Log = map[pipeline.TopicPartition][]pipeline.Record{}
	r.assign()
	r.Emit(1, 3)
	r.Relay()
	r.Broker.Oldest[at(1)] = 1
	r.Resolve(halt.Skip)
	assert.Equal(t, int64(1), r.position(1).Next)
	r.Consume()
	assert.Empty(t, r.position(1).Halted)
	assert.Len(t, r.effects(), 2+2)
}
