package fetch

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
)

// A service counts the calls that reach it within any period of some length.
// When a call reaches it we do not know: after it was granted, and before it
// ended, be that milliseconds or, over a bad line, many seconds later. So a call
// is held against a limit until the whole period has passed since its end, and
// never are more than Calls held at once. Then no period sees more: of Calls+1
// calls, when the last was granted, one at least was held no longer, so it had
// reached the service more than a period before.
//
// Of a process that died no one learns when its calls ended. So each is entered
// with the time by which it must have ended, its deadline, and moved to its real
// end once that is known.

// grains is how finely the time within a period is told apart. Times are rounded
// up to a grain, which bounds what is stored whatever a limit allows, and costs
// half a percent of it.
const grains = 256

// never is later than any time.
const never = math.MaxInt64

// budget is how far a service's limits are used up. Times are milliseconds of
// the database's clock. It is not safe for concurrent use: the row that it is
// stored in is locked meanwhile.
type budget struct {
	limits map[int64]int // calls, by length of the period
	held   held
	closed int64 // the service wants to be left alone until then
}

// held is the number of calls by the length of the period and by the time of
// their end.
type held map[int64]map[int64]int

// newBudget reads what text left.
func newBudget(limits []pipeline.Limit, closed int64, text string) (*budget, error) {
	stored := held{}
	if err := json.Unmarshal([]byte(text), &stored); err != nil {
		return nil, fmt.Errorf("reading a budget: %w", err)
	}
	b := &budget{limits: map[int64]int{}, held: held{}, closed: closed}
	for _, l := range limits {
		per := max(1, int64((l.Per+time.Millisecond-1)/time.Millisecond))
		if calls, twice := b.limits[per]; !twice || l.Calls < calls {
			b.limits[per] = l.Calls
		}
	}
	for per := range b.limits {
		known, found := stored[per]
		if !found && len(stored) > 0 {
			// The limits were others until now: the longest remembers most.
			known = stored[slices.Max(slices.Collect(maps.Keys(stored)))]
		}
		b.held[per] = map[int64]int{}
		for end, calls := range known {
			b.held[per][roundUp(end, per)] += calls
		}
	}
	return b, nil
}

// text is what newBudget reads, without the calls that no longer count.
func (b *budget) text(now int64) (string, error) {
	for per, calls := range b.held {
		maps.DeleteFunc(calls, func(end int64, _ int) bool { return end+per < now })
	}
	text, err := json.Marshal(b.held)
	if err != nil {
		return "", fmt.Errorf("writing a budget: %w", err)
	}
	return string(text), nil
}

// spend enters a call that will have ended by then at the latest.
func (b *budget) spend(latest int64) {
	for per, calls := range b.held {
		calls[roundUp(latest, per)]++
	}
}

// end says that a call entered with this latest end has ended now.
func (b *budget) end(latest, now int64) {
	for per, calls := range b.held {
		if roundUp(latest, per)+per < now {
			continue // its period has passed, and its entry may have gone: others are other calls'
		}
		// Where the limits changed meanwhile, the nearest entry may be another
		// call's. The two change places: neither is held too short.
		entered := int64(never)
		for end := range calls {
			if end >= roundUp(latest, per) {
				entered = min(entered, end)
			}
		}
		if entered == never {
			continue // other limits held it when it was entered
		}
		if calls[entered]--; calls[entered] == 0 {
			delete(calls, entered)
		}
		calls[min(entered, roundUp(now, per))]++
	}
}

// roundUp moves a time to the next grain of a period.
func roundUp(t, per int64) int64 {
	grain := max(1, per/grains)
	return (t + grain - 1) / grain * grain
}

// forecast says when the next calls are free.
type forecast struct {
	now, closed int64
	lines       []line
}

// line is the forecast by one limit.
type line struct {
	per   int64
	room  int     // calls that are free now
	comes []count // held calls in the order in which they come free
}

// count is a number of calls that end at a time.
type count struct {
	end   int64
	calls int
}

// forecast reckons with the best: that calls under way end now.
func (b *budget) forecast(now int64) *forecast {
	return b.forecastWithout(now, func(int) int { return 0 })
}

// forecastJobs is the forecast for polling jobs, without the calls that are kept for
// clients: a twentieth of each limit.
func (b *budget) forecastJobs(now int64) *forecast {
	return b.forecastWithout(now, func(calls int) int { return (calls + 10) / 20 })
}

func (b *budget) forecastWithout(now int64, kept func(calls int) int) *forecast {
	f := &forecast{now: now, closed: b.closed}
	for per, calls := range b.limits {
		l := line{per: per, room: calls - kept(calls)}
		for _, end := range slices.Sorted(maps.Keys(b.held[per])) {
			if end+per >= now {
				l.comes = append(l.comes, count{min(end, now), b.held[per][end]})
				l.room -= b.held[per][end]
			}
		}
		for ; l.room < 0; l.room++ {
			l.drop() // it comes free, but the limit is lower than it was
		}
		f.lines = append(f.lines, l)
	}
	return f
}

// next is the earliest time at which one more call is free.
func (f *forecast) next() int64 {
	at := max(f.now, f.closed)
	for _, l := range f.lines {
		switch {
		case l.room > 0:
		case len(l.comes) == 0: // a limit of no calls at all
			return never
		default:
			at = max(at, l.comes[0].end+l.per+1)
		}
	}
	return at
}

// take uses up the next call.
func (f *forecast) take() {
	at := f.next()
	for i := range f.lines {
		l := &f.lines[i]
		if l.room > 0 {
			l.room--
		} else {
			l.drop()
		}
		l.comes = append(l.comes, count{at, 1})
	}
}

func (l *line) drop() {
	if l.comes[0].calls--; l.comes[0].calls == 0 {
		l.comes = l.comes[1:]
	}
}

// left is how many calls are free now.
func (f *forecast) left() int {
	if f.closed > f.now {
		return 0
	}
	left := math.MaxInt
	for _, l := range f.lines {
		left = min(left, l.room)
	}
	return left
}
