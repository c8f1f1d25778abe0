package httpapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pricemill/pricemill/httpapi/chart"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/schema"
)

// The routes of TradingView's Universal Data Feed, by which its charts read a server:
// https://www.tradingview.com/charting-library-docs/latest/connecting_data/UDF.
const udfPath = apiPrefix + "udf/"

// udfResolutions are the names that the protocol has for the intervals of charts.
var udfResolutions = []struct{ name, interval string }{
	{"1S", "1s"}, {"10S", "10s"}, {"1", "1m"}, {"5", "5m"}, {"60", "1h"}, {"1D", "1d"}, {"D", "1d"}}

// udfNames are those of udfResolutions that a chart offers.
func udfNames() []string {
	names := make([]string, 0, len(udfResolutions)-1)
	for _, r := range udfResolutions {
		if r.name != "D" { // the same as 1D
			names = append(names, r.name)
		}
	}
	return names
}

const (
	udfType = "price" // of all symbols: which are stocks is not known
	// maxUDFSearch is the most symbols of a search.
	maxUDFSearch = 100
	// Prices are shown with these numbers of fractional digits.
	minUDFDigits, maxUDFDigits = 2, 10
)

func (a *API) udfRoutes() []route {
	return []route{
		{http.MethodGet, udfPath + "config", a.getUDFConfig},
		{http.MethodGet, udfPath + "time", a.getUDFTime},
		{http.MethodGet, udfPath + "symbols", a.withAge(a.getUDFSymbol, latestprices.Name)},
		{http.MethodGet, udfPath + "search", a.withAge(a.searchUDF, latestprices.Name)},
		{http.MethodGet, udfPath + "history", a.withAge(a.getUDFHistory, latestprices.Name)},
	}
}

// udfChoice is an exchange or a type of symbols that a search may be about.
type udfChoice struct {
	Value string `json:"value"`
	Name  string `json:"name"`
	Desc  string `json:"desc,omitempty"`
}

func (a *API) getUDFConfig(w http.ResponseWriter, r *http.Request) error {
	exchanges := []udfChoice{{"", "All providers", ""}}
	for _, p := range a.config.Providers {
		exchanges = append(exchanges, udfChoice{string(p), string(p), a.udfDescription("Prices", p)})
	}
	a.writeState(w, r, struct {
		Resolutions []string    `json:"supported_resolutions"`
		Group       bool        `json:"supports_group_request"`
		Search      bool        `json:"supports_search"`
		Marks       bool        `json:"supports_marks"`
		ScaleMarks  bool        `json:"supports_timescale_marks"`
		Time        bool        `json:"supports_time"`
		Exchanges   []udfChoice `json:"exchanges"`
		Types       []udfChoice `json:"symbols_types"`
	}{udfNames(), false, true, false, false, true, exchanges, []udfChoice{{udfType, "Prices", ""}}})
	return nil
}

func (a *API) getUDFTime(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", cacheNever)
	_, _ = fmt.Fprint(w, a.config.Now().Unix()) // an error means that the client is gone
	return nil
}

// udfDescription says what it is of, and that it is made up where it is.
func (a *API) udfDescription(text string, p schema.Provider) string {
	text += " at " + string(p)
	if a.isSimulated(p) {
		text += " (simulated)"
	}
	return text
}

// udfSymbol reads a symbol with or without its provider before it, as in
// coinbase:BTC-USD.
func (a *API) udfSymbol(q *query) (schema.Provider, schema.Symbol) {
	text, given := q.get("symbol")
	if !given {
		q.faults = append(q.faults, place{[]any{"query", "symbol"}, nil}.missing())
		return "", ""
	}
	provider := a.config.DefaultProvider
	if name, rest, found := strings.Cut(text, ":"); found && name != "" {
		if named, err := a.config.provider(name); err == nil { // else the colon is the symbol's
			provider, text = named, rest
		}
	}
	symbol, fault := readSymbol(text, inQuery("symbol", text))
	if fault != nil {
		q.faults = append(q.faults, *fault)
	}
	return provider, a.config.symbol(provider, symbol)
}

