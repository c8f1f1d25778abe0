package tracing

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Tracer records spans. It is safe for concurrent use, and no call waits for the
// collector.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	export   *counting
	abort    context.CancelFunc // ends posts under way
}

// Attribute is what a span says of itself.
type Attribute = attribute.KeyValue

// String, Int and Strings make attributes.
func String(key, value string) Attribute { return attribute.String(key, value) }

// Int makes an attribute of a number.
func Int[N ~int | ~int32 | ~int64](key string, value N) Attribute {
	return attribute.Int64(key, int64(value))
}

// Kind is the role of a span towards others.
type Kind = trace.SpanKind

// The kinds of spans.
const (
	Internal = trace.SpanKindInternal
	Server   = trace.SpanKindServer   // answers a request
	Client   = trace.SpanKindClient   // asks a service
	Producer = trace.SpanKindProducer // writes a record
	Consumer = trace.SpanKindConsumer // works on a record, or on several
)

// Start begins a span under parent, a traceparent. Where parent is empty or malformed, the
// span is under that of ctx, and without one it begins a trace, if the sampler wants so.
// The context that it returns carries the span.
func (t *Tracer) Start(ctx context.Context, name string, kind Kind, parent string, attributes ...Attribute) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, name, kind, parent, trace.WithAttributes(attributes...))
}

// StartAt is Start for a span that began earlier.
func (t *Tracer) StartAt(ctx context.Context, began time.Time, name string, kind Kind, parent string, attributes ...Attribute) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, name, kind, parent, trace.WithAttributes(attributes...), trace.WithTimestamp(began))
}

func (t *Tracer) start(ctx context.Context, name string, kind Kind, parent string, options ...trace.SpanStartOption) (context.Context, Span) {
	if remote := parse(parent); remote.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, remote)
	}
	ctx, span := t.tracer.Start(ctx, name, append(options, trace.WithSpanKind(kind))...)
	return ctx, Span{span}
}

// StartLinked begins the span of a trace of its own, for work on several traces at once:
// it has a link to each span of of, which have one to it. It is recorded, whatever the
// sampler says, since they are.
func (t *Tracer) StartLinked(ctx context.Context, name string, kind Kind, of []Span, attributes ...Attribute) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	links := make([]trace.Link, len(of))
	for i, s := range of {
		links[i] = trace.Link{SpanContext: s.span.SpanContext()}
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithNewRoot(), trace.WithSpanKind(kind), trace.WithLinks(links...), trace.WithAttributes(attributes...))
	for _, s := range of {
		s.span.AddLink(trace.Link{SpanContext: span.SpanContext()})
	}
	return ctx, Span{span}
}

// Span is a part of a trace. The zero Span records nothing.
type Span struct{ span trace.Span }

// Sampled reports whether the span is recorded.
func (s Span) Sampled() bool { return s.span != nil && s.span.SpanContext().IsSampled() }

// Traceparent is that by which others continue the trace; empty where it is not sampled.
func (s Span) Traceparent() string {
	if !s.Sampled() {
		return ""
	}
	return format(s.span.SpanContext())
}

// Name gives the span another name.
func (s Span) Name(name string) {
	if s.span != nil {
		s.span.SetName(name)
	}
}

// Set adds attributes.
func (s Span) Set(attributes ...Attribute) {
	if s.span != nil {
		s.span.SetAttributes(attributes...)
	}
}

// End ends the span; err, if not nil, is why it failed.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		s.span.SetStatus(codes.Error, err.Error())
	}
	s.span.End()
}

// Traceparent is that of the span which ctx carries; empty without one that is sampled.
func Traceparent(ctx context.Context) string {
	if at := trace.SpanContextFromContext(ctx); at.IsSampled() {
		return format(at)
	}
	return ""
}

// IDs are the trace and the span that ctx carries, in hex; empty without one that is
// sampled.
func IDs(ctx context.Context) (traceID, spanID string) {
	if at := trace.SpanContextFromContext(ctx); at.IsSampled() {
		return at.TraceID().String(), at.SpanID().String()
	}
	return "", ""
}

// Event adds to the span of ctx, if it has one, that something failed and is tried again.
func Event(ctx context.Context, name string, err error) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent(name, trace.WithAttributes(attribute.String("exception.message", err.Error())))
	}
}

// IsSampled reports whether a traceparent is one of a trace that is sampled. It costs
// next to nothing where there is none.
func IsSampled(traceparent string) bool {
	return traceparent != "" && parse(traceparent).IsSampled()
}

const header = "traceparent"

func format(at trace.SpanContext) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(context.Background(), at), carrier)
	return carrier[header]
}

func parse(traceparent string) trace.SpanContext {
	if traceparent == "" {
		return trace.SpanContext{}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{header: traceparent})
	return trace.SpanContextFromContext(ctx)
}
