package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

const (
	// lockWait bounds each wait for a lock in a transaction that changes
	// generations: readers and batches that come meanwhile wait behind it.
	lockWait = 200 * time.Millisecond
	// swapPatience is how long a swap is tried again, behindPatience how long where
	// the generation is behind, and swapRest the first rest.
	swapPatience   = 10 * time.Second
	behindPatience = 3 * time.Second
	swapRest       = 5 * time.Millisecond
)

// PromoteRebuild has the generation of a rebuild take the place of the one that
// serves. Readers see the one or the other, never a mixture, and never an older
// value after a newer one: a generation that is behind does not serve, unless
// stale says that it may.
func PromoteRebuild(ctx context.Context, db *store.Store, all []pipeline.Projection, id string, stale bool) error {
	return retrying(ctx, func() error {
		return db.Write(ctx, func(tx *store.Tx) error {
			row, p, err := locked(ctx, tx, all, id)
			if err != nil {
				return err
			}
			if row.State != RebuildReady && row.State != RebuildRolledBack {
				return fmt.Errorf("rebuild %s is %s: %w", id, row.State, ErrRebuildState)
			}
			if err := row.alone(ctx, tx, p, row.Number); err != nil {
				return err
			}
			replaced, err := swap(ctx, tx, p, row.Number, stale)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `UPDATE rebuilds SET replaced = $1 WHERE id = $2`, replaced, id); err != nil {
				return err
			}
			return row.set(ctx, tx, RebuildPromoted, "")
		})
	})
}

// RollBackRebuild has the generation serve again that the rebuild took the place
// of.
func RollBackRebuild(ctx context.Context, db *store.Store, all []pipeline.Projection, id string, stale bool) error {
	return retrying(ctx, func() error {
		return db.Write(ctx, func(tx *store.Tx) error {
			row, p, err := locked(ctx, tx, all, id)
			if err != nil {
				return err
			}
			if row.State != RebuildPromoted {
				return fmt.Errorf("rebuild %s is %s: %w", id, row.State, ErrRebuildState)
			}
			serves, _, err := servedGeneration(ctx, tx, p.Name())
			if err != nil {
				return err
			}
			if serves.Number != row.Number {
				return fmt.Errorf("generation %d of %s serves, and not %d, which rebuild %s built: %w", serves.Number, row.Projection, row.Number, id, ErrRebuildState)
			}
			if err := row.alone(ctx, tx, p, row.Replaced); err != nil {
				return err
			}
			if _, err := swap(ctx, tx, p, row.Replaced, stale); err != nil {
				return err
			}
			return row.set(ctx, tx, RebuildRolledBack, "")
		})
	})
}

// alone checks that a generation may serve without any other: what serves has to take the
// same renormalizations.
func (r rebuildRow) alone(ctx context.Context, tx *store.Tx, p pipeline.Projection, number int) error {
	if r.Renormalization != "" {
		return fmt.Errorf("rebuild %s: %w: %s: %w", r.ID, ErrPart, r.Renormalization, ErrRebuildState)
	}
	promoted, err := promotedReadings(ctx, tx)
	if err != nil {
		return err
	}
	return takes(ctx, tx, p, number, promoted)
}

// swap has a generation serve, and returns which one did. From here on no batch of
// either commits before the transaction ends: a batch moves its position first, and
// then asks which tables are its own.
func swap(ctx context.Context, tx *store.Tx, p pipeline.Projection, number int, stale bool) (replaced int, err error) {
	rows, err := generationsOf(ctx, tx, p.Name())
	if err != nil {
		return 0, err
	}
	at := slices.IndexFunc(rows, func(r generationRow) bool { return r.Number == number && r.Following == 1 })
	if at < 0 {
		return 0, fmt.Errorf("generation %d of %s is gone: %w", number, p.Name(), ErrRebuildState)
	}
	next, last := rows[at], rows[slices.IndexFunc(rows, func(r generationRow) bool { return r.Active == 1 })]
	if next.Number == last.Number {
		return 0, fmt.Errorf("generation %d of %s: %w", number, p.Name(), ErrServes)
	}
	if err := catchUp(ctx, tx, last.generation(), next.generation(), stale); err != nil {
		return 0, err
	}
	// The names of indexes and constraints stay with their tables. They hold the
	// number that the table was made by, so no later one has them.
	aside := pipeline.Generation{Projection: p.Name(), Number: last.Number}
	for _, name := range last.tablesOf(p) {
		if err := rename(ctx, tx, name, aside.Table(name)); err != nil {
			return 0, err
		}
	}
	for _, name := range next.tablesOf(p) {
		if err := rename(ctx, tx, next.generation().Table(name), name); err != nil {
			return 0, err
		}
	}
	_, err = tx.Exec(ctx, `UPDATE generations SET active = CASE WHEN number = $1 THEN 1 ELSE 0 END
		WHERE projection = $2 AND number IN ($1, $3)`, next.Number, p.Name(), last.Number)
	return last.Number, err
}

func rename(ctx context.Context, tx *store.Tx, from, to string) error {
	if err := tx.DDL(ctx, "ALTER TABLE "+from+" RENAME TO "+to); err != nil {
		return fmt.Errorf("renaming table %s: %w", from, err)
	}
	return nil
}

// catchUp holds the positions of the generation that serves, and waits a moment
// for the next one to be at them, or beyond. Where there is one writer, nothing can
// move meanwhile, and it is tried again.
func catchUp(ctx context.Context, tx *store.Tx, last, next pipeline.Generation, stale bool) error {
	held, err := tx.LockPositions(ctx, stageName(last))
	if err != nil {
		return err
	}
	for until := time.Now().Add(lockWait); ; {
		positions, err := store.Positions(ctx, tx, stageName(next))
		if err != nil {
			return err
		}
		behind := behind(held, positions)
		if behind == 0 || stale {
			break
		}
		if tx.SingleWriter() || time.Now().After(until) {
			return fmt.Errorf("generation %d of %s lacks %d records: %w", next.Number, next.Projection, behind, ErrBehind)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(swapRest):
		}
	}
	_, err = tx.LockPositions(ctx, stageName(next))
	return err
}

// behind is how many records the second positions lack.
func behind(first, second []store.Position) int64 {
	type place struct {
		topic string
		id    string
		part  int32
	}
	at := map[place]int64{}
	for _, p := range second {
		at[place{p.Topic, p.TopicID, p.Part}] = p.Next
	}
	var n int64
	for _, p := range first {
		n += max(0, p.Next-at[place{p.Topic, p.TopicID, p.Part}])
	}
	return n
}

// retrying tries a transaction again that changes generations: someone may have
// held a table or a position for too long. What is refused is refused.
func retrying(ctx context.Context, f func() error) error {
	began := time.Now()
	for rest := swapRest; ; rest *= 2 {
		err := f()
		// Anyone who holds a table reads it, maybe from end to end; each attempt has
		// batches wait.
		longest := time.Second
		if errors.Is(err, ErrBehind) {
			longest = lockWait
		}
		rest = min(rest, longest)
		switch {
		case err == nil, errors.Is(err, ErrRebuildState), errors.Is(err, ErrServes), errors.Is(err, ErrNotFound):
			return err
		case time.Since(began) > swapPatience, errors.Is(err, ErrBehind) && time.Since(began) > behindPatience:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rest):
		}
	}
}
