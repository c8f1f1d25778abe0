package fetch

import (
	"errors"
	"math"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const (
	// maxFailures in a row open the breaker.
	maxFailures = 5
	// openTime is how long no one is asked then; after it one call at a time is
	// a probe, until one succeeds.
	openTime = 10 * time.Second
	// fairTime is what a provider must have been given for its silence to count
	// as a failure: a request may have waited until just before its deadline.
	fairTime = time.Second
)

// errUncounted is what a call ends with that says nothing about the provider.
var errUncounted = errors.New("says nothing about the provider")

// gate is what this process knows about the health of a provider. It is safe for
// concurrent use.
type gate struct {
	breaker *gobreaker.TwoStepCircuitBreaker[schema.RawResponse]

	mu     sync.Mutex
	retry  time.Time // when an open breaker lets a probe through
	paused time.Time // the provider wants to be left alone until then
}

func newGate(now func() time.Time) *gate {
	g := &gate{}
	g.breaker = gobreaker.NewTwoStepCircuitBreaker[schema.RawResponse](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     openTime,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= maxFailures },
		IsExcluded:  func(err error) bool { return errors.Is(err, errUncounted) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				g.mu.Lock()
				g.retry = now().Add(openTime)
				g.mu.Unlock()
			}
		},
	})
	return g
}

// slots is how many calls may start now, and why it is none at all.
func (g *gate) slots() (int, *pipeline.QuoteError) {
	switch g.breaker.State() {
	case gobreaker.StateOpen:
		return 0, g.shut()
	case gobreaker.StateHalfOpen:
		c := g.breaker.Counts()
		return 1 - (int(c.Requests) - int(c.TotalExclusions)), nil
	}
	return math.MaxInt, nil
}

// enter reports whether a call may start; ended must be told how it went.
func (g *gate) enter() (ended func(error), refused *pipeline.QuoteError) {
	ended, err := g.breaker.Allow()
	if err != nil {
		return nil, g.shut()
	}
	return ended, nil
}

func (g *gate) shut() *pipeline.QuoteError {
	g.mu.Lock()
	defer g.mu.Unlock()
	return pipeline.Quotef(schema.CodeUnavailable, "the provider failed again and again; it is tried again at %s",
		schema.NewTime(g.retry).Format(time.RFC3339Nano))
}

// pause keeps calls back that were granted before the provider asked for it. All
// others find it in the database.
func (g *gate) pause(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.paused) {
		g.paused = until
	}
}

// pausedFor is how long no call may start.
func (g *gate) pausedFor(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, g.paused.Sub(now))
}

// verdict is what a call that was given so much time says about the provider to
// the breaker: only that it cannot be reached or does not answer counts against
// it. Any other refusal is an answer.
func verdict(failure *pipeline.QuoteError, given time.Duration) error {
	switch {
	case failure == nil:
		return nil
	case failure.Code == schema.CodeUnavailable, failure.Code == schema.CodeTimeout && given >= fairTime:
		return failure
	case failure.Code == schema.CodeTimeout, failure.Code == schema.CodeInternal, failure.Code == schema.CodeNotConfigured:
		return errUncounted
	}
	return nil
}
