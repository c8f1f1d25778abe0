package projections_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

const scratches = `SELECT COUNT(*) FROM generations WHERE scratch = 1`

// tables counts the tables of tally, of whatever generation.
const tables = `SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name LIKE 'tally%'`

func take(t *testing.T, db *store.Store, p pipeline.Projection) *projections.Scratch {
	t.Helper()
	scratch, err := projections.TakeScratch(t.Context(), db, []pipeline.Projection{p})
	require.NoError(t, err)
	return scratch
}

// The service continues as if a scratch generation were not there.
func TestAScratchGenerationIsNoPartOfTheService(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	p := tally{version: 1}
	spec := open(t, rig.DB, p)
	log := prices(t, rig, 4)
	feed(t, rig, spec, log)
	scratch := take(t, rig.DB, p)
	g, own, err := scratch.Create(t.Context(), p)
	require.NoError(t, err)
	assert.Equal(t, pipeline.Generation{Projection: "tally", Number: 2}, g)
	feed(t, rig, own, log[:3])
	require.NoError(t, rig.DB.Write(t.Context(), func(tx *store.Tx) error {
		return tx.AddDeadLetters(t.Context(), []store.DeadLetter{{Stage: own.Name, Topic: string(schema.PriceEvents), TopicID: "id", Headers: []byte{1},
			CreatedAt: schema.NewTime(time.Unix(1, 0))}})
	}))

	assert.Equal(t, 4, count(t, rig.DB, total))
	assert.Equal(t, 3, count(t, rig.DB, `SELECT COALESCE(SUM(n), 0) FROM tally_g2`))
	stages, err := projections.Stages(t.Context(), rig.DB, []pipeline.Projection{p})
	require.NoError(t, err)
	require.Len(t, stages, 1)
	assert.Equal(t, spec.Name, stages[0].Name)
	_, err = projections.OfStage(t.Context(), rig.DB, []pipeline.Projection{p}, own.Name)
	require.ErrorIs(t, err, projections.ErrNoFold)
	assert.Equal(t, spec.Name, open(t, rig.DB, p).Name)
	positions, err := store.Positions(t.Context(), rig.DB, "")
	require.NoError(t, err)
	for _, position := range positions {
		assert.Equal(t, spec.Name, position.Stage)
	}

	// A rebuild takes another number.
	rebuild, err := projections.NewRebuild(t.Context(), rig.DB, tally{version: 2}, projections.Order{Promote: projections.PromoteManual})
	require.NoError(t, err)
	assert.Equal(t, 3, rebuild.Generation)
	require.NoError(t, scratch.Release(t.Context()))
	assert.Zero(t, count(t, rig.DB, scratches))
	assert.Zero(t, count(t, rig.DB, `SELECT COUNT(*) FROM dead_letters`))
	assert.Zero(t, count(t, rig.DB, `SELECT COUNT(*) FROM positions WHERE stage LIKE 'scratch%'`))
	assert.Equal(t, 1+2, count(t, rig.DB, tables), "of what serves, and of the new fold")
}

// Of two at once, the later one waits until the other's right would have ended,
// had it been killed, and then says so; time is virtual.
func TestTwoDoNotMakeScratchGenerationsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := pipelinetest.OpenStore(t, t.TempDir()+"/db")
		p := tally{version: 1}
		open(t, db, p)
		first := take(t, db, p)
		_, _, err := first.Create(t.Context(), p)
		require.NoError(t, err)
		began := time.Now()
		_, err = projections.TakeScratch(t.Context(), db, []pipeline.Projection{p})
		require.ErrorIs(t, err, projections.ErrScratchTaken)
		assert.Greater(t, time.Since(began), 10*time.Second)
		assert.Equal(t, 1, count(t, db, scratches), "which it left alone")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = projections.TakeScratch(ctx, db, []pipeline.Projection{p})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		require.NoError(t, first.Release(t.Context()))
		second := take(t, db, p)
		require.NoError(t, second.Release(t.Context()))
	})
}

// What a process leaves that was killed goes when the next one comes.
func TestScratchGenerationsOfAKilledProcessGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := pipelinetest.OpenStore(t, t.TempDir()+"/db")
		p := tally{version: 2}
		open(t, db, p)
		killed := take(t, db, p)
		for range 2 {
			_, _, err := killed.Create(t.Context(), p)
			require.NoError(t, err)
		}
		require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE leases SET owner = 'killed' WHERE name = 'scratch'`)
			return err
		}))
		require.ErrorIs(t, <-killed.Lost(), projections.ErrScratchTaken, "whose right is lost learns of it")
		_, _, err := killed.Create(t.Context(), p)
		require.ErrorIs(t, err, projections.ErrScratchTaken)
		require.ErrorIs(t, killed.Release(t.Context()), projections.ErrScratchTaken)
		assert.Equal(t, 2, count(t, db, scratches))

		next := take(t, db, p)
		assert.Zero(t, count(t, db, scratches))
		assert.Equal(t, 2, count(t, db, tables))
		require.NoError(t, next.Release(t.Context()))
	})
}
