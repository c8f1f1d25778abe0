package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// Rows are rows to be inserted into one table. Values holds them one after the
// other, each with a value for every column. A float among them is a DataError: it
// is not the number that was meant, and a column of type {decimal} would take it.
type Rows struct {
	Table   string
	Columns []string
	Values  []any
	// Clause stands after the values: ON CONFLICT …, RETURNING ….
	Clause string
	// Numbered says that the rows have the numbers which the table would give them.
	Numbered bool
}

// Add appends one row.
func (r *Rows) Add(values ...any) { r.Values = append(r.Values, values...) }

// Len is the number of rows.
func (r *Rows) Len() int { return len(r.Values) / len(r.Columns) }

// Insert inserts rows, by the engine's fastest path. No rows is no work.
func (t *Tx) Insert(ctx context.Context, rows Rows) error {
	return t.insert(ctx, rows, func(query string, args []any) error {
		_, err := t.tx.ExecContext(ctx, query, args...)
		return err
	})
}

// InsertReturning inserts rows whose Clause has RETURNING, and appends what it
// returns to the slice that dest points to. The order is not that of the rows.
func InsertReturning[T any](ctx context.Context, t *Tx, dest *[]T, rows Rows) error {
	return t.insert(ctx, rows, func(query string, args []any) error {
		var part []T
		err := t.tx.SelectContext(ctx, &part, query, args...)
		*dest = append(*dest, part...)
		return err
	})
}

func (t *Tx) insert(ctx context.Context, rows Rows, run func(query string, args []any) error) error {
	if len(rows.Values) == 0 {
		return nil
	}
	if err := rows.refuseFloats(); err != nil {
		return err
	}
	err := t.statement(func() error {
		return t.store.engine.Inserts(ctx, t.tx, rows, func(query string, args []any) error {
			if err := run(query, args); err != nil {
				return err
			}
			return failpoint.Hit(ctx, failpoint.StoreInserting)
		})
	})
	if err != nil {
		return t.classify(fmt.Errorf("inserting %d rows into %s: %w", rows.Len(), rows.Table, err))
	}
	return nil
}

func (r *Rows) refuseFloats() error {
	for i, value := range r.Values {
		switch value.(type) {
		case float32, float64:
			return &DataError{fmt.Errorf("inserting into %s: column %s is given a %T, which is not exact: give it a schema.Decimal, or a whole number",
				r.Table, r.Columns[i%len(r.Columns)], value)}
		}
	}
	return nil
}

// SelectIn runs a query for many keys, in chunks. The query has one ?, inside
// parentheses, where the keys belong; $1 and so on are args.
func SelectIn[T any, K ~string | ~int64](ctx context.Context, q Querier, query string, keys []K, args ...any) ([]T, error) {
	return selectOf[T](ctx, q, query, ",", keys, args)
}

// SelectFor is SelectIn for a query that has VALUES (?), a row of one column for each key.
func SelectFor[T any, K ~string | ~int64](ctx context.Context, q Querier, query string, keys []K, args ...any) ([]T, error) {
	return selectOf[T](ctx, q, query, "),(", keys, args)
}

func selectOf[T any, K ~string | ~int64](ctx context.Context, q Querier, query, between string, keys []K, args []any) ([]T, error) {
	var all []T
	for len(keys) > 0 {
		n := min(len(keys), 1000)
		values := slices.Clone(args)
		for _, key := range keys[:n] {
			values = append(values, key)
		}
		filled := strings.Replace(query, "?", placeholders(len(args), n, between), 1)
		var part []T
		if err := q.Select(ctx, &part, filled, values...); err != nil {
			return nil, err
		}
		all = append(all, part...)
		keys = keys[n:]
	}
	return all, nil
}

// placeholders is "$1,$2,…", or what else is between them, of n parameters after those
// before them.
func placeholders(before, n int, between string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(between)
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(before + i + 1))
	}
	return b.String()
}

// ValuesList is "VALUES (CAST($1 AS …), …), …" of values that lie one row after the
// other, in columns of these types, which tell PostgreSQL the types of an otherwise
// untyped list.
func ValuesList(types []string, values []any) string {
	var b strings.Builder
	for i := range values {
		switch {
		case i == 0:
			b.WriteString("VALUES (")
		case i%len(types) == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		b.WriteString("CAST($" + strconv.Itoa(i+1) + " AS " + types[i%len(types)] + ")")
	}
	return b.String() + ")"
}
