package processedprices

import (
	"context"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Price is a row of the read model.
type Price struct {
	ID        int64          `db:"id"`
	Price     schema.Decimal `db:"price"`
	Timestamp schema.Time    `db:"timestamp"`
	// Sequence orders the prices of one Timestamp.
	Sequence schema.Sequence `db:"sequence"`
	// ReceivedAt is our clock when the answer was complete.
	ReceivedAt schema.Time `db:"received_at"`
	// Observed is the price as it came and CorrectionID says what changed it, where it was
	// corrected; nil where it was not.
	Observed     *schema.Decimal `db:"observed_price"`
	CorrectionID *string         `db:"correction_id"`
}

// Place is where the price stands among those of its symbol.
func (p Price) Place() projections.Place {
	return projections.Place{Timestamp: p.Timestamp, Sequence: p.Sequence, ID: p.ID}
}

// Query selects prices of one symbol at one provider, newest first.
type Query struct {
	Provider schema.Provider
	Symbol   schema.Symbol
	// Behind leaves the prices that are listed after this place.
	Behind projections.Place
	// From is the oldest event time that is wanted. The zero value is no bound.
	From schema.Time
	// Limit is how many at the most.
	Limit int
}

// Reader answers queries.
type Reader struct{ DB store.Querier }

// Prices returns the prices that a query selects.
func (r Reader) Prices(ctx context.Context, q Query) ([]Price, error) {
	var prices []Price
	err := r.DB.Select(ctx, &prices, `SELECT id, price, timestamp, sequence, received_at, observed_price, correction_id FROM processed_prices
		WHERE symbol = $1 AND provider = $2 AND timestamp >= $3 AND (timestamp, sequence, id) < ($4, $5, $6)
		ORDER BY timestamp DESC, sequence DESC, id DESC LIMIT $7`,
		q.Symbol, q.Provider, q.From, q.Behind.Timestamp, q.Behind.Sequence, q.Behind.ID, q.Limit)
	if err != nil {
		return nil, projections.QueryError("the prices of "+schema.MarketKey(q.Provider, q.Symbol), err)
	}
	return prices, nil
}
