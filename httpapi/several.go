package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// maxSymbols is how many symbols one answer is about at the most.
const maxSymbols = 100

// knownPrice is a price of which a client may ask how old it is.
type knownPrice struct {
	priceBody
	ReceivedAt schema.Time `json:"received_at"`
}

// found is the answer to a question about several symbols: what is known, in the order of
// the request, and which symbols nothing is known of.
type found struct {
	text    jsonText
	buffer  *jsonText // of text, back to texts when it is written
	begun   bool
	missing []schema.Symbol
}

// texts are the texts of answers that are written.
var texts = sync.Pool{New: func() any { return new(jsonText) }}

func newFound(begin string) *found {
	buffer := texts.Get().(*jsonText)
	return &found{text: append((*buffer)[:0], begin...), buffer: buffer}
}

// next begins another line.
func (f *found) next() {
	if f.begun {
		f.text = append(f.text, ',')
	}
	f.begun = true
}

func (f *found) write(w http.ResponseWriter, r *http.Request) error {
	text := append(f.text, `],"missing":[`...)
	for i, symbol := range f.missing {
		if i > 0 {
			text = append(text, ',')
		}
		text = text.string(string(symbol))
	}
	text = append(text, "]}"...)
	writeText(w, r, text)
	*f.buffer = text
	texts.Put(f.buffer)
	return nil
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
	place := q.asOfLog()
	asked, err := a.readSeveral(q)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	at, err := a.locate(ctx, w, place, ofList, asked.provider, asked.symbols...)
	if err != nil {
		return err
	}
	known, err := a.latestOf(ctx, asked, at)
	if err != nil {
		return fmt.Errorf("reading the latest prices of %d symbols at %s: %w", len(asked.symbols), asked.provider, err)
	}
	now := a.config.Now()
	named := asNamed(asked.provider, asked.named)
	found := newFound(`{"prices":[`)
	for i, symbol := range asked.symbols {
		price := known[i]
		if price == nil || maxAge != anyAge && now.Sub(price.ReceivedAt.Time) > maxAge {
			found.missing = append(found.missing, symbol)
			continue
		}
		found.next()
		found.text = knownPrice{priceBody{price.Symbol, price.Price, price.Timestamp, named}, price.ReceivedAt}.appendTo(found.text)
	}
	a.markSimulated(w, asked.provider)
	return found.write(w, r)
}

// getAverages answers with the averages of the symbols that have prices.
func (a *API) getAverages(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	window := q.window(a.config.DefaultWindow)
	place := q.asOfLog()
	asked, err := a.readSeveral(q)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	at, err := a.locate(ctx, w, place, ofList, asked.provider, asked.symbols...)
	if err != nil {
		return err
	}
	known, err := a.averagesOf(ctx, asked, window, at)
	if err != nil {
		return fmt.Errorf("reading the averages of %d prices of %d symbols at %s: %w", window, len(asked.symbols), asked.provider, err)
	}
	found := newFound(`{"averages":[`)
	for i, symbol := range asked.symbols {
		average := known[i]
		if average == nil {
			found.missing = append(found.missing, symbol)
			continue
		}
		found.next()
		found.text = averageBody{average.Symbol, window, average.Value, average.Timestamp}.appendTo(found.text)
	}
	a.markSimulated(w, asked.provider)
	return found.write(w, r)
}

// latestOf are the newest prices; as of a place in the log, those of the list of prices.
func (a *API) latestOf(ctx context.Context, asked several, at asOf) ([]*latestprices.Price, error) {
	if at.text == "" {
		return a.ports.LatestPrices.LatestOf(ctx, asked.provider, asked.symbols)
	}
	known := make([]*latestprices.Price, len(asked.symbols))
	for i, symbol := range asked.symbols {
		newest, err := a.ports.Prices.Prices(ctx, processedprices.Query{Provider: asked.provider, Symbol: symbol, Behind: projections.Newest, Limit: 1, AsOf: at.of(symbol)})
		if err != nil {
			return nil, err
		}
		for _, p := range newest {
			known[i] = &latestprices.Price{Provider: asked.provider, Symbol: symbol, Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: p.ReceivedAt}
		}
	}
	return known, nil
}

// averagesOf are the averages; nil where a symbol has none.
func (a *API) averagesOf(ctx context.Context, asked several, window int, at asOf) ([]*movingaverages.Average, error) {
	if at.text == "" {
		return a.ports.Averages.AveragesOf(ctx, asked.provider, asked.symbols, window)
	}
	known := make([]*movingaverages.Average, len(asked.symbols))
	for i, symbol := range asked.symbols {
		average, err := a.averageOf(ctx, window, schema.Time{}, processedprices.Query{Provider: asked.provider, Symbol: symbol, AsOf: at.of(symbol)})
		switch {
		case err == nil:
			known[i] = &average
		case !errors.Is(err, projections.ErrNotFound):
			return nil, err
		}
	}
	return known, nil
}
