package projections

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
)

// Scratch is the lease for scratch generations: those that are filled from the log to
// be compared, and then dropped. One process at a time holds it, since no other could
// tell its generations from those left by a process that was killed.
type Scratch struct {
	*heldLease
	all []pipeline.Projection
}

const (
	scratchLease = "scratch"
	// scratchTime is how long the lease of a process that was killed lasts.
	scratchTTL  = 10 * time.Second
	scratchPoll = 200 * time.Millisecond
)

// ErrScratchTaken says that another process holds the lease.
var ErrScratchTaken = errors.New("another process compares or fills generations, as pricemill verify does: wait until it has ended")

// TakeScratch acquires the lease, and drops the scratch generations it finds of
// these projections. It waits for as long as the lease of a process that was
// killed may last, and then says ErrScratchTaken.
func TakeScratch(ctx context.Context, db *store.Store, all []pipeline.Projection) (*Scratch, error) {
	s := &Scratch{all: all}
	for began := time.Now(); ; {
		var err error
		if s.heldLease, err = acquireLease(ctx, db, scratchLease, scratchTTL, ErrScratchTaken); err != nil {
			return nil, err
		}
		if s.heldLease != nil {
			break
		}
		if time.Since(began) > scratchTTL+scratchTTL/leaseRenewals {
			return nil, ErrScratchTaken
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(scratchPoll):
		}
	}
	if err := s.drop(ctx); err != nil {
		return nil, errors.Join(err, s.Release(ctx))
	}
	return s, nil
}

// Lost tells why the lease was lost, if it was: the generations may be gone.
func (s *Scratch) Lost() <-chan error { return s.lost }

// Release drops all scratch generations and releases the lease.
func (s *Scratch) Release(ctx context.Context) error {
	return errors.Join(s.drop(ctx), s.release(ctx))
}

// drop drops the scratch generations there are of the projections, one by one:
// each takes a moment in which no one else can write.
func (s *Scratch) drop(ctx context.Context) error {
	for _, p := range s.all {
		var numbers []int
		if err := s.db.Select(ctx, &numbers, `SELECT number FROM generations WHERE projection = $1 AND scratch = 1`, p.Name()); err != nil {
			return fmt.Errorf("looking for scratch generations of %s: %w", p.Name(), err)
		}
		for _, number := range numbers {
			g := pipeline.Generation{Projection: p.Name(), Number: number}
			err := s.db.Write(ctx, func(tx *store.Tx) error {
				if err := s.check(ctx, tx); err != nil {
					return err
				}
				return drop(ctx, tx, p, g)
			})
			if err != nil {
				return fmt.Errorf("dropping scratch generation %d of %s: %w", number, p.Name(), err)
			}
		}
	}
	return nil
}

// check is for the transactions that make and drop tables: they come one by one,
// and only while the lease is held.
func (s *Scratch) check(ctx context.Context, tx *store.Tx) error {
	if err := tx.LockSchema(ctx); err != nil {
		return err
	}
	return s.heldLease.check(ctx, tx)
}

func scratchStage(g pipeline.Generation) string { return store.Scratch + stageName(g) }

// Create makes an empty generation of a projection that takes the same renormalizations as
// the one that serves, and returns the stage that feeds it.
func (s *Scratch) Create(ctx context.Context, p pipeline.Projection) (pipeline.Generation, engine.StageSpec, error) {
	g := pipeline.Generation{Projection: p.Name()}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if err := s.check(ctx, tx); err != nil {
			return err
		}
		var err error
		if g.Number, err = nextNumber(ctx, tx, p); err != nil {
			return err
		}
		taken, err := servedReadings(ctx, tx, p)
		if err != nil {
			return err
		}
		return create(ctx, tx, p, g, scratchKind, taken)
	})
	if err != nil {
		return g, engine.StageSpec{}, fmt.Errorf("making a scratch generation of %s: %w", p.Name(), err)
	}
	return g, filling(p, g), nil
}
