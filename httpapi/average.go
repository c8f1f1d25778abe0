package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// averageBody answers GET moving-average.
type averageBody struct {
	Symbol schema.Symbol `json:"symbol"`
	// WindowSize is the window that was asked for, also while there are fewer
	// prices.
	WindowSize int            `json:"window_size"`
	Value      schema.Decimal `json:"value"`
	Timestamp  schema.Time    `json:"timestamp"`
}

func (a *API) getAverage(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	if view, is := q.view(); is {
		if text, given := q.get("as_of_log"); given {
			return faults{inQuery("as_of_log", abbreviate(text)).wrong("a view across providers cannot be read as of a place in the log")}
		}
		if text, given := q.get("adjusted"); given {
			return faults{inQuery("adjusted", abbreviate(text)).wrong("a view across providers is not adjusted")}
		}
		return a.getAverageOfView(w, r, q, view)
	}
	symbol := q.symbol()
	window := q.window(a.config.DefaultWindow)
	asOf, place, adjusts := q.time("as_of"), q.asOfLog(), q.adjusted()
	if err := q.faults.orNil(); err != nil {
		return err
	}
	name, _ := q.get("provider")
	provider, err := a.config.provider(name)
	if err != nil {
		return err
	}
	symbol = a.config.symbol(provider, symbol)
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	at, err := a.locate(ctx, w, place, ofList, provider, symbol)
	if err != nil {
		return err
	}
	var average movingaverages.Average
	switch {
	case adjusts:
		f, failed := a.factors(ctx, w, provider, symbol)
		if failed != nil {
			return failed
		}
		average, err = a.averageOf(ctx, window, asOf, processedprices.Query{Provider: provider, Symbol: symbol, Adjust: f.Price})
	case at.text != "":
		average, err = a.averageOf(ctx, window, asOf, processedprices.Query{Provider: provider, Symbol: symbol, AsOf: at.of(symbol)})
	case asOf.IsZero():
		average, err = a.ports.Averages.Average(ctx, provider, symbol, window)
	default:
		average, err = a.ports.Averages.AsOf(ctx, provider, symbol, window, asOf)
	}
	if errors.Is(err, projections.ErrNotFound) {
		return a.notFoundAt(ctx, provider, symbol, "Moving average not found")
	}
	if err != nil {
		return fmt.Errorf("reading the average of %d prices of %s at %s: %w", window, symbol, provider, err)
	}
	a.markSimulated(w, provider)
	text := averageBody{average.Symbol, window, average.Value, average.Timestamp}.appendTo(make(jsonText, 0, 192))
	if adjusts {
		text = append(text[:len(text)-1], `,"adjusted":true}`...)
	}
	writeText(w, r, text)
	return nil
}

// ofList are the projections that a read as of a place in the log is from.
var ofList = []string{processedprices.Name}

// averageOf is the average up to an event time, or where that is zero, of all prices, of those
// that a query counts.
func (a *API) averageOf(ctx context.Context, window int, t schema.Time, q processedprices.Query) (movingaverages.Average, error) {
	if t.IsZero() {
		t = projections.EndOfTime
	}
	q.Behind, q.Limit = projections.Until(t), 1
	points, err := a.ports.Averages.History(ctx, window, q)
	if err != nil {
		return movingaverages.Average{}, err
	}
	if len(points) == 0 {
		return movingaverages.Average{}, projections.ErrNotFound
	}
	return movingaverages.Average{Provider: q.Provider, Symbol: q.Symbol, Window: window, Value: points[0].Value, Timestamp: points[0].Timestamp}, nil
}
