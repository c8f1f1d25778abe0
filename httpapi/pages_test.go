package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/dashboard"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/live"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/parquet"
)

// browser is the Accept header of one.
const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

// watched is an API whose watch list has a symbol for each of some names.
func watched(t *testing.T, names ...schema.Symbol) *httpapi.API {
	t.Helper()
	return newAPI(t, func(s *setup) {
		s.Prices, s.Averages = past(5), averageFunc(knownAverage)
		s.Simulated = []schema.Provider{"simulated"}
		s.Now = func() time.Time { return eventTime.Add(time.Hour).Time }
		var all symbolList
		for _, name := range names {
			all = append(all, latestprices.Symbol{Symbol: name, Provider: "finnhub", Prices: 5, First: eventTime.Add(time.Second), Last: eventTime.Add(5 * time.Second), LastPrice: schema.MustDecimal("185.75")})
		}
		s.Symbols = append(all, latestprices.Symbol{Symbol: "ACME", Provider: "simulated", Prices: 1, First: eventTime, Last: eventTime.Add(59 * time.Minute), LastPrice: schema.MustDecimal("0.00001304")})
	})
}

func knownAverage(_ context.Context, p schema.Provider, symbol schema.Symbol, window int) (movingaverages.Average, error) {
	return movingaverages.Average{Provider: p, Symbol: symbol, Window: window, Value: schema.MustDecimal("185.123456789"), Timestamp: eventTime}, nil
}

// brokenSymbols fails.
type brokenSymbols struct{ error }

func (b brokenSymbols) Symbols(context.Context, latestprices.SymbolQuery) ([]latestprices.Symbol, error) {
	return nil, b.error
}

// visible is the text of a page, with its tables' cells apart.
func visible(page string) string {
	return html.UnescapeString(strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, " ")), " "))
}

func TestRootIsForBrowsersAndForOthers(t *testing.T) {
	t.Parallel()
	api := watched(t, "AAPL")
	for accept, isPage := range map[string]bool{browser: true, "text/html": true, "text/*": true, "text/html;q=0.5, application/json;q=0.4": true,
		"": false, "*/*": false, "application/json": false, "application/json, text/html": false, "text/html;q=0": false, "text/html;q=0.4, application/json;q=0.5": false} {
		w := get(t, api, "/", "Accept", accept)
		media := w.Header().Get("Content-Type")
		if w.Code != http.StatusOK || strings.HasPrefix(media, "text/html") != isPage || w.Header().Get("Vary") != "Accept" {
			t.Errorf("Accept %q: %d %s, Vary %q", accept, w.Code, media, w.Header().Get("Vary"))
		}
		if !isPage && w.Body.String() != `{"message":"Pricemill market data service","version":"1.2.3","docs":"/docs"}` {
			t.Errorf("Accept %q: %s", accept, w.Body)
		}
	}
}

// TestPagesAreTablesWithoutAScript: the pages have the figures of the REST routes, to
// the digit; zeros make those of a column as long as the longest.
func TestPagesAreTablesWithoutAScript(t *testing.T) {
	t.Parallel()
	api := watched(t, "AAPL")
	list := visible(get(t, api, "/", "Accept", browser).Body.String())
	for _, want := range []string{"AAPL finnhub stale 185.750000000000000000 ", " 59 min ", "ACME simulated stale 0.000013040000000000 ", " 1 min"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in %s", want, list)
		}
	}
	page := visible(get(t, api, "/dashboard/symbol?symbol=aapl").Body.String())
	history := get(t, api, "/api/v1/prices/history?symbol=aapl")
	found := regexp.MustCompile(`"price":([0-9.]+),`).FindAllStringSubmatch(history.Body.String(), -1)
	if len(found) != 5 {
		t.Fatalf("%d prices in %s", len(found), history.Body)
	}
	for _, price := range found {
		if !strings.Contains(page, " "+price[1]+" ") {
			t.Errorf("no %s in %s", price[1], page)
		}
	}
}

