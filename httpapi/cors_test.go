package httpapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
)

const (
	latestPath = "/api/v1/prices/latest?symbol=AAPL"
	evil       = "https://evil.example"
	app        = "https://app.example"
)

// examplePath fills the template of a documented path.
var examplePath = strings.NewReplacer("{asset}", "swagger-ui.css", "{job_id}", "poll_abc12345", "{stream_id}", "stream_abc12345", "{backfill_id}", "backfill_abc12345",
	"{id}", "rebuild_abc12345", "{letter_id}", "17", "{retry_id}", "retry_abc12345", "{indicator}", "bands")

// whoAsks are the headers by which browsers say for which page they ask.
var whoAsks = map[string]struct {
	header  []string
	another bool // a page of another origin
}{
	"curl":                       {nil, false},
	"our own page":               {[]string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, false},
	"our own page, old browser":  {[]string{"Origin", "http://example.com"}, false},
	"the address line":           {[]string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, false},
	"another site":               {[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors", "Origin", evil}, true},
	"another site, by an image":  {[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, true},
	"another site, in a frame":   {[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, true},
	"another site, old browser":  {[]string{"Origin", evil}, true},
	"another port":               {[]string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors", "Origin", "http://example.com:3000"}, true},
	"another port, old browser":  {[]string{"Origin", "http://example.com:3000"}, true},
	"a sandboxed page or a file": {[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors", "Origin", "null"}, true},
	"a sandbox, old browser":     {[]string{"Origin", "null"}, true},
	"a word of the future":       {[]string{"Sec-Fetch-Site", "next-door"}, true},
}

// A page of another origin gets nothing, and costs nothing: no call of a provider,
// no row, no request of its user's rate limit.
func TestPagesOfOtherOriginsAreRefused(t *testing.T) {
	t.Parallel()
	published := &commands{}
	api := newAPI(t, func(s *setup) {
		s.Commands, s.Requests = published, becomes(observed("1"))
		s.RateLimitPerMinute, s.LimitLoopback = 1_000_000, true
	})
	for _, o := range mustContract(t).Operations() {
		path := examplePath.Replace(o.Path)
		for who, asks := range whoAsks {
			if !asks.another {
				continue
			}
			w := serve(t, api, request(o.Method, path+"?symbol=AAPL", "", asks.header...))
			if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "CORS_ALLOW_ORIGINS") {
				t.Errorf("%s by %s: %d %s", o, who, w.Code, w.Body)
			}
			if got := w.Header().Get("RateLimit"); got != "" {
				t.Errorf("%s by %s counts for the rate limit: %s", o, who, got)
			}
		}
	}
	if n := len(published.all()); n != 0 {
		t.Errorf("%d events were published", n)
	}
	for who, asks := range whoAsks {
		w := get(t, api, latestPath, asks.header...)
		if want := map[bool]int{false: http.StatusOK, true: http.StatusForbidden}[asks.another]; w.Code != want {
			t.Errorf("latest by %s: %d, want %d: %s", who, w.Code, want, w.Body)
		}
	}
}

// A link on another site may lead a person to any page, but not make the service
// call a provider.
func TestLinksFromOtherSites(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Requests = becomes(observed("1")) })
	link := []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-User", "?1"}
	for target, want := range map[string]int{"/": http.StatusOK, "/docs": http.StatusOK, "/redoc": http.StatusOK, "/readyz": http.StatusOK,
		"/openapi.json": http.StatusOK, "/api/v1/symbols": http.StatusOK, "/api/v1/prices/history?symbol=AAPL": http.StatusOK,
		latestPath: http.StatusForbidden, "/api/v1/prices/lates%74?symbol=AAPL": http.StatusForbidden} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			if w := serve(t, api, request(method, target, "", link...)); w.Code != want {
				t.Errorf("%s %s: %d, want %d", method, target, w.Code, want)
			}
		}
	}
	// A form is a link as well, of another method.
	w := serve(t, api, request(http.MethodPost, "/api/v1/prices/poll", `{"symbols":["A"],"interval":60}`, append(link, "Origin", evil)...))
	if w.Code != http.StatusForbidden {
		t.Errorf("a form: %d", w.Code)
	}
}

// corsHeaders are those that a browser looks at, but for preflights.
func corsHeaders(w *httptest.ResponseRecorder) [3]string {
	return [3]string{w.Header().Get("Access-Control-Allow-Origin"), w.Header().Get("Access-Control-Expose-Headers"), w.Header().Get("Vary")}
}

func fromPage(origin string) []string {
	return []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Origin", origin}
}

func TestNamedOrigins(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.AllowOrigins = []string{app, "http://localhost:3000"}
		s.Requests = becomes(observed("1"))
	})
	exposed := "Age, ETag, Link, Pricemill-Adjusted, Pricemill-Market, Pricemill-Other-Providers, Pricemill-Request, Pricemill-Simulated, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Accel-Buffering, X-Log-Position"
	for _, origin := range []string{app, "http://localhost:3000"} {
		w := get(t, api, latestPath, fromPage(origin)...)
		if w.Code != http.StatusOK || corsHeaders(w) != [3]string{origin, exposed, "Origin"} {
			t.Errorf("%s: %d %q", origin, w.Code, corsHeaders(w))
		}
		w = serve(t, api, request(http.MethodPost, "/api/v1/prices/poll", `{"symbols":["A"],"interval":60}`, fromPage(origin)...))
		if w.Code != http.StatusAccepted || corsHeaders(w) != [3]string{origin, exposed, "Origin"} {
			t.Errorf("%s posts: %d %q", origin, w.Code, corsHeaders(w))
		}
	}
	// Errors are for the page as well: all of them, not only those of routes.
	for target, status := range map[string]int{"/api/v1/prices/latest": http.StatusUnprocessableEntity, "/nothing": http.StatusNotFound,
		"/api/v1/prices/moving-average?symbol=A": http.StatusNotFound} {
		if w := get(t, api, target, fromPage(app)...); w.Code != status || corsHeaders(w)[0] != app {
			t.Errorf("%s: %d %q", target, w.Code, corsHeaders(w))
		}
	}
	// What is for all may be stored, but not for a page with what is for another.
	if w := get(t, api, "/docs"); corsHeaders(w) != [3]string{"", "", "Origin"} {
		t.Errorf("without an origin: %q", corsHeaders(w))
	}
	if w := get(t, api, "/api/v1/prices/history?symbol=A", fromPage(app)...); corsHeaders(w)[2] != "Origin, Accept, Accept-Encoding" {
		t.Errorf("two headers decide: Vary %q", corsHeaders(w)[2])
	}
	for _, origin := range []string{evil, "null", "https://app.example.evil.example", "http://app.example", "https://app.example:8443", "https://APP.example"} {
		w := get(t, api, latestPath, fromPage(origin)...)
		if w.Code != http.StatusForbidden || corsHeaders(w) != [3]string{"", "", "Origin"} {
			t.Errorf("%s: %d %q", origin, w.Code, corsHeaders(w))
		}
	}
	// An image of the same page does not say whose it is.
	if w := get(t, api, latestPath, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"); w.Code != http.StatusForbidden {
		t.Errorf("without Origin: %d", w.Code)
	}
}

