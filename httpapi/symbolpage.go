package httpapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/httpapi/chart"
	"github.com/pricemill/pricemill/httpapi/dashboard"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/live"
	"github.com/pricemill/pricemill/schema"
)

// historyLength is how many prices the page of a symbol lists.
const historyLength = 50

// The sizes of the chart on the page of a symbol, as in the style sheet.
const (
	pageChartWidth, pageChartHeight     = 1080, 420
	narrowChartWidth, narrowChartHeight = 480, 320
)

// period is how far back a chart goes.
type period struct {
	name, text string
	length     time.Duration // 0: all there is
}

var periods = []period{{"all", "All", 0}, {"15m", "15 min", 15 * time.Minute}, {"1h", "1 hour", time.Hour}, {"1d", "1 day", 24 * time.Hour},
	{"1w", "1 week", 7 * 24 * time.Hour}, {"1m", "1 month", 30 * 24 * time.Hour}, {"1y", "1 year", 365 * 24 * time.Hour}}

// symbolQuery is what a request for the page of a symbol asks for.
type symbolQuery struct {
	symbol   schema.Symbol
	provider schema.Provider
	period   period
	interval string
	kind     chart.Kind
	window   int
	lines    []string
	history  historyQuery
}

func (a *API) readSymbolQuery(r *http.Request) (symbolQuery, error) {
	var asked symbolQuery
	names := make([]string, len(periods))
	for i, p := range periods {
		names[i] = p.name
	}
	history, err := a.readHistoryQuery(nil, r, func(q *query) []string {
		asked.period = periods[slices.Index(names, q.oneOf("period", names...))]
		asked.interval = q.oneOf("interval", intervalNames()...)
		asked.kind = chart.Kind(q.oneOf("kind", string(chart.Lines), string(chart.Candles)))
		asked.window = q.window(a.config.DefaultWindow)
		return []string{symbolPath}
	})
	if err != nil {
		return asked, err
	}
	asked.symbol, asked.provider, asked.history = history.Symbol, history.Provider, history
	asked.history.Limit = historyLength
	values := r.URL.Query()
	if !values.Has("chosen") {
		asked.lines = []string{averageLine}
	}
	for _, name := range a.chartLines() {
		if slices.Contains(values["lines"], name) && !slices.Contains(asked.lines, name) {
			asked.lines = append(asked.lines, name)
		}
	}
	return asked, nil
}

// readSymbolPage reads all that the page of a symbol shows.
func (a *API) readSymbolPage(r *http.Request) (dashboard.Symbol, error) {
	asked, err := a.readSymbolQuery(r)
	if err != nil {
		return dashboard.Symbol{}, err
	}
	history := url.Values{"symbol": {string(asked.symbol)}, "provider": {string(asked.provider)}, "limit": {strconv.Itoa(maxLimit)}}.Encode()
	view := dashboard.Symbol{Frame: a.frame(string(asked.symbol), "symbol"), Symbol: asked.symbol, Provider: asked.provider,
		Simulated: a.isSimulated(asked.provider), Controls: a.controls(asked), Charts: a.charts(asked), Events: a.events(asked),
		CSV: historyCSVPath + "?" + history, Parquet: historyParquetPath + "?" + history}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	found, err := a.ports.Symbols.Symbols(ctx, latestprices.SymbolQuery{Provider: asked.provider, Symbol: asked.symbol, Limit: 1})
	if err != nil {
		return view, fmt.Errorf("reading symbol %s at %s: %w", asked.symbol, asked.provider, err)
	}
	others, err := a.otherHolders(ctx, asked.provider, asked.symbol)
	if err != nil {
		return view, err
	}
	for _, provider := range others {
		view.Others = append(view.Others, dashboard.Link{Text: string(provider), URL: symbolLink(provider, asked.symbol)})
	}
	if view.Known = len(found) > 0; !view.Known {
		return view, nil
	}
	digits, err := a.readPast(ctx, r, asked, &view)
	if err != nil {
		return view, err
	}
	if view.Quote, err = a.readQuote(ctx, found[0], digits); err != nil {
		return view, err
	}
	view.Indicators, err = a.readIndicators(ctx, asked, digits)
	return view, err
}

// readPast reads the lines of the history, and returns the digits that its prices need.
func (a *API) readPast(ctx context.Context, r *http.Request, asked symbolQuery, view *dashboard.Symbol) (digits int, err error) {
	prices, err := a.ports.Prices.Prices(ctx, asked.history.oneMore())
	if err != nil {
		return 0, fmt.Errorf("listing the prices of %s at %s: %w", asked.symbol, asked.provider, err)
	}
	if len(prices) > historyLength {
		prices = prices[:historyLength]
		values := r.URL.Query()
		values.Set("cursor", asked.history.cursorOf(prices[historyLength-1].Place()))
		view.Older = symbolPath + "?" + values.Encode()
	}
	for _, p := range prices {
		digits = max(digits, dashboard.Digits(p.Price))
	}
	for _, p := range prices {
		view.History = append(view.History, dashboard.Past{Timestamp: p.Timestamp, ReceivedAt: p.ReceivedAt, Price: dashboard.Padded(p.Price, digits)})
	}
	return digits, nil
}

