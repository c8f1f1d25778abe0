package httpapi_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/parquet"
)

const history, averageHistory = "/api/v1/prices/history", "/api/v1/prices/moving-average/history"

// past makes prices of one second each, the newest first, with the digits of
// their number after the point.
func past(n int) pastPrices {
	var all pastPrices
	for i := n; i > 0; i-- {
		at := eventTime.Add(time.Duration(i) * time.Second)
		all = append(all, processedprices.Price{ID: int64(i), Price: schema.MustDecimal(fmt.Sprintf("0.%018d", i)),
			Timestamp: at, ReceivedAt: at.Add(time.Microsecond)})
	}
	return all
}

func TestHistory(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Prices = past(2) })
	w := get(t, api, history+"?symbol=aapl")
	expect(t, w, http.StatusOK, `{"items":[`+
		`{"symbol":"AAPL","provider":"finnhub","price":0.000000000000000002,"timestamp":"2025-06-15T14:30:02.000000Z","received_at":"2025-06-15T14:30:02.000001Z"},`+
		`{"symbol":"AAPL","provider":"finnhub","price":0.000000000000000001,"timestamp":"2025-06-15T14:30:01.000000Z","received_at":"2025-06-15T14:30:01.000001Z"}]}`)
	if got := w.Header().Get("Link"); got != "" {
		t.Errorf("there is a next page: %s", got)
	}
	expect(t, get(t, api, history+"?symbol=AAPL", "If-None-Match", w.Header().Get("ETag")), http.StatusNotModified, "")
	expect(t, get(t, api, history+"?symbol=AAPL&from=2025-06-15T14:30:09Z"), http.StatusOK, `{"items":[]}`)
	expect(t, get(t, api, history+"?symbol=AAPL&to=2025-06-15T16:30:02%2B02:00&limit=1"), http.StatusOK, `{"items":[`+
		`{"symbol":"AAPL","provider":"finnhub","price":0.000000000000000001,"timestamp":"2025-06-15T14:30:01.000000Z","received_at":"2025-06-15T14:30:01.000001Z"}]}`)
}

func TestHistoryAsCSV(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Prices = past(2) })
	w := get(t, api, history+"?symbol=%3DA%2B1&limit=1", "Accept", "text/csv")
	expect(t, w, http.StatusOK, "symbol,provider,price,timestamp,received_at\r\n"+
		"=A+1,finnhub,0.000000000000000002,2025-06-15T14:30:02.000000Z,2025-06-15T14:30:02.000001Z\r\n")
	if w.Header().Get("Link") == "" {
		t.Error("no next page")
	}
	lines, err := csv.NewReader(w.Body).ReadAll()
	if err != nil || len(lines) != 2 {
		t.Errorf("read back as %q (%v)", lines, err)
	}
	expect(t, get(t, api, history+"?symbol=A&from=2025-06-16T00:00:00Z", "Accept", "text/csv"), http.StatusOK,
		"symbol,provider,price,timestamp,received_at\r\n")
	expect(t, get(t, api, history+"?symbol=A", "Accept", "text/csv", "If-None-Match", "*"), http.StatusNotModified, "")
}

func TestWhoGetsCSV(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for accept, isCSV := range map[string]bool{
		"": false, "*/*": false, "application/json": false, "text/html": false, "nonsense": false, "text/csv": true, "TEXT/CSV": true,
		"text/csv; charset=utf-8": true, "text/*": true, "text/csv, */*;q=0.1": true, "application/json, text/csv": false,
		"application/json;q=0.5, text/csv": true, "text/csv;q=0": false, "text/*, text/csv;q=0": false,
		"text/csv;q=0.5, application/*": false, "text/csv;q=abc": true,
	} {
		w := get(t, api, history+"?symbol=A", "Accept", accept)
		if got := strings.HasPrefix(w.Header().Get("Content-Type"), "text/csv"); got != isCSV || w.Header().Get("Vary") != "Accept, Accept-Encoding" {
			t.Errorf("Accept %q: %v", accept, w.Header())
		}
	}
}

// parquetRows reads a Parquet file as its rows.
func parquetRows(t *testing.T, w *httptest.ResponseRecorder) (rows [][]string) {
	t.Helper()
	if got := w.Header().Get("Content-Type"); got != parquet.Media || w.Code != http.StatusOK {
		t.Fatalf("%d, %s: %s", w.Code, got, w.Body)
	}
	file, err := parquet.Open(bytes.NewReader(w.Body.Bytes()), int64(w.Body.Len()))
	if err != nil {
		t.Fatal(err)
	}
	rows = append(rows, file.Columns())
	for row, err := range file.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, slices.Clone(row))
	}
	return rows
}

