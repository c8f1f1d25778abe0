package projections

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Configured is a projection whose rows depend on its settings.
type Configured interface {
	pipeline.Projection
	// Configuration is a text that differs where the settings lead to other
	// rows.
	Configuration() string
}

// fingerprint says which fold a generation was built by.
func fingerprint(p pipeline.Projection) string {
	text := "v" + strconv.Itoa(p.Version())
	if c, ok := p.(Configured); ok {
		text += " " + c.Configuration()
	}
	return text
}

// generationRow is a row of generations.
type generationRow struct {
	Projection string `db:"projection"`
	Number     int    `db:"number"`
	Fold       string `db:"fold"`
	Active     int    `db:"active"`
	Following  int    `db:"following"`
	Tables     string `db:"tables"`
	// Renormalizations are the ids of those that it takes, with commas between; see readings.
	Renormalizations string      `db:"renormalizations"`
	CreatedAt        schema.Time `db:"created_at"`
}

const generationColumns = `projection, number, fold, active, following, tables, renormalizations, created_at`

func (r generationRow) generation() pipeline.Generation {
	return pipeline.Generation{Projection: r.Projection, Number: r.Number, Active: r.Active == 1}
}

// tablesOf are the plain names of its tables; p is for generations from before
// that was written down.
func (r generationRow) tablesOf(p pipeline.Projection) []string {
	if r.Tables == "" {
		return p.TableNames()
	}
	return strings.Split(r.Tables, ",")
}

// generationsOf are the generations of a projection but for scratch ones, by
// number.
func generationsOf(ctx context.Context, q store.Querier, projection string) ([]generationRow, error) {
	var rows []generationRow
	err := q.Select(ctx, &rows, `SELECT `+generationColumns+` FROM generations WHERE projection = $1 AND scratch = 0 ORDER BY number`, projection)
	if err != nil {
		return nil, fmt.Errorf("reading the generations of %s: %w", projection, err)
	}
	return rows, nil
}

// Open makes sure that the projection has a generation that serves, and returns
// the stage that feeds it. Where another fold built it, it stays, and the stage of
// this binary does not touch it: see Renew.
func Open(ctx context.Context, db *store.Store, p pipeline.Projection) (engine.StageSpec, error) {
	generation := pipeline.Generation{Projection: p.Name(), Number: 1, Active: true}
	err := db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.LockSchema(ctx); err != nil {
			return err
		}
		err := tx.Get(ctx, &generation.Number, `SELECT number FROM generations WHERE projection = $1 AND active = 1`, p.Name())
		if errors.Is(err, sql.ErrNoRows) {
			promoted, err := promotedReadings(ctx, tx)
			if err != nil {
				return err
			}
			return create(ctx, tx, p, generation, activeKind, promoted)
		}
		return err
	})
	if err != nil {
		return engine.StageSpec{}, fmt.Errorf("opening projection %s: %w", p.Name(), err)
	}
	return following(p, generation), nil
}

// stageName: each generation is a stage of its own, with positions of its own.
func stageName(g pipeline.Generation) string { return g.Projection + ".g" + strconv.Itoa(g.Number) }

// following is the stage that feeds a generation as the log continues.
func following(p pipeline.Projection, g pipeline.Generation) engine.StageSpec {
	return engine.StageSpec{Name: stageName(g), Consumes: consumes(p), Handler: Fold{p, g, true}}
}

// filling is the stage that feeds a generation which is no part of the service yet.
func filling(p pipeline.Projection, g pipeline.Generation) engine.StageSpec {
	return engine.StageSpec{Name: scratchStage(g), Consumes: consumes(p), Handler: Fold{p, g, false}}
}

// nextNumber is one that no generation has, nor had one that was rebuilt.
func nextNumber(ctx context.Context, tx *store.Tx, p pipeline.Projection) (int, error) {
	var highest int
	err := tx.Get(ctx, &highest, `SELECT COALESCE(MAX(number), 0) FROM (SELECT number FROM generations WHERE projection = $1
		UNION ALL SELECT number FROM rebuilds WHERE projection = $1) AS numbers`, p.Name())
	return highest + 1, err
}

