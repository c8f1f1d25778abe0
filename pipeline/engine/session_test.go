package engine

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// inTrouble delivers until the lane is in trouble, ends the session, and returns
// what the trouble was.
func (r *Rig) inTrouble(records ...pipeline.Record) error {
	r.T.Helper()
	ctx, cancel := context.WithCancel(r.T.Context())
	defer cancel()
	delivered := make(chan error, 1)
	go func() { delivered <- r.Deliver(ctx, records...) }()
	var trouble error
	require.Eventually(r.T, func() bool {
		r.Stage.mu.Lock()
		defer r.Stage.mu.Unlock()
		trouble = r.Stage.troubles[asLane(0)]
		return trouble != nil
	}, time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(r.T, <-delivered, context.Canceled)
	return trouble
}

func TestAStageWithoutASessionAppliesNothing(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 1)
	assert.ErrorContains(t, r.inTrouble(r.LogOf(1)...), "the session has ended")
	assert.Empty(t, r.effects())
}

func TestAMessageThatIsNoBatchIsAnError(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	assert.ErrorContains(t, r.Stage.deliver(message.NewMessage("1", nil)), "carries no batch")
}

// What an operator or another consumer halts is applied no further, and read no
// further.
func TestAPartitionThatIsHaltedMeanwhileIsPaused(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 4)
	r.fill(2, 2)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:2]...))
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE positions SET halted = 'by hand' WHERE part = 1`)
		return err
	}))
	require.NoError(t, r.Deliver(t.Context(), append(r.LogOf(1)[2:], r.LogOf(2)...)...))
	assert.Equal(t, []pipeline.TopicPartition{at(1)}, r.paused)
	assert.Len(t, r.effects(), 2+2, "the other partition continues")
	assert.Equal(t, int64(2), r.position(1).Next)
	assert.Zero(t, r.restart)
}

func TestAPositionThatIsGoneStartsOver(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 2)
	r.assign()
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `DELETE FROM positions WHERE part = 1`)
		return err
	}))
	require.Error(t, r.inTrouble(r.LogOf(1)...))
	assert.Equal(t, 1, r.restart)
	assert.Empty(t, r.effects())
}

// A chain gets another name while a session continues, by a relay of another process.
func TestAChainIsNamedAnewDuringASession(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 2)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		return tx.RenewChain(t.Context(), r.Epoch(schema.PriceEvents), 1, testOutbox,
			func(store.OutboxRow) (store.InLog, error) { return store.Absent, nil })
	}))
	known, err := store.KnownChains(t.Context(), r.DB)
	require.NoError(t, err)
	name := ""
	for _, k := range known {
		if k.Current && log.PartitionOfChain(k) == at(1) {
			name = k.Timeline
		}
	}
	require.NotContains(t, []string{"", testOutbox}, name)
	r.Append(1, 0, func(record *pipeline.Record) {
		record.Headers = append(record.Headers, chain.Link{Timeline: name, Seq: 1}.Headers()...)
	})
	r.give(1, 1)
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[2:]...))
	assert.Empty(t, r.paused)
	assert.Len(t, r.effects(), 3)
	assert.Equal(t, name, r.position(1).Reached.Timeline)
}

// Records of another incarnation of the topic are none of this session's.
func TestRecordsOfAnotherIncarnationAreLeftAlone(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Append(1, 1, func(record *pipeline.Record) { record.TopicID = "another" })
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Empty(t, r.effects())
	assert.Zero(t, r.position(1).Next)
}

// stuck is at work until its context is done.
type stuck struct{ entered chan struct{} }

func (h *stuck) Handle(ctx context.Context, _ *pipeline.Tx, _ []pipeline.Record) ([]schema.Event, error) {
	select {
	case h.entered <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// A stop finishes the transaction under way, and waits for it no longer than it says.
func TestAStopEndsATransactionThatTakesTooLong(t *testing.T) {
	t.Parallel()
	h := &stuck{entered: make(chan struct{}, 1)}
	r := NewRig(t, h)
	r.Stage.watchdogLimit, r.Stage.limit = time.Hour, time.Hour
	applying, noMore := context.WithCancel(t.Context())
	r.Stage.applying = applying
	r.fill(1, 1)
	r.assign()
	ctx, cancel := context.WithCancel(t.Context())
	delivered := make(chan error, 1)
	go func() { delivered <- r.Deliver(ctx, r.LogOf(1)...) }()
	<-h.entered
	cancel() // the router stops; the transaction continues
	select {
	case err := <-delivered:
		require.Fail(t, "the transaction was given up at once", "%v", err)
	default:
	}
	noMore()
	require.ErrorIs(t, <-delivered, context.Canceled)
	assert.Empty(t, r.effects())
}

func TestPrepareGetsWhatTheHandlerGets(t *testing.T) {
	t.Parallel()
	h := &asker{}
	r := NewRig(t, h)
	r.Append(1, 1, func(record *pipeline.Record) { record.Value = []byte("{") })
	r.fill(1, 1)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	require.Len(t, r.letters(), 1)
	assert.ErrorContains(t, r.decodeFault(r.LogOf(1)[0]), r.letters()[0].Reason, "the reason is the decoder's, not of a Prepare that was given the record")

	h = &asker{}
	r = NewRig(t, h)
	h.before = func([]pipeline.Record) error { panic("it wants none of these") }
	r.Stage.spec.Consumes = []schema.EventType{schema.QuoteUnchanged{}.EventType()}
	r.fill(1, 3) // the third is one that Prepare refuses
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Empty(t, r.letters())
	assert.Equal(t, int64(3), r.position(1).Next, "skipped")
}

func (r *Rig) decodeFault(record pipeline.Record) error {
	_, err := schema.DecodeEvent(record.Headers, record.Value)
	return err
}

func TestTheTopicsOfAStage(t *testing.T) {
	t.Parallel()
	spec := StageSpec{Consumes: []schema.EventType{schema.QuoteUnchanged{}.EventType(), schema.QuoteFailed{}.EventType(),
		schema.PriceObserved{}.EventType(), "no.such.event.v1"}}
	assert.Equal(t, []schema.Topic{schema.QuoteOutcomes, schema.PriceEvents}, spec.Topics(), "each once, in order")
}