func TestSeriesAsParquet(t *testing.T) {
	t.Parallel()
	var asked string
	api := newAPI(t, func(s *setup) { s.Prices, s.Averages = past(2), points{nil, &asked, past(3)} })
	w := get(t, api, history+"?symbol=A&limit=1", "Accept", parquet.Media)
	if got, want := parquetRows(t, w), [][]string{{"symbol", "provider", "price", "timestamp", "received_at"},
		{"A", "finnhub", "0.000000000000000002", "2025-06-15T14:30:02Z", "2025-06-15T14:30:02.000001Z"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
	if w.Header().Get("Link") == "" || w.Header().Get("Vary") != "Accept, Accept-Encoding" {
		t.Errorf("no next page: %v", w.Header())
	}
	expect(t, get(t, api, history+"?symbol=A&limit=1", "Accept", parquet.Media, "If-None-Match", w.Header().Get("ETag")), http.StatusNotModified, "")
	if got := parquetRows(t, get(t, api, history+"?symbol=A&from=2025-06-16T00:00:00Z", "Accept", parquet.Media)); len(got) != 1 {
		t.Errorf("rows of nothing: %q", got)
	}
	if got, want := parquetRows(t, get(t, api, averageHistory+"?symbol=A&window=5&limit=1", "Accept", parquet.Media)), [][]string{
		{"symbol", "provider", "window_size", "value", "timestamp"}, {"A", "finnhub", "5", "0.000000000000000003", "2025-06-15T14:30:03Z"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
	if got, want := parquetRows(t, get(t, api, bandsPath+"?symbol=A&limit=2", "Accept", parquet.Media)), [][]string{
		{"symbol", "provider", "length", "width", "timestamp", "upper", "volume", "count", "since", "state"},
		{"A", "finnhub", "1m", "2", "2025-06-15T14:30:05Z", "0.000000000000000005", "", "5", "2025-06-15T14:30:05Z", "1m2"},
		{"A", "finnhub", "1m", "2", "2025-06-15T14:30:04Z", "0.000000000000000004", "0.000000000000000004", "4", "2025-06-15T14:30:04Z", "1m2"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
	for accept, media := range map[string]string{"text/csv, " + parquet.Media: "text/csv", "text/csv;q=0.5, " + parquet.Media: parquet.Media,
		parquet.Media + ", application/json": "application/json", "application/*": "application/json", parquet.Media + ";q=0, text/*": "text/csv"} {
		if got := get(t, api, history+"?symbol=A", "Accept", accept).Header().Get("Content-Type"); !strings.HasPrefix(got, media) {
			t.Errorf("Accept %q: %s", accept, got)
		}
	}
}

// nextPage follows the Link header, and holds the body's cursor against it.
func nextPage(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var body struct {
		Next string `json:"next_cursor"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`^<([^>]+)>; rel="next"$`).FindStringSubmatch(w.Header().Get("Link"))
	if link == nil {
		if body.Next != "" {
			t.Errorf("the body leads to %s, no header does", body.Next)
		}
		return ""
	}
	target, err := url.Parse(link[1])
	if err != nil || target.Query().Get("cursor") != body.Next {
		t.Errorf("the header leads to %s, the body to %s (%v)", link[1], body.Next, err)
	}
	return link[1]
}

func TestPagesOfAHistory(t *testing.T) {
	t.Parallel()
	model := past(7)
	api := newAPI(t, func(s *setup) { s.Prices, s.RateLimitPerMinute = &growing{all: model}, -1 })
	pages, seen := 0, ""
	for next := history + "?symbol=A%26B&limit=<>&limit=3&from=2025-06-15T14:30:02Z"; next != ""; pages++ {
		w := get(t, api, next)
		for _, found := range regexp.MustCompile(`"price":0\.0*([1-9]+)`).FindAllStringSubmatch(w.Body.String(), -1) {
			seen += found[1]
		}
		next = nextPage(t, w)
	}
	if pages != 2 || seen != "765432" {
		t.Errorf("%d pages with %s", pages, seen)
	}
}

// growing has a new price whenever it is asked.
type growing struct{ all pastPrices }

func (g *growing) Prices(ctx context.Context, q processedprices.Query) ([]processedprices.Price, error) {
	newest := g.all[0]
	newest.ID, newest.Timestamp = newest.ID+1, newest.Timestamp.Add(time.Second)
	found, err := g.all.Prices(ctx, q)
	g.all = append(pastPrices{newest}, g.all...)
	return found, err
}

func (g *growing) PricesOf(ctx context.Context, queries []processedprices.Query) (pages [][]processedprices.Price, err error) {
	for _, q := range queries {
		page, _ := g.Prices(ctx, q) // never fails
		pages = append(pages, page)
	}
	return pages, nil
}

func TestHistoryFaults(t *testing.T) {
	t.Parallel()
	cursorOf := func(target string) string {
		api := newAPI(t, func(s *setup) { s.Prices = past(2) })
		next, err := url.Parse(nextPage(t, get(t, api, target+"&limit=1")))
		if err != nil {
			t.Fatal(err)
		}
		return next.Query().Get("cursor")
	}
	ours := cursorOf(history + "?symbol=A&to=2025-06-16T00:00:00Z")
	list := []string{history, "finnhub", "A", "0", "0001-01-01T00:00:00.000000Z", "0001-01-01T00:00:00.000000Z"}
	noTime := func(name, input string) string {
		return `{"type":"datetime_parsing","loc":["query","` + name + `"],"msg":"Input should be a valid datetime, not RFC 3339, such as 2025-06-15T14:30:00Z",` +
			`"input":"` + input + `","ctx":{"error":"not RFC 3339, such as 2025-06-15T14:30:00Z"}}`
	}
	outOfRange := func(name, input string) string {
		return `{"type":"datetime_parsing","loc":["query","` + name + `"],"msg":"Input should be a valid datetime, year is out of range",` +
			`"input":"` + input + `","ctx":{"error":"year is out of range"}}`
	}
	noCursor := func(input string) string {
		return `{"type":"value_error","loc":["query","cursor"],"msg":"Value error, not a cursor of this list","input":"` + input +
			`","ctx":{"error":"not a cursor of this list"}}`
	}
	api := newAPI(t, func(s *setup) { s.RateLimitPerMinute = -1 })
	for _, route := range []string{history, averageHistory} {
		for query, want := range map[string]string{
			"limit=0":            `{"type":"greater_than_equal","loc":["query","limit"],"msg":"Input should be greater than or equal to 1","input":"0","ctx":{"ge":1}}`,
			"limit=1001":         `{"type":"less_than_equal","loc":["query","limit"],"msg":"Input should be less than or equal to 1000","input":"1001","ctx":{"le":1000}}`,
			"from=yesterday&to=": noTime("from", "yesterday") + "," + noTime("to", ""),
			"from=2025-06-15":    noTime("from", "2025-06-15"),
			"from=2025-06-15T00:00:00+02:00": strings.ReplaceAll(noTime("from", "2025-06-15T00:00:00 02:00"),
				"not RFC 3339, such as 2025-06-15T14:30:00Z", "a plus sign in a URL is a space: write it as %2B"),
			"from=0000-06-15T00:00:00Z":    outOfRange("from", "0000-06-15T00:00:00Z"),
			"to=9999-12-31T23:59:59-23:59": outOfRange("to", "9999-12-31T23:59:59-23:59"),
			"from=2025-06-15T00:00:00Z&to=2025-06-15T00:00:00Z": `{"type":"greater_than","loc":["query","to"],"msg":"Input should be greater than 2025-06-15T00:00:00Z",` +
				`"input":"2025-06-15T00:00:00Z","ctx":{"gt":"2025-06-15T00:00:00Z"}}`,
			"cursor=":          noCursor(""),
			"cursor=forged":    noCursor("forged"),
			"cursor=" + ours:   noCursor(ours), // of another time
			"limit=x&cursor=!": `{"type":"int_parsing","loc":["query","limit"],"msg":"Input should be a valid integer, unable to parse string as an integer","input":"x"},` + noCursor("!"),
		} {
			expect(t, get(t, api, route+"?symbol=A&"+query), http.StatusUnprocessableEntity, `{"detail":[`+want+`]}`)
		}
	}
	for _, place := range [][]string{{"soon", "1"}, {"2025-06-15T14:30:00Z", "x"}, {"0000-06-15T14:30:00Z", "1"}} {
		forged := httpapi.Cursor(list, place...) // with the right checksum
		expect(t, get(t, api, history+"?symbol=A&cursor="+forged), http.StatusUnprocessableEntity, `{"detail":[`+noCursor(forged)+`]}`)
	}
	expect(t, get(t, api, history+"?symbol=A&cursor="+httpapi.Cursor(list, "2025-06-15T14:30:00Z", "1")), http.StatusOK, `{"items":[]}`)
	if w := get(t, api, history+"?symbol=A&provider=nobody&cursor=x"); w.Code != http.StatusBadRequest {
		t.Errorf("an unknown provider: %d %s", w.Code, w.Body)
	}
}

// points answers with an average at each of some prices.
type points struct {
	averageFunc
	asked  *string
	prices pastPrices
}

func (p points) History(ctx context.Context, window int, q processedprices.Query) ([]movingaverages.Point, error) {
	*p.asked = fmt.Sprintf("%s %s %d", q.Provider, q.Symbol, window)
	prices, err := p.prices.Prices(ctx, q)
	var found []movingaverages.Point
	for _, price := range prices {
		found = append(found, movingaverages.Point{Place: price.Place(), Value: price.Price})
	}
	return found, err
}

func TestAverageHistory(t *testing.T) {
	t.Parallel()
	var asked string
	api := newAPI(t, func(s *setup) { s.Averages, s.DefaultWindow = points{nil, &asked, past(3)}, 20 })
	first := get(t, api, averageHistory+"?symbol=aapl&provider=yahoo_finance&window=7&limit=2")
	line := func(i int) string {
		return fmt.Sprintf(`{"symbol":"AAPL","provider":"yahoo","window_size":7,"value":0.%018d,"timestamp":"2025-06-15T14:30:%02d.000000Z"}`, i, i)
	}
	if !strings.HasPrefix(first.Body.String(), `{"items":[`+line(3)+`,`+line(2)+`],"next_cursor":"`) || asked != "yahoo AAPL 7" {
		t.Errorf("asked for %s, got %s", asked, first.Body)
	}
	next := nextPage(t, first)
	expect(t, get(t, api, next), http.StatusOK, `{"items":[`+line(1)+`]}`)
	if w := get(t, api, strings.Replace(next, "window=7", "window=8", 1)); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("the cursor of another window: %d", w.Code)
	}
	if w := get(t, api, strings.Replace(next, "limit=2", "limit=9", 1)); w.Code != http.StatusOK {
		t.Errorf("another limit: %d", w.Code)
	}
	if get(t, api, averageHistory+"?symbol=A"); asked != "finnhub A 20" {
		t.Errorf("asked for %s, want the standard window", asked)
	}
	w := get(t, api, averageHistory+"?symbol=A&window=5&limit=1", "Accept", "text/csv")
	expect(t, w, http.StatusOK, "symbol,provider,window_size,value,timestamp\r\nA,finnhub,5,0.000000000000000003,2025-06-15T14:30:03.000000Z\r\n")
}

func TestAverageAsOf(t *testing.T) {
	t.Parallel()
	var asked string
	api := newAPI(t, func(s *setup) { s.Averages = averages(&asked) })
	w := get(t, api, "/api/v1/prices/moving-average?symbol=A&window=3&as_of=2025-01-02T03:04:05.678%2B01:00")
	expect(t, w, http.StatusOK, `{"symbol":"A","window_size":3,"value":184.92,"timestamp":"2025-01-02T02:04:05.678000Z"}`)
	expect(t, get(t, newAPI(t, nil), "/api/v1/prices/moving-average?symbol=A&as_of=2025-01-02T03:04:05Z"), http.StatusNotFound,
		`{"detail":"Moving average not found"}`)
	if w := get(t, api, "/api/v1/prices/moving-average?symbol=A&as_of=now"); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("%d", w.Code)
	}
}

func TestEveryPriceOnce(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Prices, s.RateLimitPerMinute = past(25), -1 })
	for _, limit := range []int{1, 4, 5, 24, 25, 26} {
		var times []string
		for next := fmt.Sprintf("%s?symbol=A&limit=%d", history, limit); next != ""; {
			w := get(t, api, next)
			for _, found := range regexp.MustCompile(`"timestamp":"([^"]+)"`).FindAllStringSubmatch(w.Body.String(), -1) {
				times = append(times, found[1])
			}
			next = nextPage(t, w)
		}
		if len(times) != 25 || len(slices.Compact(slices.Clone(times))) != 25 || !slices.IsSortedFunc(times, func(a, b string) int { return strings.Compare(b, a) }) {
			t.Errorf("limit %d: %q", limit, times)
		}
	}
}

// TestASymbolCallsNothing: a spreadsheet takes a cell that begins with = or @ for a
// formula. None of the characters by which one calls a function, another program or
// another host is in a symbol; the ! alone names a cell of another sheet. Nor is one
// of the others that begin a formula at its beginning.
func TestASymbolCallsNothing(t *testing.T) {
	t.Parallel()
	for _, c := range `()"'|,;` + "\t\r\n`{}[]<>\\%" {
		if symbol, err := schema.ParseSymbol("=A" + string(c) + "B"); err == nil {
			t.Errorf("%q is a symbol", symbol)
		}
	}
	for _, first := range "+-\t\r" {
		if symbol, err := schema.ParseSymbol(string(first) + "A"); err == nil && strings.ContainsRune("+-", rune(symbol[0])) {
			t.Errorf("%q is a symbol", symbol)
		}
	}
}
