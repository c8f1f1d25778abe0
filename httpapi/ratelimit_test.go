package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/ratelimit"
)

// clock stands until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// limited makes an API with a limit of 6 a minute and a clock that stands.
func limited(t *testing.T, change func(*setup)) (api *httpapi.API, time *clock) {
	time = &clock{now: eventTime.Time}
	return newAPI(t, func(s *setup) {
		s.RateLimitPerMinute, s.Now = 6, time.Now
		if change != nil {
			change(s)
		}
	}), time
}

// from asks for /version, which costs nothing but quota.
func from(t *testing.T, api http.Handler, address string) *httptest.ResponseRecorder {
	t.Helper()
	r := request(http.MethodGet, "/version", "")
	r.RemoteAddr = address
	return serve(t, api, r)
}

func expectHeaders(t *testing.T, w *httptest.ResponseRecorder, status int, header map[string]string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d", w.Code, status)
	}
	for name, want := range header {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s %q, want %q", name, got, want)
		}
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	const policy, client = `"default";q=6;w=60`, "192.0.2.1:1000"
	api, time := limited(t, nil)
	for left := 5; left >= 0; left-- {
		expectHeaders(t, from(t, api, client), http.StatusOK, map[string]string{
			"RateLimit-Policy": policy, "Retry-After": "",
			"RateLimit": fmt.Sprintf(`"default";r=%d;t=%d`, left, (6-left)*10),
		})
	}
	refused := from(t, api, client)
	expect(t, refused, http.StatusTooManyRequests, `{"detail":"Rate limit exceeded: 6 requests per minute"}`)
	expectHeaders(t, refused, http.StatusTooManyRequests, map[string]string{
		"RateLimit-Policy": policy, "Retry-After": "10", "RateLimit": `"default";r=0;t=60`,
	})
	if got := from(t, api, "192.0.2.2:1000").Code; got != http.StatusOK {
		t.Errorf("another client: %d", got)
	}
	if got := from(t, api, "192.0.2.1:2000").Code; got != http.StatusTooManyRequests {
		t.Errorf("the same client, another port: %d", got)
	}
	time.advance(9 * second)
	expectHeaders(t, from(t, api, client), http.StatusTooManyRequests, map[string]string{"Retry-After": "1"})
	time.advance(1 * second)
	expectHeaders(t, from(t, api, client), http.StatusOK, map[string]string{"RateLimit": `"default";r=0;t=60`})
	expectHeaders(t, from(t, api, client), http.StatusTooManyRequests, map[string]string{"Retry-After": "10"})
}

const second = time.Second

func TestRateLimitAnswersAnyPath(t *testing.T) {
	t.Parallel()
	api, _ := limited(t, nil)
	ask := func(target string) int {
		r := request(http.MethodGet, target, "")
		r.RemoteAddr = "192.0.2.1:1000"
		return serve(t, api, r).Code
	}
	for range 6 {
		ask("/nothing")
	}
	for target, want := range map[string]int{
		"/nothing": 429, latestAAPL: 429, "/docs": 429, "/health": 200, "/livez": 200, "/readyz": 200,
	} {
		if got := ask(target); got != want {
			t.Errorf("%s: %d, want %d", target, got, want)
		}
	}
}

func TestRateLimitClients(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, first, second string
		loopback            bool
		limited             bool // the second after the first has spent the quota
	}{
		{"loopback is exempt", "127.0.0.1:1", "127.0.0.1:1", false, false},
		{"so is that of version 6", "[::1]:1", "[::1]:1", false, false},
		{"so is the mapped one", "[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1", false, false},
		{"unless it is limited too", "127.0.0.1:1", "127.0.0.1:1", true, true},
		{"a mapped address is the address", "192.0.2.1:1", "[::ffff:192.0.2.1]:1", false, true},
		{"a network of version 6 is one client", "[2001:db8::1]:1", "[2001:db8::ffff]:1", false, true},
		{"another network is another", "[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false, false},
		{"a zone is no part of it", "[fe80::1%eth0]:1", "[fe80::1%eth1]:1", false, true},
		{"neighbours of version 4 are two", "192.0.2.1:1", "192.0.2.3:1", false, false},
		{"what has no address shares", "@", "/run/socket", false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			api, _ := limited(t, func(s *setup) { s.LimitLoopback = test.loopback })
			for range 6 {
				from(t, api, test.first)
			}
			if got := from(t, api, test.second).Code; (got == http.StatusTooManyRequests) != test.limited {
				t.Errorf("status %d, limited should be %v", got, test.limited)
			}
		})
	}
}

func TestNoRateLimit(t *testing.T) {
	t.Parallel()
	api, _ := limited(t, func(s *setup) { s.RateLimitPerMinute = -1 })
	for range 100 {
		if w := from(t, api, "192.0.2.1:1"); w.Code != http.StatusOK || w.Header().Get("RateLimit") != "" {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
	}
}

func TestRateLimiterForgetsTheSilentFirst(t *testing.T) {
	t.Parallel()
	api, _ := limited(t, func(s *setup) { s.RateLimitPerMinute = 1 })
	address := func(i int) string { return fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255) }
	ask := func(i int) int {
		r := request(http.MethodGet, "/version", "")
		r.RemoteAddr = address(i)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		return w.Code
	}
	for i := range ratelimit.MaxClients {
		ask(i)
	}
	if got := ask(0); got != http.StatusTooManyRequests {
		t.Errorf("a client that is remembered: %d", got)
	}
	ask(ratelimit.MaxClients) // one too many: client 1 was silent longest
	if got := ask(0); got != http.StatusTooManyRequests {
		t.Errorf("a client that asked lately: %d", got)
	}
	if got := ask(1); got != http.StatusOK {
		t.Errorf("the client that was forgotten: %d", got)
	}
}
