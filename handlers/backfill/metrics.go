package backfill

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/pricemill/pricemill/handlers/fetch"
	"github.com/pricemill/pricemill/pipeline"
)

// metrics are what the handler counts. Labels are names of providers in this binary and codes of
// the schema: nothing that comes from outside.
type metrics struct {
	calls  *prometheus.CounterVec
	prices *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) metrics {
	auto := promauto.With(registry)
	return metrics{
		calls: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pricemill_backfill_calls_total", Help: "Pages that providers were asked for: ok, or the code of the failure.",
		}, []string{"provider", "code"}),
		prices: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pricemill_backfill_prices_total", Help: "Prices of the pages, within the spans that were asked for: appended, or repeated where they were known.",
		}, []string{"provider", "kind"}),
	}
}

// countPage counts a page that was kept.
func (j *job) countPage(appended, repeated int) {
	provider := string(j.Provider)
	j.metrics.calls.WithLabelValues(provider, "ok").Inc()
	j.metrics.prices.WithLabelValues(provider, "appended").Add(float64(appended))
	j.metrics.prices.WithLabelValues(provider, "repeated").Add(float64(repeated))
}

// countFailure counts a call that failed.
func (j *job) countFailure(failure *pipeline.QuoteError) {
	j.metrics.calls.WithLabelValues(string(j.Provider), fetch.CodeLabel(failure.Code)).Inc()
}
