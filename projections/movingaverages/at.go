package movingaverages

import (
	"context"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// At is Reader.Average of what a Querier sees, such as a snapshot. from is the projection
// that it was read from: this one, or that of the prices.
func At(ctx context.Context, q store.Querier, provider schema.Provider, symbol schema.Symbol, size int) (average Average, from string, err error) {
	asked := kept{provider, symbol, size}
	known, err := current(ctx, q, []kept{asked})
	if err != nil {
		return Average{}, Name, projections.QueryError("the average of "+schema.MarketKey(provider, symbol), err)
	}
	if average, found := known[asked]; found {
		return average, Name, nil
	}
	average, err = Reader{db: q}.AsOf(ctx, provider, symbol, size, projections.EndOfTime)
	return average, processedprices.Name, err
}
