package move

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline/store"
)

// tables are the names of the tables that come along: those of the migrations, those of
// the generations that serve, and those of modules, which are in both databases.
func (m *mover) tables(ctx context.Context) ([]string, error) {
	there, err := m.tablesOfTarget(ctx)
	if err != nil {
		return nil, err
	}
	all, err := m.source.Tables(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(table string) bool {
		t, ours := treatmentOf(table)
		if ours {
			return !m.moves(t)
		}
		return table == versionTable || !slices.Contains(there, table)
	}), nil
}

// tablesOfTarget are the names of all tables of the target.
func (m *mover) tablesOfTarget(ctx context.Context) ([]string, error) {
	target, err := m.Target.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	return target.Tables(ctx)
}

// moves reports whether rows of a table come along.
func (m *mover) moves(t Treatment) bool {
	return t.Kind == Copied || t.Kind == Chosen || t.Kind == Log && m.Cluster == nil
}

// choose changes a row as the target is to have it, and reports whether it comes along.
func (m *mover) choose(table string, row row) (keep bool) {
	switch table {
	case "topics":
		if m.Cluster != nil && row.text("origin") == "" {
			row.set("origin", row.text("topic_id"))
		}
		m.rename(row)
	case "positions", "dead_letters":
		m.rename(row)
		return m.Choice.Stage(row.text("stage"))
	case "generations":
		return m.serves(row)
	case "rebuilds":
		if !m.serves(row) {
			row.set("state", m.Choice.Cancelled(row.text("state")))
		}
	}
	return true
}

// rename gives a row the id that its topic has at the target.
func (m *mover) rename(row row) {
	if id, renamed := m.ids[row.text("topic_id")]; renamed {
		row.set("topic_id", id)
	}
}

// serves reports whether the generation of a row comes along.
func (m *mover) serves(row row) bool {
	number, _ := row.values[row.columns["number"]].(int64)
	return m.Choice.Generation(row.text("projection"), number)
}

// row is a row of a table. Values are nil, an int64, or the value's text.
type row struct {
	columns map[string]int
	values  []any
}

func (r row) text(column string) string {
	text, _ := r.values[r.columns[column]].(string)
	return text
}

func (r row) set(column string, value any) { r.values[r.columns[column]] = value }

// rows reads the rows of a table one by one.
type rows struct {
	open *store.TableRows
	// keys are the columns of the primary key, to name a row by.
	table   store.Table
	columns map[string]int
	choose  func(row) bool
}

// read reads a table of a snapshot in the order of its key. columns are in the order in
// which values are to come; nil takes the order of the table.
func read(ctx context.Context, view *store.Snapshot, name string, columns []store.Column, choose func(row) bool) (*rows, error) {
	table, err := view.Table(ctx, name)
	if err != nil {
		return nil, err
	}
	r := &rows{table: table, columns: map[string]int{}, choose: choose}
	if columns != nil {
		if err := r.order(columns); err != nil {
			return nil, err
		}
	}
	for i, c := range r.table.Columns {
		r.columns[c.Name] = i
	}
	r.open, err = view.Rows(ctx, r.table)
	return r, err
}

// order has the values come in the order of columns, which must be those of the table.
func (r *rows) order(columns []store.Column) error {
	ordered := store.Table{Name: r.table.Name, Key: slices.Clone(r.table.Key)}
	for _, wanted := range columns {
		at := slices.IndexFunc(r.table.Columns, func(c store.Column) bool { return c.Name == wanted.Name })
		if at < 0 {
			return fmt.Errorf("%w: table %s has no column %s", ErrDiffers, r.table.Name, wanted.Name)
		}
		for i, key := range r.table.Key {
			if key == at {
				ordered.Key[i] = len(ordered.Columns)
			}
		}
		ordered.Columns = append(ordered.Columns, r.table.Columns[at])
	}
	if len(columns) != len(r.table.Columns) {
		return fmt.Errorf("%w: table %s has %d columns in one database, and %d in the other", ErrDiffers, r.table.Name, len(columns), len(r.table.Columns))
	}
	r.table = ordered
	return nil
}

