package outbox

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func (r *rig) tail(partition int32) tail {
	r.T.Helper()
	end, err := r.relay().tail(r.T.Context(), at(partition), r.Broker.Held(at(partition)))
	require.NoError(r.T, err)
	return end
}

// The end of a chain is found after records from elsewhere, and those of the name
// that was written last are enough.
func TestTheTailOfAPartition(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	assert.Empty(t, r.tail(0).last, "an empty one")

	r.as(1, chain.Link{Timeline: "former", Seq: 7})
	r.ofNoChain(1, log.BatchRecords)
	r.as(1, chain.Link{Timeline: "latter", Seq: 1})
	r.append(1, schema.Header{Key: chain.HeaderNumber, Value: []byte("x")})
	r.ofNoChain(1, 10)
	end := r.tail(1)
	assert.Equal(t, "latter", end.last)
	assert.Equal(t, int64(1), end.highest("latter"))
	assert.Zero(t, end.highest("former"), "it is further back than what was looked at")

	r.as(2, chain.Link{Timeline: "former", Seq: 7})
	r.ofNoChain(2, log.BatchRecords+1)
	assert.Equal(t, "former", r.tail(2).last, "further back, since there was none")

	r.as(3, chain.Link{Timeline: "former", Seq: 7})
	r.ofNoChain(3, 3*log.BatchRecords)
	assert.Empty(t, r.tail(3).last, "too far back")

	relay := r.relay()
	relay.broker = logtest.Unreadable{Memory: r.Broker}
	_, err := relay.tail(t.Context(), at(0), r.Broker.Held(at(0)))
	assert.NoError(t, err, "an empty one is not read")
}

func TestALogThatCannotBeReadIsNotHeldAgainstTheDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(1, 1)
	relay := r.relay()
	relay.broker = logtest.Unreadable{Memory: r.Broker}
	assert.ErrorIs(t, relay.reconcile(t.Context()), logtest.ErrUnreadable)
}

// What tells that the log was written by a later state of the database.
func TestALogOfALaterState(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.emit(1, 3) // given, and not sent
	rows, err := r.DB.ReadOutbox(t.Context(), 10, 1<<20, store.Behind{Epoch: r.epoch(schema.PriceEvents), Part: 1})
	require.NoError(t, err)
	require.Len(t, rows, 3)
	headers, err := store.DecodeHeaders(rows[1].Headers)
	require.NoError(t, err)
	second := schema.EventID(headers)
	known := store.KnownChain{Topic: string(schema.PriceEvents), Epoch: r.epoch(schema.PriceEvents), Part: 1, Timeline: testOutbox, Given: 3, Current: true}
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
		later, err := r.relay().isLater(t.Context(), test.end, test.chain, []store.KnownChain{test.chain})
		require.NoError(t, err)
		assert.Equal(t, test.later, later, name)
	}

	ended, end := context.WithCancel(t.Context())
	end()
	later, err := r.relay().isLater(ended, tailOf(testOutbox, map[chain.Link]string{{Timeline: testOutbox, Seq: 1}: "x"}), sent, []store.KnownChain{sent})
	require.NoError(t, err, "where the log has no event that waits, the outbox is not read")
	assert.False(t, later)
	r.damageHeaders(2)
	_, err = r.relay().isLater(t.Context(), tailOf(testOutbox, map[chain.Link]string{{Timeline: testOutbox, Seq: 2}: second}), known, []store.KnownChain{known})
	assert.ErrorIs(t, err, store.ErrHeaders)
}

// damageHeaders makes the headers of an event in the outbox unreadable.
func (r *rig) damageHeaders(seq int64) {
	r.T.Helper()
	r.exec(`UPDATE outbox SET headers = X'FF' WHERE seq = $1`, seq)
}

// names are the names of all chains, by epoch and partition.
func (r *rig) names() map[[2]int64]string {
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
	r := newRig(t)
	relay := r.relay()
	others, err := r.DB.RegisterTopic(t.Context(), "of-another-binary", "topic-3", 2)
	require.NoError(t, err)
	since, err := r.DB.RegisterTopic(t.Context(), string(schema.QuoteOutcomes), "topic-4", 2)
	require.NoError(t, err)
	before := r.names()
	require.NoError(t, relay.reconcile(t.Context()))
	require.Equal(t, before, r.names(), "nothing is wrong")
	r.as(1, chain.Link{Timeline: testOutbox, Seq: 9})
	require.NoError(t, relay.reconcile(t.Context()))
	after := r.names()
	for id, name := range before {
		if id[0] == others.Epoch || id[0] == since.Epoch {
			assert.Equal(t, name, after[id], "epoch %d is not one that this run knows", id[0])
		} else if id[0] == r.epoch(schema.PriceEvents) {
			assert.NotEqual(t, name, after[id], "partition %d", id[1])
		}
	}
	require.NoError(t, relay.reconcile(t.Context()))
	assert.Equal(t, after, r.names(), "the name of that record is a former one by now")
}

// The record that a stage halted before counts, however far back it lies.
func TestALogOfALaterStateBeforeManyRecords(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(1, 4)
	r.as(1, chain.Link{Timeline: testOutbox, Seq: 20})
	r.halt(1, 4)
	r.ofNoChain(1, int(tailRecords[1]))
	before := r.names()
	require.NoError(t, r.relay().reconcile(t.Context()))
	assert.NotEqual(t, before, r.names())
}

// Where the chains cannot be named again, they stay as they are, and the relay gets the error.
func TestChainsThatCannotBeRenamed(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(r *rig){
		"an event that cannot be read": func(r *rig) { r.damageHeaders(2) },
		"a database that refuses": func(r *rig) {
			require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
				return tx.DDL(r.T.Context(), `CREATE TRIGGER refusing BEFORE UPDATE ON instance BEGIN SELECT RAISE(ABORT, 'refused'); END`)
			}))
		},
	} {
		r := newRig(t)
		r.emit(1, 3)
		r.as(1, chain.Link{Timeline: testOutbox, Seq: 2})
		r.as(1, chain.Link{Timeline: testOutbox, Seq: 9})
		damage(r)
		before := r.names()
		assert.Error(t, r.relay().reconcile(t.Context()), name)
		assert.Equal(t, before, r.names(), name)
	}
}
