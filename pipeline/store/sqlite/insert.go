package sqlite

import (
	"context"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/pricemill/pricemill/pipeline/store"
)

const (
	// maxRows bounds the rows of a statement: measured, statements of about a
	// hundred rows are as fast as any, and a long text costs parsing.
	maxRows = 128
	// maxParams is SQLITE_MAX_VARIABLE_NUMBER's default.
	maxParams = 32766
)

// MaxRows implements store.Engine.
func (e *Engine) MaxRows(columns int) int { return min(maxRows, maxParams/columns) }

// Inserts implements store.Engine: SQLite's fastest path is statements of many rows.
func (e *Engine) Inserts(_ context.Context, _ sqlx.QueryerContext, rows store.Rows, f func(query string, args []any) error) error {
	width := len(rows.Columns)
	size := e.MaxRows(width)
	full := ""
	for values := rows.Values; len(values) > 0; {
		n := min(size, len(values)/width)
		query := full
		if n < size || full == "" {
			query = insertSQL(rows, n)
		}
		if n == size {
			full = query
		}
		if err := f(query, values[:n*width]); err != nil {
			return err
		}
		values = values[n*width:]
	}
	return nil
}

// Values implements store.Engine.
func (e *Engine) Values(types []string, values []any) (query string, args []any, err error) {
	return store.ValuesList(types, values), values, nil
}

// insertSQL has ? for its parameters. To SQLite $1 is a name, and it searches all
// names for each one: with a thousand parameters that took a third of the time of
// an insert.
func insertSQL(rows store.Rows, n int) string {
	row := "(?" + strings.Repeat(",?", len(rows.Columns)-1) + ")"
	text := "INSERT INTO " + rows.Table + " (" + strings.Join(rows.Columns, ", ") + ") VALUES " + row + strings.Repeat(","+row, n-1)
	if rows.Clause != "" {
		text += " " + rows.Clause
	}
	return text
}
