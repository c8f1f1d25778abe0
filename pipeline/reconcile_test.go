package pipeline

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// ofNoChain appends records from elsewhere.
func (r *rig) ofNoChain(partition int32, n int) {
	for range n {
		r.append(partition, 0, nil)
	}
}

// as appends a record of a chain of this name.
func (r *rig) as(partition int32, link Link) {
	r.append(partition, 0, func(record *Record) { record.Headers = append(record.Headers, link.headers()...) })
}

func (r *rig) tail(partition int32) tail {
	r.t.Helper()
	end, err := r.stage.outbox.topology.tail(r.t.Context(), at(partition), r.broker.held(at(partition)))
	require.NoError(r.t, err)
	return end
}

// The end of a chain is found behind records from elsewhere, and those of the name
// that was written last are enough.
func TestTheTailOfAPartition(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	assert.Empty(t, r.tail(0).last, "an empty one")

	r.as(1, Link{"former", 7})
	r.ofNoChain(1, relayRows)
	r.as(1, Link{"latter", 1})
	r.append(1, 0, func(record *Record) {
		record.Headers = append(record.Headers, schema.Header{Key: headerSeq, Value: []byte("x")})
	})
	r.ofNoChain(1, 10)
	end := r.tail(1)
	assert.Equal(t, "latter", end.last)
	assert.Equal(t, int64(1), end.highest("latter"))
	assert.Zero(t, end.highest("former"), "it is further back than what was looked at")

	r.as(2, Link{"former", 7})
	r.ofNoChain(2, relayRows+1)
	assert.Equal(t, "former", r.tail(2).last, "further back, since there was none")

	r.as(3, Link{"former", 7})
	r.ofNoChain(3, 3*relayRows)
	assert.Empty(t, r.tail(3).last, "too far back")
}

// unreadable is a broker whose records cannot be read.
type unreadable struct{ *rigBroker }

var errUnreadable = errors.New("unreadable")

func (unreadable) Read(context.Context, TopicPartition, int64, int64, func([]Record) error) error {
	return errUnreadable
}

func TestALogThatCannotBeReadIsNotHeldAgainstTheDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.fill(1, 1)
	topology := r.topology()
	topology.broker = unreadable{r.broker}
	assert.ErrorIs(t, topology.reconcile(t.Context()), errUnreadable)
}

// What tells that the log was written by a later state of the database.
func TestALogOfALaterState(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 3) // given, and not sent
	rows, err := r.db.ReadOutbox(t.Context(), 10, 1<<20, store.Behind{Epoch: r.epoch(schema.PriceEvents), Part: 1})
	require.NoError(t, err)
	require.Len(t, rows, 3)
	headers, err := store.DecodeHeaders(rows[1].Headers)
	require.NoError(t, err)
	second := schema.EventID(headers)
	chain := store.KnownChain{Topic: string(schema.PriceEvents), Epoch: r.epoch(schema.PriceEvents), Part: 1, Outbox: testOutbox, Given: 3, Current: true}
	sent := chain
	sent.Sent = 1
	tailOf := func(last string, ids map[Link]string) tail { return tail{last: last, ids: ids} }
	for name, test := range map[string]struct {
		end   tail
		chain store.KnownChain
		later bool
	}{
		"an empty log":                         {tailOf("", nil), chain, false},
		"an empty log, of what was sent":       {tailOf("", nil), sent, false},
		"what was sent":                        {tailOf(testOutbox, map[Link]string{{testOutbox, 1}: "x"}), sent, false},
		"the event that waits":                 {tailOf(testOutbox, map[Link]string{{testOutbox, 2}: second}), chain, false},
		"another event of the same number":     {tailOf(testOutbox, map[Link]string{{testOutbox, 2}: "another"}), chain, true},
		"the same, behind what was sent":       {tailOf(testOutbox, map[Link]string{{testOutbox, 1}: "x", {testOutbox, 2}: "another"}), sent, true},
		"a number that was never given":        {tailOf(testOutbox, map[Link]string{{testOutbox, 4}: "x"}), chain, true},
		"another database's, before our first": {tailOf("x", map[Link]string{{"x", 9}: "x"}), chain, false},
		"another database's, behind ours":      {tailOf("x", map[Link]string{{"x", 9}: "x", {testOutbox, 1}: "x"}), sent, true},
	} {
		later, err := r.stage.outbox.topology.isLater(t.Context(), test.end, test.chain, []store.KnownChain{test.chain})
		require.NoError(t, err)
		assert.Equal(t, test.later, later, name)
	}
}

