package declared_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const byID = `
history:
  begin: {request: "first/{symbol}?at={from}", cursor: .id}
  request: past/{symbol}?from={cursor}&limit=3
  unit: milliseconds
  page: 3
  entries: data.list
  next: id
  read: {price: .last, time: .at, unit: seconds, size: .qty, id: .trade}
`

// past is a service with trades 1 to its number, a second apart.
type past struct {
	trades int

	mu    sync.Mutex
	asked []string
}

var pastBegan = time.Date(2025, 6, 15, 12, 0, 0, 0, time.UTC)

func pastAt(id int) schema.Time {
	return schema.NewTime(pastBegan.Add(time.Duration(id) * time.Second))
}

func pastText(id int) string {
	return fmt.Sprintf(`{"trade":%d, "last":%d.50,"qty":"2","at":%d}`, id, 100+id, pastAt(id).Unix())
}

func (p *past) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.URL.RequestURI())
	p.mu.Unlock()
	if !strings.Contains(r.URL.Path, "BTC/USD") {
		http.Error(w, `{"error":"unknown pair"}`, http.StatusNotFound)
		return
	}
	if at := r.URL.Query().Get("at"); at != "" {
		millis, _ := strconv.ParseInt(at, 10, 64)
		first := max(1, int((millis-pastBegan.UnixMilli()+999)/1000))
		if first > p.trades {
			fmt.Fprint(w, `{"id":null}`)
			return
		}
		fmt.Fprintf(w, `{"id":%d}`, first)
		return
	}
	first, _ := strconv.Atoi(r.URL.Query().Get("from"))
	var page []string
	for id := first; id <= p.trades && len(page) < 3; id++ {
		page = append(page, pastText(id))
	}
	fmt.Fprintf(w, `{"data":{"list":[%s]},"next":%d}`, strings.Join(page, ",\n"), first+len(page))
}

func historian(t testing.TB, text string, handler http.Handler) (pipeline.Historian, *declared.Definition) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	d := parse(t, text)
	p, err := d.New(pipeline.Env{Settings: map[string]any{"base_url": server.URL, "api_key": "canary"}})
	require.NoError(t, err)
	return p.(pipeline.Historian), d
}

func allOf(t testing.TB, h pipeline.Historian, from, to schema.Time) (entries []pipeline.HistoryEntry, pages int) {
	t.Helper()
	r := pipeline.HistoryRequest{Symbol: "BTC-USD", From: from, To: to}
	for {
		page, err := h.History(t.Context(), r)
		require.NoError(t, err)
		entries = append(entries, page.Entries...)
		if pages++; page.Next == "" {
			return entries, pages
		}
		require.NotEqual(t, r.Cursor, page.Next)
		require.Less(t, pages, 100)
		r.Cursor = page.Next
	}
}

// Every trade of a span comes, byte for byte, with the id that a stream gives it, and is read by
// the section history of the definition that it was kept with.
func TestHistory(t *testing.T) {
	t.Parallel()
	byCursor := strings.NewReplacer("next: id", "next: .next").Replace(byID)
	for name, section := range map[string]string{"by id": byID, "by a cursor": byCursor} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const trades = 20
			h := providertest.History{Name: "acme", Symbol: "BTC-USD", Unknown: "NOPE-USD",
				New: func(t testing.TB) pipeline.Historian {
					return first(historian(t, acme(t)+section, &past{trades: trades}))
				},
				Answering: func(t testing.TB, service http.Handler) pipeline.Historian {
					return first(historian(t, acme(t)+section, service))
				}}
			for id := 1; id <= trades; id++ {
				h.Entries = append(h.Entries, pipeline.HistoryEntry{ID: schema.DeriveID("stream", "acme", "BTC-USD", strconv.Itoa(id)),
					RawResponse: schema.RawResponse(pastText(id)), Time: pastAt(id)})
			}
			providertest.RunHistory(t, h)
			p := &past{trades: trades}
			_, pages := allOf(t, first(historian(t, acme(t)+section, p)), pastAt(4), pastAt(15))
			assert.Equal(t, []string{fmt.Sprintf("/first/BTC%%2FUSD?at=%d", pastAt(4).UnixMilli()), "/past/BTC%2FUSD?from=4&limit=3"}, p.asked[:2])
			assert.Len(t, p.asked, pages, "one call a page")
			_, pages = allOf(t, first(historian(t, acme(t)+section, p)), pastAt(30), pastAt(40))
			assert.Equal(t, 1, pages, "there is no price so late")
		})
	}
}

