// Package fetch asks providers for quotes.
//
// # A first lesson
//
// A provider has two methods. Quote asks its service and returns the answer byte for byte;
// Normalize reads prices from an answer, later, in another stage. The package example is a
// provider. It has no retries, limits or timeouts of its own: this package has them, for all
// providers alike. It asks a few symbols of each provider at a time, keeps to the limits
// that a [pipeline.Limited] states, pauses after rate_limited, and stops asking a service
// that is down. By its deadline each request has become a QuoteFetched or a QuoteFailed.
//
// A service that pushes prices is for package handlers/stream. docs/plugins has a tutorial.
//
// # How it works
//
// Requests wait in a table until they have an outcome, and are worked on
// outside of the stage's batches: a batch must be finished before the lane goes
// on, so one provider that hangs would hold up every request after it.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pricemill/pricemill/handlers/failingjobs"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the stage.
const Name = "fetch"

// Settings of the handler.
type Settings struct {
	// Concurrency is how many requests to one provider may be under way in
	// this process. One provider's never count against another's. Default 16.
	Concurrency int `mapstructure:"concurrency" doc:"how many requests to one provider may be under way in this process"`
}

var defaults = Settings{Concurrency: 16}

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name:     Name,
		Doc:      "Asks the provider; by its deadline each request has become an answer or a failure.",
		Settings: defaults,
		Consumes: []schema.EventType{schema.FetchRequested{}.EventType()},
		Produces: []schema.EventType{schema.QuoteFetched{}.EventType(), schema.QuoteFailed{}.EventType()},
		New:      New,
	})
}

// New makes the handler.
func New(env pipeline.Env) (pipeline.Handler, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	if settings.Concurrency < 1 {
		return nil, fmt.Errorf("concurrency: %d is not positive", settings.Concurrency)
	}
	return &handler{settings: settings, provider: env.Provider, now: env.Now, log: env.Log,
		metrics: newMetrics(env.Metrics), tracer: env.Tracer, wake: make(chan struct{}, 1), gates: map[schema.Provider]*gate{}}, nil
}

type handler struct {
	settings Settings
	provider func(schema.Provider) (pipeline.Provider, bool)
	now      func() time.Time
	log      *slog.Logger
	metrics  *metrics
	tracer   *tracing.Tracer
	wake     chan struct{}

	mu    sync.Mutex
	gates map[schema.Provider]*gate
}

var _ pipeline.Runner = (*handler)(nil)

// Handle queues requests. One for a provider that this binary does not have
// fails at once.
func (h *handler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	rows := store.Rows{Table: "fetch_queue", Columns: []string{"request_id", "provider", "symbol", "requested_at",
		"deadline", "traceparent", "claimed_by", "claimed_until", "scheduled"}, Clause: "ON CONFLICT (request_id) DO NOTHING"}
	var events []schema.Event
	var failed []failingjobs.Outcome
	for i := range in {
		request := in[i].Event.Payload.(schema.FetchRequested)
		if _, known := h.provider(request.Provider); !known {
			failure := schema.QuoteFailed{Quote: request.Quote, Code: schema.CodeUnknownProvider,
				Reason: fmt.Sprintf("no provider %q in this binary", request.Provider), FailedAt: request.RequestedAt}
			events, failed = append(events, in[i].Derive(failure)), append(failed, failureOf(failure))
			continue
		}
		rows.Add(request.RequestID, request.Provider, request.Symbol, request.RequestedAt, request.Deadline,
			in[i].Event.Traceparent, "", int64(0), scheduled(request))
	}
	tx.OnCommit(func() {
		h.wakeUp()
		for _, e := range events {
			h.count(e.Payload)
		}
	})
	if err := tx.Insert(ctx, rows); err != nil {
		return nil, err
	}
	return events, failingjobs.Note(ctx, tx, h.log, failed)
}

// scheduled is the column of that name: 1 for the request of a polling job.
func scheduled(r schema.FetchRequested) int64 {
	if r.JobID != "" {
		return 1
	}
	return 0
}

func (h *handler) wakeUp() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// gate is the one of a provider.
func (h *handler) gate(name schema.Provider) *gate {
	h.mu.Lock()
	defer h.mu.Unlock()
	g, made := h.gates[name]
	if !made {
		g = newGate(h.now)
		h.gates[name] = g
	}
	return g
}