// udfError is an error by the protocol, whose clients do not look at the status.
type udfError struct {
	Status  string `json:"s"`
	Message string `json:"errmsg"`
}

// udfInfo is a symbol as a chart has it.
type udfInfo struct {
	Name               string          `json:"name"`
	Ticker             string          `json:"ticker"`
	Description        string          `json:"description"`
	Type               string          `json:"type"`
	Session            string          `json:"session"`
	Timezone           string          `json:"timezone"`
	Exchange           schema.Provider `json:"exchange"`
	ListedExchange     schema.Provider `json:"listed_exchange"`
	MinMove            int             `json:"minmov"`
	PriceScale         int64           `json:"pricescale"`
	HasIntraday        bool            `json:"has_intraday"`
	HasSeconds         bool            `json:"has_seconds"`
	SecondsMultipliers []string        `json:"seconds_multipliers"`
	IntradayMultiple   []string        `json:"intraday_multipliers"`
	HasDaily           bool            `json:"has_daily"`
	Resolutions        []string        `json:"supported_resolutions"`
	DataStatus         string          `json:"data_status"`
}

func udfTicker(p schema.Provider, s schema.Symbol) string { return string(p) + ":" + string(s) }

func (a *API) getUDFSymbol(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	provider, symbol := a.udfSymbol(&q)
	if err := q.faults.orNil(); err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	known, err := a.ports.Symbols.Symbols(ctx, latestprices.SymbolQuery{Provider: provider, Symbol: symbol, Limit: 1})
	if err != nil {
		return fmt.Errorf("finding %s: %w", udfTicker(provider, symbol), err)
	}
	if len(known) == 0 {
		return writeQuote(w, r, udfError{"error", "unknown_symbol"})
	}
	_, fraction, _ := strings.Cut(known[0].LastPrice.String(), ".")
	scale := int64(1)
	for range min(max(len(fraction), minUDFDigits), maxUDFDigits) {
		scale *= 10
	}
	a.markSimulated(w, provider)
	return writeQuote(w, r, udfInfo{Name: string(symbol), Ticker: udfTicker(provider, symbol), Description: a.udfDescription(string(symbol), provider),
		Type: udfType, Session: "24x7", Timezone: "Etc/UTC", Exchange: provider, ListedExchange: provider, MinMove: 1, PriceScale: scale,
		HasIntraday: true, HasSeconds: true, SecondsMultipliers: []string{"1", "10"}, IntradayMultiple: []string{"1", "5", "60"}, HasDaily: true,
		Resolutions: udfNames(), DataStatus: "streaming"})
}

// udfFound is a line of a search.
type udfFound struct {
	Symbol      schema.Symbol   `json:"symbol"`
	FullName    string          `json:"full_name"`
	Description string          `json:"description"`
	Exchange    schema.Provider `json:"exchange"`
	Ticker      string          `json:"ticker"`
	Type        string          `json:"type"`
}

// searchUDF finds symbols by a part of them.
func (a *API) searchUDF(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	asked := latestprices.SymbolQuery{Limit: int(q.integer("limit", 30, 1, maxUDFSearch))}
	asked.Contains, _ = q.get("query")
	kind, _ := q.get("type")
	if err := q.faults.orNil(); err != nil {
		return err
	}
	// No symbol has more characters, or bytes that are none.
	some := (kind == "" || kind == udfType) && len(asked.Contains) <= schema.MaxSymbolLength*utf8.UTFMax &&
		utf8.ValidString(asked.Contains) && !strings.ContainsRune(asked.Contains, 0)
	if name, _ := q.get("exchange"); name != "" {
		provider, err := a.config.provider(name)
		asked.Provider, some = provider, some && err == nil
	}
	found := []udfFound{}
	if some {
		ctx, cancel := withQueryTimeout(r)
		defer cancel()
		symbols, err := a.ports.Symbols.Symbols(ctx, asked)
		if err != nil {
			return fmt.Errorf("searching symbols: %w", err)
		}
		for _, s := range symbols {
			a.markSimulated(w, s.Provider)
			ticker := udfTicker(s.Provider, s.Symbol)
			found = append(found, udfFound{s.Symbol, ticker, a.udfDescription(string(s.Symbol), s.Provider), s.Provider, ticker, udfType})
		}
	}
	return writeQuote(w, r, found)
}

