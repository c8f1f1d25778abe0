package movingaverages

import (
	"context"
	"errors"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// Average is the mean of the last Window prices of one symbol.
type Average struct {
	Provider schema.Provider `db:"provider"`
	Symbol   schema.Symbol   `db:"symbol"`
	Window   int             `db:"window_size"`
	Value    schema.Decimal  `db:"value"`
	// Timestamp is the newest event time in the window.
	Timestamp schema.Time `db:"timestamp"`
}

// Reader answers queries.
type Reader struct{ DB store.Querier }

// Average returns the current average: the one whose price is last in the log.
// A window that is not kept is computed from the prices. It returns
// projections.ErrNotFound where there is no price.
func (r Reader) Average(ctx context.Context, provider schema.Provider, symbol schema.Symbol, size int) (Average, error) {
	var average Average
	err := r.DB.Get(ctx, &average, `SELECT provider, symbol, window_size, value, timestamp FROM moving_averages
		WHERE symbol = $1 AND provider = $2 AND window_size = $3 ORDER BY id DESC LIMIT 1`, symbol, provider, size)
	if err == nil {
		return average, nil
	}
	err = projections.QueryError("the average of "+schema.MarketKey(provider, symbol), err)
	if !errors.Is(err, projections.ErrNotFound) {
		return Average{}, err
	}
	prices, readErr := processedprices.Reader(r).Last(ctx, provider, symbol, size)
	if readErr != nil {
		return Average{}, readErr
	}
	if len(prices) == 0 {
		return Average{}, err
	}
	var sum schema.Decimal
	for _, p := range prices {
		sum = sum.Add(p.Price)
	}
	return Average{provider, symbol, size, sum.Quo(len(prices)), prices[0].Timestamp}, nil
}
