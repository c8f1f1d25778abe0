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
	jobSlots int                  // of them, those that may be for jobs
	sinceJob int                  // calls for clients since the last one for a job
	shut     *pipeline.QuoteError // why it may start none, no matter who waits; or nil
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

// jobTurn is how many calls for clients come before one for a job, where both wait.
const jobTurn = 4

// interleave puts the requests of clients before those of jobs, but for every fifth,
// which is a job's: otherwise clients who never stop asking would starve the jobs.
// sinceJob is how many calls for clients there were since the last one for a job.
func interleave(clients, jobs []request, sinceJob int) []request {
	var all []request
	for len(clients) > 0 && len(jobs) > 0 {
		if sinceJob >= jobTurn {
			jobs[0].turn = true
			all, jobs, sinceJob = append(all, jobs[0]), jobs[1:], 0
		} else {
			all, clients, sinceJob = append(all, clients[0]), clients[1:], sinceJob+1
		}
	}
	return append(append(all, clients...), jobs...)
}

// decide serves the requests of one provider in their order, as far as slots and
// budget go. Those after them wait, each for the next call that comes free; one
// that cannot wait so long will get none, and is told so at once. Of slots and calls
// a part is kept from jobs, so that a client need not wait for theirs to end.
func (p *plan) decide(l lineup, local schema.Time, now int64) {
	calls, ofJobs := l.budget.forecast(now), l.budget.forecastJobs(now)
	for _, r := range l.open {
		left, free := r.Deadline.Sub(local.Time), calls.next()
		restricted := r.Scheduled && !r.turn
		if restricted {
			free = max(free, ofJobs.next())
		}
		take := func() {
			ofJobs.take()
			// A job that waits leaves what is free now to clients.
			if !restricted || free <= now {
				calls.take()
			}
		}
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
			take()
		default:
			take()
			if l.slots > 0 && (!r.Scheduled || l.jobSlots > 0) {
				l.slots--
				if r.Scheduled {
					l.jobSlots--
				}
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
