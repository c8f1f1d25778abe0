package providertest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func answerIsBounded(ctx context.Context, s Suite, p pipeline.Provider) error {
	quote, err := s.fresh(ctx, p)
	if err != nil {
		return err
	}
	if err := quote.Validate(); err != nil {
		return fmt.Errorf("the answer makes no valid event: %w", err)
	}
	return nil
}

func answerHoldsThePrice(ctx context.Context, s Suite, p pipeline.Provider) error {
	quote, err := s.fresh(ctx, p)
	if err != nil {
		return err
	}
	prices, err := p.Normalize(quote)
	if err != nil {
		return fmt.Errorf("normalize of a fresh answer: %w", err)
	}
	if err := s.checkPrices(quote, prices); err != nil {
		return fmt.Errorf("normalize of a fresh answer: %w", err)
	}
	for _, price := range prices {
		if price.Symbol == s.Symbol {
			return nil
		}
	}
	return fmt.Errorf("no price of %s in the answer", s.Symbol)
}

// answersShareNoMemory overwrites an answer, as anyone who holds it may.
func answersShareNoMemory(ctx context.Context, s Suite, p pipeline.Provider) error {
	first, err := s.fresh(ctx, p)
	if err != nil {
		return err
	}
	second, err := s.fresh(ctx, p)
	if err != nil {
		return err
	}
	clear(first.RawResponse)
	third, err := s.fresh(ctx, p)
	if err != nil {
		return err
	}
	for _, quote := range []schema.QuoteFetched{second, third} {
		if _, err := p.Normalize(quote); err != nil {
			return fmt.Errorf("an answer changed with another one: %w", err)
		}
	}
	return nil
}

func doneContextEndsQuote(ctx context.Context, s Suite, p pipeline.Provider) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return checkEnded(s.quote(ctx, p, s.Symbol))
}

func cancelEndsHangingQuote(ctx context.Context, s Suite, p pipeline.Provider) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asking := &signalOnDone{Context: ctx, asked: make(chan struct{})}
	go func() {
		// Once the provider looks for the end of ctx it is about to wait. One
		// that never looks is ended, or rather not, by the limit.
		select {
		case <-asking.asked:
			cancel()
		case <-ctx.Done():
		}
	}()
	return checkEnded(s.quote(asking, p, s.Hanging))
}

// signalOnDone is a context that tells when someone first asks for its end.
type signalOnDone struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (c *signalOnDone) Done() <-chan struct{} {
	c.once.Do(func() { close(c.asked) })
	return c.Context.Done()
}

func checkEnded(raw schema.RawResponse, err error) error {
	if errors.Is(err, errLimit) {
		return fmt.Errorf("quote after its context was done: %w", err)
	}
	if err == nil {
		return fmt.Errorf("quote answered %d bytes after its context was done", len(raw))
	}
	if err := checkQuoteError(err); err != nil {
		return fmt.Errorf("quote after its context was done: %w", err)
	}
	return nil
}

func unknownSymbolIsReported(ctx context.Context, s Suite, p pipeline.Provider) error {
	raw, err := s.quote(ctx, p, s.Unknown)
	if err == nil {
		_, err = p.Normalize(s.fetched(s.Unknown, raw))
	}
	if err := checkCode(err, schema.CodeUnknownSymbol); err != nil {
		return fmt.Errorf("an unknown symbol: %w", err)
	}
	return nil
}

func concurrentUse(ctx context.Context, s Suite, p pipeline.Provider) error {
	const users = 16
	errs := make([]error, users)
	var group sync.WaitGroup
	for i := range users {
		group.Go(func() { errs[i] = answerHoldsThePrice(ctx, s, p) })
	}
	group.Wait()
	return errors.Join(errs...)
}
