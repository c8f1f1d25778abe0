// Package stream keeps connections to providers that send quotes by themselves,
// and brings what they send into the log.
//
// # A first lesson
//
// A provider whose service pushes is a [pipeline.Streamer]: besides Quote and Normalize it
// has Stream, which connects once, subscribes to some symbols and calls a function with each
// message, until its context is done or something is wrong. It does not retry: this package
// does, and notices a service that falls silent. The ID of a message must follow from what
// the message tells, such as the number of a trade, so that a message that the service sends
// again is the same event. Package handlers/provider/simulated is a small Streamer, and
// the example of handlers/fetch shows the other two methods.
//
// # How it works
//
// A stream is owned by one process among those that have the stage, by a claim
// that it renews. What the provider sends again after a reconnect, or to the next
// owner, are events with the same ids, of which raw-store keeps one.
package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/handlers/claim"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the stage.
const Name = "stream"

// Settings of the handler.
type Settings struct {
	// Concurrency is how many streams this process may own at once, each with a
	// connection. Default 20.
	Concurrency int `mapstructure:"concurrency" doc:"how many streams this process may own at once"`
	// Silence is how long a provider may send nothing, not even a sign of life,
	// before its connection counts as broken. Default 15s.
	Silence time.Duration `mapstructure:"silence" doc:"how long a provider may send nothing before its connection counts as broken"`
	// BackoffMin and BackoffMax bound the pause before another connection: it
	// grows from one to the other, half as long or half as much again by chance,
	// and begins again after a connection that held for as long as Silence.
	// Default 500ms and 30s.
	BackoffMin time.Duration `mapstructure:"backoff_min" doc:"the shortest pause before another connection"`
	BackoffMax time.Duration `mapstructure:"backoff_max" doc:"the longest pause before another connection"`
	// FillGaps says that a backfill is started for trades that a stream missed, where the
	// provider has a history. Default true.
	FillGaps bool `mapstructure:"fill_gaps" doc:"whether trades that a stream missed are asked for, where the provider has a history"`
	// FillAtMost is how long the span of such a backfill is at most. Of what was missed for longer
	// the end is asked for, and a line of the log says what is not. Default 24h.
	FillAtMost time.Duration `mapstructure:"fill_at_most" doc:"how long the span is at most for which missed trades are asked for"`
}

func (s Settings) validate() error {
	var errs []error
	if s.Concurrency < 1 {
		errs = append(errs, fmt.Errorf("concurrency: %d is not positive", s.Concurrency))
	}
	if s.Silence <= 0 {
		errs = append(errs, fmt.Errorf("silence: %v is not positive", s.Silence))
	}
	if s.BackoffMin <= 0 || s.BackoffMax < s.BackoffMin {
		errs = append(errs, fmt.Errorf("backoff_min, backoff_max: want 0 < %v <= %v", s.BackoffMin, s.BackoffMax))
	}
	if s.FillAtMost <= 2*holeMargin {
		errs = append(errs, fmt.Errorf("fill_at_most: %v is not longer than %v", s.FillAtMost, 2*holeMargin))
	}
	return errors.Join(errs...)
}

var defaults = Settings{Concurrency: 20, Silence: 15 * time.Second, BackoffMin: 500 * time.Millisecond, BackoffMax: 30 * time.Second, FillGaps: true, FillAtMost: 24 * time.Hour}

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name:     Name,
		Doc:      "Keeps the streams, and appends what their providers send to raw-quotes.",
		Settings: defaults,
		Consumes: []schema.EventType{schema.StreamStarted{}.EventType(), schema.StreamChanged{}.EventType(), schema.StreamStopped{}.EventType()},
		Produces: []schema.EventType{schema.QuoteFetched{}.EventType(), schema.BackfillStarted{}.EventType()},
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
	return &handler{settings: settings, provider: env.Provider, now: env.Now, log: env.Log, tracer: env.Tracer, wake: make(chan struct{}, 1)}, nil
}

type handler struct {
	settings Settings
	provider func(schema.Provider) (pipeline.Provider, bool)
	now      func() time.Time
	tracer   *tracing.Tracer
	log      *slog.Logger
	wake     chan struct{}
}

var _ pipeline.Runner = (*handler)(nil)

// Status says whether a stream runs.
type Status string

// The statuses of a stream. A stopped one stays so.
const (
	Active  Status = "active"  // it receives, or is about to
	Failing Status = "failing" // its last connection broke, and no other has sent anything yet
	Stopped Status = "stopped"
)

// Handle enters new streams, gives others the symbols that they are to have, and ends those
// that are stopped. A command to a stream that does not stand before it in the log, or that
// is stopped, says nothing.
func (h *handler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	status, err := claim.Statuses[Status](ctx, tx, table, in)
	if err != nil {
		return nil, err
	}
	started, stopped := map[string]schema.StreamStarted{}, map[string]schema.Time{}
	changed := map[string][]schema.Symbol{}
	for i := range in {
		id := in[i].Event.Payload.Key()
		switch event := in[i].Event.Payload.(type) {
		case schema.StreamStarted:
			if status[id] == "" {
				started[id], status[id] = event, Active
			}
		case schema.StreamChanged:
			if status[id] != "" && status[id] != Stopped {
				changed[id] = event.Symbols
			}
		case schema.StreamStopped:
			if status[id] != "" && status[id] != Stopped {
				stopped[id], status[id] = event.StoppedAt, Stopped
			}
		}
	}
	rows := store.Rows{Table: "streams", Columns: []string{"stream_id", "provider", "symbols", "status", "started_at"}}
	for _, id := range slices.Sorted(maps.Keys(started)) {
		symbols, err := encodeSymbols(id, started[id].Symbols)
		if err != nil {
			return nil, err
		}
		rows.Add(id, started[id].Provider, symbols, string(Active), started[id].StartedAt)
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		symbols, err := encodeSymbols(id, changed[id])
		if err != nil {
			return nil, err
		}
		if _, err := tx.Exec(ctx, `UPDATE streams SET symbols = $1 WHERE stream_id = $2`, symbols, id); err != nil {
			return nil, fmt.Errorf("changing the symbols of stream %s: %w", id, err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(stopped)) {
		if _, err := tx.Exec(ctx, `UPDATE streams SET status = $1, stopped_at = $2 WHERE stream_id = $3`,
			string(Stopped), stopped[id], id); err != nil {
			return nil, fmt.Errorf("stopping stream %s: %w", id, err)
		}
	}
	tx.OnCommit(h.wakeUp)
	return nil, nil
}

// encodeSymbols is what the column symbols of a stream holds.
func encodeSymbols(id string, symbols []schema.Symbol) (string, error) {
	text, err := json.Marshal(symbols)
	if err != nil {
		return "", pipeline.Permanent(fmt.Errorf("encoding the symbols of stream %s: %w", id, err))
	}
	return string(text), nil
}

// decodeSymbols reads the column symbols of a stream.
func decodeSymbols(id, text string) ([]schema.Symbol, error) {
	var symbols []schema.Symbol
	if err := json.Unmarshal([]byte(text), &symbols); err != nil {
		return nil, fmt.Errorf("reading the symbols of stream %s: %w", id, err)
	}
	return symbols, nil
}

func (h *handler) wakeUp() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}
