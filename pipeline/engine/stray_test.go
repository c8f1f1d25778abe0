package engine

import (
	"log/slog"
	"slices"
	"testing"

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
	"github.com/pricemill/pricemill/schema"
)

// forge appends a record with the name that a chain has, and a number that the
// database did not give for it.
func (r *Rig) forge(partition int32, number int64) {
	r.T.Helper()
	chains, err := store.Chains(r.T.Context(), r.DB)
	require.NoError(r.T, err)
	for _, c := range chains {
		if c.Epoch == r.Epoch(schema.PriceEvents) && c.Part == partition {
			r.Append(partition, 0, func(record *pipeline.Record) {
				record.Headers = append(record.Headers, chain.Link{Timeline: c.Timeline, Seq: number}.Headers()...)
			})
		}
	}
}

// runningRelay is a relay that keeps its lease and has taken it once.
func (r *Rig) runningRelay() (relay *outbox.Relay, round func()) {
	r.T.Helper()
	relay = outbox.NewRelay(r.DB, r.Broker, r.topics(), "test", slog.New(slog.DiscardHandler))
	return relay, func() {
		r.T.Helper()
		require.NoError(r.T, relay.Drain(r.T.Context()))
	}
}

// A record with a number that the database never gave is not ours: the chain must
// not be taken for a broken one, and no command may move a stage to that number,
// or what the database gives later would be dropped as a repeat.
func TestSkipANumberThatWasNeverGiven(t *testing.T) {
	t.Parallel()
	for name, forged := range map[string][]int64{
		"one far above":           {10_000},
		"several":                 {10_000, 10_001, 20_000, 15_000},
		"one that is given later": {7},
		"one, and the same again": {10_000, 10_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRig(t, &Recorder{})
			_, round := r.runningRelay()
			r.Emit(1, 4)
			round()
			r.Consume()
			for _, number := range forged {
				r.forge(1, number)
			}
			r.Append(1, 0, nil) // of a stream: without a link
			r.Consume()
			assert.Contains(t, r.position(1).Halted, "this database never gave a number above 4")
			for _, action := range []halt.Action{halt.Skip, halt.Resume} {
				_, err := r.resolutions(action)
				require.ErrorIs(t, err, operator.ErrUnsettled, "%s, before the relay has looked", action)
			}
			r.Emit(1, 5)
			round()
			assert.Equal(t, int64(len(forged)), lostOne(t, r.Resolve(halt.Skip)).Lost)
			r.Consume()
			r.Emit(1, 3)
			round()
			r.Consume()
			assert.Empty(t, r.position(1).Halted)
			assert.Len(t, r.effects(), 4+1+5+3)
			round()
			counts := AuditHolds(r)
			assert.Equal(t, int64(len(forged)), counts["log"]["stray records"])
			assert.Equal(t, int64(len(forged)), counts["stage test"]["stray"])

			// One that reads the log from its start meets the same.
			r.Stage = newStage(StageSpec{Name: "late", Consumes: r.Stage.spec.Consumes, Handler: ignorer{}}, r.DB, r.topics(),
				slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})
			r.Consume()
			r.Resolve(halt.Skip)
			r.Consume()
			positions, err := store.Positions(t.Context(), r.DB, "late")
			require.NoError(t, err)
			assert.Empty(t, positions[1].Halted)
			assert.Equal(t, int64(len(r.LogOf(1))), positions[1].Next)
		})
	}
}

// The number right after the last one may be a later state's of the database, so
// the record is taken for that: what this database gives the number to is applied.
func TestSkipTheNumberThatIsGivenNext(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	_, round := r.runningRelay()
	r.Emit(1, 4)
	round()
	r.Consume()
	r.forge(1, 5)
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[4:]...), "in the session that went before")
	assert.Contains(t, r.position(1).Halted, "this database never gave a number above 4")
	r.Emit(1, 5)
	round()
	r.Resolve(halt.Skip)
	r.Consume()
	assert.Empty(t, r.position(1).Halted)
	assert.Len(t, r.effects(), 4+1+5)
	round()
	AuditHolds(r)
}

