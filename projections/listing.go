package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// GenerationInfo is a generation, as it is listed.
type GenerationInfo struct {
	Projection string `json:"projection"`
	Number     int    `json:"number"`
	Fold       string `json:"fold"`
	// Serves says that readers see it, Follows that its stage runs in processes of
	// its fold; one that does not is being built.
	Serves    bool        `json:"serves"`
	Follows   bool        `json:"follows"`
	CreatedAt schema.Time `json:"created_at"`
	// Lacks is how many records it is behind the one that serves.
	Lacks int64 `json:"lacks"`
}

// Installed are the names of the projections that have tables in the database,
// whether this binary has them or not.
func Installed(ctx context.Context, q store.Querier) ([]string, error) {
	var names []string
	if err := q.Select(ctx, &names, `SELECT DISTINCT projection FROM generations WHERE scratch = 0 ORDER BY projection`); err != nil {
		return nil, fmt.Errorf("reading which projections there are: %w", err)
	}
	return names, nil
}

// Generations lists the generations of all projections in the database, whether this
// binary has them or not.
func Generations(ctx context.Context, q store.Querier) ([]GenerationInfo, error) {
	names, err := Installed(ctx, q)
	if err != nil {
		return nil, err
	}
	var infos []GenerationInfo
	for _, name := range names {
		rows, err := generationsOf(ctx, q, name)
		if err != nil {
			return nil, err
		}
		var served []store.Position
		for _, r := range rows {
			if r.Active == 1 {
				if served, err = store.Positions(ctx, q, stageName(r.generation())); err != nil {
					return nil, err
				}
			}
		}
		for _, r := range rows {
			stage := stageName(r.generation())
			if r.Following == 0 {
				stage = scratchStage(r.generation())
			}
			positions, err := store.Positions(ctx, q, stage)
			if err != nil {
				return nil, err
			}
			infos = append(infos, GenerationInfo{r.Projection, r.Number, r.Fold, r.Active == 1, r.Following == 1, r.CreatedAt, behind(served, positions)})
		}
	}
	return infos, nil
}

// DropGeneration drops a generation that does not serve, with all that belongs to
// it. A rebuild that made it can no longer be promoted; one that replaced it, no
// longer rolled back.
func DropGeneration(ctx context.Context, db *store.Store, p pipeline.Projection, number int) error {
	return retrying(ctx, func() error {
		return db.Write(ctx, func(tx *store.Tx) error {
			if err := errors.Join(tx.BoundLocks(ctx, lockWait), tx.LockSchema(ctx)); err != nil {
				return err
			}
			rows, err := generationsOf(ctx, tx, p.Name())
			if err != nil {
				return err
			}
			at := slices.IndexFunc(rows, func(r generationRow) bool { return r.Number == number })
			switch {
			case at < 0:
				return fmt.Errorf("generation %d of %s: %w", number, p.Name(), ErrNotFound)
			case rows[at].Active == 1:
				return fmt.Errorf("generation %d of %s: %w", number, p.Name(), ErrServes)
			}
			var part []string
			err = tx.Select(ctx, &part, `SELECT renormalization FROM rebuilds WHERE projection = $1 AND number = $2 AND renormalization <> ''
				AND state IN ('running', 'proving', 'ready')`, p.Name(), number)
			if err != nil {
				return fmt.Errorf("looking for what generation %d of %s is a part of: %w", number, p.Name(), err)
			}
			if len(part) > 0 {
				return fmt.Errorf("generation %d of %s: %w: %s: %w", number, p.Name(), ErrPart, part[0], ErrRebuildState)
			}
			if err := drop(ctx, tx, p, rows[at].generation()); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `UPDATE rebuilds SET state = $1, changed_at = $2 WHERE projection = $3 AND number = $4 AND state <> $5`,
				RebuildCancelled, schema.NewTime(time.Now()), p.Name(), number, RebuildFailed)
			return err
		})
	})
}
