package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// A parameter that a route does not have is refused, and the answer names those
// that it has: what is silently left out would be a question that was never answered.
func TestUnknownParameters(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for target, want := range map[string]string{
		"GET /api/v1/prices/latest?symbol=A&period=10":                 `symbol, provider, max_age, stale`,
		"GET /api/v1/prices/latest?symbl=A":                            `symbol, provider, max_age, stale`,
		"GET /api/v1/prices/latest?Symbol=A":                           `symbol, provider, max_age, stale`,
		"GET /api/v1/prices/latest?symbol%5B%5D=A":                     `symbol, provider, max_age, stale`,
		"HEAD /api/v1/prices/latest?symbol=A&_=1":                      ``,
		"GET /api/v1/prices/moving-average?symbol=A&period=10":         `symbol, window, provider, as_of`,
		"GET /api/v1/prices/moving-average/history?symbol=A&as_of=x":   `symbol, window, provider, from, to, limit, cursor`,
		"GET /api/v1/prices/history?symbol=A&interval=1m":              `symbol, provider, from, to, limit, cursor`,
		"GET /api/v1/indicators/bands?symbol=A&period=10":              `length, width, mean, symbol, provider, from, to, limit, cursor`,
		"GET /api/v1/prices/poll?status=active":                        `limit, cursor, after, wait`,
		"GET /api/v1/prices/poll/poll_abc12345?limit=1":                `after, wait`,
		"POST /api/v1/prices/poll?symbols=A":                           `this route has no query parameters`,
		"DELETE /api/v1/streams/stream_abc12345?force=true":            `this route has no query parameters`,
		"GET /api/v1/providers?name=csv":                               `this route has no query parameters`,
		"POST /api/v1/rebuilds/rebuild_abc12345/promote?stal=allow":    `stale`,
		"GET /api/v1/prices/latest?symbol=A&provider=yahoo;max_age=60": `malformed`,
		"GET /api/v1/prices/latest?symbol=A&provider=%zz":              `malformed`,
	} {
		method, path, _ := strings.Cut(target, " ")
		w := serve(t, api, request(method, path, ""))
		if w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want 422 with %s", target, w.Code, w.Body, want)
		}
	}
	w := get(t, api, "/api/v1/prices/latest?symbol=A&period=10&Window=5&period=11")
	expect(t, w, http.StatusUnprocessableEntity, `{"detail":[`+
		`{"type":"extra_forbidden","loc":["query","Window"],"msg":"Extra inputs are not permitted; known are symbol, provider, max_age, stale, after, wait","input":"5"},`+
		`{"type":"extra_forbidden","loc":["query","period"],"msg":"Extra inputs are not permitted; known are symbol, provider, max_age, stale, after, wait","input":"11"}]}`)
}

// Every documented parameter is one that the route knows, and pages and probes may
// be asked with whatever their users add.
func TestKnownParameters(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for _, o := range mustContract(t).Operations() {
		path := examplePath.Replace(o.Path)
		for _, name := range o.QueryParameters() {
			w := serve(t, api, request(o.Method, path+"?"+name+"=1", ""))
			if strings.Contains(w.Body.String(), "extra_forbidden") {
				t.Errorf("%s: %s is refused: %s", o, name, w.Body)
			}
		}
		w := serve(t, api, request(o.Method, path+"?utm_source=x", ""))
		if refused := w.Code == http.StatusUnprocessableEntity && strings.Contains(w.Body.String(), "Extra inputs"); refused != strings.HasPrefix(path, "/api/v1/") {
			t.Errorf("%s with what it does not know: %d", o, w.Code)
		}
	}
	if w := get(t, api, "/api/v1/indicators/nothing?period=10"); w.Code != http.StatusNotFound {
		t.Errorf("an unknown indicator: %d", w.Code)
	}
}

// However many a request has, the answer stays small.
func TestManyUnknownParameters(t *testing.T) {
	t.Parallel()
	var query strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&query, "&x%d=%s", i, strings.Repeat("y", 500))
	}
	w := get(t, newAPI(t, nil), "/api/v1/prices/latest?symbol=A"+query.String())
	if w.Code != http.StatusUnprocessableEntity || w.Body.Len() > 4096 {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
}
