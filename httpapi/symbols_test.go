package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/schema"
)

// TestSymbolPattern: the pattern that clients are shown is the rule, for every
// printable character in each place.
func TestSymbolPattern(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.LatestPrices, s.RateLimitPerMinute = knows("1", 0), -1 })
	pattern := regexp.MustCompile(httpapi.SymbolPattern)
	for c := rune(' '); c < 0x100; c++ {
		for _, symbol := range []string{string(c), string(c) + "A", "A" + string(c), "A" + string(c) + "A"} {
			if strings.TrimSpace(symbol) == "" {
				continue
			}
			w := get(t, api, "/api/v1/prices/latest?symbol="+url.QueryEscape(symbol))
			if accepted := w.Code == http.StatusOK; accepted != pattern.MatchString(strings.TrimSpace(symbol)) {
				t.Errorf("%q: %d, the pattern says otherwise", symbol, w.Code)
			}
		}
	}
}

func TestSymbols(t *testing.T) {
	t.Parallel()
	at := func(second int) schema.Time { return eventTime.Add(time.Duration(second) * time.Second) }
	known := symbolList{
		{Provider: "finnhub", Symbol: "AAPL", Prices: 3, First: at(0), Last: at(9), LastPrice: schema.MustDecimal("0.00001304")},
		{Provider: "finnhub", Symbol: "MSFT", Prices: 1, First: at(1), Last: at(1), LastPrice: schema.MustDecimal("415.2")},
		{Provider: "yahoo", Symbol: "AAPL", Prices: 1, First: at(2), Last: at(2), LastPrice: schema.MustDecimal("185")},
	}
	api := newAPI(t, func(s *setup) { s.Symbols = known })
	lines := []string{
		`{"symbol":"AAPL","provider":"finnhub","count":3,"first_timestamp":"2025-06-15T14:30:00.000000Z","last_timestamp":"2025-06-15T14:30:09.000000Z","last_price":0.00001304}`,
		`{"symbol":"MSFT","provider":"finnhub","count":1,"first_timestamp":"2025-06-15T14:30:01.000000Z","last_timestamp":"2025-06-15T14:30:01.000000Z","last_price":415.2}`,
		`{"symbol":"AAPL","provider":"yahoo","count":1,"first_timestamp":"2025-06-15T14:30:02.000000Z","last_timestamp":"2025-06-15T14:30:02.000000Z","last_price":185}`,
	}
	all := get(t, api, "/api/v1/symbols")
	expect(t, all, http.StatusOK, `{"items":[`+strings.Join(lines, ",")+`]}`)
	expect(t, get(t, api, "/api/v1/symbols", "If-None-Match", all.Header().Get("ETag")), http.StatusNotModified, "")
	expect(t, get(t, api, "/api/v1/symbols?provider=yahoo_finance"), http.StatusOK, `{"items":[`+lines[2]+`]}`)
	expect(t, get(t, api, "/api/v1/symbols?provider=simulated"), http.StatusOK, `{"items":[]}`)

	first := get(t, api, "/api/v1/symbols?limit=2&provider=")
	if !strings.HasPrefix(first.Body.String(), `{"items":[`+lines[0]+`,`+lines[1]+`],"next_cursor":"`) {
		t.Errorf("got %s", first.Body)
	}
	next := nextPage(t, first)
	expect(t, get(t, api, next), http.StatusOK, `{"items":[`+lines[2]+`]}`)
	for target, status := range map[string]int{
		"?provider=nobody":         http.StatusBadRequest,
		"?provider=nobody&limit=x": http.StatusUnprocessableEntity,
		"?limit=0":                 http.StatusUnprocessableEntity,
		"?cursor=x":                http.StatusUnprocessableEntity,
		strings.Replace(next[len("/api/v1/symbols"):], "provider=", "provider=yahoo", 1): http.StatusUnprocessableEntity,
	} {
		if w := get(t, api, "/api/v1/symbols"+target); w.Code != status {
			t.Errorf("%s: %d, want %d", target, w.Code, status)
		}
	}
}

// TestTheCaseOfSymbols: where a provider minds it, a symbol is as it is written; at
// any other it is upper-cased, as the original does.
func TestTheCaseOfSymbols(t *testing.T) {
	t.Parallel()
	var asked []schema.Symbol
	api := newAPI(t, func(s *setup) {
		s.CaseSensitive, s.RateLimitPerMinute = []schema.Provider{"yahoo"}, -1
		s.LatestPrices = askedFor{symbols: &asked}
	})
	get(t, api, "/api/v1/prices/latest?provider=yahoo&symbol=BCpC")
	get(t, api, "/api/v1/prices/latest?provider=finnhub&symbol=BCpC")
	get(t, api, "/api/v1/prices/latest?provider=finnhub&symbol="+url.QueryEscape("币a"))
	if want := []schema.Symbol{"BCpC", "BCPC", "币A"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
}

// askedFor notes which symbols are looked for, and has none.
type askedFor struct {
	httpapi.LatestPrices
	symbols *[]schema.Symbol
}

func (a askedFor) Latest(_ context.Context, _ schema.Provider, symbol schema.Symbol) (latestprices.Price, error) {
	*a.symbols = append(*a.symbols, symbol)
	return latestprices.Price{}, errors.New("the database is gone")
}
