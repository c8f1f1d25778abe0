package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/httpapi/dashboard"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

const (
	// watchListLength is how many symbols a page of the watch list has.
	watchListLength = 200
	// sparklinePrices is how many prices a sparkline has, as in live.js.
	sparklinePrices = 60
	// pageQueries bounds the queries that one page has under way.
	pageQueries = 8
	// changePeriod is over how long a change is.
	changePeriod = 24 * time.Hour
)

const symbolPath = "/dashboard/symbol"

// symbolLink leads to the page of a symbol.
func symbolLink(provider schema.Provider, symbol schema.Symbol) string {
	return symbolPath + "?" + url.Values{"symbol": {string(symbol)}, "provider": {string(provider)}}.Encode()
}

// readWatchList reads the symbols that there are, or those of the parameter provider.
func (a *API) readWatchList(r *http.Request) (dashboard.WatchList, error) {
	view := dashboard.WatchList{Frame: a.frame("Watch list", "watchlist"), Window: a.config.DefaultWindow}
	q := query{values: r.URL.Query()}
	asked := latestprices.SymbolQuery{Limit: watchListLength + 1}
	if name, _ := q.get("provider"); name != "" {
		provider, err := a.config.provider(name)
		if err != nil {
			return view, nil // there are no symbols of such a provider
		}
		asked.Provider, view.Provider = provider, string(provider)
	}
	list := listing{"watchlist", view.Provider}
	if place := q.cursor(list, 2, 2); place != nil { // one that is none leads to the first page
		asked.AfterProvider, asked.AfterSymbol = schema.Provider(place[0]), schema.Symbol(place[1])
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	symbols, err := a.ports.Symbols.Symbols(ctx, asked)
	if err != nil {
		return view, fmt.Errorf("listing the symbols: %w", err)
	}
	if len(symbols) > watchListLength {
		symbols = symbols[:watchListLength]
		last := symbols[watchListLength-1]
		view.Next = "/?" + url.Values{"provider": {view.Provider}, "cursor": {list.cursor(string(last.Provider), string(last.Symbol))}}.Encode()
	}
	view.Rows = make([]dashboard.Row, len(symbols))
	return view, sideBySide(ctx, len(symbols), func(ctx context.Context, i int) (err error) {
		view.Rows[i], err = a.readRow(ctx, symbols[i])
		return err
	})
}

// sideBySide calls f for each number below n, pageQueries at once, and returns the
// first error. A panic is an error: in a goroutine of its own it would end the process.
func sideBySide(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pageQueries)
	for i := range n {
		group.Go(func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("panic: %v: %s", p, debug.Stack())
				}
			}()
			return f(ctx, i)
		})
	}
	return group.Wait()
}

func (a *API) readRow(ctx context.Context, s latestprices.Symbol) (dashboard.Row, error) {
	row := dashboard.Row{Symbol: s.Symbol, Provider: s.Provider, Link: symbolLink(s.Provider, s.Symbol), Simulated: a.isSimulated(s.Provider)}
	prices, err := a.ports.Prices.Prices(ctx, processedprices.Query{Provider: s.Provider, Symbol: s.Symbol,
		Behind: projections.Newest, Limit: sparklinePrices})
	if err != nil {
		return row, fmt.Errorf("reading the prices of %s at %s: %w", s.Symbol, s.Provider, err)
	}
	heights := make([]schema.Decimal, len(prices))
	for i, p := range prices {
		heights[i] = p.Price
	}
	row.Sparkline = dashboard.Sparkline(heights)
	digits := dashboard.Digits(append(heights, s.LastPrice)...)
	if row.Quote, err = a.readQuote(ctx, s, digits); err != nil {
		return row, err
	}
	average, err := a.ports.Averages.Average(ctx, s.Provider, s.Symbol, a.config.DefaultWindow)
	switch {
	case err == nil:
		row.Average = dashboard.NewFigure(average.Value, digits)
	case !errors.Is(err, projections.ErrNotFound):
		return row, fmt.Errorf("reading the average of %s at %s: %w", s.Symbol, s.Provider, err)
	}
	return row, nil
}

// readQuote compares the newest price of a symbol with the one a day before it, or
// with the first there is. Both have at least so many digits.
func (a *API) readQuote(ctx context.Context, s latestprices.Symbol, digits int) (dashboard.Quote, error) {
	age := a.config.Now().Sub(s.Last.Time)
	quote := dashboard.Quote{Price: dashboard.Padded(s.LastPrice, digits), Timestamp: s.Last, Age: dashboard.Age(age), Stale: age >= dashboard.StaleAfter}
	at := s.Last.Add(-changePeriod)
	if at.Before(s.First.Time) {
		at = s.First
	}
	earlier, err := a.ports.Prices.Prices(ctx, processedprices.Query{Provider: s.Provider, Symbol: s.Symbol,
		Behind: projections.Until(at), Limit: 1})
	if err != nil {
		return quote, fmt.Errorf("reading an earlier price of %s at %s: %w", s.Symbol, s.Provider, err)
	}
	if len(earlier) > 0 { // the tables are not of one moment
		quote.Change = dashboard.NewChange(s.LastPrice, earlier[0].Price, earlier[0].Timestamp, digits)
	}
	return quote, nil
}