// kind is what a generation is made for.
type kind struct{ active, following, scratch int }

var (
	activeKind  = kind{active: 1, following: 1}
	rebuiltKind = kind{}
	scratchKind = kind{scratch: 1}
)

// create makes the tables of a generation that takes some renormalizations.
func create(ctx context.Context, tx *store.Tx, p pipeline.Projection, g pipeline.Generation, k kind, taken readings) error {
	for _, table := range p.Tables(g) {
		if err := tx.DDL(ctx, table); err != nil {
			return fmt.Errorf("creating the tables of generation %d: %w", g.Number, err)
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO generations (projection, number, fold, active, following, scratch, tables, renormalizations, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, g.Projection, g.Number, fingerprint(p), k.active, k.following, k.scratch,
		strings.Join(p.TableNames(), ","), taken.of(p), schema.NewTime(time.Now()))
	return err
}

// drop drops a generation with all that belongs to it.
func drop(ctx context.Context, tx *store.Tx, p pipeline.Projection, g pipeline.Generation) error {
	var row generationRow
	err := tx.Get(ctx, &row, `SELECT `+generationColumns+` FROM generations WHERE projection = $1 AND number = $2`, g.Projection, g.Number)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, stage := range []string{stageName(g), scratchStage(g)} {
		// Before the tables, in the order in which a batch locks.
		for _, statement := range []string{`DELETE FROM positions WHERE stage = $1`, `DELETE FROM dead_letters WHERE stage = $1`} {
			if _, err := tx.Exec(ctx, statement, stage); err != nil {
				return err
			}
		}
	}
	for _, name := range row.tablesOf(p) {
		if err := tx.DDL(ctx, "DROP TABLE IF EXISTS "+g.Table(name)); err != nil {
			return fmt.Errorf("dropping the tables of generation %d: %w", g.Number, err)
		}
	}
	_, err = tx.Exec(ctx, `DELETE FROM generations WHERE projection = $1 AND number = $2`, g.Projection, g.Number)
	return err
}

// Fold is the fold of a projection into one of its generations, and the handler
// of that generation's stage.
type Fold struct {
	projection pipeline.Projection
	generation pipeline.Generation
	// follows says that its stage is a part of the service.
	follows bool
}

var (
	_ engine.Expiring     = Fold{}
	_ pipeline.Sequential = Fold{}
)

// RefusesLate implements pipeline.Sequential.
func (f Fold) RefusesLate() error {
	if _, ok := f.projection.(pipeline.OrderFree); ok {
		return nil
	}
	return fmt.Errorf("%s folds records in the order of the log, and later ones are applied: "+
		"pricemill rebuild %s --promote auto takes this one in its place", f.projection.Name(), f.projection.Name())
}

// CheckAlive implements engine.Temporary.
func (f Fold) CheckAlive(ctx context.Context, q store.Querier) error {
	_, _, err := f.current(ctx, q)
	return err
}

// Stages are the stages that feed the generations there are, by whatever fold:
// to look at, not to run.
func Stages(ctx context.Context, db store.Querier, all []pipeline.Projection) ([]engine.StageSpec, error) {
	return stagesWhere(ctx, db, all, func(pipeline.Projection, generationRow) bool { return true })
}

// Serving are the stages of the generations that readers see and that this binary
// can feed.
func Serving(ctx context.Context, db store.Querier, all []pipeline.Projection) ([]engine.StageSpec, error) {
	return stagesWhere(ctx, db, all, func(p pipeline.Projection, r generationRow) bool { return r.Active == 1 && r.Fold == fingerprint(p) })
}

// Fed are the stages of the generations that readers see: those that this binary can
// feed, and those of another fold that some process feeds.
func Fed(ctx context.Context, db store.Querier, all []pipeline.Projection) ([]engine.StageSpec, error) {
	running, err := engine.RunningStages(ctx, db)
	if err != nil {
		return nil, err
	}
	return stagesWhere(ctx, db, all, func(p pipeline.Projection, r generationRow) bool {
		return r.Active == 1 && (r.Fold == fingerprint(p) || slices.Contains(running, stageName(r.generation())))
	})
}

// RunnableStages are the stages that this binary can run now: of the generations that
// were built by its folds, whether readers see them or not.
func RunnableStages(ctx context.Context, db store.Querier, all []pipeline.Projection) ([]engine.StageSpec, error) {
	return stagesWhere(ctx, db, all, func(p pipeline.Projection, r generationRow) bool { return r.Fold == fingerprint(p) })
}

func stagesWhere(ctx context.Context, db store.Querier, all []pipeline.Projection,
	wanted func(pipeline.Projection, generationRow) bool) ([]engine.StageSpec, error) {
	var rows []generationRow
	if err := db.Select(ctx, &rows, `SELECT `+generationColumns+` FROM generations WHERE following = 1 ORDER BY projection, number`); err != nil {
		return nil, fmt.Errorf("reading the generations: %w", err)
	}
	var stages []engine.StageSpec
	for _, p := range all {
		for _, r := range rows {
			if r.Projection == p.Name() && wanted(p, r) {
				stages = append(stages, following(p, r.generation()))
			}
		}
	}
	return stages, nil
}

// ErrNoFold is wrapped where a stage feeds none of the projections.
var ErrNoFold = errors.New("it is not the stage of a projection")

// OfStage finds the projection that a stage feeds.
func OfStage(ctx context.Context, db *store.Store, all []pipeline.Projection, stage string) (Fold, error) {
	stages, err := Stages(ctx, db, all)
	if err != nil {
		return Fold{}, err
	}
	for _, s := range stages {
		if s.Name == stage {
			return s.Handler.(Fold), nil
		}
	}
	return Fold{}, fmt.Errorf("stage %s: %w", stage, ErrNoFold)
}

// Empty deletes all rows of the generation. It comes after the locks of the
// stage's positions.
func (f Fold) Empty(ctx context.Context, tx *store.Tx) error {
	g, _, err := f.current(ctx, tx)
	if err != nil {
		return err
	}
	for _, name := range f.projection.TableNames() {
		if _, err := tx.Exec(ctx, "DELETE FROM "+g.Table(name)); err != nil {
			return fmt.Errorf("emptying %s: %w", g.Table(name), err)
		}
	}
	return nil
}

// ErrReplaced says that a generation is gone, or is not one of this binary's fold,
// or is not fed by this stage any more.
var ErrReplaced = errors.New("the generation is gone, or another fold's, or another stage's")

// current is the generation as it is now, and the renormalizations that it takes. A swap of generations holds the positions
// of their stages first, and a batch moves its own before its
// handler asks: so what is said here is true until the transaction ends, whatever
// process swaps.
func (f Fold) current(ctx context.Context, q store.Querier) (pipeline.Generation, readings, error) {
	g := f.generation
	var row generationRow
	err := q.Get(ctx, &row, `SELECT `+generationColumns+` FROM generations WHERE projection = $1 AND number = $2`, g.Projection, g.Number)
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && (row.Fold != fingerprint(f.projection) || f.follows != (row.Following == 1)):
		return g, "", fmt.Errorf("generation %d of %s: %w", g.Number, g.Projection, ErrReplaced)
	case err != nil:
		return g, "", fmt.Errorf("looking for generation %d of %s: %w", g.Number, g.Projection, err)
	}
	return row.generation(), readings(row.Renormalizations), nil
}

// Handle implements pipeline.Handler. A process whose generation was dropped, or
// is another fold's, must not write.
func (f Fold) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	g, taken, err := f.current(ctx, tx)
	if err != nil {
		return nil, err
	}
	if in, err = taken.read(ctx, tx, in); err != nil || len(in) == 0 {
		return nil, err
	}
	return nil, f.projection.Apply(ctx, tx, g, in)
}