func TestPreflights(t *testing.T) {
	t.Parallel()
	const path = "/api/v1/prices/poll"
	published := &commands{}
	named := newAPI(t, func(s *setup) { s.AllowOrigins, s.Commands = []string{app}, published })
	ask := func(api *httpapi.API, path, origin string) *httptest.ResponseRecorder {
		r := request(http.MethodOptions, path, "", append(fromPage(origin), "Access-Control-Request-Method", "POST",
			"Access-Control-Request-Headers", "content-type,idempotency-key")...)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		if w.Header().Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: credentials are allowed", origin)
		}
		return w
	}
	w := ask(named, path, app)
	for name, want := range map[string]string{"Access-Control-Allow-Origin": app, "Access-Control-Allow-Methods": "GET, HEAD, POST",
		"Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID", "Access-Control-Max-Age": "600",
		"Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers", "Content-Type": ""} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if w.Code != http.StatusNoContent || w.Body.Len() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if got := ask(named, path+"/poll_abc12345", app).Header().Get("Access-Control-Allow-Methods"); got != "GET, HEAD, DELETE" {
		t.Errorf("of a job: %s", got)
	}
	if w := ask(named, path, evil); w.Code != http.StatusForbidden || w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("of another site: %d %q", w.Code, w.Header())
	}
	if w := ask(newAPI(t, nil), path, app); w.Code != http.StatusForbidden {
		t.Errorf("where no origin is named: %d", w.Code)
	}
	if w := ask(named, "/nothing", app); w.Code != http.StatusNotFound {
		t.Errorf("of no route: %d", w.Code)
	}
	w = ask(newAPI(t, func(s *setup) { s.AllowOrigins = []string{"*"} }), path, evil)
	if got := w.Header().Get("Access-Control-Allow-Origin"); w.Code != http.StatusNoContent || got != "*" {
		t.Errorf("where all are: %d %q", w.Code, got)
	}
	if n := len(published.all()); n != 0 {
		t.Errorf("%d events were published", n)
	}
}

