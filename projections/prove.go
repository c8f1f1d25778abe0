package projections

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Proof is the comparison of one table of two generations: the one that serves,
// and one that was filled from the log.
type Proof struct {
	// Table is the table's plain name.
	Table string `json:"table"`
	// Rows are those of the generation that serves, Fresh those of the other.
	Rows  int64 `json:"rows"`
	Fresh int64 `json:"rows_by_the_log"`
	// Missing rows are not served, Extra rows are not in the log, and Differing
	// rows are in both, with other values.
	Missing   int64 `json:"missing"`
	Extra     int64 `json:"extra"`
	Differing int64 `json:"differing"`
	// Unexplained are those of them that the renormalization does not revise that the other
	// generation is a part of. They are counted for the list of prices alone.
	Unexplained int64 `json:"unexplained,omitempty"`
	// Forgotten are rows that retention has deleted or is about to, of either. They are
	// compared in nothing.
	Forgotten int64 `json:"forgotten,omitempty"`
	// Hash is that of the rows that are served, and FreshHash of the others: the
	// same for the same rows, and the same each time.
	Hash      string `json:"hash"`
	FreshHash string `json:"hash_by_the_log"`
	// Largest is the largest difference of two numbers in one place, and LargestAt
	// that place; empty where there is none.
	Largest   string `json:"largest_difference,omitempty"`
	LargestAt string `json:"largest_difference_at,omitempty"`
	// First are the first differences, in words.
	First []string `json:"-"`
}

// Equal reports whether there is no difference.
func (p Proof) Equal() bool { return p.Missing == 0 && p.Extra == 0 && p.Differing == 0 }

// ErrOtherTable says that two generations have no such table in common. Of one fold,
// someone has changed one of them by hand.
var ErrOtherTable = errors.New("the tables cannot be compared")

// Prove compares a table of the generation that serves, as live has it, with that
// of a generation fresh from the log, row by row. Both are to be at the same
// positions. It describes the first differences, most of them. Memory does not
// grow with the tables.
//
// forgotten is a condition in SQL; see Forgetful. A row that is forgotten in either is left
// out in both. fresh is the later snapshot.
func Prove(ctx context.Context, live, fresh *store.Snapshot, table, forgotten string, serving, filled pipeline.Generation, most int) (Proof, error) {
	return prove(ctx, live, fresh, table, forgotten, serving, filled, most, nil)
}

// prove is Prove for a table of whose rows, by their id, some are revised; nil for none that
// could be.
func prove(ctx context.Context, live, fresh *store.Snapshot, table, forgotten string, serving, filled pipeline.Generation, most int, revised map[int64]bool) (Proof, error) {
	c := comparison{proof: Proof{Table: table}, most: most, forgotten: "0", revised: revised}
	if forgotten != "" {
		c.forgotten = `CASE WHEN ` + forgotten + ` THEN 1 ELSE 0 END`
	}
	var err error
	if c.table, err = live.Table(ctx, serving.Table(table)); errors.Is(err, store.ErrNoTable) {
		return c.proof, fmt.Errorf("%w: %w", ErrOtherTable, err)
	} else if err != nil {
		return c.proof, err
	}
	other, err := fresh.Table(ctx, filled.Table(table))
	if err != nil {
		return c.proof, err
	}
	if !sameColumns(c.table, other) {
		return c.proof, fmt.Errorf("%w: %s and %s have other columns", ErrOtherTable, c.table.Name, other.Name)
	}
	if err := c.run(ctx, live, fresh, other); err != nil {
		return c.proof, fmt.Errorf("comparing %s with %s: %w", c.table.Name, other.Name, err)
	}
	return c.proof, nil
}

func sameColumns(a, b store.Table) bool {
	if len(a.Columns) != len(b.Columns) {
		return false
	}
	for i := range a.Columns {
		if a.Columns[i] != b.Columns[i] {
			return false
		}
	}
	return true
}

// comparison walks through two tables side by side.
type comparison struct {
	table   store.Table
	most    int
	proof   Proof
	largest schema.Decimal
	// forgotten is an expression: 1 for a row that is left out.
	forgotten string
	revised   map[int64]bool
}

// explain counts a row that differs and is not revised.
func (c *comparison) explain(row []any) {
	if c.revised == nil {
		return
	}
	if id, ok := row[c.table.Key[0]].(int64); !ok || !c.revised[id] {
		c.proof.Unexplained++
	}
}

func (c *comparison) run(ctx context.Context, live, fresh *store.Snapshot, other store.Table) (err error) {
	left, err := newSide(ctx, live, c.table, c.forgotten)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, left.rows.Close()) }()
	lease, err := newSide(ctx, fresh, other, c.forgotten)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.rows.Close()) }()
	for left.row != nil || lease.row != nil {
		order := c.compareKeys(left.row, lease.row)
		forgotten := order <= 0 && left.forgotten || order >= 0 && lease.forgotten
		if forgotten {
			c.proof.Forgotten++
		} else if err := errors.Join(left.take(order <= 0), lease.take(order >= 0)); err != nil {
			return err
		}
		switch {
		case forgotten:
		case order < 0:
			c.proof.Extra++
			c.explain(left.row)
			c.tell("%s is there, and by the log it is not: %s", c.key(left.row), c.values(left.row))
		case order > 0:
			c.proof.Missing++
			c.explain(lease.row)
			c.tell("%s is missing; by the log it is %s", c.key(lease.row), c.values(lease.row))
		default:
			c.compareRows(left.row, lease.row)
		}
		if order <= 0 {
			err = left.next()
		}
		if order >= 0 && err == nil {
			err = lease.next()
		}
		if err != nil {
			return err
		}
	}
	c.proof.Rows, c.proof.Hash = left.count, left.sum()
	c.proof.Fresh, c.proof.FreshHash = lease.count, lease.sum()
	return nil
}

