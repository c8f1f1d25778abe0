// Package demo streams simulated prices for a while, so that a service with nothing
// configured has something to show.
package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the source.
const Name = "demo"

const (
	// Length is how long the demo runs: a service that is left alone must not fill its
	// disk.
	Length = time.Hour
	// lookEvery is how often the demo looks for other providers.
	lookEvery = time.Second
)

// Symbols are those of the demo: companies that do not exist.
func Symbols() []schema.Symbol {
	return []schema.Symbol{"ACME", "GLOBEX", "HOOLI", "INITECH", "UMBRELLA"}
}

// Produces are the types of the events that the demo appends.
func Produces() []schema.EventType { return []schema.EventType{schema.QuoteFetched{}.EventType()} }

// Config describes a demo. All fields are required.
type Config struct {
	// Provider is the simulated one, and Streamer streams its prices.
	Provider schema.Provider
	Streamer pipeline.Streamer
	// Real names a provider of other prices that the service has to show; empty for
	// none. The demo ends where there is one.
	Real func(context.Context, store.Querier) (schema.Provider, error)
	Log  *slog.Logger
}

// Demo is a pipeline.Runner that streams Symbols until its time is up or there are real
// prices, and never begins again.
type Demo struct {
	Config
	ends time.Time // zero before the first Run
	over bool
}

var _ pipeline.Runner = (*Demo)(nil)

// New returns a demo whose time begins with Run.
func New(cfg Config) *Demo { return &Demo{Config: cfg} }

// errReal says that there are real prices to show.
var errReal = errors.New("another provider is in use")

// Run implements pipeline.Runner. It is not safe for concurrent use.
func (d *Demo) Run(ctx context.Context, emit pipeline.Emitter) error {
	if d.ends.IsZero() {
		d.ends = time.Now().Add(Length)
	}
	if !d.over {
		err := d.stream(ctx, emit)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errReal):
			d.Log.Info("no demo: simulated prices are not mixed with others", "reason", err)
		case !time.Now().Before(d.ends):
			d.Log.Info("the demo is over; restart the service to see it again", "after", Length)
		default:
			return err
		}
		d.over = true
	}
	<-ctx.Done()
	return nil
}

// stream returns errReal, or any error once the time is up.
func (d *Demo) stream(ctx context.Context, emit pipeline.Emitter) error {
	ctx, cancel := context.WithDeadline(ctx, d.ends)
	defer cancel()
	if err := d.look(ctx, emit); err != nil {
		return err
	}
	looked := time.Now()
	d.Log.Info("the demo streams simulated prices; DEMO=off turns it off", "symbols", Symbols(), "until", d.ends.UTC().Truncate(time.Second))
	return d.Streamer.Stream(ctx, Symbols(), func(m pipeline.StreamMessage) error {
		if now := time.Now(); now.Sub(looked) >= lookEvery {
			if err := d.look(ctx, emit); err != nil {
				return err
			}
			looked = now
		}
		err := emit.Append(ctx, []schema.Event{{ID: m.ID, Source: "pricemill/" + Name, Payload: schema.QuoteFetched{
			Quote: schema.Quote{Provider: d.Provider, Symbol: m.Symbol}, RawResponse: m.RawResponse, ReceivedAt: m.ReceivedAt}}})
		if err != nil {
			return fmt.Errorf("appending a trade of the demo: %w", err)
		}
		return nil
	})
}

// look returns errReal where there are real prices.
func (d *Demo) look(ctx context.Context, q store.Querier) error {
	provider, err := d.Real(ctx, q)
	if err != nil {
		return fmt.Errorf("looking for other providers: %w", err)
	}
	if provider != "" {
		return fmt.Errorf("%w: %s", errReal, provider)
	}
	return nil
}
