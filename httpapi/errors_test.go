package httpapi_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

const averageAAPL = "/api/v1/prices/moving-average?symbol=AAPL"

// failing makes an API whose averages fail with err.
func failing(t *testing.T, err error, change func(*setup)) http.Handler {
	return newAPI(t, func(s *setup) {
		s.Averages = averageFunc(func(context.Context, schema.Provider, schema.Symbol, int) (movingaverages.Average, error) {
			return movingaverages.Average{}, err
		})
		if change != nil {
			change(s)
		}
	})
}

func TestErrorsOfPorts(t *testing.T) {
	t.Parallel()
	own := errors.New("the database system is shutting down")
	tests := []struct {
		name   string
		err    error
		status int
	}{
		{"declared", fmt.Errorf("reading: %w", httpapi.ErrUnavailable), http.StatusServiceUnavailable},
		{"connection refused", &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, http.StatusServiceUnavailable},
		{"connection lost", fmt.Errorf("reading: %w", driver.ErrBadConn), http.StatusServiceUnavailable},
		{"deadline spent", context.DeadlineExceeded, http.StatusServiceUnavailable},
		{"recognized by the engine", fmt.Errorf("reading: %w", own), http.StatusServiceUnavailable},
		{"anything else", errors.New("no such column"), http.StatusInternalServerError},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var logged strings.Builder
			api := failing(t, test.err, func(s *setup) {
				s.Unavailable = func(err error) bool { return errors.Is(err, own) }
				s.Logger = slog.New(slog.NewTextHandler(&logged, nil))
			})
			w := get(t, api, averageAAPL)
			if w.Code != test.status || (w.Header().Get("Retry-After") != "") != (test.status == 503) {
				t.Errorf("%d %v", w.Code, w.Header())
			}
			if strings.Contains(w.Body.String(), test.err.Error()) {
				t.Errorf("the client is told %s", w.Body)
			}
			if !strings.Contains(logged.String(), test.err.Error()) {
				t.Errorf("the log is not told: %s", &logged)
			}
		})
	}
}

func TestAHangingDatabaseIsUnavailable(t *testing.T) {
	mustContract(t)
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, func(s *setup) {
			s.LatestPrices = latestFunc(func(ctx context.Context, _ schema.Provider, _ schema.Symbol) (latestprices.Price, error) {
				<-ctx.Done()
				return latestprices.Price{}, ctx.Err()
			})
		})
		start := time.Now()
		if w := get(t, api, latestAAPL); w.Code != http.StatusServiceUnavailable || time.Since(start) != 5*time.Second {
			t.Errorf("%d after %v", w.Code, time.Since(start))
		}
	})
}

func TestPanics(t *testing.T) {
	t.Parallel()
	var logged strings.Builder
	api := newAPI(t, func(s *setup) {
		s.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		s.Readiness = func(context.Context) []httpapi.Check { panic("secret") }
	})
	w := get(t, api, "/readyz")
	expect(t, w, http.StatusInternalServerError, `{"detail":"Internal Server Error"}`)
	if !strings.Contains(logged.String(), "secret") || !strings.Contains(logged.String(), "errors_test.go") {
		t.Errorf("the log has no panic with its stack: %s", &logged)
	}
}

// brokenWriter panics once the header is out.
type brokenWriter struct{ *httptest.ResponseRecorder }

func (w brokenWriter) Write([]byte) (int, error) { panic("in the middle of an answer") }

func TestAPanicInTheMiddleOfAnAnswerBreaksTheConnection(t *testing.T) {
	t.Parallel()
	if !drops(newAPI(t, nil), brokenWriter{httptest.NewRecorder()}, request(http.MethodGet, "/health", "")) {
		t.Error("the client takes half an answer for a whole one")
	}
}

func TestNotFound(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for _, target := range []string{"/nothing", "/api/v1/price", "//", "/docs/a/b", "//docs", "/api//v1/prices/latest", "//evil.example/"} {
		expect(t, get(t, api, target), http.StatusNotFound, `{"detail":"Not Found"}`)
	}
}

func TestOneSlashTooMany(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for target, want := range map[string]string{
		"/health/": "/health",
		"/docs/":   "/docs",
		"/api/v1/prices/latest/?symbol=A%26B&max_age=1": "/api/v1/prices/latest?symbol=A%26B&max_age=1",
	} {
		w := get(t, api, target)
		if w.Code != http.StatusTemporaryRedirect || w.Header().Get("Location") != want {
			t.Errorf("%s: %d to %q, want %s", target, w.Code, w.Header().Get("Location"), want)
		}
	}
}

