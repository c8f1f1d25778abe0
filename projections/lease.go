package projections

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline/store"
)

// heldLease is a lease that is renewed until it is released, or lost to another process.
type heldLease struct {
	db          *store.Store
	name, owner string
	ttl         time.Duration
	errLost     error // wrapped when another process has acquired it
	lost        chan error
	stop        context.CancelFunc
	ended       chan struct{}
}

// leaseRenewals is how often a lease is renewed within its TTL.
const leaseRenewals = 5

// acquireLease acquires a lease, or returns nil where another process holds it. That of
// a process that was killed expires after ttl.
func acquireLease(ctx context.Context, db *store.Store, name string, ttl time.Duration, errLost error) (*heldLease, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("naming the owner of %s: %w", name, err)
	}
	l := &heldLease{db: db, name: name, owner: id.String(), ttl: ttl, errLost: errLost, lost: make(chan error, 1), ended: make(chan struct{})}
	ours, err := db.AcquireLease(ctx, name, l.owner, ttl)
	if err != nil || !ours {
		return nil, err
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go l.renew(renewing)
	return l, nil
}

// renew keeps the lease until ctx is done.
func (l *heldLease) renew(ctx context.Context) {
	defer close(l.ended)
	renewed := time.Now()
	ticker := time.NewTicker(l.ttl / leaseRenewals)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		began := time.Now()
		ours, err := l.db.AcquireLease(ctx, l.name, l.owner, l.ttl)
		switch {
		case err == nil && ours:
			renewed = began
			continue
		case ctx.Err() != nil:
			return
		case err != nil && time.Since(renewed) < l.ttl:
			continue
		case err == nil:
			err = l.errLost
		}
		l.lost <- fmt.Errorf("the lease %s was lost: %w", l.name, err)
		return
	}
}

// release gives it up.
func (l *heldLease) release(ctx context.Context) error {
	l.stop()
	<-l.ended
	return l.db.ReleaseLease(ctx, l.name, l.owner)
}

// check is for transactions that must not happen after the lease was lost.
func (l *heldLease) check(ctx context.Context, tx *store.Tx) error {
	var owners []string
	if err := tx.Select(ctx, &owners, `SELECT owner FROM leases WHERE name = $1`, l.name); err != nil {
		return fmt.Errorf("reading who holds the lease: %w", err)
	}
	if !slices.Contains(owners, l.owner) {
		return l.errLost
	}
	return nil
}

// until returns a context that ends when the lease is lost, and how to let go of
// it.
func (l *heldLease) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		select {
		case lost := <-l.lost:
			cancel(lost)
		case <-done:
		}
	}()
	return ctx, func() { close(done); cancel(context.Canceled) }
}
