package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

const (
	// maxTraced is how many records of a batch have spans: as many links as a span has. The
	// others carry their trace on without a span of this stage.
	maxTraced = 128
	// maxTracedAge is how old a record may be for its trace to continue: a new generation
	// reads all of the log, whose traces have ended long since.
	maxTracedAge = time.Hour
)

// traceBatch begins a span for each record that is sampled, and one for the batch, which
// is linked to them. What is derived from a record continues under its span. Without such
// records there are no spans.
func (s *Stage) traceBatch(ctx context.Context, batch *log.Batch) (context.Context, func(error)) {
	var spans []tracing.Span
	sampled := 0
	for i := range batch.Records {
		r := &batch.Records[i]
		if r.State.Fault != nil || r.State.Unwanted || !tracing.IsSampled(r.Event.Traceparent) {
			continue
		}
		if !r.Timestamp.IsZero() && time.Since(r.Timestamp) > maxTracedAge {
			r.Event.Traceparent = ""
			continue
		}
		if sampled++; len(spans) == maxTraced {
			continue
		}
		_, span := s.tracer.Start(ctx, s.spec.Name, tracing.Consumer, r.Event.Traceparent,
			tracing.String("messaging.operation.type", "process"), tracing.String("messaging.destination.name", string(r.Topic)),
			tracing.Int("messaging.destination.partition.id", r.Partition), tracing.Int("messaging.kafka.offset", r.Offset),
			tracing.String("messaging.message.id", r.Event.ID), tracing.String("cloudevents.event_type", string(r.Event.Payload.EventType())),
			tracing.String("pricemill.key", r.Event.Payload.Key()))
		if !span.Sampled() {
			continue // a sampler that does not go by what was decided before
		}
		r.Event.Traceparent = span.Traceparent()
		spans = append(spans, span)
	}
	if len(spans) == 0 {
		return ctx, func(error) {}
	}
	ctx, whole := s.tracer.StartLinked(ctx, s.spec.Name+" batch", tracing.Consumer, spans,
		tracing.String("pricemill.stage", s.spec.Name), tracing.Int("messaging.batch.message_count", len(batch.Records)),
		tracing.Int("pricemill.batch.sampled", sampled))
	return ctx, func(err error) {
		for _, span := range spans {
			span.End(err)
		}
		whole.End(err)
	}
}

// traceLetters says in the traces of dead letters that they are.
func (s *Stage) traceLetters(ctx context.Context, letters []pipeline.Record) {
	for i := range letters {
		if r := &letters[i]; tracing.IsSampled(r.Event.Traceparent) {
			_, span := s.tracer.Start(ctx, "dead letter", tracing.Internal, r.Event.Traceparent, tracing.String("pricemill.stage", s.spec.Name),
				tracing.String("messaging.destination.name", string(r.Topic)), tracing.Int("messaging.destination.partition.id", r.Partition),
				tracing.Int("messaging.kafka.offset", r.Offset))
			span.End(r.State.Fault)
		}
	}
}

// errRolledBack is why a span of an event ended whose transaction was run again.
var errRolledBack = errors.New("rolled back, and tried again")

// published are the spans of events on their way into the log.
type published []tracing.Span

// publish begins a span for each event of a trace that is sampled, and has the event
// carry it on. It changes the events that it returns, not those that it is given.
func publish(ctx context.Context, tracer *tracing.Tracer, events []schema.Event) ([]schema.Event, published) {
	if tracer == nil {
		return events, nil
	}
	var spans published
	for i := range events {
		if !tracing.IsSampled(events[i].Traceparent) || events[i].Payload == nil || len(spans) == maxTraced {
			continue
		}
		topic := string(events[i].Payload.Topic())
		_, span := tracer.Start(ctx, "publish "+topic, tracing.Producer, events[i].Traceparent,
			tracing.String("messaging.operation.type", "send"), tracing.String("messaging.destination.name", topic),
			tracing.String("messaging.message.id", events[i].ID), tracing.String("cloudevents.event_type", string(events[i].Payload.EventType())),
			tracing.String("pricemill.key", events[i].Payload.Key()))
		if !span.Sampled() {
			continue
		}
		if len(spans) == 0 {
			events = slices.Clone(events)
		}
		events[i].Traceparent = span.Traceparent()
		spans = append(spans, span)
	}
	return events, spans
}

// end ends the spans: the events are in the log, or in the outbox, or err is why not.
func (p published) end(err error) {
	for _, span := range p {
		span.End(err)
	}
}
