package fetch

import (
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// lineup is what is to be decided about one provider: its open requests in the
// order in which they are served, and what there is to serve them with.
type lineup struct {
	provider schema.Provider
	limits   []pipeline.Limit
	slots    int                  // calls that this process may start now
	shut     *pipeline.QuoteError // why it may start none, whoever waits; or nil
	budget   *budget
	open     []request
}

// view is the queue at one moment.
type view struct {
	local   schema.Time // our clock, by which deadlines are
	now     int64       // the database's, by which budgets are; not earlier
	lineups []lineup
}

// plan is what to do about the requests of a view.
type plan struct {
	serve []request
	fail  []outcome
	wait  time.Duration // how soon to look again
}

func (p plan) empty() bool { return len(p.serve) == 0 && len(p.fail) == 0 }

// plan decides about all requests in view.
func (v view) plan() plan {
	p := plan{wait: poll}
	for _, l := range v.lineups {
		p.decide(l, v.local, v.now)
	}
	if len(p.fail) > 0 {
		p.wait = 0 // there may be more than a view shows
	}
	return p
}

// decide serves the requests of one provider in their order, as far as slots and
// budget go. Those behind them wait, each for the next call that comes free; one
// that cannot wait so long will get none, and is told so at once.
func (p *plan) decide(l lineup, local schema.Time, now int64) {
	calls := l.budget.forecast(now)
	for _, r := range l.open {
		left, free := r.Deadline.Sub(local.Time), calls.next()
		wait := time.Duration(min(free-now, int64(longest/time.Millisecond))) * time.Millisecond
		switch {
		case l.shut != nil:
			p.fail = append(p.fail, failed(r, l.shut, local))
		case wait == 0 && left <= 0:
			p.fail = append(p.fail, failed(r, errOverdue, local))
		case wait > 0 && wait >= left-leastTime:
			o := failed(r, spent(wait, l.budget.closed > now), local)
			o.refused = true
			p.fail = append(p.fail, o)
		case wait > 0:
			p.wait = min(p.wait, wait)
			calls.take()
		default:
			calls.take()
			if l.slots > 0 {
				l.slots--
				// Rounded up: an end that is too late does no harm.
				r.latest = now + min(left, longestCall).Milliseconds() + 1
				p.serve = append(p.serve, r)
			}
		}
	}
}

// leastTime is what must be left of a request that waits for a call: later the
// provider might not answer in time, and the call would be wasted.
const leastTime = time.Second

// longestCall bounds a call whose request may wait for longer, as one from
// elsewhere may with a deadline in the year 9999: a provider that hangs would keep
// the slot for as long, and the budget of a process that died the call.
const longestCall = 5 * time.Minute

// longest is more than any request may wait.
const longest = 1000 * time.Hour

var errOverdue = pipeline.Quotef(schema.CodeTimeout, "the deadline had passed before the provider could be asked")

// spent says why a request gets no call by its deadline.
func spent(wait time.Duration, closed bool) *pipeline.QuoteError {
	switch {
	case wait >= longest:
		return pipeline.Quotef(schema.CodeRateLimited, "the provider allows no calls")
	case closed:
		return pipeline.Quotef(schema.CodeRateLimited, "the provider wants to be left alone for another %v", wait)
	}
	return pipeline.Quotef(schema.CodeRateLimited, "the budget of calls is spent: the next one comes free in %v", wait)
}

// failed is a request that gets no answer.
func failed(r request, why *pipeline.QuoteError, at schema.Time) outcome {
	return outcome{request: r, payload: schema.QuoteFailed{
		Quote: schema.Quote{Provider: r.Provider, Symbol: r.Symbol, RequestID: r.ID},
		Code:  why.Code, Reason: schema.CutReason(why.Reason), FailedAt: at}}
}