func first(h pipeline.Historian, _ *declared.Definition) pipeline.Historian { return h }

// Bars have no id: the symbol, the span and the time at which they begin name them.
func TestAHistoryOfBars(t *testing.T) {
	t.Parallel()
	const bars = `
history:
  request: bars/{symbol}?start={cursor}&end={to}
  unit: seconds
  page: 3
  entries: "*"
  next: time
  read: {time: ".[0]", unit: seconds, bar: {open: ".[1]", high: ".[2]", low: ".[3]", close: ".[4]", span: 1m}}
`
	service := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, _ := strconv.ParseInt(r.URL.Query().Get("start"), 10, 64)
		end, _ := strconv.ParseInt(r.URL.Query().Get("end"), 10, 64)
		var page []string
		for at := max((start+59)/60*60, pastBegan.Unix()); at <= min(end, pastBegan.Unix()+7*60) && len(page) < 3; at += 60 {
			page = append(page, fmt.Sprintf(`[%d,"1","3","1","2"]`, at))
		}
		fmt.Fprintf(w, `{"a":1,"rows":[%s]}`, strings.Join(page, ","))
	})
	const count = 8
	bar := func(n int) pipeline.HistoryEntry {
		begins := schema.NewTime(pastBegan.Add(time.Duration(n) * time.Minute))
		return pipeline.HistoryEntry{ID: schema.DeriveID("history", "acme", "BTC-USD", begins.Text(), "1m0s"),
			RawResponse: schema.RawResponse(fmt.Sprintf(`[%d,"1","3","1","2"]`, begins.Unix())), Time: begins.Add(time.Minute - time.Microsecond)}
	}
	h := providertest.History{Name: "acme", Symbol: "BTC-USD",
		New: func(t testing.TB) pipeline.Historian { return first(historian(t, acme(t)+bars, service)) }}
	for n := range count {
		h.Entries = append(h.Entries, bar(n))
	}
	providertest.RunHistory(t, h)
	_, d := historian(t, acme(t)+bars, service)
	prices, err := d.Normalize(schema.QuoteFetched{Quote: schema.Quote{Provider: "acme", Symbol: "BTC-USD"}, RawResponse: bar(0).RawResponse,
		ReceivedAt: bar(0).Time, Definition: d.Version() + pipeline.HistoryMark})
	require.NoError(t, err)
	assert.Equal(t, pastBegan, prices[0].Bar.OpenTime.Time)
}

