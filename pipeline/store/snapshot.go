package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/pricemill/pricemill/schema"
)

// Snapshot reads the database as it was when it was taken, however long that
// takes and whatever is written meanwhile. It keeps no one from writing, but as
// long as it is open the engine keeps what it might read. It is safe for
// concurrent use, one statement at a time.
type Snapshot struct {
	engine Engine

	mu sync.Mutex
	tx *sqlx.Tx
}

var _ Querier = (*Snapshot)(nil)

// Snapshot takes a snapshot. Close it when done.
func (s *Store) Snapshot(ctx context.Context) (*Snapshot, error) {
	tx, err := s.engine.Snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("taking a snapshot of the database: %w", err)
	}
	return &Snapshot{engine: s.engine, tx: tx}, nil
}

// Close ends the snapshot, unless its context has.
func (s *Snapshot) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.tx.Rollback() // it has written nothing that could be lost
}

// Get implements Querier.
func (s *Snapshot) Get(ctx context.Context, dest any, query string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return readError(s.tx.GetContext(ctx, dest, query, args...))
}

// Select implements Querier.
func (s *Snapshot) Select(ctx context.Context, dest any, query string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return readError(s.tx.SelectContext(ctx, dest, query, args...))
}

// NowMillis implements Querier.
func (s *Snapshot) NowMillis() string { return s.engine.NowMillis() }

// Column is a column of a table, as the engine's catalog has it.
type Column struct {
	Name string `db:"name"`
	// Key is the column's place in the primary key, from 1; 0 where it is not
	// part of it.
	Key int `db:"key"`
	// Order is what to sort by so that values of the column come as CompareValues
	// has them.
	Order string `db:"sort"`
}

// Table is a table as the catalog has it.
type Table struct {
	Name    string
	Columns []Column
	// Key are the indexes of the columns of the primary key, in its order.
	Key []int
}

// ErrNoKey says that a table has no primary key: its rows cannot be told apart.
var ErrNoKey = errors.New("the table has no primary key")

// ErrNoTable says that there is no such table.
var ErrNoTable = errors.New("there is no such table")

// Table describes a table.
func (s *Snapshot) Table(ctx context.Context, name string) (Table, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	columns, err := s.engine.Columns(ctx, s.tx, name)
	if err != nil {
		return Table{}, fmt.Errorf("looking up the columns of %s: %w", name, err)
	}
	t := Table{Name: name, Columns: columns}
	for i, c := range columns {
		for len(t.Key) < c.Key {
			t.Key = append(t.Key, 0)
		}
		if c.Key > 0 {
			t.Key[c.Key-1] = i
		}
	}
	if len(columns) == 0 {
		return Table{}, fmt.Errorf("%s: %w", name, ErrNoTable)
	}
	if len(t.Key) == 0 {
		return Table{}, fmt.Errorf("%s: %w", name, ErrNoKey)
	}
	return t, nil
}

// TableRows are read one by one. Until they are closed, the snapshot answers nothing
// else.
type TableRows struct {
	snapshot *Snapshot
	rows     *sqlx.Rows
}

// Rows reads all rows of a table in the order of its key, each with the values of further
// expressions after its columns.
func (s *Snapshot) Rows(ctx context.Context, t Table, further ...string) (*TableRows, error) {
	names, order := make([]string, len(t.Columns)), make([]string, len(t.Key))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	for i, at := range t.Key {
		order[i] = t.Columns[at].Order
	}
	names = append(names, further...)
	s.mu.Lock()
	rows, err := s.tx.QueryxContext(ctx, `SELECT `+strings.Join(names, ", ")+` FROM `+t.Name+` ORDER BY `+strings.Join(order, ", "))
	if err != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("reading %s: %w", t.Name, err)
	}
	return &TableRows{snapshot: s, rows: rows}, nil
}

// Next returns the values of the next row, nil after the last one: each nil, an
// int64, or the value's text. The slice is the caller's.
func (r *TableRows) Next() ([]any, error) {
	if !r.rows.Next() {
		return nil, r.rows.Err()
	}
	values, err := r.rows.SliceScan()
	if err != nil {
		return nil, err
	}
	for i := range values {
		if values[i], err = plain(values[i]); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// Close lets the snapshot answer again.
func (r *TableRows) Close() error {
	defer r.snapshot.mu.Unlock()
	return r.rows.Close()
}

// plain is one form of a value for all drivers and engines.
func plain(value any) (any, error) {
	switch v := value.(type) {
	case nil, int64, string:
		return v, nil
	case []byte:
		return string(v), nil
	case float64:
		// SQLite keeps one in a column of whole numbers if it is told to. No projection
		// writes such, so it is a difference.
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case time.Time:
		text, err := schema.NewTime(v).Value()
		return text, err
	}
	return nil, fmt.Errorf("a column holds a value of type %T: no projection has such", value)
}

// CompareValues orders two values of one column: none before all others, numbers
// by size, texts by their bytes.
func CompareValues(a, b any) int {
	rank := func(v any) int {
		switch v.(type) {
		case nil:
			return 0
		case int64:
			return 1
		}
		return 2
	}
	if order := rank(a) - rank(b); order != 0 {
		return order
	}
	switch a := a.(type) {
	case int64:
		return cmp.Compare(a, b.(int64))
	case string:
		return strings.Compare(a, b.(string))
	}
	return 0
}
