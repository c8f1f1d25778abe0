// Package target is what the handlers share that hand events to other systems: which events
// are due, how an event is written, and which of them a target has.
package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/handlers/pricealerts"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Filter says which events a target wants. It is safe for concurrent use.
type Filter struct {
	markets []market
	maxAge  time.Duration
	now     func() time.Time
}

// NewFilter returns the filter of the settings symbols, each [provider/]SYMBOL, empty for
// all, and max_age, 0 for no bound. now is the clock; nil means time.Now. Its error holds
// all faults of the settings.
func NewFilter(symbols []string, maxAge time.Duration, now func() time.Time) (*Filter, error) {
	f := &Filter{maxAge: maxAge, now: now}
	if now == nil {
		f.now = time.Now
	}
	var errs []error
	if maxAge < 0 {
		errs = append(errs, fmt.Errorf("max_age: %v is negative", maxAge))
	}
	for _, text := range symbols {
		m, err := parseMarket(text)
		errs = append(errs, err)
		f.markets = append(f.markets, m)
	}
	return f, errors.Join(errs...)
}

// market is a symbol at a provider, or at each where that is empty.
type market struct {
	provider schema.Provider
	symbol   schema.Symbol
}

func parseMarket(text string) (m market, err error) {
	name := text
	if provider, symbol, found := strings.Cut(text, "/"); found && schema.Provider(provider).Validate() == nil {
		m.provider, name = schema.Provider(provider), symbol
	}
	if m.symbol, err = schema.ParseExactSymbol(name); err != nil {
		return market{}, fmt.Errorf("symbols: %q: want [provider/]SYMBOL: %w", text, err)
	}
	if !pipeline.CaseSensitive(m.provider) {
		m.symbol = m.symbol.Fold()
	}
	return m, nil
}

// Wants reports whether an event is of a symbol that the target wants.
func (f *Filter) Wants(r *pipeline.Record) bool {
	of := marketOf(r.Event.Payload)
	return len(f.markets) == 0 || slices.ContainsFunc(f.markets, func(m market) bool {
		return m.symbol == of.symbol && (m.provider == "" || m.provider == of.provider)
	})
}

// TooOld reports whether an event has been in the log for longer than max_age. A dead letter
// that is retried never is: someone wants it sent.
func (f *Filter) TooOld(r *pipeline.Record) bool {
	return f.maxAge > 0 && !IsLate(r) && f.now().Sub(r.Timestamp) > f.maxAge
}

// IsLate reports whether a record is a dead letter that is retried: later ones of its
// partition were applied before it.
func IsLate(r *pipeline.Record) bool { return r.Timestamp.IsZero() }

// marketOf is the market that an event is of.
func marketOf(p schema.Payload) market {
	switch p := p.(type) {
	case pricealerts.PriceAlerted:
		return market{p.Source, p.Symbol}
	case schema.PriceCorrected:
		return market{p.Source, p.Symbol}
	case schema.PriceRetracted:
		return market{p.Source, p.Symbol}
	}
	price, _ := schema.PriceOf(p)
	return market{price.Source, price.Symbol}
}
