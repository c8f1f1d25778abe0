package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema/migrations"
)

// Migrate implements store.Engine. Starts take turns by a lock for the schema
// that the tables are in; the server takes it back when its session ends, however
// it ends.
//
// The lock is held around all that goose does: its own locker is asked for only
// after it has looked, and made a table, without.
func (e *Engine) Migrate(ctx context.Context) (m store.Migration, err error) {
	if e.readOnly {
		return m, fmt.Errorf("%w: it was opened to be read only", ErrServer)
	}
	db := sql.OpenDB(e.migrator)
	defer func() { err = errors.Join(err, db.Close()) }()
	holder, err := db.Conn(ctx)
	if err != nil {
		return m, fmt.Errorf("connecting to migrate: %w", err)
	}
	// Back in the pool, which is closed next, and the session with it.
	defer func() { err = errors.Join(err, holder.Close()) }()
	if err := lockMigrations(ctx, holder); err != nil {
		return m, err
	}
	files, err := fs.Sub(migrations.Postgres, "postgres")
	if err != nil {
		return m, fmt.Errorf("reading the migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files)
	if err != nil {
		return m, fmt.Errorf("preparing the migrations: %w", err)
	}
	return store.Migrate(ctx, provider)
}

func lockMigrations(ctx context.Context, conn *sql.Conn) error {
	var schema sql.NullString
	if err := conn.QueryRowContext(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return fmt.Errorf("asking for the schema: %w", err)
	}
	if !schema.Valid {
		return fmt.Errorf("%w: the search_path of the role names no schema that exists", ErrServer)
	}
	// The hash is the server's, so it is the same in every binary.
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock(hashtextextended('pricemill ' || $1, 0))`, schema.String); err != nil {
		return fmt.Errorf("waiting for another start that migrates: %w", err)
	}
	return nil
}
