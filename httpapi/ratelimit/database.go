package ratelimit

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// databasePatience is how long a request waits for the database.
	databasePatience = 2 * time.Second
	// databasePause is how long the database is not asked after it failed.
	databasePause = 5 * time.Second
	// refillsAtOnce bounds the transactions at one time. With more clients that need one, the
	// process counts by itself, so that a flood of clients is no flood of transactions.
	refillsAtOnce = 8
	// giveBackEvery is how often a process gives back what it reserved for clients that ask
	// no more, which is those that have been silent for silence.
	giveBackEvery = time.Second
	silence       = 3 * time.Second
	// giveBackAtOnce bounds how many clients' that is.
	giveBackAtOnce = 200
	// forgetEvery is how often accounts are deleted of which nothing is spent any more.
	forgetEvery = time.Minute
)

// bank keeps the accounts that processes share.
type bank interface {
	// reserve settles the hold of a process, and makes a new one.
	reserve(ctx context.Context, c claim) (level, reserved int64, err error)
	// settle ends holds.
	settle(ctx context.Context, claims []claim) error
	// forget deletes accounts of which nothing is spent any more.
	forget(ctx context.Context) error
}

// block is the hold of this process for a client.
type block struct {
	reserved, spent int64
	spentAt         int64 // the last
	until           int64
	// refused is until when the database is not asked, as it had too little left.
	refused int64
	// refill is closed when the transaction ends that is under way; nil for none.
	refill chan struct{}
}

// left is how much of it can be spent.
func (b block) left(now int64) int64 {
	if now >= b.until {
		return 0
	}
	return b.reserved - b.spent
}

// databaseState is what a limiter knows of its database. The limiter guards all of it but
// slots and work.
type databaseState struct {
	slots   chan struct{}
	work    sync.WaitGroup
	retry   int64 // it is not asked before
	failing bool
	closed  bool
	used    bool // since accounts were last deleted
}

// askDatabase counts a request against what is reserved, and reserves more where that is
// needed. It is not ok where the database does not answer in time.
func (l *Limiter) askDatabase(name string, perMinute int) (v Verdict, ok bool) {
	var patience <-chan time.Time
	for {
		v, wait, ok := l.spend(name, perMinute)
		if ok || wait == nil {
			return v, ok
		}
		if patience == nil {
			timer := time.NewTimer(databasePatience)
			defer timer.Stop()
			patience = timer.C
		}
		select {
		case <-wait:
		case <-patience:
			return Verdict{}, false
		}
	}
}

// spend counts a request against what is reserved. Where it cannot tell, it returns what to
// wait for, or nil where that would not help.
func (l *Limiter) spend(name string, perMinute int) (v Verdict, wait <-chan struct{}, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.client(name, perMinute)
	now := c.asked
	atHome := c.from == InDatabase // else what is known from elsewhere has to come along
	switch {
	case atHome && c.block.left(now) > 0:
		c.block.spent++
		c.block.spentAt = now
		c.known = c.known.drained(now, perMinute)
		c.known.level += cost
		return c.known.verdict(true, perMinute), nil, true
	case atHome && now < c.block.refused:
		return c.known.drained(now, perMinute).verdict(false, perMinute), nil, true
	case c.block.refill != nil:
		return Verdict{}, c.block.refill, false
	case now < l.database.retry || l.database.closed:
		return Verdict{}, nil, false
	}
	select {
	case l.database.slots <- struct{}{}:
	default:
		return Verdict{}, nil, false
	}
	claim := l.claim(c)
	if !atHome {
		claim.carried = whole(c.known.drained(now, perMinute).level)
	}
	done := make(chan struct{})
	c.block.refill = done
	l.database.work.Go(func() { l.refill(c, claim, done) })
	return Verdict{}, done, false
}

// claim is what the bank is told of a client. The limiter is locked.
func (l *Limiter) claim(c *client) claim {
	return claim{client: c.name, process: l.id, perMinute: c.perMinute, spent: c.block.spent, ago: max(0, l.now()-c.block.spentAt)}
}

