package engine

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// CreateTables makes the tables of an owner.
func CreateTables(ctx context.Context, db *store.Store, owner pipeline.TableOwner) error {
	return db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.LockSchema(ctx); err != nil {
			return err
		}
		for _, ddl := range owner.Tables() {
			if err := tx.DDL(ctx, ddl); err != nil {
				return fmt.Errorf("creating tables: %w", err)
			}
		}
		return nil
	})
}
