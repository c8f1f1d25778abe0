package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/parquet"
)

// pastPrice is a line of GET history.
type pastPrice struct {
	Symbol     schema.Symbol   `json:"symbol"`
	Provider   schema.Provider `json:"provider"`
	Price      schema.Decimal  `json:"price"`
	Timestamp  schema.Time     `json:"timestamp"`
	ReceivedAt schema.Time     `json:"received_at"`
	// What a corrected price was before, and the id of its correction.
	ObservedPrice *schema.Decimal `json:"observed_price,omitempty"`
	CorrectionID  *string         `json:"correction_id,omitempty"`
}

func (p pastPrice) row() []any {
	return []any{string(p.Symbol), string(p.Provider), p.Price, p.Timestamp, p.ReceivedAt}
}

// pastAverage is a line of GET moving-average/history.
type pastAverage struct {
	Symbol     schema.Symbol   `json:"symbol"`
	Provider   schema.Provider `json:"provider"`
	WindowSize int             `json:"window_size"`
	Value      schema.Decimal  `json:"value"`
	Timestamp  schema.Time     `json:"timestamp"`
}

func (a pastAverage) row() []any {
	return []any{string(a.Symbol), string(a.Provider), int64(a.WindowSize), a.Value, a.Timestamp}
}

const historyPath = "/api/v1/prices/history"

// ofPrices takes the place in the listing of prices that their window has in that of averages.
var ofPrices = []string{"0"}

// historyQuery is what a history route asks for.
type historyQuery struct {
	processedprices.Query
	list listing
	asOf asOf
	// adjusts says that prices are to be adjusted.
	adjusts bool
}

// readHistoryQuery reads the parameters of a history. more reads those that only
// this one has, and returns what of them decides which rows there are. names are the
// projections that it is read from, where it can be read as of a place in the log; w is then
// told of that place.
func (a *API) readHistoryQuery(w http.ResponseWriter, r *http.Request, more func(*query) []string, names ...string) (historyQuery, error) {
	q := query{values: r.URL.Query()}
	var asked historyQuery
	asked.Symbol = q.symbol()
	own := more(&q)
	var place asOfLog
	if len(names) > 0 {
		place = q.asOfLog()
		asked.adjusts = q.adjusted()
	}
	if asked.adjusts {
		own = append(slices.Clone(own), "adjusted")
	}
	from, to := q.time("from"), q.time("to")
	if text, given := q.get("to"); given && len(q.faults) == 0 && !to.After(from) {
		q.faults = append(q.faults, inQuery("to", text).notAfter(from.Format(time.RFC3339Nano)))
	}
	asked.From, asked.Limit, asked.Behind = from, q.limit(), projections.Newest
	if !to.IsZero() {
		asked.Behind = projections.Before(to)
	}
	name, _ := q.get("provider")
	provider, err := a.config.provider(name)
	if err == nil && place.text != "" && len(q.faults) == 0 {
		ctx, cancel := withQueryTimeout(r)
		defer cancel()
		asked.asOf, err = a.locate(ctx, w, place, names, provider, a.config.symbol(provider, asked.Symbol))
		own = append(slices.Clone(own), asked.asOf.text)
	}
	if err == nil {
		asked.locate(a.config, provider, r.URL.Path, own, from, to)
		if text, given := q.get("cursor"); given && !asked.continueAt(text) {
			q.faults = append(q.faults, inQuery("cursor", text).notCursor())
		}
	}
	if faults := q.faults.orNil(); faults != nil {
		return historyQuery{}, faults
	}
	return asked, err
}

// locate sets whose rows are asked for, and the listing that cursors are of; own is what else
// decides which rows there are.
func (asked *historyQuery) locate(config Config, provider schema.Provider, path string, own []string, from, to schema.Time) {
	asked.Provider, asked.Symbol = provider, config.symbol(provider, asked.Symbol)
	asked.list = listing{path, string(provider), string(asked.Symbol)}
	asked.list = append(append(asked.list, own...), from.Text(), to.Text())
	asked.AsOf = asked.asOf.of(asked.Symbol)
}