// compareKeys orders rows as they come; no row comes last.
func (c *comparison) compareKeys(a, b []any) int {
	switch {
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	for _, at := range c.table.Key {
		if order := store.CompareValues(a[at], b[at]); order != 0 {
			return order
		}
	}
	return 0
}

func (c *comparison) compareRows(served, logged []any) {
	differs := false
	for i, column := range c.table.Columns {
		if served[i] != logged[i] {
			differs = true
			c.tell("%s: %s is %s, and by the log %s", c.key(served), column.Name, show(served[i]), show(logged[i]))
			c.measure(column.Name, served, served[i], logged[i])
		}
	}
	if differs {
		c.proof.Differing++
		c.explain(served)
	}
}

// measure keeps the largest difference of two numbers.
func (c *comparison) measure(column string, row []any, served, logged any) {
	a, isNumber := number(served)
	b, alsoNumber := number(logged)
	if !isNumber || !alsoNumber {
		return
	}
	difference := a.Sub(b)
	if difference.Sign() < 0 {
		difference = b.Sub(a)
	}
	if difference.Cmp(c.largest) > 0 {
		c.largest, c.proof.Largest = difference, difference.String()
		c.proof.LargestAt = c.key(row) + " " + column
	}
}

// number reads what engines keep a decimal as.
func number(value any) (schema.Decimal, bool) {
	switch v := value.(type) {
	case int64:
		d, err := schema.ParseDecimal(strconv.FormatInt(v, 10))
		return d, err == nil
	case string:
		d, err := schema.ParseDecimal(v)
		return d, err == nil
	}
	return schema.Decimal{}, false
}

func (c *comparison) tell(format string, args ...any) {
	if len(c.proof.First) < c.most {
		c.proof.First = append(c.proof.First, c.table.Name+" "+fmt.Sprintf(format, args...))
	}
}

func (c *comparison) key(row []any) string {
	parts := make([]string, len(c.table.Key))
	for i, at := range c.table.Key {
		parts[i] = c.table.Columns[at].Name + "=" + show(row[at])
	}
	return strings.Join(parts, " ")
}

func (c *comparison) values(row []any) string {
	parts := make([]string, len(row))
	for i, value := range row {
		parts[i] = c.table.Columns[i].Name + "=" + show(value)
	}
	return strings.Join(parts, " ")
}

// shown bounds a value in a difference, in bytes.
const shown = 120

func show(value any) string {
	switch v := value.(type) {
	case nil:
		return "NULL"
	case int64:
		return strconv.FormatInt(v, 10)
	}
	text, _ := value.(string)
	suffix := ""
	if len(text) > shown {
		suffix = fmt.Sprintf("… (%d bytes)", len(text))
		for text = text[:shown]; len(text) > shown-utf8.UTFMax && !utf8.ValidString(text); {
			text = text[:len(text)-1]
		}
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == utf8.RuneError }) || text == "" {
		text = strconv.Quote(text)
	}
	return text + suffix
}

// side is one of the two tables, as it is read.
type side struct {
	rows  *store.TableRows
	row   []any // nil after the last
	count int64
	hash  hash.Hash
	form  []byte
	// forgotten says that the row is one that retention deletes.
	forgotten bool
}

// newSide is at the first row.
func newSide(ctx context.Context, s *store.Snapshot, t store.Table, forgotten string) (*side, error) {
	rows, err := s.Rows(ctx, t, forgotten)
	if err != nil {
		return nil, err
	}
	side := &side{rows: rows, hash: sha256.New()}
	if err := side.next(); err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	return side, nil
}

func (s *side) next() (err error) {
	if s.row, err = s.rows.Next(); err != nil || s.row == nil {
		s.forgotten = false
		return err
	}
	last := len(s.row) - 1
	s.row, s.forgotten = s.row[:last], s.row[last] == int64(1)
	return nil
}

// take counts the row and its hash, if it is one of those that are compared.
func (s *side) take(compared bool) error {
	if !compared {
		return nil
	}
	s.count++
	s.form = s.form[:0]
	for _, value := range s.row {
		s.form = appendValue(s.form, value)
	}
	_, err := s.hash.Write(s.form)
	return err
}

// appendValue appends the form of a value that is hashed: 0 for none, or 1, the
// length of its text, and its text.
func appendValue(b []byte, value any) []byte {
	var text string
	switch v := value.(type) {
	case nil:
		return append(b, 0)
	case int64:
		text = strconv.FormatInt(v, 10)
	case string:
		text = v
	}
	b = binary.AppendUvarint(append(b, 1), uint64(len(text)))
	return append(b, text...)
}

func (s *side) sum() string { return "sha256:" + hex.EncodeToString(s.hash.Sum(nil)) }
