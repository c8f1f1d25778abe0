package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Forgetful is a projection of whose tables rows are deleted once they are old.
//
// The log still tells of them, and a rebuild makes them again, so they are left out where
// two generations are compared: a row that Forgotten holds for in one of them is compared
// with none. For that to be exact, what Forgotten says of a row that a fold of the whole log
// gives must never turn from true to false, and Forget may delete only rows for which
// it would be true there.
type Forgetful interface {
	pipeline.Projection
	// Forgotten is a condition in SQL on the rows of a table.
	Forgotten(table string) string
	// Due reports whether there is something to delete from before a time; the zero value
	// is before everything.
	Due(ctx context.Context, q store.Querier, g pipeline.Generation, before schema.Time) (bool, error)
	// Forget deletes some of that, at most limit rows of each table, and returns how many
	// it were.
	Forget(ctx context.Context, tx *store.Tx, g pipeline.Generation, before schema.Time, limit int) (int, error)
}

// forgottenRows is Forgotten of any projection; empty where nothing is forgotten.
func forgottenRows(p pipeline.Projection, table string) string {
	if f, ok := p.(Forgetful); ok {
		return f.Forgotten(table)
	}
	return ""
}

// Retention deletes old rows. Any number of processes may have one; one at a time works.
// Store, Projections, Log and Now are required.
type Retention struct {
	Store       *store.Store
	Projections []pipeline.Projection
	// Keep is how long rows of a projection are kept, by its name; 0 is forever.
	Keep map[string]time.Duration
	Log  *slog.Logger
	Now  func() time.Time
	// Deleted is told how many rows of a projection were deleted. It may be nil.
	Deleted func(projection string, rows int)
	// Every is how often old rows are looked for. 0 means a minute.
	Every time.Duration
}

const (
	retentionEvery = time.Minute
	// retentionBatch bounds the rows of a table that one transaction deletes, and
	// retentionPause is between two: writers take turns on SQLite.
	retentionBatch = 500
	retentionPause = 20 * time.Millisecond
	retentionTTL   = 10 * time.Second
)

var errRetentionTaken = errors.New("another process deletes old rows")

// Run looks for old rows, at once and then every so often, until ctx is done.
func (r *Retention) Run(ctx context.Context) {
	every := r.Every
	if every == 0 {
		every = retentionEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := r.Sweep(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("deleting old rows failed, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Sweep deletes all rows that are old now, unless another process does. Where there are
// none, it writes nothing.
func (r *Retention) Sweep(ctx context.Context) error {
	var errs []error
	for _, p := range r.Projections {
		f, ok := p.(Forgetful)
		if !ok {
			continue
		}
		if err := r.sweep(ctx, f); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name(), err))
		}
	}
	return errors.Join(errs...)
}

func (r *Retention) sweep(ctx context.Context, f Forgetful) (err error) {
	var before schema.Time
	if keep := r.Keep[f.Name()]; keep > 0 {
		before = schema.NewTime(r.Now().Add(-keep))
	}
	due, err := r.due(ctx, f, before)
	if err != nil || len(due) == 0 {
		return err
	}
	lease, err := acquireLease(ctx, r.Store, "retention", retentionTTL, errRetentionTaken)
	if err != nil || lease == nil {
		return err
	}
	defer func() {
		releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), retentionTTL)
		defer cancel()
		err = errors.Join(err, lease.release(releasing))
	}()
	ctx, cancel := lease.until(ctx)
	defer cancel()
	deleted := 0
	for _, g := range due {
		n, err := r.forget(ctx, f, g, before)
		deleted += n
		if err != nil {
			return errors.Join(err, r.told(f, deleted, before))
		}
	}
	return r.told(f, deleted, before)
}

func (r *Retention) told(f Forgetful, deleted int, before schema.Time) error {
	if deleted == 0 {
		return nil
	}
	r.Log.Info("old rows deleted", "projection", f.Name(), "rows", deleted, "before", before)
	if r.Deleted != nil {
		r.Deleted(f.Name(), deleted)
	}
	return nil
}

// due are the generations of this fold with old rows, those that serve and those that follow.
func (r *Retention) due(ctx context.Context, f Forgetful, before schema.Time) ([]pipeline.Generation, error) {
	rows, err := generationsOf(ctx, r.Store, f.Name())
	if err != nil {
		return nil, err
	}
	var due []pipeline.Generation
	for _, row := range rows {
		if row.Following != 1 || row.Fold != fingerprint(f) {
			continue
		}
		is, err := f.Due(ctx, r.Store, row.generation(), before)
		if err != nil {
			return nil, fmt.Errorf("looking for old rows of generation %d: %w", row.Number, err)
		}
		if is {
			due = append(due, row.generation())
		}
	}
	return due, nil
}

// forget deletes batch by batch.
func (r *Retention) forget(ctx context.Context, f Forgetful, g pipeline.Generation, before schema.Time) (deleted int, err error) {
	for {
		n := 0
		err := r.Store.Write(ctx, func(tx *store.Tx) error {
			if err := tx.BoundLocks(ctx, lockWait); err != nil {
				return err
			}
			if !before.IsZero() { // in the transaction of the first row that goes
				_, err := tx.Exec(ctx, `INSERT INTO retention (name, kept_from) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE
					SET kept_from = excluded.kept_from WHERE excluded.kept_from > retention.kept_from`, f.Name(), before)
				if err != nil {
					return fmt.Errorf("noting what is kept: %w", err)
				}
			}
			// The tables of a generation get other names when it is swapped.
			now, _, err := Fold{f, g, true}.current(ctx, tx)
			if err != nil {
				return err
			}
			n, err = f.Forget(ctx, tx, now, before, retentionBatch)
			return err
		})
		switch {
		case errors.Is(err, ErrReplaced):
			return deleted, nil
		case err != nil:
			return deleted, err
		case n == 0:
			return deleted, nil
		}
		deleted += n
		select {
		case <-ctx.Done():
			return deleted, context.Cause(ctx)
		case <-time.After(retentionPause):
		}
	}
}
