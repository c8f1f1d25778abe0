package projections

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline/store"
)

// right is a lease that is kept until it is released, or lost to another process.
type right struct {
	db          *store.Store
	name, owner string
	lasts       time.Duration
	taken       error // what it is lost by
	lost        chan error
	stop        context.CancelFunc
	ended       chan struct{}
}

// rightRenewals is how often a right is renewed while it would last.
const rightRenewals = 5

// takeRight takes a right, or returns nil where another process has it. That of a
// process that was killed lasts for so long.
func takeRight(ctx context.Context, db *store.Store, name string, lasts time.Duration, taken error) (*right, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("naming the owner of %s: %w", name, err)
	}
	r := &right{db: db, name: name, owner: id.String(), lasts: lasts, taken: taken, lost: make(chan error, 1), ended: make(chan struct{})}
	ours, err := db.AcquireLease(ctx, name, r.owner, lasts)
	if err != nil || !ours {
		return nil, err
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	go r.renew(renewing)
	return r, nil
}

// renew keeps the right until ctx is done.
func (r *right) renew(ctx context.Context) {
	defer close(r.ended)
	renewed := time.Now()
	ticker := time.NewTicker(r.lasts / rightRenewals)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		began := time.Now()
		ours, err := r.db.AcquireLease(ctx, r.name, r.owner, r.lasts)
		switch {
		case err == nil && ours:
			renewed = began
			continue
		case ctx.Err() != nil:
			return
		case err != nil && time.Since(renewed) < r.lasts:
			continue
		case err == nil:
			err = r.taken
		}
		r.lost <- fmt.Errorf("the right to %s was lost: %w", r.name, err)
		return
	}
}

// release gives it up.
func (r *right) release(ctx context.Context) error {
	r.stop()
	<-r.ended
	return r.db.ReleaseLease(ctx, r.name, r.owner)
}

// check is for transactions that must not happen after the right was lost.
func (r *right) check(ctx context.Context, tx *store.Tx) error {
	var owners []string
	if err := tx.Select(ctx, &owners, `SELECT owner FROM leases WHERE name = $1`, r.name); err != nil {
		return fmt.Errorf("looking whose right it is: %w", err)
	}
	if !slices.Contains(owners, r.owner) {
		return r.taken
	}
	return nil
}

// until returns a context that ends when the right is lost, and how to let go of
// it.
func (r *right) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		select {
		case lost := <-r.lost:
			cancel(lost)
		case <-done:
		}
	}()
	return ctx, func() { close(done); cancel(context.Canceled) }
}