func TestMethodNotAllowed(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for _, test := range []struct{ method, target, allow string }{
		{http.MethodPost, "/health", "GET, HEAD"},
		{http.MethodDelete, latestAAPL, "GET, HEAD"},
		{http.MethodPut, "/api/v1/prices/poll", "GET, HEAD, POST"},
		{http.MethodGet, "/api/v1/prices/poll/poll_abc12345/pause", "POST"},
		{http.MethodPost, "/api/v1/prices/poll/poll_abc12345", "GET, HEAD, DELETE"},
		{http.MethodOptions, "/docs/swagger-ui.css", "GET, HEAD"},
		{http.MethodOptions, "/api/v1/streams/stream_abc12345", "GET, HEAD, PATCH, DELETE"},
	} {
		w := serve(t, api, request(test.method, test.target, ""))
		expect(t, w, http.StatusMethodNotAllowed, `{"detail":"Method Not Allowed"}`)
		if got := w.Header().Get("Allow"); got != test.allow {
			t.Errorf("%s %s: Allow %q, want %q", test.method, test.target, got, test.allow)
		}
	}
}

// TestAllowNamesEveryRoute: a method that is served is never left out.
func TestAllowNamesEveryRoute(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for _, rt := range api.Routes() {
		w := serve(t, api, request(http.MethodOptions, strings.NewReplacer("{", "", "}", "").Replace(rt[1]), ""))
		if got := w.Header().Get("Allow"); !slices.Contains(strings.Split(got, ", "), rt[0]) {
			t.Errorf("%s %s: Allow %q", rt[0], rt[1], got)
		}
	}
}

// TestHosts: a name that a page had lead to this machine is not ours.
func TestHosts(t *testing.T) {
	t.Parallel()
	ask := func(hosts []string, host, target string) *httptest.ResponseRecorder {
		r := request(http.MethodPost, target, `{"symbols":["A"],"interval":60}`, "Origin", "http://"+host)
		r.Host = host
		return serve(t, newAPI(t, func(s *setup) { s.Hosts = hosts }), r)
	}
	for _, test := range []struct {
		hosts []string
		host  string
		want  int
	}{
		{nil, "evil.example", http.StatusAccepted},
		{[]string{}, "evil.example", http.StatusMisdirectedRequest},
		{[]string{}, "evil.example:8000", http.StatusMisdirectedRequest},
		{[]string{}, "localhost.evil.example", http.StatusMisdirectedRequest},
		{[]string{}, "127.0.0.1.evil.example", http.StatusMisdirectedRequest},
		{[]string{}, "2130706433", http.StatusMisdirectedRequest}, // 127.0.0.1 to some
		{[]string{}, "localhost", http.StatusAccepted},
		{[]string{}, "LocalHost.:8000", http.StatusAccepted},
		{[]string{}, "prices.localhost:8000", http.StatusAccepted},
		{[]string{}, "127.0.0.1:8000", http.StatusAccepted},
		{[]string{}, "192.0.2.7", http.StatusAccepted},
		{[]string{}, "[::1]:8000", http.StatusAccepted},
		{[]string{}, "[::1]", http.StatusAccepted},
		{[]string{"prices.example"}, "Prices.Example", http.StatusAccepted},
		{[]string{"prices.example"}, "evil.example", http.StatusMisdirectedRequest},
	} {
		if w := ask(test.hosts, test.host, "/api/v1/prices/poll"); w.Code != test.want {
			t.Errorf("%q by %q: %d %s, want %d", test.host, test.hosts, w.Code, w.Body, test.want)
		}
	}
	w := ask([]string{}, strings.Repeat("x", 999), "/nothing")
	expect(t, w, http.StatusMisdirectedRequest, `{"detail":"Host \"`+strings.Repeat("x", 64)+`…\" is not one of this service: see HTTP_HOSTS"}`)
}

func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for _, target := range []string{"/", "/docs", "/docs/swagger-ui.css", "/nothing", latestAAPL + "&max_age=x"} {
		header := get(t, api, target).Header()
		if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("X-Frame-Options") != "DENY" ||
			!strings.HasPrefix(header.Get("Content-Security-Policy"), "default-src 'none'; ") {
			t.Errorf("%s: %v", target, header)
		}
	}
}

func TestRequestsAreLogged(t *testing.T) {
	t.Parallel()
	var logged strings.Builder
	api := newAPI(t, func(s *setup) {
		s.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	get(t, api, "/health")
	for _, want := range []string{"level=DEBUG", "method=GET", "path=/health", "status=200", "bytes=20", "client=127.0.0.1:50000"} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("no %s in %s", want, &logged)
		}
	}
}

