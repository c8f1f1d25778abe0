package httpapi_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/schema"
)

// feed is an API that knows five prices of a symbol, a second apart, none of which has a
// size, and that symbol and others by name.
func feed(t *testing.T) *httpapi.API {
	return newAPI(t, func(s *setup) {
		s.Prices = past(5)
		var all symbolList
		for _, symbol := range []schema.Symbol{"AAPL", "BINANCE:BTCUSDT", "MSFT"} {
			all = append(all, latestprices.Symbol{Provider: "finnhub", Symbol: symbol, LastPrice: schema.MustDecimal("185.75"), Prices: 5, First: eventTime, Last: eventTime})
		}
		s.Symbols = all
		s.Simulated = []schema.Provider{"simulated"}
	})
}

// ask reads an answer of the protocol.
func ask(t *testing.T, api *httpapi.API, path string) map[string]any {
	t.Helper()
	w := get(t, api, "/api/v1/udf/"+path)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestUDF holds the routes to what TradingView's charts do with them:
// https://www.tradingview.com/charting-library-docs/latest/connecting_data/UDF.
func TestUDF(t *testing.T) {
	t.Parallel()
	api := feed(t)

	config := ask(t, api, "config")
	// A feed that has neither of these is refused by the library.
	if config["supports_search"] != true || config["supports_group_request"] != false || config["supports_time"] != true {
		t.Errorf("config %v", config)
	}
	w := get(t, api, "/api/v1/udf/time")
	if w.Body.String() == "" || strings.Trim(w.Body.String(), "0123456789") != "" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Errorf("time %q as %s", w.Body, w.Header().Get("Content-Type"))
	}

	for _, name := range []string{"AAPL", "finnhub:AAPL"} {
		symbol := ask(t, api, "symbols?symbol="+name)
		for field, want := range map[string]any{"name": "AAPL", "ticker": "finnhub:AAPL", "exchange": "finnhub", "listed_exchange": "finnhub",
			"timezone": "Etc/UTC", "session": "24x7", "minmov": 1.0, "pricescale": 100.0, "has_intraday": true, "type": "price"} {
			if symbol[field] != want {
				t.Errorf("%s: %s is %v, want %v", name, field, symbol[field], want)
			}
		}
		for _, resolution := range symbol["supported_resolutions"].([]any) {
			if bars := ask(t, api, "history?symbol="+name+"&resolution="+resolution.(string)); bars["s"] != "ok" {
				t.Errorf("resolution %s: %v", resolution, bars)
			}
		}
	}
	if got := ask(t, api, "symbols?symbol=BINANCE:BTCUSDT")["ticker"]; got != "finnhub:BINANCE:BTCUSDT" {
		t.Errorf("a colon in a symbol: %v", got)
	}
	if got := ask(t, api, "symbols?symbol=NONE"); got["s"] != "error" || got["errmsg"] != "unknown_symbol" {
		t.Errorf("an unknown symbol: %v", got)
	}
}

func TestUDFSearch(t *testing.T) {
	t.Parallel()
	api := feed(t)
	for query, want := range map[string]string{"query=a": "AAPL BINANCE:BTCUSDT", "query=sft": "MSFT", "": "AAPL BINANCE:BTCUSDT MSFT",
		"limit=1": "AAPL", "exchange=simulated": "", "exchange=nope": "", "query=%00": "", "query=%FF": "", "exchange=finnhub&query=USD": "BINANCE:BTCUSDT", "type=stock": "", "type=price&query=MS": "MSFT"} {
		w := get(t, api, "/api/v1/udf/search?"+query)
		var found []struct{ Symbol, Ticker, Type string }
		if err := json.Unmarshal(w.Body.Bytes(), &found); err != nil || found == nil {
			t.Errorf("%s: %v: %s", query, err, w.Body)
		}
		var symbols []string
		for _, f := range found {
			symbols = append(symbols, f.Symbol)
			if f.Ticker != "finnhub:"+f.Symbol {
				t.Errorf("ticker %s", f.Ticker)
			}
		}
		if got := strings.Join(symbols, " "); got != want {
			t.Errorf("%q finds %q, want %q", query, got, want)
		}
	}
}

func TestUDFHistory(t *testing.T) {
	t.Parallel()
	api := feed(t)
	all := ask(t, api, "history?symbol=AAPL&resolution=1S&from=0&to=2000000000")
	times := all["t"].([]any)
	if len(times) < 2 || !slices.IsSortedFunc(times, func(a, b any) int { return int(a.(float64) - b.(float64)) }) {
		t.Fatalf("times %v", times)
	}
	for _, column := range []string{"o", "h", "l", "c"} {
		if got := len(all[column].([]any)); got != len(times) {
			t.Errorf("%s has %d values of %d", column, got, len(times))
		}
	}
	if _, told := all["v"]; told {
		t.Error("a volume that no price tells")
	}
	first, last := times[0].(float64), times[len(times)-1].(float64)
	for _, test := range []struct {
		from, to, countback float64
		bars                int
	}{{first, last + 1, 0, len(times)}, {first, last, 0, len(times) - 1}, {first + 1, last + 1, 0, len(times) - 1},
		{last, last + 1, 2, 2}, {0, first + 1, 100, 1}} {
		got := ask(t, api, "history?symbol=AAPL&resolution=1S"+number("from", test.from)+number("to", test.to)+number("countback", test.countback))
		if bars, _ := got["t"].([]any); len(bars) != test.bars {
			t.Errorf("%+v: %v", test, got)
		}
	}
	none := ask(t, api, "history?symbol=AAPL&resolution=1S"+number("from", last+10)+number("to", last+20))
	if none["s"] != "no_data" || none["nextTime"] != last {
		t.Errorf("after the last bar: %v, want one at %v", none, last)
	}
	none = ask(t, api, "history?symbol=AAPL&resolution=1S"+number("from", 0)+number("to", 10))
	if _, more := none["nextTime"]; none["s"] != "no_data" || more {
		t.Errorf("before the first bar: %v", none)
	}
	for _, query := range []string{"resolution=1", "symbol=AAPL&resolution=7", "symbol=AAPL&from=x", "symbol=AAPL&countback=-1"} {
		if w := get(t, api, "/api/v1/udf/history?"+query); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}

func number(name string, value float64) string {
	text, _ := json.Marshal(int64(value)) // never fails
	return "&" + name + "=" + string(text)
}
