package ratelimit

import "time"

// cost is what one request adds to the level of a bucket. A bucket of n requests a minute
// holds n times as much, and loses n each microsecond: so all numbers are whole, whatever
// the limit is. Lua's floating-point numbers hold them exactly too.
const cost int64 = 60_000_000

// MaxPerMinute is the highest limit.
const MaxPerMinute = 1_000_000

// bucket is how much of a client's quota is spent at a time, in microseconds.
type bucket struct{ level, at int64 }

// drained is the bucket at a time. A clock that is less than a minute late drains nothing
// until it has caught up, so that no time counts twice; one that was set back begins again.
func (b bucket) drained(now int64, perMinute int) bucket {
	n := int64(perMinute)
	at := now
	if behind := b.at - now; behind > 0 && behind < cost {
		at = b.at
	}
	elapsed := min(max(now-b.at, 0), cost) // a minute drains it all
	return bucket{max(0, min(b.level, n*cost)-elapsed*n), at}
}

// free is how many requests there is room for; the bucket is drained.
func (b bucket) free(perMinute int) int64 { return max(0, int64(perMinute)*cost-b.level) / cost }

// untilFree is how long it takes until there is room for so many requests.
func (b bucket) untilFree(requests int64, perMinute int) int64 {
	n := int64(perMinute)
	return (max(0, b.level+requests*cost-n*cost) + n - 1) / n
}

// Verdict is the state of a client's bucket after it asked.
type Verdict struct {
	Allowed bool
	// Remaining is how many requests are allowed at once now.
	Remaining int
	// Next is how long until one more request is allowed, and Full until the whole quota is.
	Next, Full time.Duration
}

// verdict describes a bucket that is drained.
func (b bucket) verdict(allowed bool, perMinute int) Verdict {
	return Verdict{Allowed: allowed, Remaining: int(b.free(perMinute)), Next: micros(b.untilFree(1, perMinute)),
		Full: micros(b.untilFree(int64(perMinute), perMinute))}
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// take is a request at a time.
func (b bucket) take(now int64, perMinute int) (after bucket, allowed bool) {
	after = b.drained(now, perMinute)
	if after.free(perMinute) == 0 {
		return after, false
	}
	after.level += cost
	return after, true
}

// whole is a level without the part of a request.
func whole(level int64) int64 { return level / cost * cost }
