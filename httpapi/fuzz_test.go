package httpapi_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

// newKnowingAPI makes an API that has an answer for everybody who asks well.
func newKnowingAPI(t testing.TB) *httpapi.API {
	return newAPI(t, func(s *setup) {
		s.RateLimitPerMinute = -1
		s.LatestPrices, s.Requests = knows("185.75", 0), becomes(observed("185.75"))
		s.Symbols = symbolList{{Provider: "finnhub", Symbol: "AAPL", LastPrice: schema.MustDecimal("1"), Prices: 2, First: eventTime, Last: eventTime},
			{Provider: "yahoo", Symbol: "AAPL", LastPrice: schema.MustDecimal("1"), Prices: 2, First: eventTime, Last: eventTime}}
		s.Prices = pastPrices{{ID: 2, Timestamp: eventTime, ReceivedAt: eventTime, Price: schema.MustDecimal("1.5")},
			{ID: 1, Timestamp: eventTime, ReceivedAt: eventTime, Price: schema.MustDecimal("0.00001304")}}
	})
}

// FuzzRequest: whatever a client sends that is HTTP at all, the answer is in the
// document.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /api/v1/prices/latest?symbol=AAPL&symbol=msft&max_age=+1 HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nIf-None-Match: W/\"x\", *\r\n\r\n",
		"HEAD /api/v1/prices%2fhistory?symbol=A&limit=1 HTTP/1.0\r\nAccept: text/csv;q=1, */*;q=0\r\n\r\n",
		"POST /api/v1/prices/poll HTTP/1.1\r\nHost: [::1]\r\nIdempotency-Key: k\r\nContent-Length: 36\r\n\r\n{\"symbols\":[\"AAPL\"],\"interval\":\"60\"}",
		"POST /api/v1/streams HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1b\r\n{\"symbols\":[\"AAPL\",\"msft\"]}\r\n0\r\nX: y\r\n\r\n",
		"DELETE /api/v1/streams/stream_abc12345 HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n",
		"POST /api/v1/prices/poll/%00/pause HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /docs/swagger-ui.css HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip;q=0.1\r\nRange: bytes=0-\r\n\r\n",
		"GET /docs/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET //health/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"OPTIONS /readyz?%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "TRACE * HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		f.Add(seed)
	}
	api := newKnowingAPI(f)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return // net/http answers
		}
		r.RemoteAddr = "127.0.0.1:50000"
		serve(t, api, r)
	})
}

// FuzzQuery: whatever the parameters of a list or a price, the answer is in the
// document, and what it links to is there.
func FuzzQuery(f *testing.F) {
	routes := []string{"/api/v1/symbols", "/api/v1/prices/latest", "/api/v1/prices/history", "/api/v1/prices/poll",
		"/api/v1/prices/moving-average", "/api/v1/prices/moving-average/history", "/api/v1/streams"}
	for i, seed := range []string{"", "limit=1", "symbol=aapl&limit=1", "symbol=A&from=2025-06-15T14:30:00Z&to=9999-12-31T23:59:59-14:00",
		"symbol=A&window=0_7.0&as_of=0001-01-01T00:00:00Z", "symbol=%00&max_age=99999999999999999999&stale=maybe", "cursor=AQ", "provider=;",
		"symbol=A;limit=1", "symbol=%zz&symbol=%41&limit=%2B1", "limit=1&limit=2&limit=%D9%A7"} {
		f.Add(uint8(i), seed)
	}
	api := newKnowingAPI(f)
	f.Fuzz(func(t *testing.T, route uint8, raw string) {
		ask := func(query string) *httptest.ResponseRecorder {
			r := request(http.MethodGet, routes[int(route)%len(routes)], "")
			r.URL.RawQuery = query
			return serve(t, api, r)
		}
		link := ask(raw).Header().Get("Link")
		if link == "" {
			return
		}
		_, query, _ := strings.Cut(strings.TrimSuffix(link, `>; rel="next"`), "?")
		if w := ask(query); w.Code != http.StatusOK {
			t.Errorf("%q links to %s, which is %d %s", raw, link, w.Code, w.Body)
		}
	})
}

// FuzzPath: whatever the path, the answer is in the document, and a redirect leads
// to one of our own routes.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/", "/health/", "//evil.example/health/", "/docs/../health", "/api/v1/prices/poll/%ff/pause", "/api/v1/streams/a%2Fb",
		"/docs/%2e%2e", "/health/;/", "/\\evil.example/", "/api/v1/prices/latest/?symbol=A", "*", "http://evil.example/health/"} {
		f.Add(seed)
	}
	api := newKnowingAPI(f)
	f.Fuzz(func(t *testing.T, path string) {
		target, err := url.ParseRequestURI(path)
		if err != nil {
			return // net/http answers
		}
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
			r := request(method, "/", "")
			r.URL = target
			to := serve(t, api, r).Header().Get("Location")
			if to == "" {
				continue
			}
			w := httptest.NewRecorder()
			api.ServeHTTP(w, request(http.MethodGet, strings.ReplaceAll(to, " ", "%20"), ""))
			if w.Code == http.StatusNotFound || w.Code == http.StatusTemporaryRedirect {
				t.Errorf("%q leads to %q, which is %d", path, to, w.Code)
			}
		}
	})
}

