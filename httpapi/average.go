package httpapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/movingaverages"
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
		return a.getAverageOfView(w, r, q, view)
	}
	symbol := q.symbol()
	window := q.window(a.config.DefaultWindow)
	asOf := q.time("as_of")
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
	var average movingaverages.Average
	if asOf.IsZero() {
		average, err = a.ports.Averages.Average(ctx, provider, symbol, window)
	} else {
		average, err = a.ports.Averages.AsOf(ctx, provider, symbol, window, asOf)
	}
	if errors.Is(err, projections.ErrNotFound) {
		return a.notFoundAt(ctx, provider, symbol, "Moving average not found")
	}
	if err != nil {
		return fmt.Errorf("reading the average of %d prices of %s at %s: %w", window, symbol, provider, err)
	}
	a.markSimulated(w, provider)
	writeText(w, r, averageBody{average.Symbol, window, average.Value, average.Timestamp}.appendTo(make(jsonText, 0, 192)))
	return nil
}
