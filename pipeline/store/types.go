package store

import (
	"context"
	"strings"
)

// Types are an engine's column types, as DDL of projections names them in
// braces: "price {decimal} NOT NULL".
type Types struct {
	Int     string // 64-bit integer; as primary key, the fastest there is
	Text    string
	Decimal string // keeps every digit
	Time    string // microseconds, UTC, ordered
	Bytes   string
	// Keyed goes after the DDL of a table that is only ever found by its
	// primary key, which is not one integer.
	Keyed string
}

// Expand replaces the names in braces.
func (t Types) Expand(ddl string) string {
	return strings.NewReplacer("{int}", t.Int, "{text}", t.Text, "{decimal}", t.Decimal,
		"{time}", t.Time, "{bytes}", t.Bytes, "{keyed}", t.Keyed).Replace(ddl)
}

// DDL runs a statement that may use the names of Types.
func (t *Tx) DDL(ctx context.Context, statement string) error {
	return t.statement(func() error {
		_, err := t.tx.ExecContext(ctx, t.store.engine.Types().Expand(statement))
		return err
	})
}
