package projections_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/bollinger"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/projections/ema"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/projections/vwap"
	"github.com/pricemill/pricemill/schema"
)

// Any mix of prices, late prices, corrections and retractions, in any order of arrival and
// cut anywhere, gives the points of the final facts alone.
func TestIndicatorsAreThoseOfTheFinalFacts(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(pipeline.Env) (pipeline.Projection, error){
		"ema": ema.New, "vwap": vwap.New, "bollinger": bollinger.New, "candles": candles.New,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			number := 0
			rapid.Check(t, func(t *rapid.T) {
				draw := projectiontest.Prices
				if name == "candles" {
					draw = projectiontest.PricesAndBars
				}
				events := projectiontest.Events(projectiontest.Corrected(t, draw(t))...)
				final := projectiontest.Final(events)
				number += 3
				want := folded(t, rig, make, number, projectiontest.Events(final...), false)
				require.Equal(t, want, folded(t, rig, make, number+1, events, true), "(-: of the final facts alone)")
				require.Equal(t, want, folded(t, rig, make, number+2, events, false), "at once, as in a rebuild (-: of the final facts alone)")
			})
		})
	}
}

// So are the current averages, the averages at each price, the latest prices and the list of
// all prices.
func TestReadModelsAreThoseOfTheFinalFacts(t *testing.T) {
	t.Parallel()
	models := map[string]func(t *rapid.T, db *store.Store, g pipeline.Generation) []string{
		movingaverages.Name: func(t *rapid.T, db *store.Store, g pipeline.Generation) []string {
			return each(t, func(q schema.Quote) (any, error) {
				average, _, err := movingaverages.At(t.Context(), db, q.Provider, q.Symbol, 3)
				return average, err
			})
		},
		latestprices.Name: func(t *rapid.T, db *store.Store, g pipeline.Generation) []string {
			reader := latestprices.NewReader(db)
			symbols, err := reader.Symbols(t.Context(), latestprices.SymbolQuery{Limit: 100})
			require.NoError(t, err)
			return append(each(t, func(q schema.Quote) (any, error) { return reader.Latest(t.Context(), q.Provider, q.Symbol) }), fmt.Sprint(symbols))
		},
		processedprices.Name: func(t *rapid.T, db *store.Store, g pipeline.Generation) []string {
			return each(t, func(q schema.Quote) (any, error) {
				prices, err := processedprices.Reader{DB: db}.Prices(t.Context(), processedprices.Query{Provider: q.Provider, Symbol: q.Symbol, Behind: projections.Newest, Limit: 1000})
				var facts []string
				for _, p := range prices {
					facts = append(facts, fmt.Sprint(p.Price, p.Timestamp, p.Sequence, p.ReceivedAt))
				}
				return facts, err
			})
		},
	}
	for name, read := range models {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			module := moduleOf(name)
			make := func(env pipeline.Env) (pipeline.Projection, error) {
				if name == movingaverages.Name {
					env.Settings = map[string]any{"windows": []int{3}}
				}
				return module.New(env)
			}
			if name == movingaverages.Name { // where it looks if it has no average
				prices, err := moduleOf(processedprices.Name).New(pipeline.Env{})
				require.NoError(t, err)
				pipelinetest.CreateTables(t, rig.DB, prices, pipeline.Generation{Projection: processedprices.Name, Number: 1, Active: true})
			}
			number := 0
			rapid.Check(t, func(t *rapid.T) {
				events := projectiontest.Events(projectiontest.Corrected(t, projectiontest.PricesAndBars(t))...)
				final := projectiontest.Final(events)
				number += 3
				read := func(g pipeline.Generation) []string { return read(t, rig.DB, g) }
				want := fold(t, rig, make, number, projectiontest.Events(final...), false, read)
				require.Equal(t, want, fold(t, rig, make, number+1, events, true, read), "(-: of the final facts alone)")
				require.Equal(t, want, fold(t, rig, make, number+2, events, false, read), "at once, as in a rebuild (-: of the final facts alone)")
			})
		})
	}
}

func moduleOf(name string) pipeline.ProjectionModule {
	all := pipeline.Projections()
	return all[slices.IndexFunc(all, func(m pipeline.ProjectionModule) bool { return m.Name == name })]
}

// quotes are all that logs are drawn of.
func quotes() (all []schema.Quote) {
	for _, provider := range []schema.Provider{"p", "q"} {
		for _, symbol := range []schema.Symbol{"A", "B", "^GSPC"} {
			all = append(all, schema.Quote{Provider: provider, Symbol: symbol})
		}
	}
	return all
}

// each is what is read of all quotes.
func each(t *rapid.T, read func(schema.Quote) (any, error)) (all []string) {
	for _, q := range quotes() {
		value, err := read(q)
		if !errors.Is(err, projections.ErrNotFound) {
			require.NoError(t, err)
		}
		all = append(all, fmt.Sprint(q.Key(), value, err != nil))
	}
	return all
}

