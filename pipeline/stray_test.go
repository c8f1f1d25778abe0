package pipeline

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// forge appends a record with the name that a chain has, and a number that the
// database did not give for it.
func (r *rig) forge(partition int32, number int64) {
	r.t.Helper()
	chains, err := store.Chains(r.t.Context(), r.db)
	require.NoError(r.t, err)
	for _, c := range chains {
		if c.Epoch == r.epoch(schema.PriceEvents) && c.Part == partition {
			r.append(partition, 0, func(record *Record) {
				record.Headers = append(record.Headers, chain.Link{Timeline: c.Timeline, Seq: number}.Headers()...)
			})
		}
	}
}

// runningRelay is a relay that keeps its lease and has taken it once.
func (r *rig) runningRelay() (relay *Relay, round func()) {
	r.t.Helper()
	relay = newRelay(r.db, r.broker, r.topology(), "test", slog.New(slog.DiscardHandler))
	return relay, func() {
		r.t.Helper()
		held, err := relay.takeLease(r.t.Context())
		require.NoError(r.t, err)
		require.True(r.t, held)
		for more := true; more; {
			more, err = relay.round(r.t.Context())
			require.NoError(r.t, err)
		}
		require.NoError(r.t, relay.note())
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
			r := newRig(t, &answering{})
			_, round := r.runningRelay()
			r.emit(1, 4)
			round()
			r.consume()
			for _, number := range forged {
				r.forge(1, number)
			}
			r.append(1, 0, nil) // of a stream: without a link
			r.consume()
			assert.Contains(t, r.position(1).Halted, "this database never gave a number above 4")
			for _, action := range []Action{Skip, Resume} {
				_, err := r.resolutions(action)
				require.ErrorIs(t, err, ErrUnsettled, "%s, before the relay has looked", action)
			}
			r.emit(1, 5)
			round()
			assert.Equal(t, int64(len(forged)), lostOne(t, r.resolve(Skip)).Lost)
			r.consume()
			r.emit(1, 3)
			round()
			r.consume()
			assert.Empty(t, r.position(1).Halted)
			assert.Len(t, r.effects(), 4+1+5+3)
			round()
			found := r.audit()
			requireHolds(t, found)
			assert.Equal(t, int64(len(forged)), found["log"].Counts["stray records"])
			assert.Equal(t, int64(len(forged)), found["stage test"].Counts[wasStray])

			// One that reads the log from its start meets the same.
			r.stage = newStage(StageSpec{Name: "late", Consumes: r.stage.spec.Consumes, Handler: ignorer{}}, r.db, r.topology(),
				slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})
			r.consume()
			r.resolve(Skip)
			r.consume()
			positions, err := store.Positions(t.Context(), r.db, "late")
			require.NoError(t, err)
			assert.Empty(t, positions[1].Halted)
			assert.Equal(t, int64(len(r.log(1))), positions[1].Next)
		})
	}
}

// The number right after the last one may be a later state's of the database, so
// the record is taken for that: what this database gives the number to is applied.
func TestSkipTheNumberThatIsGivenNext(t *testing.T) {
	t.Parallel()
	r := newRig(t, &answering{})
	_, round := r.runningRelay()
	r.emit(1, 4)
	round()
	r.consume()
	r.forge(1, 5)
	require.NoError(t, r.deliver(t.Context(), r.log(1)[4:]...), "in the session that went before")
	assert.Contains(t, r.position(1).Halted, "this database never gave a number above 4")
	r.emit(1, 5)
	round()
	r.resolve(Skip)
	r.consume()
	assert.Empty(t, r.position(1).Halted)
	assert.Len(t, r.effects(), 4+1+5)
	round()
	requireHolds(t, r.audit())
}

// A session learns of the numbers that are given while it lasts.
func TestASessionFollowsTheNumbersGiven(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	_, round := r.runningRelay()
	r.assign()
	for n := range 3 {
		r.emit(1, 2)
		round()
		require.NoError(t, r.deliver(t.Context(), r.log(1)[2*n:]...))
		assert.Empty(t, r.position(1).Halted)
	}
	assert.Len(t, r.effects(), 6)
}

// The record may lie further back than the relay looks for the end of the chain,
// and the numbers may have reached it when an operator acts.
func TestARelayLooksAtWhatAStageHaltedBefore(t *testing.T) {
	t.Parallel()
	r := newRig(t, &recorder{})
	relay, round := r.runningRelay()
	r.emit(1, 4)
	round()
	r.consume()
	r.forge(1, 20)
	r.consume()
	require.NotEmpty(t, r.position(1).Halted)
	for range tailRecords[1] + 10 {
		r.append(1, 0, nil)
	}
	r.emit(1, 10)
	round()
	r.emit(1, 30)
	round()
	assert.True(t, relay.ready)
	r.resolve(Skip)
	r.consume()
	assert.Equal(t, 4+10+30+int(tailRecords[1])+10, len(r.effects())) // too many to print
}

// The number may be given, or sent, before a relay looks. The record is stray all
// the same where the numbers before it wait in the outbox, or come later in the log.
func TestSkipANumberThatWasGivenSince(t *testing.T) {
	t.Parallel()
	for _, sent := range []bool{false, true} {
		r := newRig(t, &answering{})
		relay, round := r.runningRelay()
		r.emit(1, 4)
		round()
		r.consume()
		r.forge(1, 7)
		r.forge(1, 8)
		r.consume()
		r.emit(1, 10)
		if sent {
			_, err := relay.round(t.Context())
			require.NoError(t, err)
			require.NoError(t, relay.note())
		}
		assert.Equal(t, int64(2), lostOne(t, r.resolve(Skip)).Lost)
		round()
		r.consume()
		assert.Empty(t, r.position(1).Halted)
		assert.Len(t, r.effects(), 4+10)
		round()
		requireHolds(t, r.audit())
	}
}

// A record that another event's number made a repeat was never applied: that is
// lost, and an audit says so, of the stage as well as of the log.
func TestAnAuditFindsARepeatThatWasNeverApplied(t *testing.T) {
	t.Parallel()
	r := newAuditRig(t)
	r.append(1, 8, func(record *Record) { *record = with(*record, "ce_id", "forged") })
	r.append(1, 8, nil)
	r.consume()
	r.relay()
	for _, name := range []string{"log", "stage test"} {
		f := r.audit()[name]
		assert.Equal(t, Differs, f.State, name)
		assert.Equal(t, int64(1), f.Lost, name)
	}
	assert.Contains(t, strings.Join(r.audit()["stage test"].Differences, "\n"), "was passed over as a repeat, and its event was never applied")
}
