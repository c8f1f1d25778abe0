package httpapi

import (
	"fmt"
	"net/http"

	"github.com/pricemill/pricemill/schema"
)

// maxSymbols is how many symbols one answer is about at the most.
const maxSymbols = 100

// pricesBody answers GET prices.
type pricesBody struct {
	Prices []knownPrice `json:"prices"` // in the order of the request
	// Missing are the symbols of which no price is known that is young enough.
	Missing []schema.Symbol `json:"missing"`
}

// knownPrice is a price of which a client may ask how old it is.
type knownPrice struct {
	priceBody
	ReceivedAt schema.Time `json:"received_at"`
}

// averagesBody answers GET moving-averages.
type averagesBody struct {
	Averages []averageBody   `json:"averages"` // in the order of the request
	Missing  []schema.Symbol `json:"missing"`
}

// several is a question about several symbols of one provider.
type several struct {
	provider schema.Provider
	named    string // the provider as the client names it; empty for the default
	symbols  []schema.Symbol
}

// readSeveral reads the provider and the symbols. The parameters that were read from q before
// it may be wrong too.
func (a *API) readSeveral(q query) (several, error) {
	asked := several{symbols: q.symbols(maxSymbols)}
	if err := q.faults.orNil(); err != nil {
		return several{}, err
	}
	asked.named, _ = q.get("provider")
	var err error
	if asked.provider, err = a.config.provider(asked.named); err != nil {
		return several{}, err
	}
	asked.symbols = a.config.symbols(asked.provider, asked.symbols)
	return asked, nil
}

// getPrices answers with the prices that are known, and asks no provider.
func (a *API) getPrices(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	const anyAge = -1
	maxAge := q.seconds("max_age", anyAge, MaxMaxAge)
	asked, err := a.readSeveral(q)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	known, err := a.ports.LatestPrices.LatestOf(ctx, asked.provider, asked.symbols)
	if err != nil {
		return fmt.Errorf("reading the latest prices of %d symbols at %s: %w", len(asked.symbols), asked.provider, err)
	}
	now := a.config.Now()
	body := pricesBody{[]knownPrice{}, []schema.Symbol{}}
	for _, symbol := range asked.symbols {
		price, found := known[symbol]
		if !found || maxAge != anyAge && now.Sub(price.ReceivedAt.Time) > maxAge {
			body.Missing = append(body.Missing, symbol)
			continue
		}
		body.Prices = append(body.Prices, knownPrice{
			priceBody{price.Symbol, price.Price, price.Timestamp, asNamed(price.Provider, asked.named)}, price.ReceivedAt})
	}
	a.markSimulated(w, asked.provider)
	return writeQuote(w, r, body)
}

// getAverages answers with the averages of the symbols that have prices.
func (a *API) getAverages(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	window := q.window(a.config.DefaultWindow)
	asked, err := a.readSeveral(q)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	known, err := a.ports.Averages.AveragesOf(ctx, asked.provider, asked.symbols, window)
	if err != nil {
		return fmt.Errorf("reading the averages of %d prices of %d symbols at %s: %w", window, len(asked.symbols), asked.provider, err)
	}
	body := averagesBody{[]averageBody{}, []schema.Symbol{}}
	for _, symbol := range asked.symbols {
		average, found := known[symbol]
		if !found {
			body.Missing = append(body.Missing, symbol)
			continue
		}
		body.Averages = append(body.Averages, averageBody{average.Symbol, window, average.Value, average.Timestamp})
	}
	a.markSimulated(w, asked.provider)
	return writeQuote(w, r, body)
}
