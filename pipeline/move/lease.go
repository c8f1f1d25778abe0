package move

import (
	"context"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
)

const (
	leaseName = "move"
	// leaseTime is how long the lease of a move that was killed lasts.
	leaseTime = 10 * time.Second
	leasePoll = 200 * time.Millisecond
	// renewPatience is how long the database may not answer, or a transaction of this move
	// hold the lease.
	renewPatience = time.Minute
)

// lease waits until no other move fills the target.
func (m *mover) lease(ctx context.Context) (release func() error, err error) {
	m.Step("waiting for another move to end")
	for began := time.Now(); ; {
		held, err := m.Target.AcquireLease(ctx, leaseName, m.owner, leaseTime)
		if err != nil {
			return nil, err
		}
		if held {
			return func() error {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTime)
				defer cancel()
				return m.Target.ReleaseLease(ctx, leaseName, m.owner)
			}, nil
		}
		if time.Since(began) > leaseTime+leasePoll {
			return nil, fmt.Errorf("%w: another move into it is under way: wait until it has ended", ErrTarget)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(leasePoll):
		}
	}
}

// renew keeps the lease until ctx is done, and ends it where the lease is lost.
func (m *mover) renew(ctx context.Context, cancel context.CancelCauseFunc) {
	renewed := time.Now()
	ticker := time.NewTicker(leaseTime / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		held, err := m.Target.AcquireLease(ctx, leaseName, m.owner, leaseTime)
		switch {
		case err == nil && held:
			renewed = time.Now()
		case err == nil:
			cancel(fmt.Errorf("%w: another move has taken it over", ErrTarget))
			return
		case time.Since(renewed) > renewPatience:
			cancel(fmt.Errorf("keeping other moves away from the target: %w", err))
			return
		}
	}
}

// write runs f in a transaction of the target, which commits only while the lease lasts.
func (m *mover) write(ctx context.Context, f func(tx *store.Tx) error) error {
	return m.Target.Write(ctx, func(tx *store.Tx) error {
		if err := tx.HoldLease(ctx, leaseName, m.owner, leaseTime); err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return err
		}
		return tx.HoldLease(ctx, leaseName, m.owner, leaseTime)
	})
}
