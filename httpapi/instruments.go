package httpapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/pricemill/pricemill/projections/instruments"
	"github.com/pricemill/pricemill/schema"
)

// headerMarket says on a price whether its instrument is traded now.
const headerMarket = "Pricemill-Market"

// about is what is known of a symbol besides its prices.
type about = schema.Instrument

// describe adds what is known of symbols.
func (a *API) describe(ctx context.Context, items []symbolItem) error {
	if a.ports.Instruments == nil || len(items) == 0 {
		return nil
	}
	markets := make([]instruments.Market, len(items))
	for i, item := range items {
		markets[i] = instruments.Market{Provider: item.Provider, Symbol: item.Symbol}
	}
	known, err := a.ports.Instruments(ctx, markets)
	if err != nil {
		return fmt.Errorf("describing symbols: %w", err)
	}
	now := schema.NewTime(a.config.Now())
	for i := range items {
		item := &items[i]
		item.about = a.mapped(item.Instrument).Or(known[i])
		item.Market = item.about.Market(now)
	}
	return nil
}

// mapped is what the symbol map says of an instrument: it goes before what providers tell.
func (a *API) mapped(name schema.Symbol) schema.Instrument {
	if name == "" {
		return schema.Instrument{}
	}
	found, err := a.config.SymbolMap.Find(name)
	if err != nil { // a name that the map gave is in it
		return schema.Instrument{}
	}
	return schema.Instrument{Currency: found.Currency, Class: found.Class}
}

// markMarket says whether an instrument is traded now. A price is answered also where that
// cannot be read.
func (a *API) markMarket(ctx context.Context, w http.ResponseWriter, provider schema.Provider, symbol schema.Symbol) {
	if a.ports.Instruments == nil {
		return
	}
	known, err := a.ports.Instruments(ctx, []instruments.Market{{Provider: provider, Symbol: symbol}})
	if err != nil {
		a.config.Logger.DebugContext(ctx, "what is known of an instrument cannot be read", "provider", provider, "symbol", symbol, "error", err)
		return
	}
	w.Header().Set(headerMarket, string(known[0].Market(schema.NewTime(a.config.Now()))))
}
