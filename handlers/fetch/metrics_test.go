package fetch_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig, registry := pipelinetest.New(t), prometheus.NewPedanticRegistry()
		errs := map[schema.Symbol]error{"DOWN": pipeline.Quotef(schema.CodeUnavailable, ""), "ODD": pipeline.Quotef("made up just now", "")}
		p := newScripted(func(_ context.Context, s schema.Symbol) (schema.RawResponse, error) {
			time.Sleep(100 * time.Millisecond)
			return []byte("x"), errs[s]
		})
		p.limits = []pipeline.Limit{{Calls: 9, Per: time.Minute}}
		runner := newHandlerIn(t, pipeline.Env{Now: time.Now, Log: quiet, Provider: providers{"p": p}.find, Metrics: registry})
		defer process(t, rig, runner)()
		for i, s := range []schema.Symbol{"A", "A", "ODD", "DOWN", "DOWN", "DOWN", "DOWN", "DOWN", "A"} {
			enter(t, rig, runner, request(fmt.Sprint(i), "p", s, time.Minute), request(fmt.Sprint("u", i), schema.Provider(fmt.Sprint("u", i)), s, time.Minute))
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(time.Second)
		assert.Equal(t, map[string]float64{
			"pricemill_fetch_outcomes_total code=ok provider=p":                     2,
			"pricemill_fetch_outcomes_total code=other provider=p":                  1,
			"pricemill_fetch_outcomes_total code=unavailable provider=p":            6,
			"pricemill_fetch_outcomes_total code=unknown_provider provider=unknown": 9,
			"pricemill_fetch_answer_seconds provider=p":                             8,
			"pricemill_fetch_calls_left provider=p":                                 1,
			"pricemill_fetch_breaker_state provider=p":                              2,
		}, gather(t, registry))
		time.Sleep(2 * time.Minute)
		got := gather(t, registry)
		assert.Equal(t, 9.0, got["pricemill_fetch_calls_left provider=p"], "they come back although no one asks")
		assert.Equal(t, 1.0, got["pricemill_fetch_breaker_state provider=p"], "half-open")
	})
}

// gather returns the values of a registry, of histograms the count.
func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetName() + "=" + label.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}