// FuzzStreamBody is FuzzPollBody for streams.
func FuzzStreamBody(f *testing.F) {
	for _, seed := range []string{"", "null", "{}", `{"symbols":["BTC-USD"," eth-usd "],"provider":"yahoo"}`, `{"symbols":["A","a"],"provider":null}`,
		`{"symbols":["A"],"provider":"finnhub"}`, `{"symbols":[]}`, `{"symbols":"A","symbols":["A"],"provider":"yahoo_finance"}`} {
		f.Add(seed)
	}
	log := &commands{}
	api := newAPI(f, func(s *setup) { s.Commands, s.RateLimitPerMinute = log, -1 })
	f.Fuzz(func(t *testing.T, body string) {
		w := serve(t, api, request(http.MethodPost, "/api/v1/streams", body))
		log.mu.Lock()
		published := log.published
		log.published = nil
		log.mu.Unlock()
		if (w.Code == http.StatusAccepted) != (len(published) == 1) {
			t.Fatalf("%d with %d events", w.Code, len(published))
		}
		for _, event := range published {
			if err := event.Validate(); err != nil {
				t.Errorf("accepted %q: %v", body, err)
			}
		}
	})
}

// FuzzIdempotencyKey: a key is taken as it is, or refused.
func FuzzIdempotencyKey(f *testing.F) {
	for _, seed := range []string{"", " ", "k", "a b", "é", "\x00", "\x7f", "0d9a4a4e-5b1f-4a39-9f35-6c1f1e2a7c55", strings.Repeat("k", 255), strings.Repeat("k", 256)} {
		f.Add(seed)
	}
	good := regexp.MustCompile(`^[!-~]{1,255}$`)
	api := newAPI(f, func(s *setup) { s.RateLimitPerMinute = -1 })
	f.Fuzz(func(t *testing.T, key string) {
		r := request(http.MethodPost, "/api/v1/prices/poll", `{"symbols":["A"],"interval":60}`, "Idempotency-Key", key)
		if w := serve(t, api, r); (w.Code == http.StatusAccepted) != good.MatchString(key) {
			t.Errorf("%q: %d %s", key, w.Code, w.Body)
		}
	})
}

// FuzzIfNoneMatch: only a list with the very tag, or with *, spares the body.
func FuzzIfNoneMatch(f *testing.F) {
	api := newKnowingAPI(f)
	etag := get(f, api, latestAAPL).Header().Get("ETag")
	for _, seed := range []string{"", "*", "TAG", "W/TAG", `"x", W/TAG`, "TAGx", "x TAG", ",,TAG,,", `"*"`, "W/*", "w/TAG", "TAG\tTAG"} {
		f.Add(seed)
	}
	one := regexp.MustCompile(`^(\*|(W/)?` + regexp.QuoteMeta(etag) + `)$`)
	f.Fuzz(func(t *testing.T, condition string) {
		condition = strings.ReplaceAll(condition, "TAG", etag)
		spared := false
		for _, part := range strings.Split(condition, ",") {
			spared = spared || one.MatchString(strings.TrimSpace(part))
		}
		if w := get(t, api, latestAAPL, "If-None-Match", condition); (w.Code == http.StatusNotModified) != spared {
			t.Errorf("%q: %d", condition, w.Code)
		}
	})
}

// FuzzAccept: a client gets one of the two types there are, whatever else it would
// like, and CSV only if it says so.
func FuzzAccept(f *testing.F) {
	for _, seed := range []string{"", "text/csv", "*/*", "text/*;q=0.1, application/json;q=0", "text/csv;q=NaN", "text/csv;q=1e400", ";", `text/csv;x=","`,
		"application/*;q=0.5, TEXT/CSV;Q=0.6", "text/csv;q=0.5, text/csv;q=0.1", "text/csv;header=absent"} {
		f.Add(seed)
	}
	api := newKnowingAPI(f)
	f.Fuzz(func(t *testing.T, accept string) {
		media := func(accept string) string {
			w := get(t, api, "/api/v1/prices/history?symbol=A", "Accept", accept)
			if w.Code != http.StatusOK {
				t.Errorf("%q: %d", accept, w.Code)
			}
			return w.Header().Get("Content-Type")
		}
		got := media(accept)
		if isCSV := strings.HasPrefix(got, "text/csv"); isCSV && !strings.Contains(strings.ToLower(accept), "text/") {
			t.Errorf("%q gets %s", accept, got)
		}
		if with := media(accept + ", image/png"); with != got {
			t.Errorf("%q gets %s, and %s next to a picture", accept, got, with)
		}
	})
}

// FuzzAcceptEncoding: only a client that names gzip gets it.
func FuzzAcceptEncoding(f *testing.F) {
	for _, seed := range []string{"", "gzip", "br, GZIP ;q=1", "gzip;q=0", "gzip;q=x", "*", "x-gzip", "gzip;", "gzip=1"} {
		f.Add(seed)
	}
	api := newKnowingAPI(f)
	f.Fuzz(func(t *testing.T, accept string) {
		w := get(t, api, "/docs/swagger-ui.css", "Accept-Encoding", accept)
		packed := w.Header().Get("Content-Encoding") == "gzip"
		if w.Code != http.StatusOK || packed && !strings.Contains(strings.ToLower(accept), "gzip") {
			t.Errorf("%q: %d, packed %v", accept, w.Code, packed)
		}
	})
}
