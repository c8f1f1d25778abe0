package table

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
)

const (
	leaseName = "log"
	// leaseTime is how long a consumer that died keeps the others out, and leaseRenewal
	// how often it says that it lives, and the others look.
	leaseTime    = 5 * time.Second
	leaseRenewal = time.Second
)

// Lease is a Consumer by a lease in the database: of all processes that share it, one
// consumes, and another takes over when that one stops or dies. It is safe for concurrent
// use.
type Lease struct {
	db            *store.Store
	owner         string
	lasts, renews time.Duration // leaseTime and leaseRenewal
	log           *slog.Logger

	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	until   time.Time       // when the lease may be another's, unless it is renewed
	held    context.Context // nil while another process has the lease
	lose    context.CancelFunc
	changed chan struct{} // closed when held changes
}

var _ Consumer = (*Lease)(nil)

// NewLease asks for the lease in the name of this process, now and until Close.
func NewLease(db *store.Store, owner string, log *slog.Logger) *Lease {
	return newLease(db, owner, log, leaseTime, leaseRenewal)
}

func newLease(db *store.Store, owner string, log *slog.Logger, lasts, renews time.Duration) *Lease {
	ctx, stop := context.WithCancel(context.Background())
	l := &Lease{db: db, owner: owner, lasts: lasts, renews: renews, log: log, stop: stop, stopped: make(chan struct{}), changed: make(chan struct{})}
	go l.run(ctx)
	return l
}

// TryAcquire reports whether this process is the consumer after one look.
func TryAcquire(ctx context.Context, db *store.Store, owner string) (bool, error) {
	return db.AcquireLease(ctx, leaseName, owner, leaseTime)
}

// Taken reports whether a process is the consumer.
func Taken(ctx context.Context, db *store.Store) (bool, error) {
	held, err := store.HeldLeases(ctx, db)
	return slices.Contains(held, leaseName), err
}

// Acquire implements Consumer.
func (l *Lease) Acquire(ctx context.Context) (context.Context, error) {
	for {
		l.mu.Lock()
		held, changed := l.held, l.changed
		l.mu.Unlock()
		if held != nil {
			return held, nil
		}
		select {
		case <-changed:
		case <-l.stopped:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *Lease) run(ctx context.Context) {
	defer close(l.stopped)
	defer l.end(ctx)
	ticker := time.NewTicker(l.renews)
	defer ticker.Stop()
	// The database may not answer for longer than the lease lasts.
	expiry := time.AfterFunc(l.lasts, func() { l.expire(ctx) })
	defer expiry.Stop()
	for {
		asked := time.Now()
		asking, cancel := context.WithTimeout(ctx, l.lasts/2)
		held, err := l.db.AcquireLease(asking, leaseName, l.owner, l.lasts)
		cancel()
		switch {
		case err == nil && held:
			l.renew(ctx, asked)
			expiry.Reset(time.Until(asked.Add(l.holds())))
		case err == nil:
			l.end(ctx)
		case ctx.Err() == nil:
			l.log.Debug("asking for the lease of the log failed, trying again", slog.Any("error", err))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// holds is how long this process relies on a lease, from when it asked for it: the
// database counts from later on.
func (l *Lease) holds() time.Duration { return l.lasts - l.lasts/5 }

// renew notes that this process had the lease when it asked. An answer that comes too
// late says nothing of now.
func (l *Lease) renew(ctx context.Context, asked time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = asked.Add(l.holds())
	if l.held == nil && time.Now().Before(l.until) {
		l.log.Info("this process consumes the log")
		l.held, l.lose = context.WithCancel(context.WithoutCancel(ctx))
		l.change()
	}
}

// expire ends the lease unless it was renewed meanwhile.
func (l *Lease) expire(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !time.Now().Before(l.until) {
		l.drop(ctx)
	}
}

// end notes that this process does not have the lease.
func (l *Lease) end(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(ctx)
}

// drop is called with the lock held, and may be called again.
func (l *Lease) drop(ctx context.Context) {
	if l.held == nil {
		return
	}
	if ctx.Err() == nil {
		l.log.Warn("another process may consume the log: standing by")
	}
	l.lose()
	l.held = nil
	l.change()
}

// change wakes those who wait in Acquire. It is called with the lock held.
func (l *Lease) change() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Close gives the lease up, so that another process takes over at once.
func (l *Lease) Close() error {
	l.stop()
	<-l.stopped
	ctx, cancel := context.WithTimeout(context.Background(), leaseTime)
	defer cancel()
	if err := l.db.ReleaseLease(ctx, leaseName, l.owner); err != nil {
		l.log.Info("the lease of the log was not released, and ends by itself", "after", leaseTime, "error", err)
	}
	return nil
}