// An entry with a bad price is kept like the others, for normalize to reject it.
func TestABadPriceEndsNoBackfill(t *testing.T) {
	t.Parallel()
	bad := []string{`{"trade":2,"last":0,"at":1749998102}`, `{"trade":3,"last":"abc","at":1749998103}`, `{"trade":4,"at":1749998104}`}
	h, d := historian(t, acme(t)+strings.Replace(byID, "page: 3", "page: 9", 1), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"data":{"list":[{"trade":1,"last":5,"at":1749998101},%s]}}`, strings.Join(bad, ",")) // the client may have hung up
	}))
	page, err := h.History(t.Context(), pipeline.HistoryRequest{Symbol: "BTC-USD", From: pastAt(1), To: pastAt(9), Cursor: "at 1"})
	require.NoError(t, err)
	require.Len(t, page.Entries, 4)
	for i, entry := range page.Entries {
		assert.Equal(t, schema.NewTime(time.Unix(1749998101+int64(i), 0)), entry.Time)
		_, err := d.Normalize(schema.QuoteFetched{Quote: schema.Quote{Provider: "acme", Symbol: "BTC-USD"}, RawResponse: entry.RawResponse,
			ReceivedAt: entry.Time, Definition: d.Version() + pipeline.HistoryMark})
		if i == 0 {
			require.NoError(t, err)
			continue
		}
		var q *pipeline.QuoteError
		require.ErrorAs(t, err, &q)
		assert.Equal(t, schema.CodeBadPrice, q.Code)
		assert.Equal(t, bad[i-1], string(entry.RawResponse))
	}
}

// A service that names its next page says itself which one is the last: one that is short or
// empty, or has a price of a far future, ends nothing.
func TestAShortPageIsNotTheLast(t *testing.T) {
	t.Parallel()
	answers := map[string]string{
		"1": `{"data":{"list":[]},"next":"2"}`, "2": `{"data":{"list":[{"trade":1,"last":5,"at":1749998101}]},"next":"3"}`,
		"3": `{"data":{"list":[{"trade":2,"last":5,"at":1749998102},{"trade":3,"last":5,"at":4749998103}]},"next":"4"}`,
		"4": `{"data":{"list":[{"trade":4,"last":5,"at":1749998104}]},"next":null}`,
	}
	section := strings.NewReplacer("next: id", "next: .next", `begin: {request: "first/{symbol}?at={from}", cursor: .id}`, "", "from={cursor}", "page={cursor}").Replace(byID)
	h, _ := historian(t, acme(t)+section, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, answers[r.URL.Query().Get("page")]) // the client may have hung up
	}))
	r := pipeline.HistoryRequest{Symbol: "BTC-USD", From: schema.NewTime(time.Unix(1749998000, 0)), To: schema.NewTime(time.Unix(1749999000, 0)), Cursor: "after 1"}
	count := 0
	for range 4 {
		page, err := h.History(t.Context(), r)
		require.NoError(t, err)
		count += len(page.Entries)
		if r.Cursor = page.Next; r.Cursor == "" {
			break
		}
	}
	assert.Empty(t, r.Cursor)
	assert.Equal(t, 4, count)
}

func TestFaultsOfAHistory(t *testing.T) {
	t.Parallel()
	full := func(times ...int) string {
		var entries []string
		for i, at := range times {
			entries = append(entries, fmt.Sprintf(`{"trade":%d,"last":1,"at":%d}`, i+1, pastAt(at).Unix()))
		}
		return `{"data":{"list":[` + strings.Join(entries, ",") + `]}}`
	}
	byTime := strings.Replace(byID, "next: id", "next: time", 1)
	for name, test := range map[string]struct {
		section string
		status  int
		answer  string
		code    schema.Code
		reason  string
	}{
		"unknown":      {byID, 404, `{"error":"unknown pair"}`, schema.CodeUnknownSymbol, "by rule 1"},
		"limited":      {byID, 200, `{"error":"limit"}`, schema.CodeRateLimited, "by rule 3"},
		"no list":      {byID, 200, `{"data":{}}`, schema.CodeBadResponse, "there is no data.list"},
		"another list": {byID, 200, `{"data":{"list":{}}}`, schema.CodeBadResponse, "not a list"},
		"no object":    {byID, 200, `[]`, schema.CodeBadResponse, "not an object"},
		"no time":      {byID, 200, `{"data":{"list":[{"trade":1,"last":0}]}}`, schema.CodeBadResponse, "time, .at"},
		"no id":        {byID, 200, `{"data":{"list":[{"last":1,"at":1749998100}]}}`, schema.CodeBadResponse, "id, .trade"},
		"one time":     {byTime, 200, full(5, 5, 5), schema.CodeBadResponse, "a full page of 3 prices ends where it began"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, _ := historian(t, acme(t)+test.section, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.answer)) // the client may have hung up
			}))
			_, err := h.History(t.Context(), pipeline.HistoryRequest{Symbol: "BTC-USD", From: pastAt(1), To: pastAt(9),
				Cursor: "after " + strconv.FormatInt(pastAt(5).UnixMilli(), 10)})
			var q *pipeline.QuoteError
			require.ErrorAs(t, err, &q)
			assert.Equal(t, test.code, q.Code, err)
			assert.Contains(t, q.Reason, test.reason)
			assert.NotContains(t, err.Error(), "canary")
		})
	}
}

func TestFaultsOfTheSectionHistory(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ from, to, want string }{
		"no cursor":      {"{cursor}", "1", "line 24: history: request: want {symbol} and {cursor} in it"},
		"another place":  {"{from}", "{cursor}", `history: begin: request: parameter "at": there is no {cursor} here`},
		"unit":           {"unit: milliseconds", "unit: millis", `history: unit: there is no unit "millis" of a time`},
		"page":           {"page: 3", "page: 0", "history: page: 0 is not within 1 and 10000"},
		"path":           {"data.list", "data[0]", "history: entries: want the names of members"},
		"no next":        {"next: id", `next: ""`, "history: next: required"},
		"next":           {"next: id", "next: now", `history: next: jq "now"`},
		"no id":          {", id: .trade", "", "history: next: the entries have no id"},
		"an entry":       {"read: {", "read: {entry: .x, ", "history: read: of an entry of a history there is no entry"},
		"no time":        {"time: .at, ", "", "history: read: time: required"},
		"begin's cursor": {", cursor: .id}", "}", "history: begin: cursor: required"},
		"unknown key":    {"page: 3", "pages: 3", `there is no key "pages" here; did you mean "page"?`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, byID, test.from)
			_, err := declared.Parse([]byte(acme(t) + strings.Replace(byID, test.from, test.to, 1)))
			require.ErrorIs(t, err, declared.ErrDefinition)
			assert.ErrorContains(t, err, test.want)
		})
	}
	p, err := parse(t, acme(t)).New(pipeline.Env{})
	require.NoError(t, err)
	_, has := p.(pipeline.Historian)
	assert.False(t, has, "one without the section has no history")
}

// What a page of a sample would be read as, or why not.
func TestAPageIsExplained(t *testing.T) {
	t.Parallel()
	d := parse(t, acme(t)+byID)
	require.True(t, d.HasHistory())
	asks, err := d.AsksHistory("BTC-USD")
	require.NoError(t, err)
	assert.Equal(t, []declared.Field{
		{Name: "symbol", From: `sub("-"; "/")`, Value: "BTC/USD"},
		{Name: "begin", From: "first/{symbol}?at={from}", Value: "https://api.acme.example/v1/first/BTC%2FUSD?at={from}"},
		{Name: "page", From: "past/{symbol}?from={cursor}&limit=3", Value: "https://api.acme.example/v1/past/BTC%2FUSD?from={cursor}&limit=3"},
	}, asks)
	page := fmt.Sprintf(`{"data":{"list":[%s,%s,%s]}}`, pastText(1), pastText(2), pastText(3))
	reads, err := d.ReadsPage(schema.RawResponse(page), "BTC-USD")
	require.NoError(t, err)
	price := func(id int) []declared.Field {
		return []declared.Field{{Name: fmt.Sprintf("price %d of 3", id), Value: pastText(id)}, {Name: "price", From: ".last", Value: fmt.Sprintf("%d.5", 100+id)},
			{Name: "time", From: ".at", Value: pastAt(id).Text()}, {Name: "size", From: ".qty", Value: "2"}, {Name: "id", From: ".trade", Value: strconv.Itoa(id)}}
	}
	assert.Equal(t, slices.Concat([]declared.Field{{Name: "prices", From: "data.list", Value: "3"}}, price(1), price(3),
		[]declared.Field{{Name: "next", From: "id", Value: "after 3"}}), reads)
	reads, err = d.ReadsPage(schema.RawResponse(`{"data":{"list":[]}}`), "BTC-USD")
	require.NoError(t, err)
	assert.Equal(t, []declared.Field{{Name: "prices", From: "data.list", Value: "0"}, {Name: "next", From: "id", Value: "none: it is the last page"}}, reads)
	for answer, want := range map[string]string{
		`{"error":"unknown pair"}`: "the answer means unknown_symbol, by rule 2", `{}`: "there is no data", `<html>`: "not JSON",
		`{"data":{"list":[{"trade":1,"last":0,"at":1}]}}`: "price 1: ",
	} {
		_, err := d.ReadsPage(schema.RawResponse(answer), "BTC-USD")
		assert.ErrorContains(t, err, want)
	}
	_, err = parse(t, acme(t)).AsksHistory("BTC-USD")
	require.ErrorIs(t, err, declared.ErrDefinition)
}