// next returns the values of the next row that is chosen; nil after the last one.
func (r *rows) next() ([]any, error) {
	for {
		values, err := r.open.Next()
		if err != nil || values == nil {
			return nil, err
		}
		if r.choose == nil || r.choose(row{r.columns, values}) {
			return values, nil
		}
	}
}

// key names a row.
func (r *rows) key(values []any) string {
	if values == nil {
		return "no more rows"
	}
	var parts []string
	for _, at := range r.table.Key {
		parts = append(parts, fmt.Sprintf("%s %v", r.table.Columns[at].Name, values[at]))
	}
	return strings.Join(parts, ", ")
}

// A transaction of a copy ends after so many rows, or bytes.
const (
	copyRows  = 20_000
	copyBytes = 16 << 20
)

// copyTable copies the rows that the target lacks. They were inserted in the order of the
// key, so those that are there already are the first ones.
func (m *mover) copyTable(ctx context.Context, name string) (err error) {
	m.Step("copying " + name)
	there, err := count(ctx, m.Target, name)
	if err != nil {
		return err
	}
	source, err := read(ctx, m.source, name, nil, func(row row) bool { return m.choose(name, row) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.open.Close()) }()
	batch := store.Rows{Table: name, Numbered: slices.Contains(numbered, name)}
	for _, c := range source.table.Columns {
		batch.Columns = append(batch.Columns, c.Name)
	}
	size := 0
	flush := func() error {
		if batch.Len() == 0 {
			return nil
		}
		err := m.write(ctx, func(tx *store.Tx) error { return tx.Insert(ctx, batch) })
		batch.Values, size = nil, 0
		return err
	}
	for n := int64(0); ; n++ {
		values, err := source.next()
		if err != nil {
			return err
		}
		if values == nil {
			return flush()
		}
		m.Progress(1)
		if n < there {
			continue
		}
		batch.Add(values...)
		for _, value := range values {
			if text, ok := value.(string); ok {
				size += len(text)
			}
		}
		if batch.Len() >= copyRows || size >= copyBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
}

// proveTables compares the tables that come along.
func (m *mover) proveTables(ctx context.Context, tables []string) error {
	target, err := m.Target.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer target.Close()
	for _, table := range tables {
		if err := m.proveTable(ctx, target, table); err != nil {
			return err
		}
	}
	return nil
}

// proveTable compares a table with that of the target, row by row.
func (m *mover) proveTable(ctx context.Context, target *store.Snapshot, name string) (err error) {
	m.Step("comparing " + name)
	want, err := read(ctx, m.source, name, nil, func(row row) bool { return m.choose(name, row) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, want.open.Close()) }()
	got, err := read(ctx, target, name, want.table.Columns, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, got.open.Close()) }()
	for {
		a, err := want.next()
		if err != nil {
			return err
		}
		b, err := got.next()
		if err != nil {
			return err
		}
		if !slices.Equal(a, b) {
			return fmt.Errorf("%w: table %s: where the source has %s, the target has %s, or another row of that key: "+
				"was it written to? Drop its tables, and move again", ErrDiffers, name, want.key(a), got.key(b))
		}
		if a == nil {
			return nil
		}
		m.Progress(1)
	}
}

// stateOf is a hash of what an installation has come to: any record, batch, command or
// decision of an operator changes it.
func stateOf(ctx context.Context, view *store.Snapshot) (string, error) {
	sum := sha256.New()
	for _, t := range Treatments {
		if t.Kind == Fresh || slices.Contains(withoutState, t.Table) {
			continue
		}
		if err := addTable(ctx, sum, view, t.Table); err != nil {
			return "", fmt.Errorf("looking at the state of the source: %w", err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func addTable(ctx context.Context, sum hash.Hash, view *store.Snapshot, name string) (err error) {
	all, err := read(ctx, view, name, nil, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, all.open.Close()) }()
	fmt.Fprintf(sum, "table %s\n", name)
	for {
		values, err := all.next()
		if err != nil || values == nil {
			return err
		}
		fmt.Fprintf(sum, "%q\n", values)
	}
}
