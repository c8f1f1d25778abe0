package processedprices

import (
	"context"
	"fmt"
	"slices"

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
	// AsOf is the row id of the last record that counts: prices and corrections that are later
	// in the log do not. 0 counts all.
	AsOf int64
	// Adjust is what becomes of each price, by its event time; nil where it stays.
	Adjust func(price schema.Decimal, at schema.Time) schema.Decimal
}

// Reader answers queries.
type Reader struct{ DB store.Querier }

// Prices returns the prices that a query selects.
func (r Reader) Prices(ctx context.Context, q Query) ([]Price, error) {
	prices, err := r.observed(ctx, q)
	if err != nil || q.Adjust == nil {
		return prices, err
	}
	for i, p := range prices {
		prices[i].Price = q.Adjust(p.Price, p.Timestamp)
	}
	return prices, nil
}

// observed is Prices without Adjust.
func (r Reader) observed(ctx context.Context, q Query) ([]Price, error) {
	if q.AsOf != 0 {
		return r.pricesAsOf(ctx, q)
	}
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

// pricesAsOf is Prices as of a place in the log.
func (r Reader) pricesAsOf(ctx context.Context, q Query) ([]Price, error) {
	facts, err := projections.PricesAsOf(ctx, r.DB, projections.SpanAsOf{Provider: q.Provider, Symbol: q.Symbol, From: q.From, Behind: q.Behind, Limit: q.Limit, AsOf: q.AsOf})
	if err != nil {
		return nil, err
	}
	prices := make([]Price, len(facts))
	for i, f := range facts {
		prices[i] = Price{f.ID, f.Price, f.Timestamp, f.Sequence, f.ReceivedAt, f.Observed, f.CorrectionID}
	}
	return prices, nil
}

// pagesAtOnce is how many queries a statement of PricesOf has at the most: few enough that
// its text is kept prepared.
const pagesAtOnce = 8

// PricesOf returns the prices that each of some queries selects, of which none is as of a place
// in the log, or adjusted. Each page is of one moment, not all of the same one.
func (r Reader) PricesOf(ctx context.Context, queries []Query) ([][]Price, error) {
	pages := make([][]Price, len(queries))
	for first := 0; first < len(queries); first += pagesAtOnce {
		some := queries[first:min(first+pagesAtOnce, len(queries))]
		var args []any
		n := 0
		for i, q := range some {
			args = append(args, i, q.Symbol, q.Provider, q.From, q.Behind.Timestamp, q.Behind.Sequence, q.Behind.ID, q.Limit)
			n++
		}
		for ; n&(n-1) != 0; n++ { // no rows, and one text less to keep
			q := some[0]
			args = append(args, 0, q.Symbol, q.Provider, q.From, q.Behind.Timestamp, q.Behind.Sequence, q.Behind.ID, 0)
		}
		var rows []struct {
			Asked int `db:"asked"`
			Price
		}
		err := r.DB.Select(ctx, &rows, store.ForEach(`SELECT CAST(? AS INTEGER) AS asked, id, price, timestamp, sequence, received_at, observed_price, correction_id
			FROM processed_prices WHERE symbol = ? AND provider = ? AND timestamp >= ? AND (timestamp, sequence, id) < (?, ?, ?)
			ORDER BY timestamp DESC, sequence DESC, id DESC LIMIT ?`, n), args...)
		if err != nil {
			return nil, projections.QueryError(fmt.Sprintf("the prices of %d series", len(queries)), err)
		}
		for _, row := range rows {
			pages[first+row.Asked] = append(pages[first+row.Asked], row.Price)
		}
	}
	for _, page := range pages { // UNION ALL promises no order
		slices.SortFunc(page, func(a, b Price) int { return b.Place().Compare(a.Place()) })
	}
	return pages, nil
}
