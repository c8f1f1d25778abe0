package ratelimit

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// holdFor is how long what a process has reserved is its own. Of one that died, it counts as
// spent then.
const holdFor = 10 * time.Second

// hold is what a process has reserved of a client's requests, and until when, in
// microseconds.
type hold struct {
	Requests int64 `json:"requests"`
	Until    int64 `json:"until"`
}

// account is the bucket of a client that several processes share. The bucket has what is
// known to be spent, and drains; holds are on top of it, and do not. Both together never are
// more than the bucket takes. What a process spends moves from its hold into the bucket when it
// says so, which is later than it was spent: so it drains later too, and processes
// together never allow more than one bucket would.
type account struct {
	bucket
	holds map[string]hold
}

// readAccount reads what text writes.
func readAccount(level, at int64, holds string) (account, error) {
	a := account{bucket{level, at}, map[string]hold{}}
	if err := json.Unmarshal([]byte(holds), &a.holds); err != nil {
		return account{}, fmt.Errorf("reading what is reserved: %w", err)
	}
	return a, nil
}

func (a account) text() (string, error) {
	text, err := json.Marshal(a.holds)
	if err != nil {
		return "", fmt.Errorf("writing what is reserved: %w", err)
	}
	return string(text), nil
}

// claim is what a process wants of an account.
type claim struct {
	client, process string
	perMinute       int
	// spent is how much of its hold it has spent, the last of it so many microseconds ago.
	spent, ago int64
	// carried is a level that is known from elsewhere, and counts where that of the account
	// is lower.
	carried int64
}

// settle takes what a process has spent into the bucket, and ends its hold, and those of
// others that are over.
func (a *account) settle(now int64, c claim) {
	// In the order of time, as the bucket drains between.
	for _, process := range slices.SortedFunc(maps.Keys(a.holds), func(x, y string) int { return cmp.Compare(a.holds[x].Until, a.holds[y].Until) }) {
		if h := a.holds[process]; process != c.process && h.Until <= now {
			a.spend(h.Until, h.Requests, c.perMinute)
			delete(a.holds, process)
		}
	}
	if h, held := a.holds[c.process]; held {
		a.spend(now-c.ago, min(c.spent, h.Requests), c.perMinute)
		delete(a.holds, c.process)
	}
	a.bucket = a.drained(now, c.perMinute)
}

// spend notes what was spent at a time, or later if the bucket is known to a later one.
func (a *account) spend(at, requests int64, perMinute int) {
	a.bucket = a.drained(max(at, a.at), perMinute)
	a.level += requests * cost
}

// reserve gives a process a new hold: a quarter of what is left. level is what is spent or
// held by others.
func (a *account) reserve(now int64, c claim) (level, reserved int64) {
	a.settle(now, c)
	a.level = max(a.level, min(c.carried, int64(c.perMinute)*cost))
	level = a.level
	for _, h := range a.holds {
		level += h.Requests * cost
	}
	free := bucket{level: level}.free(c.perMinute)
	if reserved = min(free, max(free/4, smallestBlock(c.perMinute))); reserved > 0 {
		a.holds[c.process] = hold{reserved, now + holdFor.Microseconds()}
	}
	return level, reserved
}

// smallestBlock is what comes back in a tenth of a second, or one.
func smallestBlock(perMinute int) int64 { return max(1, int64(perMinute)/600) }
