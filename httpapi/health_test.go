package httpapi_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/pricemill/pricemill/httpapi"
)

func TestServiceRoutes(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for target, want := range map[string]string{
		"/":        `{"message":"Pricemill market data service","version":"1.2.3","docs":"/docs"}`,
		"/health":  `{"status":"healthy"}`,
		"/livez":   `{"status":"alive"}`,
		"/readyz":  `{"status":"ready","checks":[]}`,
		"/version": `{"version":"1.2.3","revision":"abc","go":"` + runtime.Version() + `"}`,
	} {
		w := get(t, api, target)
		expect(t, w, http.StatusOK, want)
		if got := w.Header().Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control %q", target, got)
		}
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		checks []httpapi.Check
		status int
		body   string
	}{
		{"all good", []httpapi.Check{{Name: "database", State: httpapi.CheckOK}}, http.StatusOK,
			`{"status":"ready","checks":[{"name":"database","state":"ok"}]}`},
		{"a warning is ready", []httpapi.Check{{Name: "topic price-events", State: httpapi.CheckWarning, Reason: "retention.ms is 1"}},
			http.StatusOK, `{"status":"ready","checks":[{"name":"topic price-events","state":"warning","reason":"retention.ms is 1"}]}`},
		{"a halted partition is not", []httpapi.Check{
			{Name: "database", State: httpapi.CheckOK},
			{Name: "stage normalize", State: httpapi.CheckFailed, Reason: "partition 3 halted: gap in the chain"},
		}, http.StatusServiceUnavailable, `{"status":"not_ready","checks":[{"name":"database","state":"ok"},` +
			`{"name":"stage normalize","state":"failed","reason":"partition 3 halted: gap in the chain"}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, func(s *setup) {
				s.Readiness = func(ctx context.Context) []httpapi.Check {
					if _, limited := ctx.Deadline(); !limited {
						t.Error("the checks have no deadline")
					}
					return test.checks
				}
			})
			expect(t, get(t, api, "/readyz"), test.status, test.body)
		})
	}
}

// TestOperations: a process that serves no clients is watched like any other,
// and has nothing else to say.
func TestOperations(t *testing.T) {
	t.Parallel()
	api, err := httpapi.NewOperations(httpapi.Config{Build: httpapi.Build{Version: "1.2.3"}, RateLimitPerMinute: 1}, httpapi.Ports{
		Readiness: func(context.Context) []httpapi.Check {
			return []httpapi.Check{{Name: "relay", State: httpapi.CheckFailed, Reason: "no broker"}}
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }),
	})
	if err != nil {
		t.Fatal(err)
	}
	for target, status := range map[string]int{
		"/livez": http.StatusOK, "/readyz": http.StatusServiceUnavailable, "/version": http.StatusOK, "/metrics": http.StatusOK,
		"/": http.StatusNotFound, "/docs": http.StatusNotFound, "/openapi.json": http.StatusNotFound,
		"/api/v1/prices/latest?symbol=AAPL": http.StatusNotFound,
	} {
		w := httptest.NewRecorder()
		api.ServeHTTP(w, request(http.MethodGet, target, ""))
		if w.Code != status {
			t.Errorf("%s: status %d, want %d", target, w.Code, status)
		}
	}
	_, err = httpapi.NewOperations(httpapi.Config{}, httpapi.Ports{})
	for _, want := range []string{"port Readiness", "port Metrics"} {
		if !errors.Is(err, httpapi.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}

// TestWatchersShareALook: many who ask at once cost no more than one, and one who
// leaves spoils it for no one.
func TestWatchersShareALook(t *testing.T) {
	mustContract(t)
	synctest.Test(t, func(t *testing.T) {
		looks, held := 0, make(chan struct{})
		c := crowd{api: newAPI(t, func(s *setup) {
			s.Readiness = func(ctx context.Context) []httpapi.Check {
				looks++
				select {
				case <-held:
					return nil
				case <-ctx.Done():
					return []httpapi.Check{{Name: "database", State: httpapi.CheckFailed, Reason: ctx.Err().Error()}}
				}
			}
			s.Metrics = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				looks++
				<-held
				_, _ = io.WriteString(w, "up 1\n") // into memory
			})
		})}
		for range 50 {
			c.join(t, "/readyz")
			c.join(t, "/metrics")
		}
		c.leave[0]()
		c.leave[1]()
		synctest.Wait()
		close(held)
		c.Wait()
		for i, w := range c.answers {
			expect(t, w, http.StatusOK, []string{`{"status":"ready","checks":[]}`, "up 1\n"}[i%2])
		}
		if looks != 2 {
			t.Errorf("%d looks for two questions", looks)
		}
	})
}

func TestMetricsThatFail(t *testing.T) {
	t.Parallel()
	var logged strings.Builder
	api := newAPI(t, func(s *setup) {
		s.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		s.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "collected before", http.StatusInternalServerError)
		})
	})
	expect(t, get(t, api, "/metrics"), http.StatusInternalServerError, `{"detail":"Internal Server Error"}`)
	if !strings.Contains(logged.String(), "collected before") {
		t.Errorf("the log is not told: %s", &logged)
	}
}

// TestMetricsAreText: also for a client that would take another format.
func TestMetricsAreText(t *testing.T) {
	t.Parallel()
	w := get(t, newAPI(t, nil), "/metrics?name[]=other", "Accept", "application/vnd.google.protobuf", "Accept-Encoding", "zstd")
	expect(t, w, http.StatusOK, "up 1\n")
}