// Only a position that lies behind the end of its own log is halted by it.
func TestWhatLiesBeyondTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.assign()
	topology := r.topology()
	set := func(change string) {
		require.NoError(t, r.db.Write(t.Context(), func(tx *store.Tx) error {
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
	set(`next_offset = 3 WHERE part = 3`)
	assert.NotEmpty(t, halted())
	assert.NotNil(t, r.position(3).LogEnded)
	set(`next_offset = 3 WHERE part = 3`)
	r.broker.infos[schema.PriceEvents] = TopicInfo{testTopicID, 3}
	assert.Empty(t, halted(), "there is no such partition any more: assigning halts it")
	r.broker.infos[schema.PriceEvents] = TopicInfo{testTopicID, partitions}
	set(`next_offset = 3, topic_id = 'another' WHERE part = 3`)
	assert.Empty(t, halted(), "it is of another incarnation")
}

// A halt whose reason has gone is lifted at no loss, by whichever verb.
func TestLiftAHaltWhoseReasonHasGone(t *testing.T) {
	t.Parallel()
	for _, verb := range []Verb{Resume, Skip} {
		r := newRig(t, &recorder{})
		r.emit(1, 2)
		r.relay()
		r.consume()
		halt := func(part int32) {
			require.NoError(t, r.db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE positions SET halted = 'by hand' WHERE part = $1`, part)
				return err
			}))
		}
		halt(2) // at its end
		lift := lostOne(t, r.lift(verb))
		assert.Equal(t, "nothing", lift.Loses, verb)
		assert.Zero(t, lift.Lost, verb)
		r.emit(1, 2)
		r.relay()
		halt(1) // before a record that follows
		lift = lostOne(t, r.lift(verb))
		assert.Equal(t, "nothing", lift.Loses, verb)
		assert.Zero(t, lift.Lost, verb)
		r.consume()
		assert.Len(t, r.effects(), 4, verb)
	}
}

func TestLiftWhatTheBinaryOrTheTopicLacks(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.assign()
	require.NoError(t, r.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE positions SET halted = 'by hand' WHERE part = 3`)
		return err
	}))
	topology := r.topology()
	r.broker.infos[schema.PriceEvents] = TopicInfo{testTopicID, 3}
	all := func(store.Position) bool { return true }
	_, err := Lifts(t.Context(), r.db, r.broker, topology, Skip, all)
	assert.ErrorContains(t, err, "the topic has 3 partitions now")
	require.NoError(t, r.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE positions SET topic = 'of-another-binary' WHERE part = 3`)
		return err
	}))
	_, err = Lifts(t.Context(), r.db, r.broker, topology, Skip, all)
	assert.ErrorContains(t, err, "no event of this binary is on topic of-another-binary")
}

// A topic that was created again, and has lost its head since, goes on with what it
// has.
func TestSkipATopicThatWasCreatedAgainAndLostItsHead(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	r.emit(1, 2)
	r.relay()
	r.consume()
	r.broker.infos[schema.PriceEvents] = TopicInfo{"topic-9", partitions}
	r.broker.log = map[TopicPartition][]Record{}
	r.assign()
	r.emit(1, 3)
	r.relay()
	r.broker.oldest[at(1)] = 1
	r.lift(Skip)
	assert.Equal(t, int64(1), r.position(1).Next)
	r.consume()
	assert.Empty(t, r.position(1).Halted)
	assert.Len(t, r.effects(), 2+2)
}
