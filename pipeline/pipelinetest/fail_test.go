package pipelinetest_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

var errInjected = errors.New("injected")

func injected(context.Context) error { return errInjected }

// counting is echo whose prices are numbered: by what it remembers, and by what
// is in its table.
type counting struct{ echo }

func (c *counting) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	count := pipeline.CacheFor[schema.Symbol, int](tx, "counting")
	n, known := count.Get("A")
	if !known {
		if err := tx.Get(ctx, &n, `SELECT count(*) FROM counted`); err != nil {
			return nil, err
		}
	}
	rows := store.Rows{Table: "counted", Columns: []string{"number"}, Clause: "ON CONFLICT (number) DO NOTHING"}
	for i := range in {
		rows.Add(n + i + 1)
	}
	count.Put("A", n+len(in))
	if err := tx.Insert(ctx, rows); err != nil {
		return nil, err
	}
	return c.echo.Handle(ctx, tx, in)
}

// TestFailpointsOfAStage has each point of a batch's way fail, once by an error
// and once by a panic: the batch is applied once, whatever the stage remembers of
// it, and so is the next one.
func TestFailpointsOfAStage(t *testing.T) {
	for _, point := range []failpoint.Point{failpoint.StagePrepared, failpoint.StageApplied, failpoint.StageCommitted,
		failpoint.StoreInserting, failpoint.StoreCommitting, failpoint.StoreCommitted} {
		for name, do := range map[string]func(context.Context) error{"error": injected, "panic": func(context.Context) error { panic("injected") }} {
			t.Run(string(point)+" "+name, func(t *testing.T) {
				rig := pipelinetest.New(t)
				require.NoError(t, rig.DB.Write(t.Context(), func(tx *store.Tx) error {
					return tx.DDL(t.Context(), `CREATE TABLE counted (number {int} PRIMARY KEY)`)
				}))
				stage := start(t, rig, &counting{})
				require.NoError(t, stage.Deliver(rig.AppendAll(t, price(1))...)) // there is something to remember
				failed := false
				pipelinetest.Fail(t, point, 1, func(ctx context.Context) error {
					failed = true
					return do(ctx)
				})
				log := rig.AppendAll(t, price(2), price(3), price(4))
				if err := stage.Deliver(log...); err != nil {
					// A panic, or a fault after the commit: it is delivered again.
					require.NoError(t, stage.Deliver(log...))
				}
				require.True(t, failed)
				require.NoError(t, stage.Deliver(rig.AppendAll(t, price(5))...))

				var prices []string
				for _, event := range rig.Events(t, schema.QuoteOutcomes) {
					prices = append(prices, event.Payload.(schema.QuoteUnchanged).Price.String())
				}
				assert.Equal(t, []string{"1", "2", "3", "4", "5"}, prices)
				var numbers []int
				require.NoError(t, rig.DB.Select(t.Context(), &numbers, `SELECT number FROM counted ORDER BY number`))
				assert.Equal(t, []int{1, 2, 3, 4, 5}, numbers)
			})
		}
	}
}

// TestFailpointOfAStageThatIsOvertaken stops a stage between its answers and its
// transaction, as a process that sleeps does, while another one has its
// partitions.
func TestFailpointOfAStageThatIsOvertaken(t *testing.T) {
	rig := pipelinetest.New(t)
	slow, fast := start(t, rig, &echo{}), start(t, rig, &echo{})
	reached, release := make(chan struct{}), make(chan struct{})
	pipelinetest.Fail(t, failpoint.StagePrepared, 1, func(context.Context) error {
		close(reached)
		<-release
		return nil
	})
	log := rig.AppendAll(t, price(1), price(2), price(3))
	delivered := make(chan error, 1)
	go func() { delivered <- slow.Deliver(log...) }()
	<-reached
	require.NoError(t, fast.Deliver(log[:2]...))
	assert.Len(t, rig.Events(t, schema.QuoteOutcomes), 2)
	close(release)
	require.NoError(t, <-delivered)
	events := rig.Events(t, schema.QuoteOutcomes)
	require.Len(t, events, 1, "what the other one had left")
	assert.Equal(t, "3", events[0].Payload.(schema.QuoteUnchanged).Price.String())
}

