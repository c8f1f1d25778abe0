package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Scratch is the right to make scratch generations: such as are filled from the
// log to be looked at, and then go again. One process at a time has it, since
// nobody else could tell its generations from those that a process left that was
// killed.
type Scratch struct {
	db    *store.Store
	owner string
	all   []pipeline.Projection
	lost  chan error
	stop  context.CancelFunc
	ended chan struct{}
}

const (
	scratchLease = "scratch"
	// scratchTime is how long the right of a process that was killed lasts.
	scratchTime  = 10 * time.Second
	scratchRenew = 2 * time.Second
	scratchPoll  = 200 * time.Millisecond
)

// ErrScratchTaken says that another process has the right.
var ErrScratchTaken = errors.New("another process compares or fills generations, as pricemill verify does: wait until it has ended")

// TakeScratch takes the right, and drops what scratch generations it finds of
// these projections. It waits for as long as the right of a process that was
// killed may last, and then says ErrScratchTaken.
func TakeScratch(ctx context.Context, db *store.Store, all []pipeline.Projection) (*Scratch, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("naming the owner of scratch generations: %w", err)
	}
	s := &Scratch{db: db, owner: id.String(), all: all, lost: make(chan error, 1), ended: make(chan struct{})}
	for began := time.Now(); ; {
		ours, err := db.AcquireLease(ctx, scratchLease, s.owner, scratchTime)
		if err != nil {
			return nil, err
		}
		if ours {
			break
		}
		if time.Since(began) > scratchTime+scratchRenew {
			return nil, ErrScratchTaken
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(scratchPoll):
		}
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	go s.renew(renewing)
	if err := s.drop(ctx); err != nil {
		return nil, errors.Join(err, s.Release(ctx))
	}
	return s, nil
}

// renew keeps the right until ctx is done.
func (s *Scratch) renew(ctx context.Context) {
	defer close(s.ended)
	renewed := time.Now()
	ticker := time.NewTicker(scratchRenew)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		began := time.Now()
		ours, err := s.db.AcquireLease(ctx, scratchLease, s.owner, scratchTime)
		switch {
		case err == nil && ours:
			renewed = began
			continue
		case ctx.Err() != nil:
			return
		case err != nil && time.Since(renewed) < scratchTime:
			continue
		case err == nil:
			err = ErrScratchTaken
		}
		s.lost <- fmt.Errorf("the right to scratch generations was lost: %w", err)
		return
	}
}

// Lost tells why the right was lost, if it was: the generations may be gone.
func (s *Scratch) Lost() <-chan error { return s.lost }

// Release drops all scratch generations and gives up the right.
func (s *Scratch) Release(ctx context.Context) error {
	err := s.drop(ctx)
	s.stop()
	<-s.ended
	return errors.Join(err, s.db.ReleaseLease(ctx, scratchLease, s.owner))
}

// drop drops the scratch generations there are of the projections, one by one:
// each takes a moment in which nobody else can write.
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
				if _, err := tx.Exec(ctx, `DELETE FROM dead_letters WHERE stage = $1`, scratchStage(g)); err != nil {
					return err
				}
				return drop(ctx, tx, p, g, scratchStage(g))
			})
			if err != nil {
				return fmt.Errorf("dropping scratch generation %d of %s: %w", number, p.Name(), err)
			}
		}
	}
	return nil
}

// check is for the transactions that make and drop tables: they come one by one,
// and only while the right lasts.
func (s *Scratch) check(ctx context.Context, tx *store.Tx) error {
	if err := tx.Alone(ctx); err != nil {
		return err
	}
	var owners []string
	if err := tx.Select(ctx, &owners, `SELECT owner FROM leases WHERE name = $1`, scratchLease); err != nil {
		return fmt.Errorf("looking whose right it is: %w", err)
	}
	if !slices.Contains(owners, s.owner) {
		return ErrScratchTaken
	}
	return nil
}

func scratchStage(g pipeline.Generation) string { return store.Scratch + stageName(g) }

// Create makes an empty generation of a projection, and returns the stage that
// feeds it.
func (s *Scratch) Create(ctx context.Context, p pipeline.Projection) (pipeline.Generation, pipeline.StageSpec, error) {
	g := pipeline.Generation{Projection: p.Name()}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if err := s.check(ctx, tx); err != nil {
			return err
		}
		var err error
		if g.Number, err = nextNumber(ctx, tx, p, 0); err != nil {
			return err
		}
		if err := createTables(ctx, tx, p, g); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO generations (projection, number, fold, active, created_at, scratch) VALUES ($1, $2, $3, 0, $4, 1)`,
			g.Projection, g.Number, fingerprint(p), schema.NewTime(time.Now()))
		return err
	})
	if err != nil {
		return g, pipeline.StageSpec{}, fmt.Errorf("making a scratch generation of %s: %w", p.Name(), err)
	}
	return g, pipeline.StageSpec{Name: scratchStage(g), Takes: p.Takes(), Handler: Fold{p, g}}, nil
}
