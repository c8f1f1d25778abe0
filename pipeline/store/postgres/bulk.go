package postgres

import (
	"context"
	"database/sql/driver"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

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
	arrays := make([]array, len(rows.Columns))
	for i, column := range rows.Columns {
		t, known := types[column]
		if !known {
			e.types.forget(rows.Table)
			return fmt.Errorf("table %s has no column %s", rows.Table, column)
		}
		casts[i] = "CAST($" + strconv.Itoa(i+1) + " AS " + t + "[])"
		arrays[i].bytes = t == "bytea"
	}
	query := "INSERT INTO " + rows.Table + " (" + strings.Join(rows.Columns, ", ") + ") SELECT * FROM unnest(" + strings.Join(casts, ", ") + ")"
	if rows.Clause != "" {
		query += " " + rows.Clause
	}
	held := 0
	flush := func() error {
		args := make([]any, len(arrays))
		for i := range arrays {
			args[i] = arrays[i].end()
		}
		held = 0
		if err := f(query, args); err != nil {
			e.types.forget(rows.Table) // it may be another table by now
			return err
		}
		return nil
	}
	for i, value := range rows.Values {
		added, err := arrays[i%len(arrays)].add(value)
		if err != nil {
			return fmt.Errorf("column %s: %w", rows.Columns[i%len(arrays)], err)
		}
		if held += added; held > maxStatement && (i+1)%len(arrays) == 0 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if held == 0 {
		return nil
	}
	return flush()
}

// maxStatement bounds the bytes of the arrays of one statement, which both sides
// hold in memory, from above by one row.
const maxStatement = 8 << 20

// array is an array of PostgreSQL's as its text, which begins with a brace:
// https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
type array struct {
	text  []byte
	bytes bool // its elements are bytea
}

// add appends a value, and returns by how many bytes the text has grown.
func (a *array) add(value any) (int, error) {
	value, err := driver.DefaultParameterConverter.ConvertValue(value)
	if err != nil {
		return 0, fmt.Errorf("converting a value of type %T: %w", value, err)
	}
	before := len(a.text)
	if before == 0 {
		a.text = append(a.text, '{')
	} else {
		a.text = append(a.text, ',')
	}
	switch v := value.(type) {
	case nil:
		a.text = append(a.text, "NULL"...)
	case int64:
		a.text = strconv.AppendInt(a.text, v, 10)
	case float64:
		a.text = strconv.AppendFloat(a.text, v, 'g', -1, 64)
	case bool:
		a.text = strconv.AppendBool(a.text, v)
	case time.Time:
		a.quote(string(pq.FormatTimestamp(v)))
	case string:
		if a.bytes {
			a.addBytes([]byte(v))
		} else {
			a.quote(v)
		}
	case []byte:
		switch {
		case v == nil: // as everywhere else
			a.text = append(a.text, "NULL"...)
		case a.bytes:
			a.addBytes(v)
		default:
			a.quote(string(v))
		}
	default:
		return 0, fmt.Errorf("a value of type %T", value)
	}
	return len(a.text) - before, nil
}

// quote appends a text. A backslash keeps its meaning from what follows.
func (a *array) quote(text string) {
	a.text = append(a.text, '"')
	for {
		at := strings.IndexAny(text, `"\`)
		if at < 0 {
			break
		}
		a.text = append(append(a.text, text[:at]...), '\\', text[at])
		text = text[at+1:]
	}
	a.text = append(append(a.text, text...), '"')
}

func (a *array) addBytes(b []byte) {
	a.text = append(a.text, `"\\x`...)
	a.text = append(hex.AppendEncode(a.text, b), '"')
}

// end closes the array, and begins another one.
func (a *array) end() string {
	text := string(append(a.text, '}'))
	a.text = a.text[:0]
	return text
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
