package fetch

import (
	"context"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Call is one call of a provider that was granted, for work that comes after all requests,
// such as a backfill.
type Call struct {
	provider schema.Provider
	limits   []pipeline.Limit
	latest   int64 // when it has ended for certain, by the database's clock
}

// keptForRequests is the part of a limit that such work leaves to requests: a fifth, and one
// call at least. A limit of one call has none to leave: requests that wait come first.
func keptForRequests(calls int) int { return max(0, min(max(1, calls/5), calls-1)) }

// Grant enters one call, which must have ended within lasts, into the budget of a provider,
// which all processes share. Where there is none it returns how long to wait before asking
// again: while a request waits, while the provider wants to be left alone, and while no more
// of a limit is free than is kept for requests.
func Grant(ctx context.Context, tx *pipeline.Tx, name schema.Provider, provider pipeline.Provider, lasts time.Duration) (Call, time.Duration, error) {
	call := Call{provider: name, limits: limitsOf(provider)}
	rows, err := lockBudgets(ctx, tx, []schema.Provider{name})
	if err != nil {
		return call, 0, err
	}
	row := rows[0]
	b, err := newBudget(call.limits, row.Closed, row.Spent)
	if err != nil {
		return call, 0, fmt.Errorf("provider %s: %w", name, err)
	}
	if free := b.forecastWithout(row.Now, keptForRequests).next(); free > row.Now {
		return call, time.Duration(min(free-row.Now, longest.Milliseconds())) * time.Millisecond, nil
	}
	var waiting int
	if err := tx.Get(ctx, &waiting, `SELECT count(*) FROM fetch_queue WHERE provider = $1 AND claimed_until < $2`, name, row.Now); err != nil {
		return call, 0, fmt.Errorf("counting the requests that wait: %w", err)
	}
	if waiting > 0 {
		return call, poll, nil
	}
	call.latest = row.Now + lasts.Milliseconds() + 1
	b.spend(call.latest)
	return call, 0, storeBudget(ctx, tx, name, b, row.Now)
}

// End notes that a call has ended, with the error of the provider or nil. After
// CodeRateLimited no process calls the provider for the time that it names, or as long as it
// takes by its limits.
func (c Call) End(ctx context.Context, tx *pipeline.Tx, failure *pipeline.QuoteError) error {
	ended := outcome{request: request{Provider: c.provider, latest: c.latest}}
	if failure != nil && failure.Code == schema.CodeRateLimited {
		ended.pause = pauseAfter(c.limits, failure)
	}
	return endCalls(ctx, tx, []outcome{ended}, func(schema.Provider) []pipeline.Limit { return c.limits })
}