// ask gets the outcome of a request from its provider, and tells ended how the
// call went.
func (h *handler) ask(ctx context.Context, g *gate, r request, ended func(error)) outcome {
	began := h.now()
	traced, span := h.trace(ctx, r)
	answer, called, err := h.call(traced, g, r)
	if span.Sampled() {
		r.Traceparent = span.Traceparent() // what follows is under the call
	}
	now := h.now()
	if called {
		pipeline.Observe(traced, h.metrics.answers.WithLabelValues(string(r.Provider)), now.Sub(began).Seconds())
	}
	if err == nil {
		span.End(nil)
		ended(nil)
		version, text := h.definition(r.Provider)
		return outcome{request: r, definition: text, payload: schema.QuoteFetched{
			Quote: schema.Quote{Provider: r.Provider, Symbol: r.Symbol, RequestID: r.ID}, RawResponse: answer, ReceivedAt: schema.NewTime(now),
			Definition: version}}
	}
	failure := h.classify(r, err)
	span.End(failure) // the error itself may hold secrets
	o := failed(r, failure, schema.NewTime(now))
	if !called || ctx.Err() != nil {
		ended(errUncounted)
		return o
	}
	ended(verdict(failure, r.Deadline.Sub(began)))
	if failure.Code == schema.CodeRateLimited {
		o.pause = pauseAfter(h.limits(r.Provider), failure)
		g.pause(now.Add(o.pause))
	}
	if err := o.payload.(schema.QuoteFailed).Validate(); err != nil {
		// It would keep the outcomes stored together with it from being stored.
		h.log.Error("a provider failed in an invalid way", "provider", r.Provider, "error", err)
		return failed(r, pipeline.Quotef(schema.CodeInternal, "%s", failure.Reason), schema.NewTime(now))
	}
	return o
}

// trace begins the span of a call.
func (h *handler) trace(ctx context.Context, r request) (context.Context, tracing.Span) {
	if h.tracer == nil || r.Traceparent == "" {
		return ctx, tracing.Span{}
	}
	return h.tracer.Start(ctx, "ask "+string(r.Provider), tracing.Client, r.Traceparent,
		tracing.String("pricemill.provider", string(r.Provider)), tracing.String("pricemill.symbol", string(r.Symbol)),
		tracing.String("pricemill.request_id", r.ID))
}

const (
	// defaultPause is how long a provider is left alone that does not say for
	// how long; less where the longest period of its limits is shorter.
	defaultPause = time.Minute
	// maxPause bounds what a provider may say.
	maxPause = 24 * time.Hour
)

// pauseAfter is how long a provider with these limits is left alone that said it was called
// too often.
func pauseAfter(limits []pipeline.Limit, e *pipeline.QuoteError) time.Duration {
	if e.RetryAfter > 0 {
		return min(e.RetryAfter, maxPause)
	}
	longest := time.Duration(0)
	for _, l := range limits {
		longest = max(longest, l.Per)
	}
	if longest == 0 {
		return defaultPause
	}
	return min(longest, defaultPause)
}

// definition is that of a provider that has one.
func (h *handler) definition(name schema.Provider) (version, text string) {
	if provider, known := h.provider(name); known {
		if defined, ok := provider.(pipeline.Defined); ok {
			return defined.DefinedBy()
		}
	}
	return "", ""
}

// limits are those of a provider that has any.
func (h *handler) limits(name schema.Provider) []pipeline.Limit {
	provider, _ := h.provider(name)
	return limitsOf(provider)
}

func limitsOf(provider pipeline.Provider) []pipeline.Limit {
	if limited, ok := provider.(pipeline.Limited); ok {
		return limited.Limits()
	}
	return nil
}

// call asks the provider, and reports whether it was asked at all.
func (h *handler) call(ctx context.Context, g *gate, r request) (answer schema.RawResponse, called bool, err error) {
	now := h.now()
	left := r.Deadline.Sub(now)
	if left <= 0 {
		return nil, false, errOverdue
	}
	if pause := g.pausedFor(now); pause > 0 {
		return nil, false, spent(pause, true)
	}
	provider, known := h.provider(r.Provider)
	if !known {
		return nil, false, pipeline.Quotef(schema.CodeUnknownProvider, "no provider %q in this binary", r.Provider)
	}
	ctx, cancel := context.WithTimeout(ctx, min(left, longestCall))
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	called = true
	answer, err = provider.Quote(ctx, r.Symbol)
	switch {
	case err != nil:
		return nil, true, err
	case len(answer) == 0:
		return nil, true, pipeline.Quotef(schema.CodeBadResponse, "the answer is empty")
	case len(answer) > schema.MaxRawResponse:
		return nil, true, pipeline.Quotef(schema.CodeTooLarge, "the answer has %d bytes, and the most is %d", len(answer), schema.MaxRawResponse)
	}
	return answer, true, nil
}

// classify gives every error of a provider a code. What is not a QuoteError is
// a fault of the provider's code: its text may hold anything, a URL with a key
// in it for instance, so it goes to our own log and not into an event.
func (h *handler) classify(r request, err error) *pipeline.QuoteError {
	var q *pipeline.QuoteError
	switch {
	case errors.As(err, &q):
		return q
	case errors.Is(err, context.DeadlineExceeded):
		return pipeline.Quotef(schema.CodeTimeout, "the provider did not answer in time")
	case errors.Is(err, context.Canceled):
		// We stop: no one will see this outcome.
	default:
		h.log.Error("a provider failed in a way that it does not explain",
			"provider", r.Provider, "symbol", r.Symbol, "request_id", r.ID, "error", err)
	}
	return pipeline.Quotef(schema.CodeInternal, "the provider failed in a way that it does not explain")
}
