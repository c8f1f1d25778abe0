package httpapi

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/httpapi/chart"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// Bounds of a chart.
const (
	maxBars        = 1000 // the newest of a period
	maxChartPrices = 5000 // the newest of a period, where no candles are kept
	maxIndicators  = 200  // the length of the parameter indicators
)

// What a request for a chart means that does not say.
const (
	defaultChartWidth  = 960
	defaultChartHeight = 400
	autoInterval       = "auto"
)

const (
	// averageLine is the name of the moving average among the indicators of a chart.
	averageLine = "average"
	// candlesIndicator is the indicator that has bars.
	candlesIndicator = "candles"
)

const indicatorsPattern = `^[a-z][a-z0-9-]*(,[a-z][a-z0-9-]*)*$`

var indicatorsForm = regexp.MustCompile(indicatorsPattern)

// svgPolicy lets an SVG that is opened by itself have its colours, which are
// attributes of its elements, and nothing else.
const svgPolicy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

var chartContent = map[chart.Format]string{chart.SVG: "image/svg+xml", chart.PNG: "image/png"}

// chartQuery is what a request for a chart asks for.
type chartQuery struct {
	historyQuery
	interval      string // one of chart.Intervals, or autoInterval
	kind          chart.Kind
	theme         chart.Theme
	window        int
	indicators    []string
	width, height int
}

// oneOf reads a parameter that has one of some values, the first of which is the
// default.
func (q *query) oneOf(name string, values ...string) string {
	text, given := q.get(name)
	if !given {
		return values[0]
	}
	if !slices.Contains(values, text) {
		q.faults = append(q.faults, inQuery(name, text).notOneOf(choices(values)))
		return values[0]
	}
	return text
}

func intervalNames() []string {
	names := []string{autoInterval}
	for _, interval := range chart.Intervals {
		names = append(names, interval.Name)
	}
	return names
}

// indicatorList reads the names in the parameter indicators.
func (q *query) indicatorList() []string {
	text, given := q.get("indicators")
	switch {
	case !given:
		return nil
	case len(text) > maxIndicators:
		q.faults = append(q.faults, inQuery("indicators", text).longString(maxIndicators))
	case !indicatorsForm.MatchString(text):
		q.faults = append(q.faults, inQuery("indicators", text).mismatch(indicatorsPattern))
	}
	names := strings.Split(text, ",")
	slices.Sort(names)
	return slices.Compact(names)
}

func (a *API) readChartQuery(r *http.Request) (chartQuery, error) {
	var asked chartQuery
	var err error
	asked.historyQuery, err = a.readHistoryQuery(nil, r, func(q *query) []string {
		asked.interval = q.oneOf("interval", intervalNames()...)
		asked.kind = chart.Kind(q.oneOf("kind", string(chart.Lines), string(chart.Candles)))
		asked.theme = chart.Theme(q.oneOf("theme", string(chart.Light), string(chart.Dark)))
		asked.window = q.window(a.config.DefaultWindow)
		asked.indicators = q.indicatorList()
		asked.width = int(q.integer("width", defaultChartWidth, chart.MinWidth, chart.MaxWidth))
		asked.height = int(q.integer("height", defaultChartHeight, chart.MinHeight, chart.MaxHeight))
		return nil
	})
	if err != nil {
		return chartQuery{}, err
	}
	for _, name := range asked.indicators {
		if !slices.Contains(a.chartLines(), name) {
			return chartQuery{}, newError(codeNotFound, "There is no indicator %q to draw; there are %s", name, strings.Join(a.chartLines(), ", "))
		}
	}
	return asked, nil
}

// getChart makes the handler that draws charts in a format.
func (a *API) getChart(format chart.Format) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		_, picture, err := a.readPicture(w, r)
		if err != nil {
			return err
		}
		image, err := picture.Draw(format)
		if err != nil {
			return err
		}
		if format == chart.SVG {
			w.Header().Set("Content-Security-Policy", svgPolicy)
		}
		newDocument(chartContent[format], image).write(w, r, cacheQuote)
		return nil
	}
}

