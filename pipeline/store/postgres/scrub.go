package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/lib/pq"

	"github.com/pricemill/pricemill/pipeline/store"
)

var _ store.Scrubber = (*Engine)(nil)

// Scrub implements store.Scrubber: each table is written again into another file, and the
// statistics that the planner keeps of its values as well. The server's write-ahead log, its archive
// and all copies of the server are as they were.
func (e *Engine) Scrub(ctx context.Context, tables []string) (err error) {
	db := sql.OpenDB(e.migrator)
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	for _, table := range slices.Concat(tables, []string{"pg_catalog.pg_statistic"}) {
		statement := "VACUUM (FULL, ANALYZE) " + quoted(table)
		if _, err := db.ExecContext(ctx, statement); err != nil && !isForbidden(err) {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	if _, err := db.ExecContext(ctx, "CHECKPOINT"); err != nil && !isForbidden(err) {
		return fmt.Errorf("CHECKPOINT: %w", err)
	}
	return nil
}

func quoted(table string) string {
	if table == "pg_catalog.pg_statistic" {
		return table
	}
	return pq.QuoteIdentifier(table)
}

// isForbidden says that the role may not do it: catalogs and checkpoints are a superuser's.
func isForbidden(err error) bool {
	var server *pq.Error
	return errors.As(err, &server) && server.Code == "42501"
}