// TestPagesHaveAStrictPolicy: pages load our own files, which there are, and have
// nothing inline.
func TestPagesHaveAStrictPolicy(t *testing.T) {
	t.Parallel()
	api := watched(t, "AAPL")
	for _, target := range []string{"/", "/dashboard/symbol?symbol=AAPL", "/dashboard/symbol?symbol=NONE", "/dashboard/pipeline", "/dashboard/jobs", "/dashboard/jobs?done=stop-job", "/dashboard/symbol?symbol=AAPL&period=1d&interval=1m&kind=candles&lines=bands&chosen=yes"} {
		w := get(t, api, target, "Accept", browser)
		policy := "; " + w.Header().Get("Content-Security-Policy") + "; "
		for _, rule := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
			if !strings.Contains(policy, "; "+rule+"; ") {
				t.Errorf("%s: no %s in %s", target, rule, policy)
			}
		}
		page := w.Body.String()
		if found := regexp.MustCompile(`(?i)\son\w+=|\sstyle=|<style|<script>|javascript:|https?://`).FindString(page); found != "" {
			t.Errorf("%s has %q", target, found)
		}
		loaded := regexp.MustCompile(`(?:src|srcset|href)="(/[^"]*)"`).FindAllStringSubmatch(page, -1)
		if len(loaded) < 5 {
			t.Errorf("%s loads %q", target, loaded)
		}
		for _, address := range loaded {
			if got := get(t, api, html.UnescapeString(address[1])); got.Code != http.StatusOK {
				t.Errorf("%s leads to %s: %d %s", target, address[1], got.Code, got.Body)
			}
		}
	}
}

func TestPagesEscapeSymbols(t *testing.T) {
	t.Parallel()
	const hostile = `A&B<"'>` // no symbol is like that; a table may be
	page := get(t, watched(t, hostile, "AT&T#1"), "/", "Accept", browser).Body.String()
	if strings.Contains(page, `B<"`) || !strings.Contains(page, "A&amp;B&lt;&#34;&#39;&gt;") || !strings.Contains(page, "symbol=AT%26T%231") {
		t.Errorf("the page is %s", page)
	}
	w := get(t, watched(t), "/dashboard/symbol?symbol=%3Cscript%3E")
	if w.Code != http.StatusUnprocessableEntity || strings.Contains(w.Body.String(), "<script>") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestTheStreamOfASymbolsPage has the events after which the page shows something else:
// those of the read models of its table, its chart and its indicators.
func TestTheStreamOfASymbolsPage(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.Prices = past(5)
		s.Symbols = symbolList{{Symbol: "AAPL", Provider: "finnhub", Prices: 5, First: eventTime, Last: eventTime, LastPrice: schema.MustDecimal("1")}}
		s.Live = liveOf{"bands": nil, "candles": nil, "rsi": nil}
	})
	page := get(t, api, "/dashboard/symbol?symbol=AAPL&window=7").Body.String()
	if want := `data-events="price,average:7,bands,candle"`; !strings.Contains(page, want) {
		t.Errorf("no %s in %s", want, page)
	}
}

// liveOf has events of these indicators.
type liveOf map[string]projections.Indicator

func (l liveOf) Kinds() live.Kinds {
	return live.Kinds{Window: 5, MaxWindow: 1000, Indicators: l}
}

func (liveOf) Open(context.Context, live.Request) (httpapi.LiveStream, error) {
	return nil, live.ErrEnded
}

func (liveOf) Drain() {}

