package httpapi

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/schema"
)

// symbolItem is a line of GET symbols.
type symbolItem struct {
	Symbol         schema.Symbol   `json:"symbol"`
	Provider       schema.Provider `json:"provider"`
	Count          int64           `json:"count"`
	FirstTimestamp schema.Time     `json:"first_timestamp"`
	LastTimestamp  schema.Time     `json:"last_timestamp"`
	LastPrice      schema.Decimal  `json:"last_price"`
	// Instrument is the name of the instrument in the symbol map that it is a member of.
	Instrument schema.Symbol `json:"instrument,omitempty"`
	about
	// Market is empty where nothing is known of instruments.
	Market schema.MarketState `json:"market,omitempty"`
}

// getSymbols lists the symbols of all providers where the request names none:
// unlike elsewhere, that is not the default provider.
func (a *API) getSymbols(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	limit := q.limit()
	var asked latestprices.SymbolQuery
	if name, _ := q.get("provider"); name != "" {
		provider, err := a.config.provider(name)
		if err != nil {
			return cmp.Or(q.faults.orNil(), err)
		}
		asked.Provider = provider
	}
	list := listing{r.URL.Path, string(asked.Provider)}
	if place := q.cursor(list, 2, 2); place != nil {
		asked.AfterProvider, asked.AfterSymbol = schema.Provider(place[0]), schema.Symbol(place[1])
	}
	if err := q.faults.orNil(); err != nil {
		return err
	}
	asked.Limit = limit + 1
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	symbols, err := a.ports.Symbols.Symbols(ctx, asked)
	if err != nil {
		return fmt.Errorf("listing the symbols: %w", err)
	}
	page := newPage(symbols, limit, func(s latestprices.Symbol) symbolItem {
		return symbolItem{Symbol: s.Symbol, Provider: s.Provider, Count: s.Prices, FirstTimestamp: s.First, LastTimestamp: s.Last, LastPrice: s.LastPrice,
			Instrument: a.config.SymbolMap.Of(s.Provider, s.Symbol)}
	}, func(s latestprices.Symbol) string { return list.cursor(string(s.Provider), string(s.Symbol)) })
	if err := a.describe(ctx, page.Items); err != nil {
		return err
	}
	for _, item := range page.Items {
		a.markSimulated(w, item.Provider)
	}
	linkNext(w, r, page.NextCursor)
	return writeQuote(w, r, page)
}