// udfBars are columns, one element a bar, oldest first.
type udfBars struct {
	Status string           `json:"s"`
	Time   []int64          `json:"t"`
	Open   []schema.Decimal `json:"o"`
	High   []schema.Decimal `json:"h"`
	Low    []schema.Decimal `json:"l"`
	Close  []schema.Decimal `json:"c"`
	// Volume is left out where no bar has one.
	Volume []schema.Decimal `json:"v,omitempty"`
}

// udfNone says that a period has no bar, and when the last one before it is.
type udfNone struct {
	Status string `json:"s"`
	Next   *int64 `json:"nextTime,omitempty"`
}

// lastUDFSecond is that of the year 9999.
const lastUDFSecond = 253_402_300_799

// getUDFHistory answers with the bars from one time to before another or, where the
// request counts them, with so many before the latter.
func (a *API) getUDFHistory(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	var asked chartQuery
	asked.Provider, asked.Symbol = a.udfSymbol(&q)
	names := make([]string, len(udfResolutions))
	for i, one := range udfResolutions {
		names[i] = one.name
	}
	asked.interval = udfResolutions[slices.Index(names, q.oneOf("resolution", names...))].interval
	from := q.integer("from", 0, 0, lastUDFSecond)
	to := q.integer("to", lastUDFSecond, 0, lastUDFSecond)
	count := int(q.integer("countback", 0, 0, 1_000_000))
	if err := q.faults.orNil(); err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	asked.Behind = projections.Before(schema.NewTime(time.Unix(to, 0)))
	if count == 0 {
		asked.From = schema.NewTime(time.Unix(from, 0))
	}
	bars, _, err := a.readBars(ctx, asked)
	if err != nil {
		return err
	}
	if count == 0 {
		// Its first prices may have been before the period.
		bars = slices.DeleteFunc(bars, func(b chart.Bar) bool { return b.Start.Unix() < from })
	} else {
		bars = bars[max(0, len(bars)-count):]
	}
	if len(bars) == 0 {
		return a.noUDFBars(w, r, asked)
	}
	a.markSimulated(w, asked.Provider)
	return writeQuote(w, r, newUDFBars(bars))
}

// noUDFBars answers that there are none, and where a chart should look instead.
func (a *API) noUDFBars(w http.ResponseWriter, r *http.Request, asked chartQuery) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	asked.From = schema.Time{}
	earlier, _, err := a.readBars(ctx, asked)
	if err != nil {
		return err
	}
	none := udfNone{Status: "no_data"}
	if len(earlier) > 0 {
		a.markSimulated(w, asked.Provider)
		next := earlier[len(earlier)-1].Start.Unix()
		none.Next = &next
	}
	return writeQuote(w, r, none)
}

func newUDFBars(bars []chart.Bar) udfBars {
	columns := udfBars{Status: "ok"}
	told := slices.ContainsFunc(bars, func(b chart.Bar) bool { return b.Volume != nil })
	for _, b := range bars {
		columns.Time = append(columns.Time, b.Start.Unix())
		columns.Open, columns.High = append(columns.Open, b.Open), append(columns.High, b.High)
		columns.Low, columns.Close = append(columns.Low, b.Low), append(columns.Close, b.Close)
		if !told {
			continue
		}
		volume := schema.Decimal{}
		if b.Volume != nil {
			volume = *b.Volume
		}
		columns.Volume = append(columns.Volume, volume)
	}
	return columns
}