func TestErrorsArePages(t *testing.T) {
	t.Parallel()
	api := watched(t, "AAPL")
	for target, status := range map[string]int{"/dashboard/symbol": http.StatusUnprocessableEntity, "/dashboard/symbol?symbol=A&provider=none": http.StatusBadRequest,
		"/?provider=none": http.StatusOK, "/dashboard/symbol?symbol=A&interval=2m": http.StatusUnprocessableEntity,
		"/dashboard/symbol?symbol=A&x=1": http.StatusOK, "/dashboard/symbol?symbol=A&window=0": http.StatusUnprocessableEntity,
		"/dashboard/history.csv": http.StatusUnprocessableEntity} {
		w := get(t, api, target, "Accept", browser)
		if w.Code != status || !strings.HasPrefix(w.Body.String(), "<!doctype html>") {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	down := newAPI(t, func(s *setup) { s.Symbols = brokenSymbols{httpapi.ErrUnavailable} })
	if w := get(t, down, "/", "Accept", browser); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	broken := newAPI(t, func(s *setup) { s.Symbols = brokenSymbols{errors.New("secret of the database")} })
	if w := get(t, broken, "/", "Accept", browser); w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestAPanicOfARowIsAFaultOfTheRequest: rows are read by goroutines of their own, whose
// panics end a process.
func TestAPanicOfARowIsAFaultOfTheRequest(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.Symbols = symbolList{{Symbol: "AAPL", Provider: "finnhub", Prices: 1, First: eventTime, Last: eventTime, LastPrice: schema.MustDecimal("1")}}
		s.Averages = averageFunc(func(context.Context, schema.Provider, schema.Symbol, int) (movingaverages.Average, error) {
			panic("no such memory")
		})
	})
	if w := get(t, api, "/", "Accept", browser); w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "memory") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestTheWatchListHasPages(t *testing.T) {
	t.Parallel()
	var names []schema.Symbol
	for i := range 250 {
		names = append(names, schema.Symbol(fmt.Sprintf("S%03d", i)))
	}
	api := watched(t, names...)
	first := get(t, api, "/", "Accept", browser).Body.String()
	next := regexp.MustCompile(`rel="next" href="([^"]*)"`).FindStringSubmatch(first)
	if strings.Count(first, "<tr data-symbol=") != 200 || next == nil {
		t.Fatalf("%d rows, next %q", strings.Count(first, "<tr data-symbol="), next)
	}
	second := get(t, api, html.UnescapeString(next[1]), "Accept", browser).Body.String()
	if strings.Count(second, "<tr data-symbol=") != 51 || !strings.Contains(second, ">S200<") || strings.Contains(second, `rel="next"`) {
		t.Errorf("the second page is %s", second)
	}
	other := visible(get(t, api, "/?provider=simulated", "Accept", browser).Body.String())
	if strings.Contains(other, "S000") || !strings.Contains(other, "ACME") {
		t.Errorf("a provider's symbols are %s", other)
	}
}

func TestHistoryIsAFile(t *testing.T) {
	t.Parallel()
	api := watched(t, "AAPL")
	w := get(t, api, "/dashboard/history.csv?symbol=AAPL&limit=3")
	if w.Header().Get("Content-Disposition") != `attachment; filename="prices.csv"` || strings.Count(w.Body.String(), "\r\n") != 4 {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	w = get(t, api, "/dashboard/history.parquet?symbol=AAPL&limit=3")
	if w.Header().Get("Content-Disposition") != `attachment; filename="prices.parquet"` || w.Header().Get("Content-Type") != parquet.Media ||
		!strings.HasPrefix(w.Body.String(), "PAR1") {
		t.Errorf("%v %q", w.Header(), w.Body)
	}
	w = get(t, api, "/dashboard/history.csv?symbol=AAPL&limit=1&more=yes")
	if link := w.Header().Get("Link"); !strings.HasPrefix(link, "</api/v1/prices/history?") || strings.Contains(link, "more") {
		t.Errorf("the next page is %q", link)
	}
}

func TestDashboardFiles(t *testing.T) {
	t.Parallel()
	api := watched(t)
	for name, media := range map[string]string{"live.js": "text/javascript; charset=utf-8", "chart.js": "text/javascript; charset=utf-8", "numbers.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"} {
		w := get(t, api, "/dashboard/assets/"+name)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != media {
			t.Errorf("%s: %d %s", name, w.Code, w.Header().Get("Content-Type"))
		}
		if again := get(t, api, "/dashboard/assets/"+name, "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified {
			t.Errorf("%s: %d with its ETag", name, again.Code)
		}
	}
	for _, name := range []string{"none.js", "..%2ftemplates%2flayout.html", "style.css%2f", "%2e%2e"} {
		if w := get(t, api, "/dashboard/assets/"+name); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

func TestTheStyleSheetHasBothThemes(t *testing.T) {
	t.Parallel()
	sheet, _, _ := dashboard.Asset("style.css")
	if !strings.Contains(string(sheet), "prefers-color-scheme: dark") || !strings.Contains(string(sheet), "prefers-reduced-motion") {
		t.Error("one theme")
	}
}
