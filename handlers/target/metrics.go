package target

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics count what a target did. Its fields count from the start of the process.
type Metrics struct {
	Sent, Skipped, Failed prometheus.Counter
}

// NewMetrics registers the metrics of the target of a handler. A nil registerer means
// nowhere.
func NewMetrics(at prometheus.Registerer, handler string) Metrics {
	factory := promauto.With(at)
	counter := func(name, help string) prometheus.Counter {
		return factory.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"target": handler}})
	}
	return Metrics{
		Sent:    counter("pricemill_target_events_sent_total", "Events that a target took."),
		Skipped: counter("pricemill_target_events_skipped_total", "Events that were not sent to a target because they were older than max_age, or it has no address."),
		Failed:  counter("pricemill_target_failures_total", "Batches that a target did not take, repeated ones included."),
	}
}
