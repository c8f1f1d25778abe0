// Package backfill asks providers for their prices of the past, and brings them into the log.
//
// # A first lesson
//
// A provider whose service has a history is a [pipeline.Historian]: besides Quote and Normalize
// it has History, which asks for one page of a span of time and takes the answer apart into
// entries, each one price with an id of its own. It does not retry, and keeps nothing between
// two pages but the cursor that it gives away. Package handlers/provider/simulated is a small
// one.
//
// # How it works
//
// A backfill is owned by one process among those that have the stage, by a claim that it
// renews. The owner asks for page after page, within the budget that requests use too. It
// appends the entries of a page to the log, and only then stores the cursor of the next: a
// process that dies leaves at most one page that its successor appends again. The id of an
// entry follows from the trade that it tells of, so raw-store keeps it once, whether a stream,
// a file or another backfill has brought it before.
package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/handlers/claim"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the stage.
const Name = "backfill"

// Settings of the handler.
type Settings struct {
	// Concurrency is how many backfills may make a call at once in this process; others wait or
	// pause meanwhile. Default 4.
	Concurrency int `mapstructure:"concurrency" doc:"how many backfills may make a call at once in this process"`
	// BackoffMin and BackoffMax bound the pause after a call that failed: it grows from one
	// to the other, and begins again after a call that did not. Default 1s and 1m.
	BackoffMin time.Duration `mapstructure:"backoff_min" doc:"the shortest pause after a call that failed"`
	BackoffMax time.Duration `mapstructure:"backoff_max" doc:"the longest pause after a call that failed"`
}

func (s Settings) validate() error {
	var errs []error
	if s.Concurrency < 1 {
		errs = append(errs, fmt.Errorf("concurrency: %d is not positive", s.Concurrency))
	}
	if s.BackoffMin <= 0 || s.BackoffMax < s.BackoffMin {
		errs = append(errs, fmt.Errorf("backoff_min, backoff_max: want 0 < %v <= %v", s.BackoffMin, s.BackoffMax))
	}
	return errors.Join(errs...)
}

var defaults = Settings{Concurrency: 4, BackoffMin: time.Second, BackoffMax: time.Minute}

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name:     Name,
		Doc:      "Asks providers for prices of the past, page by page, and appends them to raw-quotes.",
		Settings: defaults,
		Consumes: []schema.EventType{schema.BackfillStarted{}.EventType(), schema.BackfillStopped{}.EventType()},
		Produces: []schema.EventType{schema.QuoteFetched{}.EventType()},
		New:      New,
	})
}

// New makes the handler.
func New(env pipeline.Env) (pipeline.Handler, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	if err := settings.validate(); err != nil {
		return nil, err
	}
	return &handler{settings: settings, provider: env.Provider, now: env.Now, log: env.Log, metrics: newMetrics(env.Metrics),
		wake: make(chan struct{}, 1), turns: make(chan struct{}, settings.Concurrency)}, nil
}

type handler struct {
	settings Settings
	provider func(schema.Provider) (pipeline.Provider, bool)
	now      func() time.Time
	log      *slog.Logger
	metrics  metrics
	wake     chan struct{}
	// turns bounds the backfills that make a call, or keep its answer, at once.
	turns chan struct{}
}

var _ pipeline.Runner = (*handler)(nil)

// Status says how far a backfill is.
type Status string

// The statuses of a backfill. The last three are final.
const (
	Active    Status = "active"    // it asks for the next page, or is about to
	Failing   Status = "failing"   // its last call failed, and it will call again
	Completed Status = "completed" // every price of the span is in the log
	Failed    Status = "failed"    // it has ended before, by what its last error says
	Stopped   Status = "stopped"
)

// isFinal says that nothing changes a status any more.
func (s Status) isFinal() bool { return s == Completed || s == Failed || s == Stopped }

// Handle enters new backfills, and ends those that are stopped. A command to a backfill that
// has ended, or is not before it in the log, says nothing.
func (h *handler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	status, err := claim.Statuses[Status](ctx, tx, table, in)
	if err != nil {
		return nil, err
	}
	started, stopped := map[string]schema.BackfillStarted{}, map[string]schema.Time{}
	for i := range in {
		id := in[i].Event.Payload.Key()
		switch event := in[i].Event.Payload.(type) {
		case schema.BackfillStarted:
			if status[id] == "" {
				started[id], status[id] = event, Active
			}
		case schema.BackfillStopped:
			if status[id] != "" && !status[id].isFinal() {
				stopped[id], status[id] = event.StoppedAt, Stopped
			}
		}
	}
	rows := store.Rows{Table: "backfills", Columns: []string{"backfill_id", "provider", "symbol", "from_time", "to_time", "status", "started_at"}}
	for _, id := range slices.Sorted(maps.Keys(started)) {
		b := started[id]
		rows.Add(id, b.Provider, b.Symbol, b.From, b.To, string(Active), b.StartedAt)
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(stopped)) {
		if _, err := tx.Exec(ctx, `UPDATE backfills SET status = $1, ended_at = $2 WHERE backfill_id = $3`,
			string(Stopped), stopped[id], id); err != nil {
			return nil, fmt.Errorf("stopping backfill %s: %w", id, err)
		}
	}
	tx.OnCommit(h.wakeUp)
	return nil, nil
}

func (h *handler) wakeUp() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}
