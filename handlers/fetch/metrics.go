package fetch

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// metrics are what the handler counts. Labels are names of providers in this
// binary and codes of the schema: nothing that comes from outside.
type metrics struct {
	outcomes *prometheus.CounterVec
	answers  *prometheus.HistogramVec
	left     *prometheus.GaugeVec
	breaker  *prometheus.GaugeVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	auto := promauto.With(registry)
	return &metrics{
		outcomes: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pricemill_fetch_outcomes_total", Help: "Requests that have their outcome: ok, or the code of their failure.",
		}, []string{"provider", "code"}),
		answers: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pricemill_fetch_answer_seconds", Help: "Time from a call to its end, whether it got an answer or not.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 13),
		}, []string{"provider"}),
		left: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pricemill_fetch_calls_left", Help: "Calls that the provider's limits allow at this moment, to all processes together.",
		}, []string{"provider"}),
		breaker: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pricemill_fetch_breaker_state", Help: "State of this process's circuit breaker: 0 closed, 1 half-open, 2 open.",
		}, []string{"provider"}),
	}
}

// codes are those that a provider can fail with.
var codes = []schema.Code{schema.CodeTimeout, schema.CodeUnavailable, schema.CodeRateLimited, schema.CodeUnauthorized,
	schema.CodeNotConfigured, schema.CodeUnknownProvider, schema.CodeTooLarge, schema.CodeUnknownSymbol,
	schema.CodeBadResponse, schema.CodeBadPrice, schema.CodeInternal}

// CodeLabel is the label of a code that a provider failed with: one of few, whatever it says.
func CodeLabel(code schema.Code) string {
	if !slices.Contains(codes, code) {
		return "other"
	}
	return string(code)
}

// count counts an outcome.
func (h *handler) count(p schema.Payload) {
	provider, code := schema.Provider(""), "ok"
	switch p := p.(type) {
	case schema.QuoteFetched:
		provider = p.Provider
	case schema.QuoteFailed:
		provider, code = p.Provider, CodeLabel(p.Code)
	}
	if _, known := h.provider(provider); !known {
		provider = "unknown"
	}
	h.metrics.outcomes.WithLabelValues(string(provider), code).Inc()
}

// show sets the gauges: calls come back, and breakers half open, by themselves as
// time passes.
func (h *handler) show(ctx context.Context, db store.Querier) error {
	rows, err := readBudgets(ctx, db)
	if err != nil {
		return err
	}
	for _, row := range rows {
		limits := h.limits(row.Provider)
		if len(limits) == 0 {
			continue
		}
		b, err := newBudget(limits, row.Closed, row.Spent)
		if err != nil {
			return fmt.Errorf("provider %s: %w", row.Provider, err)
		}
		h.metrics.left.WithLabelValues(string(row.Provider)).Set(float64(b.forecast(row.Now).left()))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for provider, g := range h.gates {
		h.metrics.breaker.WithLabelValues(string(provider)).Set(float64(g.breaker.State()))
	}
	return nil
}
