package latestprices

import (
	"context"
	"database/sql"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// At is Reader.Latest of what a Querier sees, such as a snapshot.
func At(ctx context.Context, q store.Querier, provider schema.Provider, symbol schema.Symbol) (Price, error) {
	asked := market{provider, symbol}
	known, err := latest(ctx, q, []market{asked})
	price, found := known[asked]
	if err == nil && !found {
		err = sql.ErrNoRows
	}
	if err != nil {
		return Price{}, projections.QueryError("the latest price of "+schema.MarketKey(provider, symbol), err)
	}
	return price, nil
}
