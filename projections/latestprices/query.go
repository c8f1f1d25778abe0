package latestprices

import (
	"context"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Price is the newest price of one symbol at one provider.
type Price struct {
	Provider schema.Provider `db:"provider"`
	Symbol   schema.Symbol   `db:"symbol"`
	Price    schema.Decimal  `db:"price"`
	// Timestamp is the event time: the provider's clock.
	Timestamp schema.Time `db:"timestamp"`
	// ReceivedAt is when we last heard from the provider that this is the
	// price, by our clock.
	ReceivedAt schema.Time `db:"received_at"`
}

// Reader answers queries.
type Reader struct{ DB store.Querier }

// Latest returns the newest price, or projections.ErrNotFound.
func (r Reader) Latest(ctx context.Context, provider schema.Provider, symbol schema.Symbol) (Price, error) {
	var price Price
	err := r.DB.Get(ctx, &price, `SELECT provider, symbol, price, timestamp, received_at FROM latest_prices
		WHERE provider = $1 AND symbol = $2`, provider, symbol)
	if err != nil {
		return Price{}, projections.QueryError("the latest price of "+schema.MarketKey(provider, symbol), err)
	}
	return price, nil
}
