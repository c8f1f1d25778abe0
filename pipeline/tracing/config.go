package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Config says where spans go, as the variables of OpenTelemetry do.
type Config struct {
	// Endpoint is the base URL of a collector, such as http://127.0.0.1:4318: spans are
	// posted to /v1/traces below it. Required.
	Endpoint *url.URL
	// Headers are sent with each post; they are secret.
	Headers map[string]string
	// Sampler decides which traces that begin here are recorded. Nil: all of them, and of
	// those that begin elsewhere, what was decided there.
	Sampler *Sampler
	// ServiceName, Version and Instance say which process this is.
	ServiceName, Version, Instance string
	Log                            *slog.Logger
}

// New begins to record. The caller closes the tracer.
func New(c Config) (*Tracer, error) {
	client := newClient(c.Endpoint, c.Headers)
	exporter, err := otlptrace.New(context.Background(), client)
	if err != nil {
		return nil, fmt.Errorf("starting the export of traces: %w", err)
	}
	own := []Attribute{String("service.version", c.Version)}
	if c.Instance != "" {
		own = append(own, String("service.instance.id", c.Instance))
	}
	about, err := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithAttributes(own...),
		resource.WithFromEnv(), resource.WithAttributes(String("service.name", c.ServiceName)))
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("describing this process: %w", err)
	}
	sampler := c.Sampler
	if sampler == nil {
		sampler = &Sampler{sdktrace.ParentBased(sdktrace.AlwaysSample())}
	}
	counted := newCounting(exporter, c.Log)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(linked{sampler.inner}), sdktrace.WithSpanProcessor(counted), sdktrace.WithResource(about))
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/pricemill/pricemill"), export: counted, abort: client.abort}, nil
}

// Close sends what is recorded, until ctx is done. Spans that end later are not recorded.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	defer t.abort()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last spans: %w", err)
	}
	return nil
}

// Sampler decides which traces are recorded.
type Sampler struct{ inner sdktrace.Sampler }

// samplers are the names of OTEL_TRACES_SAMPLER.
var samplers = []string{"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"}

// Samplers lists the names that ParseSampler knows.
func Samplers() []string { return slices.Clone(samplers) }

// ErrSampler and ErrRatio tell which of its arguments ParseSampler refuses.
var (
	ErrSampler = errors.New("there is no such sampler")
	ErrRatio   = errors.New("not the argument of this sampler")
)

// ParseSampler reads OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG. The argument is the
// share of a sampler by ratio, where empty means 1; for any other it must be empty.
func ParseSampler(name, argument string) (*Sampler, error) {
	if !slices.Contains(samplers, name) {
		return nil, fmt.Errorf("%q: %w", name, ErrSampler)
	}
	kind, parent := strings.CutPrefix(name, "parentbased_")
	var inner sdktrace.Sampler
	switch kind {
	case "always_on":
		inner = sdktrace.AlwaysSample()
	case "always_off":
		inner = sdktrace.NeverSample()
	default:
		ratio := 1.0
		if argument != "" {
			var err error
			if ratio, err = strconv.ParseFloat(argument, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
				return nil, fmt.Errorf("%w: want a share from 0 to 1, not %q", ErrRatio, argument)
			}
			argument = ""
		}
		inner = sdktrace.TraceIDRatioBased(ratio)
	}
	if argument != "" {
		return nil, fmt.Errorf("%w: %s takes none; samplers by ratio take a share from 0 to 1", ErrRatio, name)
	}
	if parent {
		inner = sdktrace.ParentBased(inner)
	}
	return &Sampler{inner}, nil
}

// ParseHeaders reads OTEL_EXPORTER_OTLP_HEADERS: key=value, comma-separated, with values
// that may be percent-encoded. Its errors do not hold values.
func ParseHeaders(text string) (map[string]string, error) {
	headers := map[string]string{}
	for i, pair := range strings.Split(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		key = strings.TrimSpace(key)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !found || key == "" || strings.ContainsAny(key, " \t\r\n:") || err != nil || strings.ContainsAny(value, "\r\n") {
			return nil, fmt.Errorf("header %d is not key=value with a value that is percent-encoded", i+1)
		}
		headers[key] = value
	}
	return headers, nil
}

// linked records what is linked to something that is recorded, and leaves all else to a
// sampler.
type linked struct{ sdktrace.Sampler }

// ShouldSample implements sdktrace.Sampler.
func (l linked) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if !trace.SpanContextFromContext(p.ParentContext).IsValid() &&
		slices.ContainsFunc(p.Links, func(k trace.Link) bool { return k.SpanContext.IsSampled() }) {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
	}
	return l.Sampler.ShouldSample(p)
}
