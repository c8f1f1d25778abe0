package projections

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// FactTable is a table with a row a price, as it is after corrections, for a projection
// that otherwise keeps no single price: what it kept of several cannot be taken apart
// when one of them is corrected.
type FactTable struct {
	// Name is the plain name of the table.
	Name string
	// Sizes and Receipts say that it has columns of them.
	Sizes, Receipts bool
}

func (t FactTable) columns() []string {
	columns := []string{"symbol", "provider", "timestamp", "sequence", "id", "fact", "price"}
	if t.Sizes {
		columns = append(columns, "size")
	}
	if t.Receipts {
		columns = append(columns, "received_at")
	}
	return columns
}

// Tables is the DDL of a generation.
func (t FactTable) Tables(g pipeline.Generation) []string {
	more := ""
	if t.Sizes {
		more += "size {decimal} NOT NULL,"
	}
	if t.Receipts {
		more += "received_at {time} NOT NULL,"
	}
	return []string{`CREATE TABLE ` + g.Table(t.Name) + ` (
		symbol    {text}    NOT NULL,
		provider  {text}    NOT NULL,
		timestamp {time}    NOT NULL,
		sequence  {int}     NOT NULL,
		id        {int}     NOT NULL,
		fact      {int}     NOT NULL,
		price     {decimal} NOT NULL,
		` + more + `
		PRIMARY KEY (symbol, provider, ` + seriesPlace + `)
	) {keyed}`}
}

// FactRow is a row of the table.
type FactRow struct {
	Symbol     schema.Symbol   `db:"symbol"`
	Provider   schema.Provider `db:"provider"`
	Timestamp  schema.Time     `db:"timestamp"`
	Sequence   schema.Sequence `db:"sequence"`
	ID         int64           `db:"id"`
	Key        int64           `db:"fact"`
	Price      schema.Decimal  `db:"price"`
	Size       schema.Decimal  `db:"size"`
	ReceivedAt schema.Time     `db:"received_at"`
}

// Fact is the fact of a row.
func (r FactRow) Fact() Fact {
	return Fact{Symbol: r.Symbol, Provider: r.Provider, Place: Place{r.Timestamp, r.Sequence, r.ID}, Key: r.Key, Price: r.Price, Size: r.Size, ReceivedAt: r.ReceivedAt}
}

// Keep is that of Corrections, for a projection that keeps of each fact what the table has.
func (t FactTable) Keep(f Fact) (Fact, bool) {
	received := f.ReceivedAt
	f = f.Lean()
	f.Bar = nil
	if !t.Sizes {
		f.Size = schema.Decimal{}
	}
	if t.Receipts {
		f.ReceivedAt = received
	}
	return f, true
}

// Find is that of Corrections.
func (t FactTable) Find(ctx context.Context, q store.Querier, g pipeline.Generation, names []FactName) ([]Fact, error) {
	return findFacts(ctx, q, g.Table(t.Name), t.columns(), names)
}

// findFacts reads rows by their names from a table that has such columns.
func findFacts(ctx context.Context, q store.Querier, table string, columns []string, names []FactName) ([]Fact, error) {
	args := make([]any, 0, 4*len(names))
	for _, n := range names {
		args = append(args, n.Symbol, n.Provider, n.Timestamp, n.Key)
	}
	var rows []FactRow
	err := q.Select(ctx, &rows, store.ForEach(`SELECT `+strings.Join(columns, ", ")+` FROM `+table+`
		WHERE symbol = ? AND provider = ? AND timestamp = ? AND fact = ?`, len(names)), args...)
	if err != nil {
		return nil, fmt.Errorf("looking for facts in %s: %w", table, err)
	}
	facts := make([]Fact, len(rows))
	for i, r := range rows {
		facts[i] = r.Fact()
	}
	return facts, nil
}

// Apply brings changes of facts, one of each fact as Net leaves them, into the table.
func (t FactTable) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, changes []Change) error {
	columns := t.columns()
	came := store.Rows{Table: g.Table(t.Name), Columns: columns, Values: make([]any, 0, len(changes)*len(columns))}
	others := store.Rows{Table: g.Table(t.Name), Columns: columns, Clause: "ON CONFLICT (symbol, provider, " + seriesPlace + ") DO UPDATE SET price = excluded.price"}
	if t.Sizes {
		others.Clause += ", size = excluded.size"
	}
	for _, c := range changes {
		if c.After == nil {
			if err := deleteFact(ctx, tx, g.Table(t.Name), *c.Before); err != nil {
				return err
			}
			continue
		}
		f := *c.After
		values := []any{f.Symbol, f.Provider, f.Timestamp, f.Sequence, f.ID, f.Key, f.Price}
		if t.Sizes {
			values = append(values, f.Size)
		}
		if t.Receipts {
			values = append(values, f.ReceivedAt)
		}
		if c.Before == nil {
			came.Add(values...)
		} else {
			others.Add(values...)
		}
	}
	if err := tx.Insert(ctx, came); err != nil {
		return err
	}
	return tx.Insert(ctx, others)
}

// deleteFact takes a fact out of a table with a row a price.
func deleteFact(ctx context.Context, tx *pipeline.Tx, table string, f Fact) error {
	_, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE symbol = $1 AND provider = $2 AND timestamp = $3 AND sequence = $4 AND id = $5`,
		f.Symbol, f.Provider, f.Timestamp, f.Sequence, f.ID)
	if err != nil {
		return fmt.Errorf("taking a retracted price out of %s: %w", table, err)
	}
	return nil
}

// Before reads the facts of a market before a place, newest first.
func (t FactTable) Before(ctx context.Context, q store.Querier, g pipeline.Generation, symbol schema.Symbol, provider schema.Provider, before Place, limit int) ([]Fact, error) {
	return t.read(ctx, q, g, symbol, provider, `(`+seriesPlace+`) < ($3, $4, $5) ORDER BY timestamp DESC, sequence DESC, id DESC LIMIT $6`,
		before.Timestamp, before.Sequence, before.ID, limit)
}

// Between reads the facts of a market from a time, up to but without another, oldest first.
func (t FactTable) Between(ctx context.Context, q store.Querier, g pipeline.Generation, symbol schema.Symbol, provider schema.Provider, from, to schema.Time) ([]Fact, error) {
	return t.read(ctx, q, g, symbol, provider, `timestamp >= $3 AND timestamp < $4 ORDER BY `+seriesPlace, from, to)
}

func (t FactTable) read(ctx context.Context, q store.Querier, g pipeline.Generation, symbol schema.Symbol, provider schema.Provider, where string, args ...any) ([]Fact, error) {
	var rows []FactRow
	err := q.Select(ctx, &rows, `SELECT `+strings.Join(t.columns(), ", ")+` FROM `+g.Table(t.Name)+` WHERE symbol = $1 AND provider = $2 AND `+where,
		slices.Concat([]any{symbol, provider}, args)...)
	if err != nil {
		return nil, fmt.Errorf("reading facts of %s: %w", t.Name, err)
	}
	facts := make([]Fact, len(rows))
	for i, r := range rows {
		facts[i] = r.Fact()
	}
	return facts, nil
}