// readIndicators reads the newest values of all that a chart could draw.
func (a *API) readIndicators(ctx context.Context, asked symbolQuery, digits int) ([]dashboard.Indicator, error) {
	var all []dashboard.Indicator
	average, err := a.ports.Averages.Average(ctx, asked.provider, asked.symbol, asked.window)
	switch {
	case err == nil:
		all = append(all, dashboard.Indicator{Name: "average " + strconv.Itoa(asked.window), Value: dashboard.NewFigure(average.Value, digits)})
	case !errors.Is(err, projections.ErrNotFound):
		return nil, fmt.Errorf("reading the average of %s at %s: %w", asked.symbol, asked.provider, err)
	}
	for _, name := range a.chartLines()[1:] {
		d := a.ports.Indicators[name].Indicator()
		for _, parameters := range variants(d) {
			points, err := a.ports.Indicators[name].Points(ctx, projections.IndicatorQuery{Provider: asked.provider, Symbol: asked.symbol,
				Parameters: parameters, Behind: projections.Newest, Limit: 1})
			if err != nil {
				return nil, fmt.Errorf("reading indicator %s of %s at %s: %w", name, asked.symbol, asked.provider, err)
			}
			for c, column := range d.Columns {
				if !isDrawn(column) || len(points) == 0 {
					continue
				}
				if value, known := points[0].Values[c].(schema.Decimal); known {
					all = append(all, dashboard.Indicator{Name: columnLabel(name, d, parameters, column),
						Value: dashboard.NewFigure(value, digits)})
				}
			}
		}
	}
	return all, nil
}

// chooses are the parameters of the page that its forms and links set.
func (q symbolQuery) chooses() url.Values {
	return url.Values{"symbol": {string(q.symbol)}, "provider": {string(q.provider)}, "interval": {q.interval}, "kind": {string(q.kind)},
		"window": {strconv.Itoa(q.window)}, "lines": q.lines, "period": {q.period.name}, "chosen": {"yes"}}
}

func (a *API) controls(asked symbolQuery) dashboard.Controls {
	c := dashboard.Controls{Window: asked.window, Period: asked.period.name}
	for _, p := range periods {
		values := asked.chooses()
		values.Set("period", p.name)
		c.Periods = append(c.Periods, dashboard.Link{Text: p.text, URL: symbolPath + "?" + values.Encode(), Current: p == asked.period})
	}
	for _, name := range intervalNames() {
		c.Intervals = append(c.Intervals, dashboard.Choice{Name: name, Text: name, Chosen: name == asked.interval})
	}
	for _, kind := range []chart.Kind{chart.Lines, chart.Candles} {
		c.Kinds = append(c.Kinds, dashboard.Choice{Name: string(kind), Text: string(kind), Chosen: kind == asked.kind})
	}
	for _, name := range a.chartLines() {
		c.Lines = append(c.Lines, dashboard.Choice{Name: name, Text: name, Chosen: slices.Contains(asked.lines, name)})
	}
	return c
}

// events are those of the stream that change what the page shows: each comes once its read
// model has applied a price.
func (a *API) events(asked symbolQuery) string {
	wanted := []string{live.PriceEvent, live.AverageEvent + ":" + strconv.Itoa(asked.window)}
	for _, name := range a.ports.Live.Kinds().Names() {
		switch {
		case name == live.CandleEvent && slices.Contains(a.candleIntervals(), asked.interval):
			wanted = append(wanted, name+":"+asked.interval)
		case name == live.CandleEvent || name != averageLine && slices.Contains(a.chartLines(), name):
			wanted = append(wanted, name)
		}
	}
	return strings.Join(wanted[:min(maxPushEvents, len(wanted))], ",")
}

// charts are the addresses of the pictures.
func (a *API) charts(asked symbolQuery) dashboard.Charts {
	address := func(theme chart.Theme, width, height int) string {
		values := url.Values{"symbol": {string(asked.symbol)}, "provider": {string(asked.provider)}, "interval": {asked.interval},
			"kind": {string(asked.kind)}, "theme": {string(theme)}, "width": {strconv.Itoa(width)}, "height": {strconv.Itoa(height)}}
		if len(asked.lines) > 0 {
			values.Set("indicators", strings.Join(asked.lines, ","))
			values.Set("window", strconv.Itoa(asked.window))
		}
		if asked.period.length > 0 {
			values.Set("from", schema.NewTime(a.config.Now().Add(-asked.period.length).Truncate(time.Minute)).Text())
		}
		return "/api/v1/prices/chart.svg?" + values.Encode()
	}
	return dashboard.Charts{Light: address(chart.Light, pageChartWidth, pageChartHeight), Dark: address(chart.Dark, pageChartWidth, pageChartHeight),
		NarrowLight: address(chart.Light, narrowChartWidth, narrowChartHeight), NarrowDark: address(chart.Dark, narrowChartWidth, narrowChartHeight)}
}

// Paths of the history as a file.
const (
	historyCSVPath     = "/dashboard/history.csv"
	historyParquetPath = "/dashboard/history.parquet"
)

// historyParameters are those of GET history.
var historyParameters = []string{"symbol", "provider", "from", "to", "limit", "cursor"}

// historyFile is the history as a file of a type: a link cannot ask for one by a header.
func (a *API) historyFile(media, name string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		asked := r.Clone(r.Context())
		// The link to the next page names the route that takes no other parameters.
		asked.URL.Path = historyPath
		query := asked.URL.Query()
		maps.DeleteFunc(query, func(name string, _ []string) bool { return !slices.Contains(historyParameters, name) })
		asked.URL.RawQuery = query.Encode()
		asked.Header.Set("Accept", media)
		w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
		if err := a.getHistory(w, asked); err != nil {
			w.Header().Del("Content-Disposition")
			return a.writeFailure(w, r, err)
		}
		return nil
	}
}
