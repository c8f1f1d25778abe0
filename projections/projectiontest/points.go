package projectiontest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Asker folds a log into an indicator and asks it.
type Asker struct {
	t         testing.TB
	rig       *pipelinetest.Rig
	stage     *pipelinetest.Stage
	indicator projections.Indicator
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
	t.Cleanup(func() { stage.Close(t) })
	return &Asker{t, rig, stage, indicator}
}

// Fold appends events to the log and folds them.
func (a *Asker) Fold(payloads ...schema.Payload) {
	a.t.Helper()
	require.NoError(a.t, a.stage.Deliver(a.rig.AppendAll(a.t, payloads...)...))
}

// Points are all points of a symbol, newest first. Parameters that are not given
// have their default.
func (a *Asker) Points(provider schema.Provider, symbol schema.Symbol, parameters map[string]string) []projections.Point {
	a.t.Helper()
	q := projections.IndicatorQuery{Provider: provider, Symbol: symbol, Parameters: map[string]string{}, Behind: projections.Newest, Limit: 1 << 30}
	for _, p := range a.indicator.Indicator().Parameters {
		q.Parameters[p.Name] = p.Default
		if value, given := parameters[p.Name]; given {
			require.NoError(a.t, p.Check(value), p.Name)
			q.Parameters[p.Name] = value
		}
	}
	points, err := a.indicator.Points(a.t.Context(), a.rig.DB, q)
	require.NoError(a.t, err)
	return points
}
