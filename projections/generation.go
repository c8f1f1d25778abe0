package projections

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/pipeline"
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
	Number int    `db:"number"`
	Fold   string `db:"fold"`
}

// Open makes sure that the projection has a generation built by the fold of
// this binary, and returns the stage that feeds it. A generation of another
// fold is replaced by an empty one, which follows the log from its start.
func Open(ctx context.Context, db *store.Store, p pipeline.Projection, log *slog.Logger) (pipeline.StageSpec, error) {
	generation := pipeline.Generation{Projection: p.Name(), Number: 1, Active: true}
	fold := fingerprint(p)
	err := db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.Alone(ctx); err != nil {
			return err
		}
		var active generationRow
		err := tx.Get(ctx, &active, `SELECT number, fold FROM generations WHERE projection = $1 AND active = 1`, p.Name())
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return create(ctx, tx, p, generation, fold)
		case err != nil:
			return err
		}
		generation.Number = active.Number
		if active.Fold == fold {
			return nil
		}
		log.Warn("the fold of a projection changed: building its tables again from the log",
			"projection", p.Name(), "was", active.Fold, "is", fold)
		if err := drop(ctx, tx, p, generation, stageName(generation)); err != nil {
			return err
		}
		if generation.Number, err = nextNumber(ctx, tx, p, active.Number); err != nil {
			return err
		}
		return create(ctx, tx, p, generation, fold)
	})
	if err != nil {
		return pipeline.StageSpec{}, fmt.Errorf("opening projection %s: %w", p.Name(), err)
	}
	return pipeline.StageSpec{Name: stageName(generation), Takes: p.Takes(), Handler: Fold{p, generation}}, nil
}

// stageName: each generation is a stage of its own, with positions of its own.
func stageName(g pipeline.Generation) string { return g.Projection + ".g" + strconv.Itoa(g.Number) }

// nextNumber is one that no generation has, above a number that one had.
func nextNumber(ctx context.Context, tx *store.Tx, p pipeline.Projection, above int) (int, error) {
	var highest int
	err := tx.Get(ctx, &highest, `SELECT COALESCE(MAX(number), 0) FROM generations WHERE projection = $1`, p.Name())
	return max(highest, above) + 1, err
}

func create(ctx context.Context, tx *store.Tx, p pipeline.Projection, g pipeline.Generation, fold string) error {
	if err := createTables(ctx, tx, p, g); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO generations (projection, number, fold, active, created_at) VALUES ($1, $2, $3, 1, $4)`,
		g.Projection, g.Number, fold, schema.NewTime(time.Now()))
	return err
}

func createTables(ctx context.Context, tx *store.Tx, p pipeline.Projection, g pipeline.Generation) error {
	for _, table := range p.Tables(g) {
		if err := tx.DDL(ctx, table); err != nil {
			return fmt.Errorf("creating the tables of generation %d: %w", g.Number, err)
		}
	}
	return nil
}

func drop(ctx context.Context, tx *store.Tx, p pipeline.Projection, g pipeline.Generation, stage string) error {
	for _, name := range p.TableNames() {
		// Another fold may have had fewer.
		if err := tx.DDL(ctx, "DROP TABLE IF EXISTS "+g.Table(name)); err != nil {
			return fmt.Errorf("dropping the tables of generation %d: %w", g.Number, err)
		}
	}
	if _, err := tx.Exec(ctx, `DELETE FROM positions WHERE stage = $1`, stage); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM generations WHERE projection = $1 AND number = $2`, g.Projection, g.Number)
	return err
}

// Fold is the fold of a projection into one of its generations, and the handler
// of that generation's stage.
type Fold struct {
	projection pipeline.Projection
	generation pipeline.Generation
}

var _ pipeline.Handler = Fold{}

// Stages are the stages that feed the generations there are, by whatever fold:
// to look at, not to run.
func Stages(ctx context.Context, db store.Querier, all []pipeline.Projection) ([]pipeline.StageSpec, error) {
	var stages []pipeline.StageSpec
	for _, p := range all {
		active, err := activeGenerations(ctx, db, p)
		if err != nil {
			return nil, err
		}
		for _, g := range active {
			stages = append(stages, pipeline.StageSpec{Name: stageName(g), Takes: p.Takes()})
		}
	}
	return stages, nil
}

// ErrNoFold is wrapped where a stage feeds none of the projections.
var ErrNoFold = errors.New("it is not the stage of a projection")

// OfStage finds the projection that a stage feeds.
func OfStage(ctx context.Context, db *store.Store, all []pipeline.Projection, stage string) (Fold, error) {
	for _, p := range all {
		active, err := activeGenerations(ctx, db, p)
		if err != nil {
			return Fold{}, err
		}
		for _, g := range active {
			if stageName(g) == stage {
				return Fold{p, g}, nil
			}
		}
	}
	return Fold{}, fmt.Errorf("stage %s: %w", stage, ErrNoFold)
}

func activeGenerations(ctx context.Context, db store.Querier, p pipeline.Projection) ([]pipeline.Generation, error) {
	var numbers []int
	if err := db.Select(ctx, &numbers, `SELECT number FROM generations WHERE projection = $1 AND active = 1`, p.Name()); err != nil {
		return nil, fmt.Errorf("reading the generations of %s: %w", p.Name(), err)
	}
	generations := make([]pipeline.Generation, len(numbers))
	for i, number := range numbers {
		generations[i] = pipeline.Generation{Projection: p.Name(), Number: number, Active: true}
	}
	return generations, nil
}

// Empty deletes all rows of the generation.
func (f Fold) Empty(ctx context.Context, tx *store.Tx) error {
	for _, name := range f.projection.TableNames() {
		if _, err := tx.Exec(ctx, "DELETE FROM "+f.generation.Table(name)); err != nil {
			return fmt.Errorf("emptying %s: %w", f.generation.Table(name), err)
		}
	}
	return nil
}

// ErrReplaced says that another process replaced the generation by one of its
// own fold.
var ErrReplaced = errors.New("the generation was replaced by another process")

// Handle implements pipeline.Handler. Where the generation was replaced while
// this process ran, its positions are gone and it would start over, into tables
// that now belong to another fold: it must not write.
func (f Fold) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	g := f.generation
	var there int
	err := tx.Get(ctx, &there, `SELECT COUNT(*) FROM generations WHERE projection = $1 AND number = $2`, g.Projection, g.Number)
	if err != nil {
		return nil, fmt.Errorf("looking for generation %d of %s: %w", g.Number, g.Projection, err)
	}
	if there == 0 {
		return nil, fmt.Errorf("generation %d of %s: %w", g.Number, g.Projection, ErrReplaced)
	}
	return nil, f.projection.Apply(ctx, tx, g, in)
}
