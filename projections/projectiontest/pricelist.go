package projectiontest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/pipelinetest/shrink"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	_ "github.com/pricemill/pricemill/projections/processedprices" // whose fold it is
	"github.com/pricemill/pricemill/schema"
)

// PriceList is a generation of the list of prices, which projections read whose Corrections
// have Listed.
type PriceList struct {
	stage *pipelinetest.Stage
	drop  func()
}

// listNumbers is where the numbers of these generations begin, apart from those that are
// checked.
const listNumbers = 1_000_000

// NewPriceList makes an empty one.
func NewPriceList(t pipelinetest.TB, rig *pipelinetest.Rig) PriceList {
	t.Helper()
	all := pipeline.Projections()
	p, err := all[slices.IndexFunc(all, func(m pipeline.ProjectionModule) bool { return m.Name == projections.PriceListName })].New(pipeline.Env{})
	require.NoError(t, err)
	g := pipeline.Generation{Projection: p.Name(), Number: listNumbers + int(generations.Add(1))}
	pipelinetest.CreateTables(t, rig.DB, p, g)
	exec := func(query string, args ...any) {
		t.Helper()
		require.NoError(t, rig.DB.Write(context.Background(), func(tx *store.Tx) error {
			_, err := tx.Exec(context.Background(), query, args...)
			return err
		}))
	}
	exec(`INSERT INTO generations (projection, number, fold, active, following, scratch, tables, created_at) VALUES ($1, $2, $3, 0, 1, 0, '', $4)`,
		p.Name(), g.Number, "v"+strconv.Itoa(p.Version()), schema.Time{})
	stage := rig.Start(t, pipelinetest.FoldStage(p, g))
	return PriceList{stage, func() {
		stage.Close(t)
		exec(`DELETE FROM generations WHERE projection = $1 AND number = $2`, p.Name(), g.Number)
		pipelinetest.DropTables(t, rig.DB, p, g)
	}}
}

// Deliver folds records of the log into it. What cannot be folded is a dead letter.
func (l PriceList) Deliver(records []pipeline.Record) error {
	records = slices.DeleteFunc(slices.Clone(records), func(r pipeline.Record) bool { return r.Topic != schema.PriceEvents })
	slices.SortStableFunc(records, func(a, b pipeline.Record) int { return cmp.Compare(a.Offset, b.Offset) }) // each partition in its order
	if err := l.stage.Deliver(records...); !errors.Is(err, shrink.ErrDeadLetters) {
		return err
	}
	return nil
}

// Drop drops it.
func (l PriceList) Drop() { l.drop() }
