package pipeline

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pricemill/pricemill/pipeline/tracing"
)

// Observe observes a value of a histogram, with the trace that ctx carries as its
// exemplar, if it carries one that is sampled.
func Observe(ctx context.Context, into prometheus.Observer, value float64) {
	if traceID, _ := tracing.IDs(ctx); traceID != "" {
		if exemplars, ok := into.(prometheus.ExemplarObserver); ok {
			exemplars.ObserveWithExemplar(value, prometheus.Labels{"trace_id": traceID})
			return
		}
	}
	into.Observe(value)
}
