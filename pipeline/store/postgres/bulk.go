package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/jmoiron/sqlx"

	"github.com/pricemill/pricemill/pipeline/store"
)

// MaxRows implements store.Engine; maxStatement bounds large rows.
func (e *Engine) MaxRows(int) int { return 1000 }

// Inserts implements store.Engine, by a statement whose parameters are arrays, one a
// column. COPY is as fast, and not used: no time limit of the server's counts while
// it waits for the data of a COPY, so a process that is stopped in the middle of
// one holds what its transaction has locked for as long as it likes. A statement is
// complete before the server begins with it, and until then it waits under
// idle_in_transaction_session_timeout.
func (e *Engine) Inserts(ctx context.Context, q sqlx.QueryerContext, rows store.Rows, f func(query string, args []any) error) error {
	types, err := e.types.of(ctx, q, rows.Table)
	if err != nil {
		return err
	}
	casts := make([]string, len(rows.Columns))
	columns := make([]string, len(rows.Columns))
	for i, column := range rows.Columns {
		t, known := types[column]
		if !known {
			e.types.forget(rows.Table)
			return fmt.Errorf("table %s has no column %s", rows.Table, column)
		}
		casts[i], columns[i] = "CAST($"+strconv.Itoa(i+1)+" AS "+t+"[])", t
	}
	given := ""
	if rows.Numbered {
		given = "OVERRIDING SYSTEM VALUE "
	}
	query := "INSERT INTO " + rows.Table + " (" + strings.Join(rows.Columns, ", ") + ") " + given + "SELECT * FROM unnest(" + strings.Join(casts, ", ") + ")"
	if rows.Clause != "" {
		query += " " + rows.Clause
	}
	for values := rows.Values; len(values) > 0; {
		n := statementOf(values, len(columns))
		args := make([]any, len(columns))
		for i, t := range columns {
			if args[i], err = arrayOf(t, values[i:n], len(columns)); err != nil {
				return fmt.Errorf("column %s: %w", rows.Columns[i], err)
			}
		}
		values = values[n:]
		if err := f(query, args); err != nil {
			e.types.forget(rows.Table) // it may be another table by now
			return err
		}
	}
	return nil
}

// fewRows is up to how many rows a list is cheaper than arrays, which it is where few
// different texts are all prepared (`BenchmarkMovePositions`).
const fewRows = 8

// Values implements store.Engine: by a list, or, of more than a few rows, by an array
// for each column, whose text is the same for any number of rows.
func (e *Engine) Values(types []string, values []any) (query string, args []any, err error) {
	if len(values) <= fewRows*len(types) {
		return store.ValuesList(types, values), values, nil
	}
	casts := make([]string, len(types))
	args = make([]any, len(types))
	for i, t := range types {
		casts[i] = "CAST($" + strconv.Itoa(i+1) + " AS " + t + "[])"
		if args[i], err = arrayOf(strings.ToLower(t), values[i:], len(types)); err != nil {
			return "", nil, fmt.Errorf("column %d: %w", i+1, err)
		}
	}
	return "SELECT * FROM unnest(" + strings.Join(casts, ", ") + ")", args, nil
}

// maxStatement bounds the bytes of the values of one statement, which both sides hold
// in memory, from above by one row.
const maxStatement = 8 << 20

// statementOf returns how many of the values, whole rows of width, go into the next
// statement.
func statementOf(values []any, width int) int {
	held := 0
	for i, value := range values {
		if held += sizeOf(value); held > maxStatement && (i+1)%width == 0 {
			return i + 1
		}
	}
	return len(values)
}

// columnTypes are the types of columns, by table and name. It is safe for
// concurrent use.
type columnTypes struct {
	mu     sync.Mutex
	tables map[string]map[string]string
}

// of returns the types of a table, which it asks for once.
func (c *columnTypes) of(ctx context.Context, q sqlx.QueryerContext, table string) (map[string]string, error) {
	c.mu.Lock()
	types, known := c.tables[table]
	c.mu.Unlock()
	if known {
		return types, nil
	}
	var columns []struct {
		Name string `db:"name"`
		Type string `db:"type"`
	}
	if err := sqlx.SelectContext(ctx, q, &columns, `SELECT attname AS name, format_type(atttypid, atttypmod) AS type
		FROM pg_attribute WHERE attrelid = CAST($1 AS regclass) AND attnum > 0 AND NOT attisdropped`, table); err != nil {
		return nil, fmt.Errorf("asking for the columns of %s: %w", table, err)
	}
	types = map[string]string{}
	for _, column := range columns {
		types[column.Name] = column.Type
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tables == nil {
		c.tables = map[string]map[string]string{}
	}
	c.tables[table] = types
	return types, nil
}

// forget is for after a failure: the table may have been replaced by another one.
func (c *columnTypes) forget(table string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tables, table)
}
