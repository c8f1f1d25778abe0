package store

import (
	"context"
	"errors"
	"fmt"
)

// Scan calls f with the first limit rows of a table, size at a time, such that
// Insert puts them into a table of the same columns again.
func (s *Store) Scan(ctx context.Context, table string, limit, size int, f func(Rows) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("reading %s: %w", table, err)
		}
	}()
	found, err := s.engine.Reader().QueryxContext(ctx, `SELECT * FROM `+table+` ORDER BY 1 LIMIT $1`, limit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, found.Close()) }()
	types, err := found.ColumnTypes()
	if err != nil {
		return err
	}
	rows := Rows{Table: table}
	binary := make([]bool, len(types))
	for i, t := range types {
		rows.Columns = append(rows.Columns, t.Name())
		binary[i] = t.DatabaseTypeName() == "BYTEA" || t.DatabaseTypeName() == "BLOB"
	}
	for found.Next() {
		values, err := found.SliceScan()
		if err != nil {
			return err
		}
		for i, value := range values {
			// A driver gives what it has no type for, as a decimal, as the bytes of
			// its text, and would write those back as binary data.
			if text, ok := value.([]byte); ok && !binary[i] {
				values[i] = string(text)
			}
		}
		rows.Add(values...)
		if rows.Len() == size {
			if err := f(rows); err != nil {
				return err
			}
			rows.Values = nil
		}
	}
	if err := found.Err(); err != nil {
		return err
	}
	if len(rows.Values) == 0 {
		return nil
	}
	return f(rows)
}