// folded are the points of all markets after events, in pieces or at once. They are read a
// few at a time, so that they follow from the states that are stored.
func folded(t *rapid.T, rig *pipelinetest.Rig, make func(pipeline.Env) (pipeline.Projection, error), number int, events []schema.Event, pieces bool) map[string][]projections.Point {
	p, err := make(pipeline.Env{})
	require.NoError(t, err)
	indicator := p.(projections.Indicator)
	return fold(t, rig, make, number, events, pieces, func(pipeline.Generation) map[string][]projections.Point {
		points := map[string][]projections.Point{}
		for _, quote := range quotes() {
			for _, chosen := range projectiontest.Choices(indicator.Indicator()) {
				parameters := map[string]string{}
				for _, known := range indicator.Indicator().Parameters {
					parameters[known.Name] = cmp.Or(chosen[known.Name], known.Default)
				}
				points[quote.Key()] = append(points[quote.Key()], paged(t, rig.DB, indicator, quote, parameters)...)
			}
		}
		return points
	})
}

func paged(t *rapid.T, db *store.Store, indicator projections.Indicator, quote schema.Quote, parameters map[string]string) (all []projections.Point) {
	q := projections.IndicatorQuery{Provider: quote.Provider, Symbol: quote.Symbol, Parameters: parameters, Behind: projections.Newest, Limit: 11}
	for {
		page, err := indicator.Points(t.Context(), db, q)
		require.NoError(t, err)
		for _, point := range page {
			q.Behind = point.Place
			point.ID = 0 // where in the log it is
			all = append(all, point)
		}
		if len(page) < q.Limit {
			return all
		}
	}
}

// fold folds events into a generation that has the plain names, which queries use, and
// returns what is read of it.
func fold[T any](t *rapid.T, rig *pipelinetest.Rig, build func(pipeline.Env) (pipeline.Projection, error), number int, events []schema.Event, pieces bool, read func(pipeline.Generation) T) T {
	p, err := build(pipeline.Env{})
	require.NoError(t, err)
	g := pipeline.Generation{Projection: p.Name(), Number: number, Active: true}
	pipelinetest.CreateTables(t, rig.DB, p, g)
	defer pipelinetest.DropTables(t, rig.DB, p, g)
	stage := rig.Start(t, pipelinetest.FoldStage(p, g))
	defer stage.Close(t)
	log := rig.Append(t, events...)
	list := projectiontest.NewPriceList(t, rig)
	defer list.Drop()
	if pieces && rapid.IntRange(0, 3).Draw(t, "3 to list the prices meanwhile") == 3 {
		listed := make(chan error)
		go func() {
			var errs []error
			for part := range slices.Chunk(log, 3) {
				errs = append(errs, list.Deliver(part))
			}
			listed <- errors.Join(errs...)
		}()
		defer func() { require.NoError(t, <-listed) }()
	} else {
		require.NoError(t, list.Deliver(log))
	}
	if pieces {
		pipelinetest.DeliverInPieces(t, stage, log)
	} else if len(log) > 0 {
		require.NoError(t, stage.Deliver(log...))
	}
	return read(g)
}

// TestACorrectionWaitsForTheListOfPrices: what is needed of it is what came before the batch.
func TestACorrectionWaitsForTheListOfPrices(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	p, err := moduleOf(movingaverages.Name).New(pipeline.Env{Settings: map[string]any{"windows": []int{2}}})
	require.NoError(t, err)
	g := pipeline.Generation{Projection: p.Name(), Number: 1, Active: true}
	pipelinetest.CreateTables(t, rig.DB, p, g)
	list := projectiontest.NewPriceList(t, rig)
	defer list.Drop()
	stage := rig.Start(t, pipelinetest.FoldStage(p, g))
	defer stage.Close(t)

	var payloads []schema.Payload
	for i, price := range []string{"1", "2", "4"} {
		at := schema.NewTime(time.Unix(int64(i), 0))
		payloads = append(payloads, schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal(price), Timestamp: at, ReceivedAt: at})
	}
	last := payloads[2].(schema.PriceObserved)
	payloads = append(payloads, schema.PriceRetracted{RetractedAt: last.Timestamp,
		Correction: schema.Correction{FactID: "fact-2", Symbol: "A", Source: "p", Timestamp: last.Timestamp, Reason: "r"}})
	log := rig.Append(t, projectiontest.Events(payloads...)...)
	require.NoError(t, stage.Deliver(log[:2]...))
	apply := func() error {
		return rig.DB.Write(t.Context(), func(tx *store.Tx) error {
			return errors.Join(p.Apply(t.Context(), &pipeline.Tx{Tx: tx}, g, log[2:]), errUndone)
		})
	}
	require.ErrorIs(t, apply(), projections.ErrListBehind, "the list is empty")
	require.NoError(t, list.Deliver(log[:1]))
	require.ErrorIs(t, apply(), projections.ErrListBehind, "it lacks the price before the batch")
	require.False(t, pipeline.IsPermanent(apply()))
	require.NoError(t, list.Deliver(log[:2]))
	require.NotErrorIs(t, apply(), projections.ErrListBehind)

	require.NoError(t, stage.Deliver(log[2:]...))
	average, _, err := movingaverages.At(t.Context(), rig.DB, "p", "A", 2)
	require.NoError(t, err)
	require.Equal(t, "1.5", average.Value.String())
}

var errUndone = errors.New("rolled back by the test")
