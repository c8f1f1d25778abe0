package pipelinetest

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
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
// random, batches are rolled back and tried again, and the session begins anew
// in between: none of it may be seen in the tables.
//
// draw draws the payloads of a log.
func CheckFold(t *testing.T, p pipeline.Projection, draw func(*rapid.T) []schema.Payload, check func(*rapid.T, Fold)) {
	t.Helper()
	rig := New(t)
	number := 0
	rapid.Check(t, func(rt *rapid.T) {
		number++
		g := pipeline.Generation{Projection: p.Name(), Number: number}
		CreateTables(rt, rig.DB, p, g)
		log := rig.AppendAll(rt, draw(rt)...)
		stage := rig.Start(rt, FoldStage(p, g))
		defer stage.Close(rt)
		DeliverInPieces(rt, stage, Interleave(rt, log))
		check(rt, Fold{rig.DB, log, g})
		// With hundreds of tables every statement would be slow.
		DropTables(rt, rig.DB, p, g)
	})
}

// FoldStage is the stage that folds the log into a generation.
func FoldStage(p pipeline.Projection, g pipeline.Generation) pipeline.StageSpec {
	return pipeline.StageSpec{Name: fmt.Sprintf("%s.g%d", g.Projection, g.Number), Takes: p.Takes(), Handler: folder{p, g}}
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
	var partitions []pipeline.TopicPartition
	left := map[pipeline.TopicPartition][]pipeline.Record{}
	for _, r := range records {
		if _, known := left[r.TopicPartition]; !known {
			partitions = append(partitions, r.TopicPartition)
		}
		left[r.TopicPartition] = append(left[r.TopicPartition], r)
	}
	order := make([]pipeline.Record, 0, len(records))
	for len(partitions) > 0 {
		at := rapid.IntRange(0, len(partitions)-1).Draw(t, "next partition")
		tp := partitions[at]
		n := rapid.IntRange(1, len(left[tp])).Draw(t, "records of it")
		order = append(order, left[tp][:n]...)
		if left[tp] = left[tp][n:]; len(left[tp]) == 0 {
			partitions = append(partitions[:at], partitions[at+1:]...)
		}
	}
	return order
}

// DeliverInPieces delivers records in batches whose size is drawn; some are
// rolled back first, and before some a new session begins.
func DeliverInPieces(t *rapid.T, s *Stage, records []pipeline.Record) {
	for len(records) > 0 {
		n := rapid.IntRange(1, len(records)).Draw(t, "batch")
		if rapid.IntRange(0, 2).Draw(t, "restart") == 0 {
			s.Restart(t)
		}
		s.Undo(max(0, rapid.IntRange(-3, 2).Draw(t, "undo")))
		require.NoError(t, s.Deliver(records[:n]...))
		records = records[n:]
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