// refill reserves more for a client.
func (l *Limiter) refill(c *client, claim claim, done chan struct{}) {
	defer close(done)
	began := l.now() // before the transaction: a hold ends no later here than there
	ctx, cancel := context.WithTimeout(context.Background(), databasePatience)
	defer cancel()
	level, reserved, err := l.bank.reserve(ctx, claim)
	<-l.database.slots
	l.mu.Lock()
	defer l.mu.Unlock()
	c.block.refill = nil
	l.answered(err)
	if err != nil {
		c.block.until = 0 // nothing is certain of it
		return
	}
	l.database.used = true
	c.from, c.known = InDatabase, bucket{level, began}
	c.block = block{reserved: reserved, spentAt: began, until: began + holdFor.Microseconds()}
	if least := smallestBlock(claim.perMinute); reserved < least {
		// Not before a whole block is there: at a high limit, each request would ask.
		c.block.refused = began + bucket{level: level + reserved*cost}.untilFree(least, claim.perMinute)
	}
}

// answered notes whether the database did what it was asked. The limiter is locked.
func (l *Limiter) answered(err error) {
	switch {
	case err != nil:
		l.database.retry = l.now() + databasePause.Microseconds()
		if !l.database.failing {
			l.cfg.Logger.Warn("the database does not keep the rate limits; this process counts by itself until it does", "error", err)
		}
	case l.database.failing:
		l.cfg.Logger.Info("the database keeps the rate limits again")
	}
	l.database.failing = err != nil
}

// Run gives back what this process reserved and does not need, until ctx is done, and then
// all of it. Without a database it does nothing.
func (l *Limiter) Run(ctx context.Context) {
	if l.bank == nil {
		return
	}
	ticker := time.NewTicker(giveBackEvery)
	defer ticker.Stop()
	forgot := l.now()
	for {
		select {
		case <-ctx.Done():
			l.close()
			return
		case <-ticker.C:
		}
		l.giveBack(ctx, silence)
		if l.now()-forgot >= forgetEvery.Microseconds() {
			forgot = l.now()
			l.forget(ctx)
		}
	}
}

// close gives back all that is reserved.
func (l *Limiter) close() {
	l.mu.Lock()
	l.database.closed = true
	l.mu.Unlock()
	l.database.work.Wait()
	l.giveBack(context.Background(), 0)
}

// giveBack gives back what is reserved for clients that have not asked for a time.
func (l *Limiter) giveBack(ctx context.Context, silent time.Duration) {
	claims := l.unused(silent)
	if len(claims) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	if err := l.bank.settle(ctx, claims); err != nil && ctx.Err() == nil {
		l.cfg.Logger.Debug("giving back reserved requests failed: they come back by themselves", "error", err)
	}
}

// unused ends the holds for clients that have not asked for a time. They are in order, so
// that no two processes wait for each other in a circle.
func (l *Limiter) unused(silent time.Duration) []claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if now < l.database.retry {
		return nil
	}
	var claims []claim
	for e := l.recent.Back(); e != nil && len(claims) < giveBackAtOnce; e = e.Prev() {
		c := e.Value.(*client)
		if now-c.asked < silent.Microseconds() {
			break // those in front of it asked later
		}
		if c.block.reserved == 0 || c.block.refill != nil {
			continue
		}
		claims = append(claims, l.claim(c))
		c.block = block{refused: c.block.refused}
	}
	slices.SortFunc(claims, func(a, b claim) int { return cmp.Compare(a.client, b.client) })
	return claims
}

// forget deletes accounts of which nothing is spent any more.
func (l *Limiter) forget(ctx context.Context) {
	l.mu.Lock()
	due := l.database.used
	l.database.used = false
	l.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	if err := l.bank.forget(ctx); err != nil && ctx.Err() == nil {
		l.cfg.Logger.Debug("deleting rate limits that are over failed, trying again", "error", err)
		l.mu.Lock()
		l.database.used = true
		l.mu.Unlock()
	}
}
