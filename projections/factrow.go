package projections

import (
	"context"
	"fmt"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// FactRow is a row of a table with a row a price.
type FactRow struct {
	Symbol    schema.Symbol   `db:"symbol"`
	Provider  schema.Provider `db:"provider"`
	Timestamp schema.Time     `db:"timestamp"`
	Sequence  schema.Sequence `db:"sequence"`
	ID        int64           `db:"id"`
	Key       int64           `db:"fact"`
	Price     schema.Decimal  `db:"price"`
	Size      schema.Decimal  `db:"size"`
}

// Fact is the fact of a row.
func (r FactRow) Fact() Fact {
	return Fact{Symbol: r.Symbol, Provider: r.Provider, Place: Place{r.Timestamp, r.Sequence, r.ID}, Key: r.Key, Price: r.Price, Size: r.Size}
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

// deleteFact takes a fact out of a table with a row a price.
func deleteFact(ctx context.Context, tx *pipeline.Tx, table string, f Fact) error {
	_, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE symbol = $1 AND provider = $2 AND timestamp = $3 AND sequence = $4 AND id = $5`,
		f.Symbol, f.Provider, f.Timestamp, f.Sequence, f.ID)
	if err != nil {
		return fmt.Errorf("taking a retracted price out of %s: %w", table, err)
	}
	return nil
}
