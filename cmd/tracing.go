package cmd

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/knadh/koanf/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema/names"
)

// otlpHTTP is the only protocol by which traces are sent.
const otlpHTTP = "http/protobuf"

// readTracing reads where traces go; c.Tracing stays nil where they do not.
func (c *config) readTracing(k *koanf.Koanf, wrong *faults) {
	sampler, err := tracing.ParseSampler(k.String("otel_traces_sampler"), k.String("otel_traces_sampler_arg"))
	switch {
	case errors.Is(err, tracing.ErrSampler):
		wrong.add("otel_traces_sampler", "%v; %s", err, names.Hint(k.String("otel_traces_sampler"), tracing.Samplers()))
	case err != nil:
		wrong.add("otel_traces_sampler_arg", "%v", err)
	}
	headers, err := tracing.ParseHeaders(k.String("otel_exporter_otlp_headers"))
	if err != nil {
		wrong.add("otel_exporter_otlp_headers", "%v", err)
	}
	endpoint := k.String("otel_exporter_otlp_endpoint")
	if endpoint == "" {
		return
	}
	if protocol := k.String("otel_exporter_otlp_protocol"); protocol != otlpHTTP {
		wrong.add("otel_exporter_otlp_protocol", "%q is not %s, the one that is supported; collectors take it on port 4318", protocol, otlpHTTP)
	}
	base, err := url.Parse(endpoint)
	switch {
	case err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https":
		wrong.add("otel_exporter_otlp_endpoint", "not a URL such as http://127.0.0.1:4318")
		return
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		wrong.add("otel_exporter_otlp_endpoint", "it must have no user, query or fragment; secrets belong in OTEL_EXPORTER_OTLP_HEADERS")
		return
	}
	if _, err := remote.ParseBaseURL(endpoint); err != nil && len(headers) > 0 {
		wrong.add("otel_exporter_otlp_endpoint", "OTEL_EXPORTER_OTLP_HEADERS are secret: %v", err)
	}
	c.Tracing = &tracing.Config{Endpoint: base, Headers: headers, Sampler: sampler, ServiceName: strings.TrimSpace(k.String("otel_service_name")),
		Version: releaseName(), Instance: c.InstanceID}
}

// startTracing begins to record traces if the settings say where they go: the tracer is nil
// otherwise. The logger that it returns names them.
func startTracing(c config, log *slog.Logger) (*tracing.Tracer, *slog.Logger, error) {
	if c.Tracing == nil {
		return nil, log, nil
	}
	to := *c.Tracing
	to.Log = log
	tracer, err := tracing.New(to)
	if err != nil {
		return nil, nil, err
	}
	log.Info("sending traces", "endpoint", to.Endpoint.String())
	return tracer, slog.New(tracing.LogHandler(log.Handler())), nil
}

// tracingGrace is how long a stop waits for the collector to take the last spans.
const tracingGrace = time.Second

// stopTracing sends the last spans. That a collector takes none is no failure of ours.
func stopTracing(tracer *tracing.Tracer, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), tracingGrace)
	defer cancel()
	if err := tracer.Close(ctx); err != nil {
		log.Warn("the last traces were not sent", "error", err)
	}
}

// registerTracing counts spans for Prometheus.
func registerTracing(registry prometheus.Registerer, tracer *tracing.Tracer) {
	if tracer == nil {
		return
	}
	dropped := func(reason string, count func(tracing.Counts) int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "pricemill_trace_spans_dropped_total",
			Help: "Spans that the collector of traces did not get, by reason.", ConstLabels: prometheus.Labels{"reason": reason}},
			func() float64 { return float64(count(tracer.Counts())) })
	}
	registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "pricemill_trace_spans_sent_total", Help: "Spans that the collector of traces took."},
			func() float64 { return float64(tracer.Counts().Sent) }),
		dropped("queue_full", func(c tracing.Counts) int64 { return c.QueueFull }),
		dropped("not_taken", func(c tracing.Counts) int64 { return c.Failed }))
}
