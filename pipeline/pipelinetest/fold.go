package pipelinetest

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/pipelinetest/shrink"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Fold is what the check of a CheckFold sees.
type Fold struct {
	DB store.Querier
	// Log is all records, as they were appended; those of one partition were
	// applied in this order.
	Log []pipeline.Record
	// Generation names the tables.
	Generation pipeline.Generation
}

// CheckFold applies random logs to a projection, and after each calls check,
// which compares the tables with what it expects of the log. The partitions are
// interleaved at random (each keeps its order), the log is cut into batches at
// random, batches are rolled back and tried again, and the session begins again
// in between: none of it may be seen in the tables. Of a pipeline.OrderFree, some
// records come late, as dead letters do that are retried.
//
// draw draws the payloads of a log.
func CheckFold(t *testing.T, p pipeline.Projection, draw func(*rapid.T) []schema.Payload, check func(*rapid.T, Fold)) {
	t.Helper()
	rig := New(t)
	number := 0
	rapid.Check(t, func(rt *rapid.T) {
		number++
		// Active, so that the queries of the projection find the tables.
		g := pipeline.Generation{Projection: p.Name(), Number: number, Active: true}
		CreateTables(rt, rig.DB, p, g)
		defer DropTables(rt, rig.DB, p, g)
		log := rig.AppendAll(rt, draw(rt)...)
		spec, order := FoldStage(p, g), Interleave(rt, log)
		late := &withholder{folder: folder{p, g}}
		if _, ok := p.(pipeline.OrderFree); ok {
			spec.Handler = late
		}
		stage := rig.Start(rt, spec)
		defer stage.Close(rt)
		if spec.Handler == pipeline.Handler(late) {
			n := late.withhold(rt, order)
			DeliverInPieces(rt, stage, order[:n])
			late.release(rt, rig.DB)
			stage.Restart(rt) // its lanes remember what was before
			order = order[n:]
		}
		DeliverInPieces(rt, stage, order)
		check(rt, Fold{rig.DB, log, g})
	})
}

// FoldStage is the stage that folds the log into a generation.
func FoldStage(p pipeline.Projection, g pipeline.Generation) engine.StageSpec {
	return engine.StageSpec{Name: fmt.Sprintf("%s.g%d", g.Projection, g.Number), Consumes: p.Consumes(), Handler: folder{p, g}}
}

// DropTables drops the tables of a generation.
func DropTables(t TB, db *store.Store, p pipeline.Projection, g pipeline.Generation) {
	t.Helper()
	require.NoError(t, db.Write(context.Background(), func(tx *store.Tx) error {
		for _, name := range p.TableNames() {
			if err := tx.DDL(context.Background(), "DROP TABLE "+g.Table(name)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// CreateTables creates the tables of a generation.
func CreateTables(t TB, db *store.Store, p pipeline.Projection, g pipeline.Generation) {
	t.Helper()
	require.NoError(t, db.Write(context.Background(), func(tx *store.Tx) error {
		for _, ddl := range p.Tables(g) {
			if err := tx.DDL(context.Background(), ddl); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Interleave draws an order of records in which those of each partition keep
// theirs.
func Interleave(t *rapid.T, records []pipeline.Record) []pipeline.Record {
	order := make([]pipeline.Record, 0, len(records))
	for _, i := range shrink.Interleave(t, records) {
		order = append(order, records[i])
	}
	return order
}

// DeliverInPieces delivers records in batches whose size is drawn; some are
// rolled back first, and before some a new session begins.
func DeliverInPieces(t *rapid.T, s *Stage, records []pipeline.Record) {
	order := make([]int, len(records))
	for i := range order {
		order[i] = i
	}
	for _, batch := range shrink.DrawBatches(t, order) {
		require.NoError(t, shrink.DeliverBatch(s, batch, records))
	}
}

// withholder is a folder that some records do not come to until release.
type withholder struct {
	folder
	withheld map[place]*pipeline.Record // nil until it came
}

// place is where a record lies.
type place struct {
	pipeline.TopicPartition
	offset int64
}

// withhold draws which of the first n records are withheld, and n.
func (w *withholder) withhold(t *rapid.T, order []pipeline.Record) (n int) {
	w.withheld = map[place]*pipeline.Record{}
	n = rapid.IntRange(0, len(order)).Draw(t, "records before the late ones")
	for _, r := range order[:n] {
		if rapid.IntRange(0, 3).Draw(t, "late") == 0 {
			w.withheld[place{r.TopicPartition, r.Offset}] = nil
		}
	}
	return n
}

func (w *withholder) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	var now []pipeline.Record
	for _, r := range in {
		at := place{r.TopicPartition, r.Offset}
		if _, withheld := w.withheld[at]; withheld {
			w.withheld[at] = &r
			continue
		}
		now = append(now, r)
	}
	if len(now) == 0 {
		return nil, nil
	}
	return w.folder.Handle(ctx, tx, now)
}

// release applies what was withheld, in any order.
func (w *withholder) release(t *rapid.T, db *store.Store) {
	for _, r := range w.withheld {
		if r == nil {
			continue // it is none of the projection's events
		}
		require.NoError(t, db.Write(context.Background(), func(tx *store.Tx) error {
			_, err := w.folder.Handle(context.Background(), &pipeline.Tx{Tx: tx}, []pipeline.Record{*r})
			return err
		}))
	}
}

// folder is the handler of a projection's stage.
type folder struct {
	projection pipeline.Projection
	generation pipeline.Generation
}

func (f folder) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	return nil, f.projection.Apply(ctx, tx, f.generation, in)
}
