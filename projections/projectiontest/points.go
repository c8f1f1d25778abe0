package projectiontest

import (
	"context"
	"reflect"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Asker folds a log into an indicator and asks it.
type Asker struct {
	t         testing.TB
	rig       *pipelinetest.Rig
	stage     *pipelinetest.Stage
	list      PriceList
	indicator projections.Indicator
	closed    sync.Once
}

// Ask starts the stage of an indicator, until the test ends.
func Ask(t testing.TB, p pipeline.Projection) *Asker {
	t.Helper()
	indicator, ok := p.(projections.Indicator)
	require.True(t, ok, "%T is no indicator", p)
	require.NoError(t, indicator.Indicator().Validate())
	rig := pipelinetest.New(t)
	spec, err := projections.Open(t.Context(), rig.DB, p)
	require.NoError(t, err)
	stage := rig.Start(t, spec)
	a := &Asker{t, rig, stage, NewPriceList(t, rig), indicator, sync.Once{}}
	t.Cleanup(a.close)
	return a
}

// close stops the stage.
func (a *Asker) close() {
	a.closed.Do(func() {
		a.stage.Close(a.t)
		a.list.Drop()
	})
}

// Fold appends events to the log and folds them.
func (a *Asker) Fold(payloads ...schema.Payload) {
	a.t.Helper()
	a.deliver(a.rig.AppendAll(a.t, payloads...))
}

// FoldEvents is Fold of events that have their ids, as corrections need.
func (a *Asker) FoldEvents(events ...schema.Event) {
	a.t.Helper()
	a.deliver(a.rig.Append(a.t, events...))
}

func (a *Asker) deliver(records []pipeline.Record) {
	a.t.Helper()
	require.NoError(a.t, a.list.Deliver(records))
	require.NoError(a.t, a.stage.Deliver(records...))
}

// points folds the example logs into an indicator, and asks for all that came out.
func (s Suite) points(t testing.TB) {
	t.Helper()
	asker := Ask(t, s.make(t))
	doc := asker.indicator.Indicator()
	quotes := map[schema.Quote]bool{}
	for i := range examples {
		log := s.example(i)
		asker.Fold(log...)
		for _, payload := range log {
			if p, ok := payload.(schema.PriceObserved); ok {
				quotes[schema.Quote{Provider: p.Source, Symbol: p.Symbol}] = true
			}
		}
	}
	for _, parameters := range Choices(doc) {
		var all []projections.Point
		for quote := range quotes {
			points := asker.Points(quote.Provider, quote.Symbol, parameters)
			checkPoints(t, doc, points)
			all = append(all, points...)
		}
		require.NotEmpty(t, all, "no log that was drawn gave a point with the parameters %v, so no check has seen any: "+
			"raise Suite.Longest, of which there are %d prices of one symbol, or let Suite.Draw draw what gives points", parameters, s.Longest)
	}
}

// Choices are the defaults of the parameters, and each with every choice of one.
func Choices(d projections.IndicatorDoc) []map[string]string {
	all := []map[string]string{nil}
	for _, p := range d.Parameters {
		for _, choice := range p.Choices {
			all = append(all, map[string]string{p.Name: choice})
		}
	}
	return all
}

// goTypes are the types of values, as projections.ColumnType has them.
var goTypes = map[projections.ColumnType]reflect.Type{
	projections.DecimalColumn: reflect.TypeFor[schema.Decimal](), projections.IntColumn: reflect.TypeFor[int64](),
	projections.TimeColumn: reflect.TypeFor[schema.Time](), projections.TextColumn: reflect.TypeFor[string](),
}

// checkPoints holds points to the description of their indicator.
func checkPoints(t testing.TB, d projections.IndicatorDoc, points []projections.Point) {
	t.Helper()
	for i, point := range points {
		if i > 0 {
			later := points[i-1]
			require.Positive(t, later.Compare(point.Place), "points are not newest first")
		}
		require.Len(t, point.Values, len(d.Columns), "a point has a value for each column")
		for c, column := range d.Columns {
			switch value := point.Values[c]; value {
			case nil:
				require.True(t, column.Nullable, "column %s is not nullable, and a point is without", column.Name)
			default:
				require.Equal(t, goTypes[column.Type], reflect.TypeOf(value), "column %s is of type %s", column.Name, column.Type)
			}
		}
	}
}

// Points are all points of a symbol, newest first. Parameters that are not given
// have their default.
func (a *Asker) Points(provider schema.Provider, symbol schema.Symbol, parameters map[string]string) []projections.Point {
	a.t.Helper()
	return PointsOf(a.t, a.rig.DB, a.indicator, schema.Quote{Provider: provider, Symbol: symbol}, parameters)
}

// PointsOf is as Asker.Points, of the tables of a database.
func PointsOf(t pipelinetest.TB, db store.Querier, indicator projections.Indicator, quote schema.Quote, parameters map[string]string) []projections.Point {
	t.Helper()
	q := projections.IndicatorQuery{Provider: quote.Provider, Symbol: quote.Symbol, Parameters: map[string]string{}, Behind: projections.Newest, Limit: 1 << 30}
	for _, p := range indicator.Indicator().Parameters {
		q.Parameters[p.Name] = p.Default
		if value, given := parameters[p.Name]; given {
			require.NoError(t, p.Check(value), p.Name)
			q.Parameters[p.Name] = value
		}
	}
	points, err := indicator.Points(context.Background(), db, q)
	require.NoError(t, err)
	return points
}