// TestAnswered: what is told of a request has few values, whatever clients send.
func TestAnswered(t *testing.T) {
	t.Parallel()
	var told []httpapi.Answered
	api := newAPI(t, func(s *setup) { s.Answered = func(a httpapi.Answered) { a.Took = 0; told = append(told, a) } })
	for _, asked := range []struct{ method, target string }{
		{http.MethodGet, "/api/v1/symbols"}, {http.MethodHead, "/livez"}, {http.MethodGet, "/api/v1/prices/poll/no-such-job"},
		{"BREW", "/livez"}, {http.MethodGet, "/coffee"}, {http.MethodGet, "/api/v1/prices/latest"},
	} {
		serve(t, api, request(asked.method, asked.target, ""))
	}
	want := []httpapi.Answered{
		{Route: "/api/v1/symbols", Method: "GET", Status: http.StatusOK},
		{Route: "/livez", Method: "HEAD", Status: http.StatusOK},
		{Route: "/api/v1/prices/poll/{job_id}", Method: "GET", Status: http.StatusNotFound},
		{Route: "other", Method: "other", Status: http.StatusMethodNotAllowed},
		{Route: "other", Method: "GET", Status: http.StatusNotFound},
		{Route: "/api/v1/prices/latest", Method: "GET", Status: http.StatusUnprocessableEntity},
	}
	if !slices.Equal(told, want) {
		t.Errorf("told of %+v, want %+v", told, want)
	}
}

// TestAccessLog: a share of 1 takes all, errors alone those that were answered 5xx, and no
// record has what a client asked for in its query.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		access httpapi.AccessLog
		want   []string
	}{
		"off":    {httpapi.AccessLog{}, nil},
		"errors": {httpapi.AccessLog{Errors: true}, []string{"/api/v1/symbols status=500"}},
		"all": {httpapi.AccessLog{Errors: true, Share: 1},
			[]string{"/livez status=200", "/coffee status=404", "/api/v1/symbols status=500"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var logged strings.Builder
			api := newAPI(t, func(s *setup) {
				s.AccessLog, s.Logger = test.access, slog.New(slog.NewTextHandler(&logged, nil))
				s.Symbols = brokenPorts{func() error { return errors.New("no such column") }}
			})
			for _, target := range []string{"/livez", "/coffee?with=milk", "/api/v1/symbols"} {
				get(t, api, target)
			}
			var got []string
			for line := range strings.Lines(logged.String()) {
				if _, rest, found := strings.Cut(line, "msg=request method=GET path="); found {
					got = append(got, strings.Join(strings.Fields(rest)[:2], " "))
				}
			}
			if !slices.Equal(got, test.want) || strings.Contains(logged.String(), "milk") {
				t.Errorf("logged %q, want %q:\n%s", got, test.want, &logged)
			}
		})
	}
}

// TestProblems: a client that names application/problem+json gets errors by RFC 9457, and all
// others in the original's shape.
func TestProblems(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Keys = scoped() })
	for _, accept := range []string{"", "*/*", "application/*", "application/json", "application/problem+json;q=0", "application/problem"} {
		w := get(t, api, "/nothing", "Accept", accept)
		expect(t, w, http.StatusNotFound, `{"detail":"Not Found"}`)
	}
	for _, accept := range []string{"application/problem+json", "application/json, application/problem+json;q=0.1", "text/csv,application/problem+json"} {
		w := get(t, api, "/nothing", "Accept", accept)
		expect(t, w, http.StatusNotFound, `{"type":"about:blank","title":"Not Found","status":404,"detail":"Not Found"}`)
		if media := w.Header().Get("Content-Type"); media != "application/problem+json" {
			t.Errorf("%s: %s", accept, media)
		}
	}
	const problems = "application/problem+json"
	expect(t, get(t, api, "/api/v1/prices/latest", append(bearer("read"), "Accept", problems)...), http.StatusUnprocessableEntity,
		`{"type":"about:blank","title":"Unprocessable Entity","status":422,"detail":"invalid request: [query symbol]: Field required",`+
			`"errors":[{"type":"missing","loc":["query","symbol"],"msg":"Field required","input":null}]}`)
	if w := get(t, api, "/version", "Accept", problems); w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), `"title":"Unauthorized"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// What is not an error stays as it is.
	if w := get(t, api, "/livez", "Accept", problems); w.Header().Get("Content-Type") != "application/json" {
		t.Error(w.Header())
	}
	panicking := newAPI(t, func(s *setup) { s.Readiness = func(context.Context) []httpapi.Check { panic("canary") } })
	expect(t, get(t, panicking, "/readyz", "Accept", problems), http.StatusInternalServerError,
		`{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"Internal Server Error"}`)
}
