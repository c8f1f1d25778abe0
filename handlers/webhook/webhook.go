// Package webhook posts events to a URL: price alerts by the handler alert-webhook, and
// prices, bars, corrections and retractions by price-webhook.
//
// A request is one event as CloudEvents 1.0 JSON (github.com/cloudevents/spec), or an
// array of them where batch allows more than one. It is signed as Standard Webhooks has it
// (standardwebhooks.com) where there is a secret.
//
// Delivery is at least once. The events of a partition come in the order of the log, one
// request after the other. A request that fails is repeated until it succeeds, by any
// process that has the stage, so nothing is lost while the receiver is down. After a crash
// the events of the batch under way come again, with the ids that they had: receivers drop
// those they know. An answer 400, 413 or 422 is about the event itself; it becomes a dead
// letter, which can be retried.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pricemill/pricemill/handlers/pricealerts"
	"github.com/pricemill/pricemill/handlers/target"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Names of the handlers.
const (
	Alerts = "alert-webhook"
	Prices = "price-webhook"
)

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name: Alerts, Doc: "Posts price alerts to a URL, signed, at least once.",
		Consumes: []schema.EventType{pricealerts.PriceAlerted{}.EventType()},
		Settings: defaults, Optional: true, Delivers: true, New: New(Alerts),
	})
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name: Prices, Doc: "Posts prices, bars and corrections to a URL, signed, at least once.",
		Consumes: schema.FactTypes(),
		Settings: defaults, Optional: true, Delivers: true, New: New(Prices),
	})
}

// New returns what makes the handler of a name. Its error holds all faults of the settings.
// A handler without a URL skips events.
func New(name string) func(pipeline.Env) (pipeline.Handler, error) {
	return func(env pipeline.Env) (pipeline.Handler, error) {
		settings := defaults
		if err := env.Decode(&settings); err != nil {
			return nil, err
		}
		return newHandler(name, settings, env)
	}
}

func newHandler(name string, settings Settings, env pipeline.Env) (pipeline.Handler, error) {
	h := &handler{name: name, settings: settings, now: env.Now, log: env.Log, agent: "pricemill/" + env.Version,
		delivered: map[string]struct{}{}, refused: map[string]error{}, client: &http.Client{Timeout: settings.Timeout, CheckRedirect: refuseRedirect}}
	if h.now == nil {
		h.now = time.Now
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if settings.Batch < 1 || settings.Batch > maxBatch {
		errs = append(errs, fmt.Errorf("batch: want 1 to %d, not %d", maxBatch, settings.Batch))
	}
	if settings.Timeout < minTimeout || settings.Timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("timeout: want %v to %v, not %v; a number needs its unit, as in 5s", minTimeout, maxTimeout, settings.Timeout))
	}
	if settings.URL != "" {
		errs = append(errs, h.parseURL(settings.URL))
	}
	if settings.SecretFile != "" {
		errs = append(errs, h.readSecret(settings.SecretFile))
	}
	filter, err := target.NewFilter(settings.Symbols, settings.MaxAge, h.now)
	errs = append(errs, err)
	h.filter = filter
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrSettings, err)
	}
	factory := promauto.With(env.Metrics)
	labels := prometheus.Labels{"webhook": name}
	h.posted = factory.NewCounter(prometheus.CounterOpts{Name: "pricemill_webhook_events_posted_total", ConstLabels: labels,
		Help: "Events that the receiver of a webhook accepted."})
	h.skipped = factory.NewCounter(prometheus.CounterOpts{Name: "pricemill_webhook_events_skipped_total", ConstLabels: labels,
		Help: "Events that a webhook did not post because they were older than max_age, or it has no URL."})
	h.failed = factory.NewCounter(prometheus.CounterOpts{Name: "pricemill_webhook_request_failures_total", ConstLabels: labels,
		Help: "Requests of a webhook that failed, repeated ones included."})
	return h, nil
}

// maxRemembered bounds the ids of each kind that are remembered.
const maxRemembered = 10_000

type handler struct {
	name     string
	settings Settings
	url      string // empty for none
	host     string
	agent    string
	filter   *target.Filter
	signer   *standardwebhooks.Webhook
	client   *http.Client
	now      func() time.Time
	log      *slog.Logger

	posted, skipped, failed prometheus.Counter

	mu sync.Mutex
	// delivered are the ids of events of batches under way that the receiver has: they are
	// not posted again when the rest of their batch is.
	delivered map[string]struct{}
	// refused are those that the receiver refused: the stage asks again for smaller and smaller
	// parts of the batch until it has found them.
	refused map[string]error
}

var (
	_ pipeline.Preparer = (*handler)(nil)
	_ pipeline.Starter  = (*handler)(nil)
)

// Start implements pipeline.Starter.
func (h *handler) Start(context.Context) error {
	if h.url == "" {
		h.log.Warn("no URL is set: events are skipped", "webhook", h.name, "setting", "modules."+h.name+".url")
	}
	return nil
}

// Prepare posts the events of a batch.
func (h *handler) Prepare(ctx context.Context, in []pipeline.Record) error {
	var due []*pipeline.Record
	for i := range in {
		if h.isDue(&in[i]) {
			due = append(due, &in[i])
		}
	}
	for part := range slices.Chunk(due, h.settings.Batch) {
		if err := h.refusal(part, len(in)); err != nil {
			return err
		}
		if err := h.post(ctx, part); err != nil {
			h.failed.Inc()
			h.noteRefusal(part, len(in), err)
			return err
		}
		h.posted.Add(float64(len(part)))
		h.mark(part)
	}
	h.forget(in)
	return nil
}

// Handle implements pipeline.Handler: what there is to do is done before the transaction,
// which moves the position.
func (*handler) Handle(context.Context, *pipeline.Tx, []pipeline.Record) ([]schema.Event, error) {
	return nil, nil
}

// isDue reports whether a record is to be posted.
func (h *handler) isDue(r *pipeline.Record) bool {
	if !h.filter.Wants(r) {
		return false
	}
	if h.url == "" || h.filter.TooOld(r) {
		h.skipped.Inc()
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, has := h.delivered[r.Event.ID]
	return !has
}

// refusal is why the receiver refused the one event of a request; nil where it did not yet.
// With a batch of that event alone the search for it ends, so the next time it is posted.
func (h *handler) refusal(part []*pipeline.Record, batch int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := part[0].Event.ID
	err := h.refused[id]
	if batch == 1 {
		delete(h.refused, id)
	}
	return err
}

func (h *handler) noteRefusal(part []*pipeline.Record, batch int, err error) {
	if len(part) > 1 || batch == 1 || !pipeline.IsPermanent(err) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.refused) > maxRemembered {
		clear(h.refused)
	}
	h.refused[part[0].Event.ID] = err
}

func (h *handler) mark(records []*pipeline.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.delivered) > maxRemembered { // of batches that ended elsewhere
		clear(h.delivered)
	}
	for _, r := range records {
		h.delivered[r.Event.ID] = struct{}{}
	}
}

// forget lets go of a batch that the receiver has.
func (h *handler) forget(records []pipeline.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range records {
		delete(h.delivered, records[i].Event.ID)
	}
}