// A session learns of the numbers that are given while it lasts.
func TestASessionFollowsTheNumbersGiven(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	_, round := r.runningRelay()
	r.assign()
	for n := range 3 {
		r.Emit(1, 2)
		round()
		require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[2*n:]...))
		assert.Empty(t, r.position(1).Halted)
	}
	assert.Len(t, r.effects(), 6)
}

// A number that was never given halts its own partition, and what came with it on the
// others is applied.
func TestANumberThatWasNeverGivenHoldsUpNoOtherPartition(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	_, round := r.runningRelay()
	r.assign()
	r.Emit(1, 4)
	r.Emit(2, 3)
	round()
	r.forge(1, 5)
	require.NoError(t, r.Deliver(t.Context(), slices.Concat(r.LogOf(1), r.LogOf(2))...))
	assert.Contains(t, r.position(1).Halted, "this database never gave a number above 4")
	assert.Equal(t, int64(4), r.position(1).Next)
	assert.Empty(t, r.position(2).Halted)
	assert.Equal(t, int64(3), r.position(2).Next)
	assert.Len(t, r.effects(), 4+3)
}

// The record may lie further back than the relay looks for the end of the chain,
// and the numbers may have reached it when an operator acts.
func TestARelayLooksAtWhatAStageHaltedBefore(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	relay, round := r.runningRelay()
	r.Emit(1, 4)
	round()
	r.Consume()
	r.forge(1, 20)
	r.Consume()
	require.NotEmpty(t, r.position(1).Halted)
	for range 3*log.BatchRecords + 10 {
		r.Append(1, 0, nil)
	}
	r.Emit(1, 10)
	round()
	r.Emit(1, 30)
	round()
	assert.NoError(t, relay.Trouble())
	r.Resolve(halt.Skip)
	r.Consume()
	assert.Equal(t, 4+10+30+3*log.BatchRecords+10, len(r.effects())) // too many to print
}

// sendUnseen sends what waits in the outbox, as a relay does that holds its lease and
// need not look at what stages halted before.
func (r *Rig) sendUnseen(partition int32) {
	r.T.Helper()
	chains, err := r.DB.Pending(r.T.Context())
	require.NoError(r.T, err)
	i := slices.IndexFunc(chains, func(c store.Chain) bool { return c.Epoch == r.Epoch(schema.PriceEvents) && c.Part == partition })
	c := chains[i]
	rows, err := r.DB.ReadOutbox(r.T.Context(), 1000, 1<<20, store.Behind{Epoch: c.Epoch, Part: c.Part, After: c.Sent})
	require.NoError(r.T, err)
	for _, row := range rows {
		headers, err := store.DecodeHeaders(row.Headers)
		require.NoError(r.T, err)
		r.Broker.Send(r.T.Context(), []log.PartitionBatch{{TopicPartition: at(partition), Records: []log.OutgoingRecord{
			{Key: row.Key, Headers: append(headers, chain.Link{Timeline: c.Timeline, Seq: row.Seq}.Headers()...), Value: row.Payload}}}})
	}
	require.NoError(r.T, r.DB.MarkSent(r.T.Context(), []store.Sent{{Chain: c, Now: c.Last, Headers: rows[len(rows)-1].Headers}}))
}

// The number may be given, or sent, before a relay looks. The record is stray all
// the same where the numbers before it wait in the outbox, or come later in the log.
func TestSkipANumberThatWasGivenSince(t *testing.T) {
	t.Parallel()
	for _, sent := range []bool{false, true} {
		r := NewRig(t, &Recorder{})
		_, round := r.runningRelay()
		r.Emit(1, 4)
		round()
		r.Consume()
		r.forge(1, 7)
		r.forge(1, 8)
		r.Consume()
		r.Emit(1, 10)
		if sent {
			r.sendUnseen(1)
		}
		assert.Equal(t, int64(2), lostOne(t, r.Resolve(halt.Skip)).Lost)
		round()
		r.Consume()
		assert.Empty(t, r.position(1).Halted)
		assert.Len(t, r.effects(), 4+10)
		round()
		AuditHolds(r)
	}
}