// continueAt continues at a cursor, and reports whether it is one of this list.
func (asked *historyQuery) continueAt(cursor string) bool {
	place, ok := asked.list.place(cursor, 2, 3)
	if !ok {
		return false
	}
	at, timeErr := schema.ParseTime(place[0])
	id, idErr := strconv.ParseInt(place[1], 10, 64)
	sequence, inOrder := schema.Sequence(0), true
	if len(place) == 3 {
		sequence, inOrder = schema.ParseSequence(place[2])
	}
	if timeErr != nil || idErr != nil || !inOrder || at.Year() < 1 || at.Year() > 9999 {
		return false
	}
	asked.Behind = asked.Behind.Earlier(projections.Place{Timestamp: at, Sequence: sequence, ID: id})
	return true
}

// cursorOf leads to what is listed after a place. Most places have no sequence.
func (asked historyQuery) cursorOf(p projections.Place) string {
	parts := []string{p.Timestamp.Text(), strconv.FormatInt(p.ID, 10)}
	if p.Sequence != 0 {
		parts = append(parts, strconv.FormatInt(int64(p.Sequence), 10))
	}
	return asked.list.cursor(parts...)
}

// oneMore is the query for a page and the row that tells whether there is
// another.
func (asked historyQuery) oneMore() processedprices.Query {
	q := asked.Query
	q.Limit++
	return q
}

// page is the page of the prices that oneMore found.
func (asked historyQuery) page(prices []processedprices.Price) listBody[pastPrice] {
	return newPage(prices, asked.Limit, func(p processedprices.Price) pastPrice {
		return pastPrice{asked.Symbol, asked.Provider, p.Price, p.Timestamp, p.ReceivedAt, p.Observed, p.CorrectionID}
	}, func(p processedprices.Price) string { return asked.cursorOf(p.Place()) })
}

// adjust has the prices of a query adjusted, if they are to be.
func (a *API) adjust(ctx context.Context, w http.ResponseWriter, asked *historyQuery) error {
	if !asked.adjusts {
		return nil
	}
	f, err := a.factors(ctx, w, asked.Provider, asked.Symbol)
	asked.Adjust = f.Price
	return err
}

func (a *API) getHistory(w http.ResponseWriter, r *http.Request) error {
	asked, err := a.readHistoryQuery(w, r, func(*query) []string { return ofPrices }, processedprices.Name)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	if err := a.adjust(ctx, w, &asked); err != nil {
		return err
	}
	prices, err := a.ports.Prices.Prices(ctx, asked.oneMore())
	if err != nil {
		return fmt.Errorf("listing the prices of %s at %s: %w", asked.Symbol, asked.Provider, err)
	}
	page := asked.page(prices)
	page.Adjusted = asked.adjusts
	if err := a.markList(ctx, w, asked.Provider, asked.Symbol, len(page.Items)); err != nil {
		return err
	}
	return writeSeries(w, r, page, PriceColumns())
}

func (a *API) getAverageHistory(w http.ResponseWriter, r *http.Request) error {
	window := 0
	asked, err := a.readHistoryQuery(w, r, func(q *query) []string {
		window = q.window(a.config.DefaultWindow)
		return []string{strconv.Itoa(window)}
	}, processedprices.Name)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	if err := a.adjust(ctx, w, &asked); err != nil {
		return err
	}
	points, err := a.ports.Averages.History(ctx, window, asked.oneMore())
	if err != nil {
		return fmt.Errorf("listing the averages of %d prices of %s at %s: %w", window, asked.Symbol, asked.Provider, err)
	}
	page := newPage(points, asked.Limit, func(p movingaverages.Point) pastAverage {
		return pastAverage{asked.Symbol, asked.Provider, window, p.Value, p.Timestamp}
	}, func(p movingaverages.Point) string { return asked.cursorOf(p.Place) })
	page.Adjusted = asked.adjusts
	if err := a.markList(ctx, w, asked.Provider, asked.Symbol, len(page.Items)); err != nil {
		return err
	}
	return writeSeries(w, r, page, []parquet.Column{symbolColumn, providerColumn, {Name: "window_size", Type: parquet.Int},
		{Name: "value", Type: parquet.Decimal}, timestampColumn})
}