// TestFailpointOfAnAssignment: an error while partitions are assigned leaves the
// stage without a session, and the next attempt begins where SQL stands.
func TestFailpointOfAnAssignment(t *testing.T) {
	rig := pipelinetest.New(t)
	pipelinetest.Fail(t, failpoint.StageAssigned, 2, injected)
	stage := start(t, rig, &echo{})
	log := rig.AppendAll(t, price(1), price(2))
	require.NoError(t, stage.Deliver(log[0]))
	require.ErrorIs(t, stage.TryRestart(), errInjected)
	stage.Restart(t)
	require.NoError(t, stage.Deliver(log...))
	assert.Len(t, rig.Events(t, schema.QuoteOutcomes), 2)
}

// TestFailpointOfAnInsert: a part of the rows is none.
func TestFailpointOfAnInsert(t *testing.T) {
	rig := pipelinetest.New(t)
	pipelinetest.Fail(t, failpoint.StoreInserting, 2, injected)
	const n = 1000
	insert := func() error {
		return rig.DB.Write(t.Context(), func(tx *store.Tx) error {
			rows := store.Rows{Table: "fetch_refused", Columns: []string{"provider", "symbol", "since", "refused_at"}}
			for i := range n {
				rows.Add("p", i, price(i).Timestamp, price(i).Timestamp)
			}
			return tx.Insert(t.Context(), rows)
		})
	}
	count := func() (rows int) {
		require.NoError(t, rig.DB.Get(t.Context(), &rows, `SELECT count(*) FROM fetch_refused`))
		return rows
	}
	require.ErrorIs(t, insert(), errInjected)
	assert.Zero(t, count())
	require.NoError(t, insert())
	assert.Equal(t, n, count())
}

// TestFailpointOfAChainThatMoves: events that wait are in one chain at any time.
func TestFailpointOfAChainThatMoves(t *testing.T) {
	rig := pipelinetest.New(t)
	stage := start(t, rig, &echo{})
	require.NoError(t, stage.Deliver(rig.AppendAll(t, price(1), price(2), price(3))...))
	pipelinetest.Fail(t, failpoint.StoreMoving, 1, injected)
	topics, err := rig.DB.Topics(t.Context())
	require.NoError(t, err)
	outcomes := topics[slices.IndexFunc(topics, func(topic store.Topic) bool { return topic.Name == string(schema.QuoteOutcomes) })]
	chains, err := store.Chains(t.Context(), rig.DB)
	require.NoError(t, err)
	chain := chains[slices.IndexFunc(chains, func(c store.Chain) bool { return c.Epoch == outcomes.Epoch && c.Last == 3 })]
	renew := func() error {
		return rig.DB.Write(t.Context(), func(tx *store.Tx) error {
			return tx.RenewChain(t.Context(), chain.Epoch, chain.Part, chain.Timeline, func(store.OutboxRow) (store.InLog, error) { return store.Absent, nil })
		})
	}
	waiting := func() []store.OutboxRow {
		rows, err := rig.DB.ReadOutbox(t.Context(), 10, 1<<20, store.Behind{Epoch: chain.Epoch, Part: chain.Part})
		require.NoError(t, err)
		return rows
	}
	before := waiting()
	require.Len(t, before, 3)
	require.ErrorIs(t, renew(), errInjected)
	now, err := store.Chains(t.Context(), rig.DB)
	require.NoError(t, err)
	assert.Equal(t, chains, now)
	assert.Equal(t, before, waiting())
	require.NoError(t, renew())
	assert.Equal(t, before, waiting(), "numbers begin with 1 again")
}

// TestFailpointOfAnAppend: what is sent again has the id it had.
func TestFailpointOfAnAppend(t *testing.T) {
	rig := pipelinetest.New(t)
	pipelinetest.Fail(t, failpoint.AppendSent, 1, injected)
	events := []schema.Event{{ID: "1", Source: "test", Payload: price(1)}, {ID: "2", Source: "test", Payload: price(2)}}
	require.ErrorIs(t, rig.Emitter().Append(t.Context(), events), errInjected)
	require.NoError(t, rig.Emitter().Append(t.Context(), events))
	var ids []string
	for _, record := range rig.Sent() {
		ids = append(ids, record.Event.ID)
	}
	assert.Equal(t, []string{"1", "2", "1", "2"}, ids)
}
