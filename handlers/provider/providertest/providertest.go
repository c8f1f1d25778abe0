// Package providertest is the conformance suite of providers: what every
// pipeline.Provider must do, checked in one line.
package providertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Suite describes a provider to Run.
type Suite struct {
	// Name is the provider's name. Required.
	Name schema.Provider
	// New makes a provider that answers; a provider of a remote service talks
	// to a local server here. It is called for each check, and closes what it
	// opened by t.Cleanup. Required.
	New func(t testing.TB) pipeline.Provider
	// Symbol is one that the provider has a price of. Required.
	Symbol schema.Symbol
	// Unknown is a symbol that the provider reports as unknown, by an error or
	// by an answer. Empty: the check is skipped.
	Unknown schema.Symbol
	// Hanging is a symbol whose answer never comes. Empty: the check is skipped.
	Hanging schema.Symbol
	// Limit is how long Quote may take to return after ctx is done, and to
	// answer. 0 means 5 s.
	Limit time.Duration
}

// Run checks a provider. Run the tests with -race: some of the checks only find
// what the race detector sees.
func Run(t *testing.T, s Suite) {
	t.Helper()
	if err := s.validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.needs != nil && c.needs(s) == "" {
				t.Skip("the suite names no such symbol")
			}
			if err := c.run(t.Context(), s, s.New(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

func (s Suite) validate() error {
	if s.New == nil {
		return errors.New("providertest: Suite.New is required")
	}
	if err := errors.Join(s.Name.Validate(), s.Symbol.Validate()); err != nil {
		return fmt.Errorf("providertest: Suite.Name and Suite.Symbol are required: %w", err)
	}
	return nil
}

func (s Suite) limit() time.Duration {
	if s.Limit == 0 {
		return 5 * time.Second
	}
	return s.Limit
}

// check is one duty of a provider. It returns its findings, so that the suite
// itself can be tested with providers that break them.
type check struct {
	name string
	// needs is the symbol without which there is nothing to check.
	needs func(Suite) schema.Symbol
	run   func(context.Context, Suite, pipeline.Provider) error
}

func checks() []check {
	return []check{
		{name: "AnswerIsBounded", run: answerIsBounded},
		{name: "AnswerHoldsThePrice", run: answerHoldsThePrice},
		{name: "AnswersShareNoMemory", run: answersShareNoMemory},
		{name: "DoneContextEndsQuote", run: doneContextEndsQuote},
		{name: "CancelEndsHangingQuote", needs: func(s Suite) schema.Symbol { return s.Hanging }, run: cancelEndsHangingQuote},
		{name: "UnknownSymbolIsReported", needs: func(s Suite) schema.Symbol { return s.Unknown }, run: unknownSymbolIsReported},
		{name: "NormalizeIsPure", run: normalizeIsPure},
		{name: "NormalizeRefusesGarbage", run: normalizeRefusesGarbage},
		{name: "NormalizeRefusesTruncated", run: normalizeRefusesTruncated},
		{name: "NormalizeSurvivesDamage", run: normalizeSurvivesDamage},
		{name: "ConcurrentUse", run: concurrentUse},
	}
}

// receivedAt is when the suite's answers were received: a provider must not
// read the clock in its place.
func receivedAt() schema.Time {
	return schema.NewTime(time.Date(2025, 6, 15, 14, 30, 0, 0, time.UTC))
}

func (s Suite) fetched(symbol schema.Symbol, raw schema.RawResponse) schema.QuoteFetched {
	return schema.QuoteFetched{
		Quote:       schema.Quote{Provider: s.Name, Symbol: symbol, RequestID: "providertest"},
		RawResponse: raw,
		ReceivedAt:  receivedAt(),
	}
}

// fresh asks for the suite's symbol.
func (s Suite) fresh(ctx context.Context, p pipeline.Provider) (schema.QuoteFetched, error) {
	raw, err := s.quote(ctx, p, s.Symbol)
	if err != nil {
		return schema.QuoteFetched{}, fmt.Errorf("Quote(%s): %w", s.Symbol, err)
	}
	return s.fetched(s.Symbol, raw), nil
}

// errLimit says that a call did not return.
var errLimit = errors.New("did not return in time")

// quote calls Quote, but gives up on a call that does not return within the
// limit after ctx is done, or, where ctx stays, after it began.
func (s Suite) quote(ctx context.Context, p pipeline.Provider, symbol schema.Symbol) (schema.RawResponse, error) {
	type result struct {
		raw schema.RawResponse
		err error
	}
	done := make(chan result, 1)
	go func() {
		raw, err := p.Quote(ctx, symbol)
		done <- result{raw, err}
	}()
	timer := time.NewTimer(s.limit())
	defer timer.Stop()
	select {
	case r := <-done:
		return r.raw, r.err
	case <-timer.C:
		return nil, errLimit
	}
}

// checkQuoteError reports an error that is no proper *pipeline.QuoteError.
func checkQuoteError(err error) error {
	var quoteErr *pipeline.QuoteError
	switch {
	case err == nil:
		return errors.New("no error")
	case !errors.As(err, &quoteErr):
		return fmt.Errorf("the error is no *pipeline.QuoteError: %w", err)
	case quoteErr.Code == "" || quoteErr.Reason == "":
		return fmt.Errorf("a QuoteError without code or reason: %w", err)
	case len(quoteErr.Reason) > schema.MaxReason:
		return fmt.Errorf("a reason of %d bytes, more than %d", len(quoteErr.Reason), schema.MaxReason)
	}
	return nil
}

// checkCode reports an error whose code is not one of those wanted.
func checkCode(err error, want ...schema.Code) error {
	if err := checkQuoteError(err); err != nil {
		return err
	}
	var quoteErr *pipeline.QuoteError
	if errors.As(err, &quoteErr); !slices.Contains(want, quoteErr.Code) {
		return fmt.Errorf("the code is %s, not %s: %w", quoteErr.Code, want, err)
	}
	return nil
}

// checkPrices reports prices that no event could carry.
func (s Suite) checkPrices(quote schema.QuoteFetched, prices []pipeline.Price) error {
	if len(prices) == 0 {
		return errors.New("neither a price nor an error")
	}
	for _, price := range prices {
		observed := schema.PriceObserved{
			Symbol: price.Symbol, Price: price.Price, Timestamp: price.Time,
			Source: s.Name, ReceivedAt: quote.ReceivedAt,
		}
		if err := observed.Validate(); err != nil {
			return fmt.Errorf("an invalid price: %w", err)
		}
		if price.Price.Sign() <= 0 && !price.Signed {
			return fmt.Errorf("an invalid price: %s is not positive", price.Price)
		}
	}
	return nil
}
