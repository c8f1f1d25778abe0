package projections

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// Served is what moves to another database with an installation: the generations that
// serve. The others can be rebuilt there.
type Served struct {
	all []pipeline.Projection
	// serve are the rows of generations, of all projections that have tables, and spare
	// the others.
	serve, spare []generationRow
}

// ServedBy looks up the generations that serve. Those of another fold, or of a projection
// that is not among all, cannot be made elsewhere: the error says what to do about it.
func ServedBy(ctx context.Context, q store.Querier, all []pipeline.Projection) (*Served, error) {
	s := &Served{all: all}
	var rows []generationRow
	if err := q.Select(ctx, &rows, `SELECT `+generationColumns+` FROM generations ORDER BY projection, number`); err != nil {
		return nil, fmt.Errorf("reading the generations: %w", err)
	}
	for _, r := range rows {
		if r.Active == 0 {
			s.spare = append(s.spare, r)
			continue
		}
		p, there := s.projection(r.Projection)
		switch {
		case !there:
			return nil, fmt.Errorf("this binary does not have projection %s: move with the binary that does", r.Projection)
		case r.Fold != fingerprint(p):
			return nil, fmt.Errorf("the tables of projection %s were built by the fold %q, and this binary has %q: "+
				"start a service of this binary and settings, wait until it has built them again, stop it, and move then", r.Projection, r.Fold, fingerprint(p))
		}
		s.serve = append(s.serve, r)
	}
	return s, nil
}

func (s *Served) projection(name string) (pipeline.Projection, bool) {
	at := slices.IndexFunc(s.all, func(p pipeline.Projection) bool { return p.Name() == name })
	if at < 0 {
		return nil, false
	}
	return s.all[at], true
}

// Generation reports whether a generation serves.
func (s *Served) Generation(projection string, number int64) bool {
	return slices.ContainsFunc(s.serve, func(r generationRow) bool { return r.Projection == projection && int64(r.Number) == number })
}

// Stage reports whether a stage comes along: it feeds no generation that stays.
func (s *Served) Stage(name string) bool {
	return !strings.HasPrefix(name, store.Scratch) &&
		!slices.ContainsFunc(s.spare, func(r generationRow) bool { return stageName(r.generation()) == name })
}

// Spare reports whether a table is that of a generation that stays.
func (s *Served) Spare(table string) bool {
	return slices.ContainsFunc(s.spare, func(r generationRow) bool {
		p, there := s.projection(r.Projection)
		return there && slices.ContainsFunc(r.tablesOf(p), func(name string) bool { return r.generation().Table(name) == table })
	})
}

// Cancelled is the state of a rebuild, by the one it has, once its generation is gone.
func (s *Served) Cancelled(state string) string {
	if state == string(RebuildFailed) {
		return state
	}
	return string(RebuildCancelled)
}

// Make makes the tables in another database, unless they are there.
func (s *Served) Make(ctx context.Context, target *store.Store) error {
	for _, r := range s.serve {
		p, _ := s.projection(r.Projection)
		err := target.Write(ctx, func(tx *store.Tx) error {
			if err := tx.LockSchema(ctx); err != nil {
				return err
			}
			made, err := generationsOf(ctx, tx, r.Projection)
			if err != nil || len(made) > 0 {
				return err
			}
			for _, table := range p.Tables(r.generation()) {
				if err := tx.DDL(ctx, table); err != nil {
					return fmt.Errorf("creating the tables of generation %d: %w", r.Number, err)
				}
			}
			_, err = tx.Exec(ctx, `INSERT INTO generations (`+generationColumns+`, scratch) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)`,
				r.Projection, r.Number, r.Fold, r.Active, r.Following, r.Tables, r.Renormalizations, r.CreatedAt)
			return err
		})
		if err != nil {
			return fmt.Errorf("making the tables of projection %s: %w", r.Projection, err)
		}
	}
	return nil
}

// Drop drops all generations of another database.
func (s *Served) Drop(ctx context.Context, target *store.Store) error {
	for _, p := range s.all {
		err := target.Write(ctx, func(tx *store.Tx) error {
			if err := tx.LockSchema(ctx); err != nil {
				return err
			}
			rows, err := generationsOf(ctx, tx, p.Name())
			for _, r := range rows {
				if err == nil {
					err = drop(ctx, tx, p, r.generation())
				}
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("dropping the tables of projection %s: %w", p.Name(), err)
		}
	}
	return nil
}
