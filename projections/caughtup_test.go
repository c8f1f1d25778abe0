package projections_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// catchesUp says whether the read model has caught up: if not, WaitCaughtUp looks again.
func catchesUp(t *testing.T, db store.Querier) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	looks, settled := watch(ctx, db)
	defer cancel()
	for range 3 + 1 { // the ends, generation and positions; and once more
		select {
		case <-looks:
		case err := <-settled:
			require.NoError(t, err)
			return true
		}
	}
	cancel()
	require.Error(t, <-settled)
	return false
}

// watch runs WaitCaughtUp and tells of each look at the database.
func watch(ctx context.Context, db store.Querier) (looks <-chan struct{}, settled <-chan error) {
	w := &watched{Querier: db, looks: make(chan struct{}, 1000)}
	end := make(chan error, 1)
	go func() { end <- projections.WaitCaughtUp(ctx, w, "tally", schema.PriceEvents) }()
	return w.looks, end
}

func exec(t *testing.T, db *store.Store, query string, args ...any) int64 {
	t.Helper()
	var changed int64
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) (err error) {
		changed, err = tx.Exec(t.Context(), query, args...)
		return err
	}))
	return changed
}

func TestWaitCaughtUp(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	spec := open(t, rig.DB, tally{version: 1})
	require.True(t, catchesUp(t, rig.DB), "nothing was written, and no stage ever ran")
	write := func() pipeline.Token {
		t.Helper()
		at := schema.NewTime(time.Unix(1, 0))
		tokens, err := rig.Emitter().Emit(t.Context(), func(*pipeline.Tx) ([]schema.Event, error) {
			return []schema.Event{{ID: "1", Source: "test", Payload: schema.PriceObserved{Symbol: "A", Source: "p",
				Price: schema.MustDecimal("1"), Timestamp: at, ReceivedAt: at}}}, nil
		})
		require.NoError(t, err)
		return tokens[0]
	}
	first := write()
	require.False(t, catchesUp(t, rig.DB), "no stage ever ran")
	feed(t, rig, spec, prices(t, rig, 1)) // by another producer, who has no chain
	require.False(t, catchesUp(t, rig.DB), "the stage has not come to it")

	read := func(token pipeline.Token, stage string) {
		t.Helper()
		require.EqualValues(t, 1, exec(t, rig.DB, `UPDATE positions SET chain_seq = $1,
			chain_outbox = (SELECT outbox FROM chains JOIN topics ON topics.epoch = chains.epoch WHERE name = topic AND chains.part = positions.part)
			WHERE stage = $2 AND topic = $3 AND part = $4`, token.Seq, stage, token.Topic, token.Partition))
	}
	read(first, "tally.g1")
	require.True(t, catchesUp(t, rig.DB))
	second := write()
	require.False(t, catchesUp(t, rig.DB))

	// Anyone who waits while the stage catches up continues, whatever is written then.
	looks, settled := watch(t.Context(), rig.DB)
	for range 3 { // the ends, the generation, the positions
		<-looks
	}
	third := write()
	assert.Empty(t, settled)
	read(second, "tally.g1")
	require.NoError(t, <-settled)
	require.False(t, catchesUp(t, rig.DB), "the third is not there yet")
	read(third, "tally.g1")
	require.True(t, catchesUp(t, rig.DB))
	exec(t, rig.DB, `UPDATE positions SET chain_seq = -2 * chain_seq - 1 WHERE chain_seq > 0`)
	require.True(t, catchesUp(t, rig.DB), "an operator had it continue after the third")
	exec(t, rig.DB, `UPDATE positions SET chain_seq = chain_seq + 2 WHERE chain_seq < 0`)
	require.False(t, catchesUp(t, rig.DB), "after the second")
	read(third, "tally.g1")

	exec(t, rig.DB, `UPDATE chains SET outbox = 'renamed', last = 1`)
	require.False(t, catchesUp(t, rig.DB), "the chain has another name, and its numbers began again")
	open(t, rig.DB, tally{version: 2})
	require.False(t, catchesUp(t, rig.DB), "another generation has seen nothing")
	exec(t, rig.DB, `INSERT INTO topics (epoch, name, topic_id, partitions, seen) VALUES (1000, $1, 'another', 1, 1)`, schema.PriceEvents)
	require.True(t, catchesUp(t, rig.DB), "the topic was created again: its chain has no number yet")
}

// watched tells of each look at the database.
type watched struct {
	store.Querier
	looks chan struct{}
}

func (c *watched) Get(ctx context.Context, dest any, query string, args ...any) error {
	err := c.Querier.Get(ctx, dest, query, args...)
	c.looks <- struct{}{}
	return err
}

func (c *watched) Select(ctx context.Context, dest any, query string, args ...any) error {
	err := c.Querier.Select(ctx, dest, query, args...)
	c.looks <- struct{}{}
	return err
}

func TestWaitCaughtUpReportsADatabaseThatIsDown(t *testing.T) {
	t.Parallel()
	db := pipelinetest.OpenStore(t, t.TempDir()+"/db")
	require.NoError(t, db.Close())
	require.ErrorIs(t, projections.WaitCaughtUp(t.Context(), db, "tally", schema.PriceEvents), projections.ErrUnavailable)
}