// Preflights do not use up what a client may ask, and an answer for asking too
// often can be read by the page.
func TestOriginsAndTheRateLimit(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.AllowOrigins, s.RateLimitPerMinute, s.LimitLoopback = []string{app}, 1, true })
	for range 3 {
		w := httptest.NewRecorder()
		api.ServeHTTP(w, request(http.MethodOptions, "/api/v1/prices/poll", "", append(fromPage(app), "Access-Control-Request-Method", "POST")...))
		if w.Code != http.StatusNoContent {
			t.Errorf("preflight: %d", w.Code)
		}
	}
	for _, want := range []int{http.StatusOK, http.StatusTooManyRequests} {
		if w := get(t, api, "/version", fromPage(app)...); w.Code != want || corsHeaders(w)[0] != app {
			t.Errorf("%d %q, want %d", w.Code, corsHeaders(w), want)
		}
	}
}

func TestAnyOrigin(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) {
		s.AllowOrigins, s.Requests = []string{"*"}, becomes(observed("1"))
	})
	for who, asks := range whoAsks {
		w := get(t, api, latestPath, asks.header...)
		if w.Code != http.StatusOK || corsHeaders(w)[0] != "*" || corsHeaders(w)[2] != "" || w.Header().Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: %d %q", who, w.Code, w.Header())
		}
		w = serve(t, api, request(http.MethodPost, "/api/v1/prices/poll", `{"symbols":["A"],"interval":60}`, asks.header...))
		if w.Code != http.StatusAccepted {
			t.Errorf("%s posts: %d", who, w.Code)
		}
	}
}

// What the document says of headers, a page can read and send.
func TestPagesCanReadEveryDocumentedHeader(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.AllowOrigins = []string{"*"} })
	w := get(t, api, "/version")
	var exposed []string
	for name := range strings.SplitSeq(w.Header().Get("Access-Control-Expose-Headers"), ", ") {
		exposed = append(exposed, http.CanonicalHeaderKey(name))
	}
	// Browsers show the first anyway, and use the others themselves.
	own := []string{"Cache-Control", "Vary", "Content-Encoding", "Location"}
	for _, name := range mustContract(t).ResponseHeaders() {
		if !slices.Contains(exposed, name) && !slices.Contains(own, name) {
			t.Errorf("%s is documented, and no page can read it", name)
		}
	}
	preflight := httptest.NewRecorder()
	api.ServeHTTP(preflight, request(http.MethodOptions, "/version", "", append(fromPage(app), "Access-Control-Request-Method", "GET")...))
	allowed := strings.Split(preflight.Header().Get("Access-Control-Allow-Headers"), ", ")
	for _, name := range mustContract(t).RequestHeaders() {
		if !slices.Contains(allowed, name) {
			t.Errorf("%s is documented, and no page can send it", name)
		}
	}
}

func TestParseOrigin(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"*": "*", "https://app.example": app, " HTTPS://App.Example ": app, "https://app.example:443": app,
		"http://app.example:80": "http://app.example", "http://localhost:3000": "http://localhost:3000", "http://[::1]:3000": "http://[::1]:3000",
		"chrome-extension://abcdef": "chrome-extension://abcdef"} {
		if got, err := httpapi.ParseOrigin(text); got != want || err != nil {
			t.Errorf("%q: %q %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "app.example", "app.example:3000", "https://", "https://app.example/", "https://app.example/page", "https://a@app.example",
		"https://app.example?x", "https://app.example#x", "https://*.example", "null", "https://app.example:99999", "https://bücher.example", "file://", "https://a b", "://"} {
		if got, err := httpapi.ParseOrigin(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
	var config httpapi.Config
	config.AllowOrigins = []string{app, "app.example"}
	if err := config.Validate(); err == nil || !strings.Contains(err.Error(), `AllowOrigins: "app.example"`) {
		t.Errorf("%v", err)
	}
}

// A process that serves no clients refuses pages as well.
func TestOperationsRefusePages(t *testing.T) {
	t.Parallel()
	api, err := httpapi.NewOperations(httpapi.Config{AllowOrigins: []string{app}}, httpapi.Ports{
		Readiness: func(context.Context) []httpapi.Check { return nil }, Metrics: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	for origin, want := range map[string]int{app: http.StatusOK, evil: http.StatusForbidden} {
		if w := get(t, api, "/livez", fromPage(origin)...); w.Code != want {
			t.Errorf("%s: %d, want %d", origin, w.Code, want)
		}
	}
}