// readPicture reads what a request for a chart asks for, and sets the headers that every
// chart has.
func (a *API) readPicture(w http.ResponseWriter, r *http.Request) (chartQuery, chart.Picture, error) {
	asked, err := a.readChartQuery(r)
	if err != nil {
		return asked, chart.Picture{}, err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	picture, err := a.readChart(ctx, asked)
	if err != nil {
		return asked, picture, err
	}
	return asked, picture, a.markList(ctx, w, asked.Provider, asked.Symbol, len(picture.Bars))
}

// readChart reads what a chart shows.
func (a *API) readChart(ctx context.Context, asked chartQuery) (chart.Picture, error) {
	bars, interval, err := a.readBars(ctx, asked)
	if err != nil {
		return chart.Picture{}, err
	}
	p := chart.Picture{Title: string(asked.Symbol), Bars: bars, Interval: interval, Kind: asked.kind,
		Theme: asked.theme, Width: asked.width, Height: asked.height}
	about := []string{string(asked.Provider), interval.Name, "UTC"}
	if a.isSimulated(asked.Provider) && asked.Provider != "simulated" { // whose name says it
		about = append(about, "simulated")
	}
	p.Subtitle = strings.Join(about, " · ")
	if len(bars) == 0 {
		return p, nil
	}
	asked.From = bars[0].Start
	for _, name := range asked.indicators {
		lines, err := a.readLines(ctx, asked, name, bars, interval.Length)
		if err != nil {
			return chart.Picture{}, err
		}
		p.Lines = append(p.Lines, lines...)
	}
	return p, nil
}

// readBars reads the bars from the candles that are kept, or else makes them from
// prices.
func (a *API) readBars(ctx context.Context, asked chartQuery) ([]chart.Bar, chart.Interval, error) {
	interval, named := chart.Named(asked.interval)
	if named && slices.Contains(a.candleIntervals(), interval.Name) {
		bars, err := a.readCandles(ctx, asked, interval.Name)
		return bars, interval, err
	}
	q := asked.Query
	q.Limit = maxChartPrices
	found, err := a.ports.Prices.Prices(ctx, q)
	if err != nil {
		return nil, interval, fmt.Errorf("reading the prices of %s at %s: %w", asked.Symbol, asked.Provider, err)
	}
	prices := chartPrices(found, func(p processedprices.Price) (schema.Time, schema.Decimal) { return p.Timestamp, p.Price })
	whole := len(prices) < maxChartPrices
	if !named {
		interval = chart.Intervals[0]
		if n := len(prices); n > 0 {
			interval = chart.Fitting(prices[0].Timestamp.Sub(prices[n-1].Timestamp.Time))
		}
	}
	bars := chart.NewBars(prices, interval.Length)
	if !whole && len(bars) > 1 {
		bars = bars[1:] // some of its prices are missing
	}
	return bars[max(0, len(bars)-maxBars):], interval, nil
}

func chartPrices[T any](rows []T, of func(T) (schema.Time, schema.Decimal)) []chart.Price {
	prices := make([]chart.Price, len(rows))
	for i, row := range rows {
		prices[i].Timestamp, prices[i].Price = of(row)
	}
	return prices
}

// candleIntervals are those of which candles are kept; none where they are switched
// off.
func (a *API) candleIntervals() []string {
	if candles, on := a.ports.Indicators[candlesIndicator]; on {
		for _, p := range candles.Indicator().Parameters {
			if p.Name == "interval" {
				return p.Choices
			}
		}
	}
	return nil
}

func (a *API) readCandles(ctx context.Context, asked chartQuery, interval string) ([]chart.Bar, error) {
	points, err := a.ports.Indicators[candlesIndicator].Points(ctx, projections.IndicatorQuery{Provider: asked.Provider, Symbol: asked.Symbol,
		Parameters: map[string]string{"interval": interval}, Behind: asked.Behind, From: asked.From, Limit: maxBars})
	if err != nil {
		return nil, fmt.Errorf("reading the candles of %s at %s: %w", asked.Symbol, asked.Provider, err)
	}
	slices.Reverse(points)
	bars := make([]chart.Bar, len(points))
	for i, p := range points {
		bars[i].Start = p.Timestamp
		for c, into := range []*schema.Decimal{&bars[i].Open, &bars[i].High, &bars[i].Low, &bars[i].Close} {
			*into, _ = p.Values[c].(schema.Decimal)
		}
		if volume, said := p.Values[4].(schema.Decimal); said {
			bars[i].Volume = &volume
		}
	}
	return bars, nil
}

// drawn are the columns of an indicator that are prices, whose lines a chart has.
var drawn = []string{"value", "upper", "middle", "lower"}

// chartLines are the names that the parameter indicators may have.
func (a *API) chartLines() []string {
	names := []string{averageLine}
	for _, name := range slices.Sorted(maps.Keys(a.ports.Indicators)) {
		if slices.ContainsFunc(a.ports.Indicators[name].Indicator().Columns, isDrawn) {
			names = append(names, name)
		}
	}
	return names
}

func isDrawn(c projections.Column) bool {
	return c.Type == projections.DecimalColumn && slices.Contains(drawn, c.Name)
}

// readLines reads the lines of an indicator.
func (a *API) readLines(ctx context.Context, asked chartQuery, name string, bars []chart.Bar, length time.Duration) ([]chart.Line, error) {
	if name != averageLine {
		return a.readIndicatorLines(ctx, asked, name, bars, length)
	}
	q := asked.Query
	q.Limit = maxChartPrices
	points, err := a.ports.Averages.History(ctx, asked.window, q)
	if err != nil {
		return nil, fmt.Errorf("reading the averages of %s at %s: %w", asked.Symbol, asked.Provider, err)
	}
	values := make([]chart.Price, len(points))
	for i, p := range points {
		values[i] = chart.Price{Timestamp: p.Timestamp, Price: p.Value}
	}
	label := "Average " + strconv.Itoa(asked.window)
	return []chart.Line{{Name: label, Label: label, Values: chart.Align(bars, values, length)}}, nil
}

// readIndicatorLines reads one line for each column of prices. Where an indicator has
// a parameter with several values, such as the period of an average, each has its
// own.
func (a *API) readIndicatorLines(ctx context.Context, asked chartQuery, name string, bars []chart.Bar, length time.Duration) ([]chart.Line, error) {
	indicator := a.ports.Indicators[name]
	d := indicator.Indicator()
	var lines []chart.Line
	for _, parameters := range variants(d) {
		points, err := indicator.Points(ctx, projections.IndicatorQuery{Provider: asked.Provider, Symbol: asked.Symbol, Parameters: parameters,
			Behind: asked.Behind, From: asked.From, Limit: maxChartPrices})
		if err != nil {
			return nil, fmt.Errorf("reading indicator %s of %s at %s: %w", name, asked.Symbol, asked.Provider, err)
		}
		legend := labelOf(name, d, parameters)
		for c, column := range d.Columns {
			if !isDrawn(column) {
				continue
			}
			var values []chart.Price
			for _, p := range points {
				if value, known := p.Values[c].(schema.Decimal); known {
					values = append(values, chart.Price{Timestamp: p.Timestamp, Price: value})
				}
			}
			lines = append(lines, chart.Line{Name: legend, Label: columnLabel(name, d, parameters, column), Values: chart.Align(bars, values, length)})
			legend = "" // the next one belongs to this one
		}
	}
	return lines, nil
}

// labelOf names an indicator with its parameters.
func labelOf(name string, d projections.IndicatorDoc, parameters map[string]string) string {
	for _, p := range d.Repeated() {
		name += " " + parameters[p.Name]
	}
	return name
}

// columnLabel names a column of an indicator: bollinger 20 upper, but ema 12.
func columnLabel(name string, d projections.IndicatorDoc, parameters map[string]string, c projections.Column) string {
	return labelOf(name, d, parameters) + strings.TrimSuffix(" "+c.Name, " value")
}

// maxVariants is of how many values of a parameter a chart has lines.
const maxVariants = 3

// variants are the parameters of each line: the defaults, but for the first parameter
// with choices, of which each is drawn.
func variants(d projections.IndicatorDoc) []map[string]string {
	standard := map[string]string{}
	for _, p := range d.Parameters {
		standard[p.Name] = p.Default
	}
	for _, p := range d.Parameters {
		if len(p.Choices) == 0 {
			continue
		}
		var all []map[string]string
		for _, choice := range p.Choices[:min(maxVariants, len(p.Choices))] {
			one := maps.Clone(standard)
			one[p.Name] = choice
			all = append(all, one)
		}
		return all
	}
	return []map[string]string{standard}
}
