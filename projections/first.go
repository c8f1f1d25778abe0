package projections

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// OpenFirst makes the tables of a projection that has none yet, and reports
// whether it did. Unlike Open it leaves a generation of another fold alone, so it
// may run next to processes that still feed and read that one.
func OpenFirst(ctx context.Context, db *store.Store, p pipeline.Projection) (made bool, err error) {
	err = db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.LockSchema(ctx); err != nil {
			return err
		}
		var generations int
		if err := tx.Get(ctx, &generations, `SELECT COUNT(*) FROM generations WHERE projection = $1 AND active = 1`, p.Name()); err != nil {
			return err
		}
		if made = generations == 0; !made {
			return nil
		}
		promoted, err := promotedReadings(ctx, tx)
		if err != nil {
			return err
		}
		return create(ctx, tx, p, pipeline.Generation{Projection: p.Name(), Number: 1, Active: true}, activeKind, promoted)
	})
	if err != nil {
		return false, fmt.Errorf("making the tables of projection %s: %w", p.Name(), err)
	}
	return made, nil
}
