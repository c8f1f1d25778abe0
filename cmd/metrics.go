package cmd

import (
	"context"
	"log/slog"
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections/latestprices"
)

// registerProcess registers what each process has: the runtime, the build, and its
// connections to the database.
func registerProcess(registry prometheus.Registerer, db *store.Store) {
	version, revision := buildVersion()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pricemill_build_info", Help: "1, with what the binary was built from.",
			ConstLabels: prometheus.Labels{"version": version, "revision": revision, "go_version": runtime.Version()}}, func() float64 { return 1 }))
	for name, pool := range db.Pools() {
		registry.MustRegister(collectors.NewDBStatsCollector(pool, name))
	}
}

// newRequestMetrics counts the requests that a server answers.
func newRequestMetrics(registry prometheus.Registerer) func(httpapi.Answered) {
	answered := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pricemill_http_requests_total",
		Help: "Requests that were answered, by the path of their route, or other where there is none."}, []string{"route", "method", "status"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "pricemill_http_request_seconds",
		Help:    "Time from the headers of a request to the end of its answer. Streams are not in it.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}, []string{"route"})
	registry.MustRegister(answered, seconds)
	return func(a httpapi.Answered) {
		answered.WithLabelValues(a.Route, a.Method, strconv.Itoa(a.Status)).Inc()
		if !a.Stream {
			observed := seconds.WithLabelValues(a.Route)
			if exemplars, ok := observed.(prometheus.ExemplarObserver); ok && a.TraceID != "" {
				exemplars.ObserveWithExemplar(a.Took.Seconds(), prometheus.Labels{"trace_id": a.TraceID})
			} else {
				observed.Observe(a.Took.Seconds())
			}
		}
	}
}

// freshness is when a price last came from each provider, read at each scrape.
type freshness struct {
	reader latestprices.Reader
	log    *slog.Logger
}

var newestReceipt = prometheus.NewDesc("pricemill_provider_last_receipt_timestamp_seconds",
	"When a price of the provider was last received, of any symbol.", []string{"provider"}, nil)

// Describe implements prometheus.Collector.
func (f freshness) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- newestReceipt }

// Collect implements prometheus.Collector. Without a database it gives none.
func (f freshness) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), gaugesTimeout)
	defer cancel()
	receipts, err := f.reader.LastReceipts(ctx)
	if err != nil {
		f.log.Warn("no ages of prices for /metrics", "error", err)
		return
	}
	for provider, at := range receipts {
		metrics <- prometheus.MustNewConstMetric(newestReceipt, prometheus.GaugeValue, float64(at.UnixMicro())/1e6, string(provider))
	}
}
