package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"

	"github.com/lib/pq"
)

// Scratch is a schema of its own in a database, for tables that go with it.
type Scratch struct {
	// URL leads to the database, and there to the schema.
	URL  string
	name string
	cfg  Config
}

// NewScratch makes a schema of this name, which must not exist. The role needs
// the right to create one.
func NewScratch(ctx context.Context, cfg Config, name string) (*Scratch, error) {
	parsed, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: the URL cannot be read", ErrConfig) // which may hold a password
	}
	query := parsed.Query()
	query.Set("search_path", name)
	parsed.RawQuery = query.Encode()
	err = unbounded(ctx, cfg, func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, `CREATE SCHEMA `+pq.QuoteIdentifier(name))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("creating schema %s: %w", name, err)
	}
	return &Scratch{URL: parsed.String(), name: name, cfg: cfg}, nil
}

// Drop drops the schema with all that is in it.
func (s *Scratch) Drop(ctx context.Context) error {
	err := unbounded(ctx, s.cfg, func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, `DROP SCHEMA `+pq.QuoteIdentifier(s.name)+` CASCADE`)
		return err
	})
	if err != nil {
		return fmt.Errorf("dropping schema %s: %w", s.name, err)
	}
	return nil
}

// TableWithData names a table of the database, in whatever schema, that has, or
// had, rows; empty where there is none.
func TableWithData(ctx context.Context, cfg Config) (name string, err error) {
	err = unbounded(ctx, cfg, func(db *sql.DB) error {
		// A table that never had a row has no file to speak of.
		err := db.QueryRowContext(ctx, `SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
			WHERE relkind IN ('r', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND pg_relation_size(pg_class.oid) > 0
			ORDER BY pg_relation_size(pg_class.oid) DESC, 1 LIMIT 1`).Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("looking for data: %w", err)
	}
	return name, nil
}

// unbounded runs f on a connection without time limits.
func unbounded(ctx context.Context, cfg Config, f func(*sql.DB) error) (err error) {
	engine, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	db := sql.OpenDB(engine.migrator)
	defer func() { err = errors.Join(err, db.Close()) }()
	return f(db)
}
