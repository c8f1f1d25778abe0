// Package fetch asks providers for quotes.
//
// Requests wait in a table until they have an outcome, and are worked on
// outside of the stage's batches: a batch must be finished before the lane goes
// on, so one provider that hangs would hold up every request behind it.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the stage.
const Name = "fetch"

// Settings of the handler.
type Settings struct {
	// Concurrency is how many requests to one provider may be under way in
	// this process. One provider's never count against another's. Default 16.
	Concurrency int `mapstructure:"concurrency"`
}

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name:  Name,
		Doc:   "Asks the provider; by its deadline each request has become an answer or a failure.",
		Takes: []schema.EventType{schema.FetchRequested{}.EventType()},
		Gives: []schema.EventType{schema.QuoteFetched{}.EventType(), schema.QuoteFailed{}.EventType()},
		New:   New,
	})
}

// New makes the handler.
func New(env pipeline.Env) (pipeline.Handler, error) {
	settings := Settings{Concurrency: 16}
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	if settings.Concurrency < 1 {
		return nil, fmt.Errorf("concurrency: %d is not positive", settings.Concurrency)
	}
	return &handler{settings: settings, provider: env.Provider, now: env.Now, log: env.Log,
		wake: make(chan struct{}, 1)}, nil
}

type handler struct {
	settings Settings
	provider func(schema.Provider) (pipeline.Provider, bool)
	now      func() time.Time
	log      *slog.Logger
	wake     chan struct{}
}

var _ pipeline.Runner = (*handler)(nil)

// Handle queues requests. One for a provider that this binary does not have
// fails at once.
func (h *handler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	rows := store.Rows{Table: "fetch_queue", Columns: []string{"request_id", "provider", "symbol", "requested_at",
		"deadline", "traceparent", "claimed_by", "claimed_until"}, Clause: "ON CONFLICT (request_id) DO NOTHING"}
	var events []schema.Event
	for i := range in {
		request := in[i].Event.Payload.(schema.FetchRequested)
		if _, known := h.provider(request.Provider); !known {
			events = append(events, in[i].Derive(schema.QuoteFailed{Quote: request.Quote, Code: schema.CodeUnknownProvider,
				Reason: fmt.Sprintf("no provider %q in this binary", request.Provider), FailedAt: request.RequestedAt}))
			continue
		}
		rows.Add(request.RequestID, request.Provider, request.Symbol, request.RequestedAt, request.Deadline,
			in[i].Event.Traceparent, "", int64(0))
	}
	tx.OnCommit(h.wakeUp)
	return events, tx.Insert(ctx, rows)
}

func (h *handler) wakeUp() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// ask gets the outcome of a request from its provider.
func (h *handler) ask(ctx context.Context, r request) schema.Payload {
	quote := schema.Quote{Provider: r.Provider, Symbol: r.Symbol, RequestID: r.ID}
	answer, err := h.quote(ctx, r)
	now := schema.NewTime(h.now())
	if err == nil {
		return schema.QuoteFetched{Quote: quote, RawResponse: answer, ReceivedAt: now}
	}
	failure := h.classify(r, err)
	failed := schema.QuoteFailed{Quote: quote, Code: failure.Code, Reason: schema.CutReason(failure.Reason), FailedAt: now}
	if err := failed.Validate(); err != nil {
		// It would keep the outcomes stored together with it from being stored.
		h.log.Error("a provider failed in an invalid way", "provider", r.Provider, "error", err)
		failed.Code = schema.CodeInternal
	}
	return failed
}

func (h *handler) quote(ctx context.Context, r request) (answer schema.RawResponse, err error) {
	left := r.Deadline.Sub(h.now())
	if left <= 0 {
		return nil, pipeline.Quotef(schema.CodeTimeout, "the deadline had passed before the provider could be asked")
	}
	provider, known := h.provider(r.Provider)
	if !known {
		return nil, pipeline.Quotef(schema.CodeUnknownProvider, "no provider %q in this binary", r.Provider)
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	answer, err = provider.Quote(ctx, r.Symbol)
	switch {
	case err != nil:
		return nil, err
	case len(answer) == 0:
		return nil, pipeline.Quotef(schema.CodeBadResponse, "the answer is empty")
	case len(answer) > schema.MaxRawResponse:
		return nil, pipeline.Quotef(schema.CodeTooLarge, "the answer has %d bytes, and the most is %d", len(answer), schema.MaxRawResponse)
	}
	return answer, nil
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
		return pipeline.Quotef(schema.CodeTimeout, "the provider did not answer by the deadline")
	case errors.Is(err, context.Canceled):
		// We stop: nobody will see this outcome.
	default:
		h.log.Error("a provider failed in a way that it does not explain",
			"provider", r.Provider, "symbol", r.Symbol, "request_id", r.ID, "error", err)
	}
	return pipeline.Quotef(schema.CodeInternal, "the provider failed in a way that it does not explain")
}
