// Package simulated is a market data service that does not exist: it makes its
// prices up, says so in every answer, and needs no network and no key. It
// serves demonstrations and tests, for which it can also be told to misbehave.
package simulated

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Name is the provider's name in events and answers.
const Name schema.Provider = "simulated"

// Config says what the provider makes up. The zero value is a good one.
type Config struct {
	// Seed chooses one of 2^64 markets. Providers of equal Seed, Slot,
	// TradeEvery and TickSize give the same prices in every process. Any value is good.
	Seed uint64
	// Slot is how long a price stands, at least 1 µs. 0 means 1 s.
	Slot time.Duration
	// TickSize is what prices are multiples of: positive, at most 1, with at
	// most 8 fractional digits. 0 means 0.01.
	TickSize schema.Decimal
	// TradeEvery is the period within which each symbol of a stream trades once,
	// 10 ms to 10 s. 0 means 500 ms.
	TradeEvery time.Duration
	// Latency is how long each answer takes; 0, the default, is none. It must
	// not be negative.
	Latency time.Duration
	// Faults says which symbols misbehave, and how. Default: none. See
	// ParseFaults for its text form.
	Faults map[schema.Symbol]Fault
	// Clock dates the prices. Nil means time.Now.
	Clock func() time.Time
}

// Provider makes up quotes. It has no state, so it is safe for concurrent use.
type Provider struct {
	walk    walk
	latency time.Duration
	faults  map[schema.Symbol]Fault
	clock   func() time.Time
}

var _ pipeline.Provider = (*Provider)(nil)

// New checks cfg and reports all its faults at once.
func New(cfg Config) (*Provider, error) {
	if cfg.Slot == 0 {
		cfg.Slot = time.Second
	}
	if cfg.TickSize.Sign() == 0 {
		cfg.TickSize = schema.MustDecimal("0.01")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.TradeEvery == 0 {
		cfg.TradeEvery = 500 * time.Millisecond
	}
	w, walkErr := newWalk(cfg.Seed, cfg.Slot, cfg.TradeEvery, cfg.TickSize)
	errs := []error{walkErr}
	if cfg.Latency < 0 {
		errs = append(errs, fmt.Errorf("latency: %v is negative", cfg.Latency))
	}
	for symbol, fault := range cfg.Faults {
		if err := errors.Join(symbol.Validate(), fault.validate()); err != nil {
			errs = append(errs, fmt.Errorf("fault of %q: %w", symbol, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("configuring the simulated provider: %w", err)
	}
	return &Provider{walk: w, latency: cfg.Latency, faults: maps.Clone(cfg.Faults), clock: cfg.Clock}, nil
}

// answer is the payload. It says twice what it is, so that no one who finds one
// takes it for a real quote.
type answer struct {
	Simulated bool            `json:"simulated"`
	Provider  schema.Provider `json:"provider"`
	Symbol    schema.Symbol   `json:"symbol"`
	// Price is decimal text.
	Price *string `json:"price,omitempty"`
	// Size and Trade are those of a trade in a stream.
	Size  *string      `json:"size,omitempty"`
	Trade int64        `json:"trade,omitempty"`
	Time  *schema.Time `json:"time,omitempty"`
	// Error stands instead of price and time.
	Error string `json:"error,omitempty"`
}

const unknownSymbol = "unknown symbol"

// Quote implements pipeline.Provider. Apart from the errors that a Fault asks for
// it knows two: CodeUnknownSymbol for what is no symbol at all, and CodeTimeout
// where ctx ends first; that one wraps the error of ctx.
func (p *Provider) Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	if err := symbol.Validate(); err != nil {
		return nil, &pipeline.QuoteError{Code: schema.CodeUnknownSymbol, Reason: "not a symbol", Err: err}
	}
	fault := p.faults[symbol]
	if err := wait(ctx, p.latency+fault.Delay); err != nil {
		return nil, err
	}
	now := schema.NewTime(p.clock())
	if fault.Kind != "" && fault.Kind != Late {
		return fault.answer(ctx, symbol, now)
	}
	price := p.walk.price(symbol, now.Time)
	return encode(answer{Simulated: true, Provider: Name, Symbol: symbol, Price: &price, Time: &now})
}

func encode(a answer) (schema.RawResponse, error) {
	payload, err := json.Marshal(a)
	if err != nil { // a clock outside the years 0 to 9999
		return nil, &pipeline.QuoteError{Code: schema.CodeInternal, Reason: "making an answer up", Err: err}
	}
	return payload, nil
}

// wait returns nil after d, or an error as soon as ctx is done.
func wait(ctx context.Context, d time.Duration) error {
	if d > 0 && ctx.Err() == nil {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return &pipeline.QuoteError{Code: schema.CodeTimeout, Reason: "no answer in time", Err: err}
	}
	return nil
}
