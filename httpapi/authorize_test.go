package httpapi_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/apikeys"
	"github.com/pricemill/pricemill/projections/live"
)

// keyring is keys that are their own secrets.
type keyring struct {
	mu      sync.Mutex
	keys    map[string]apikeys.Key
	err     error
	changed chan struct{}
}

func newKeyring(keys ...apikeys.Key) *keyring {
	k := &keyring{keys: map[string]apikeys.Key{}, changed: make(chan struct{})}
	for _, key := range keys {
		k.keys["secret-of-"+key.ID] = key
	}
	return k
}

// scoped has a key of each scope, by its name.
func scoped() *keyring {
	var keys []apikeys.Key
	for _, scope := range apikeys.Scopes {
		keys = append(keys, apikeys.Key{ID: string(scope), Scope: scope})
	}
	return newKeyring(keys...)
}

func (k *keyring) Required() bool { return true }

func (k *keyring) Find(_ context.Context, secret string) (*apikeys.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key, known := k.keys[secret]; known && k.err == nil {
		return &key, nil
	}
	return nil, k.err
}

func (k *keyring) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

func (k *keyring) revoke(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, "secret-of-"+id)
	close(k.changed)
	k.changed = make(chan struct{})
}

func bearer(id string) []string { return []string{"Authorization", "Bearer secret-of-" + id} }

// TestEveryRouteHasItsScope holds the table of scopes against the document, and both against
// what the routes do: none answers without its scope, and none asks for more.
func TestEveryRouteHasItsScope(t *testing.T) {
	t.Parallel()
	logged := &bytes.Buffer{}
	api := newAPI(t, func(s *setup) {
		s.Keys, s.Requests, s.Live = scoped(), becomes(observed("1")), &pushes{}
		s.Logger = slog.New(slog.NewJSONHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	routed := map[string]bool{}
	for _, rt := range api.Routes() {
		routed[rt[0]+" "+rt[1]] = true
	}
	for _, o := range mustContract(t).Operations() {
		if got := httpapi.ScopeOf(o.Method, o.Path); got != o.Scope {
			t.Errorf("%s needs the scope %q, and %q by the document", o, got, o.Scope)
		}
		if !routed[o.String()] {
			t.Errorf("%s is not routed", o)
		}
		delete(routed, o.String())
		path := strings.NewReplacer("{asset}", "swagger-ui.css", "{file}", "style.css", "{job_id}", "poll_abc12345", "{stream_id}", "stream_abc12345", "{backfill_id}", "backfill_abc12345",
			"{id}", "rebuild_abc12345", "{letter_id}", "17", "{retry_id}", "retry_abc12345", "{indicator}", "bands").Replace(o.Path)
		if path == "/api/v1/prices/stream" {
			path += "?symbols=" // which is refused later
		}
		needed := apikeys.Scope(o.Scope)
		for _, caller := range []string{"", "unknown", "read", "command", "admin"} {
			var header []string
			if caller != "" {
				header = bearer(caller)
			}
			w := serve(t, api, request(o.Method, path, "", header...))
			want := 0 // anything else
			switch scope := apikeys.Scope(caller); {
			case o.Scope == "":
			case caller == "" || caller == "unknown":
				want = http.StatusUnauthorized
			case !scope.Includes(needed):
				want = http.StatusForbidden
			}
			if refused := w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden; want != 0 && w.Code != want || want == 0 && refused {
				t.Errorf("%s with key %q: %d %.200s", o, caller, w.Code, w.Body)
			}
			if (want == http.StatusUnauthorized) != (len(w.Header().Values("WWW-Authenticate")) == 2) {
				t.Errorf("%s with key %q: %q", o, caller, w.Header().Values("WWW-Authenticate"))
			}
			if want == http.StatusForbidden && !strings.Contains(w.Body.String(), "this needs "+o.Scope) {
				t.Errorf("%s: %s does not name the scope", o, w.Body)
			}
		}
	}
	for route := range routed {
		t.Errorf("%s is not in the document", route)
	}
	if text := logged.String(); strings.Contains(text, "secret-of-") || !strings.Contains(text, `"key":"command"`) {
		t.Error("the log has a secret, or does not name the key")
	}
}

func TestKeysAsPasswords(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Keys = scoped() })
	for password, status := range map[string]int{"secret-of-read": http.StatusOK, "secret-of-nobody": http.StatusUnauthorized, "": http.StatusUnauthorized} {
		r := request(http.MethodGet, "/dashboard/jobs", "", "Accept", "text/html")
		r.SetBasicAuth("anyone", password)
		if w := serve(t, api, r); w.Code != status {
			t.Errorf("%q: %d, want %d", password, w.Code, status)
		}
	}
	for _, header := range []string{"Bearer", "Bearer ", "Basic !", "Digest x", "secret-of-read"} {
		if w := get(t, api, "/version", "Authorization", header); w.Code != http.StatusUnauthorized {
			t.Errorf("%q: %d", header, w.Code)
		}
	}
	if w := get(t, api, "/version", "Authorization", "bearer  secret-of-read "); w.Code != http.StatusOK {
		t.Errorf("a scheme in lower case: %d %s", w.Code, w.Body)
	}
}

// TestButtonsNeedTheirScope: a button does no more than the request that it is.
func TestButtonsNeedTheirScope(t *testing.T) {
	t.Parallel()
	published := &commands{}
	api := newAPI(t, func(s *setup) { s.Keys, s.Commands = scoped(), published })
	for _, test := range []struct {
		key, do string
		status  int
	}{
		{"read", "stop-job", http.StatusForbidden}, {"command", "stop-job", http.StatusSeeOther},
		{"command", "retry-letter", http.StatusForbidden}, {"command", "cancel-rebuild", http.StatusForbidden},
		{"admin", "cancel-rebuild", http.StatusSeeOther},
	} {
		id := map[string]string{"stop-job": "poll_abc12345", "cancel-rebuild": "rebuild_abc12345", "retry-letter": "17"}[test.do]
		w := serve(t, api, request(http.MethodPost, "/dashboard/actions", "do="+test.do+"&id="+id, append(bearer(test.key), "Content-Type", "application/x-www-form-urlencoded")...))
		if w.Code != test.status {
			t.Errorf("%s with %s: %d %s", test.do, test.key, w.Code, w.Body)
		}
	}
	if n := len(published.all()); n != 1 {
		t.Errorf("%d commands, want that of the one button", n)
	}
}

// TestKeysThatCannotBeRead: while no one knows whether a key is valid, it opens nothing, and
// no client is told that its key is wrong.
func TestKeysThatCannotBeRead(t *testing.T) {
	t.Parallel()
	keys := scoped()
	keys.err = errors.New("the database is down")
	api := newAPI(t, func(s *setup) { s.Keys = keys })
	if w := get(t, api, "/api/v1/providers", bearer("read")...); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := get(t, api, "/livez", bearer("read")...); w.Code != http.StatusOK {
		t.Errorf("livez: %d", w.Code)
	}
}

// TestCommandsWithoutKeys: until there is a key, commands come from this machine, unless
// that is allowed. What a proxy passes on is not of this machine.
func TestCommandsWithoutKeys(t *testing.T) {
	t.Parallel()
	const body = `{"symbols":["A"],"interval":60}`
	strict, opened := newAPI(t, nil), newAPI(t, func(s *setup) { s.OpenCommands = true })
	ask := func(api *httpapi.API, method, path, from string, header ...string) int {
		r := request(method, path, body, header...)
		r.RemoteAddr = from
		return serve(t, api, r).Code
	}
	const here, there = "127.0.0.1:50000", "192.0.2.1:50000"
	for _, test := range []struct {
		api    *httpapi.API
		method string
		from   string
		header []string
		want   int
	}{
		{strict, http.MethodPost, here, nil, http.StatusAccepted},
		{strict, http.MethodPost, "[::1]:50000", nil, http.StatusAccepted},
		{strict, http.MethodPost, there, nil, http.StatusForbidden},
		{strict, http.MethodGet, there, nil, http.StatusOK},
		{strict, http.MethodPost, there, []string{"X-Forwarded-For", "127.0.0.1"}, http.StatusForbidden},
		{strict, http.MethodPost, here, []string{"X-Forwarded-For", "127.0.0.1"}, http.StatusForbidden},
		{strict, http.MethodPost, here, []string{"Forwarded", "for=127.0.0.1"}, http.StatusForbidden},
		{opened, http.MethodPost, there, nil, http.StatusAccepted},
	} {
		if got := ask(test.api, test.method, "/api/v1/prices/poll", test.from, test.header...); got != test.want {
			t.Errorf("%s from %s with %q: %d, want %d", test.method, test.from, test.header, got, test.want)
		}
	}
	if got := ask(strict, http.MethodPost, "/api/v1/rebuilds/rebuild_abc12345/promote", there); got != http.StatusForbidden {
		t.Errorf("promote: %d", got)
	}
}

// TestRateLimitOfKeys: each key has its own, on this machine too.
func TestRateLimitOfKeys(t *testing.T) {
	t.Parallel()
	keys := newKeyring(apikeys.Key{ID: "slow", Scope: apikeys.Read, RatePerMinute: 2}, apikeys.Key{ID: "plain", Scope: apikeys.Read},
		apikeys.Key{ID: "other", Scope: apikeys.Read})
	api := newAPI(t, func(s *setup) {
		s.Keys, s.RateLimitPerMinute = keys, 3
		s.Now = func() time.Time { return eventTime.Time }
	})
	ask := func(from, id string) *httptest.ResponseRecorder {
		r := request(http.MethodGet, "/version", "", bearer(id)...)
		r.RemoteAddr = from
		return serve(t, api, r)
	}
	count := func(from, id string) (allowed int) {
		for range 10 {
			if w := ask(from, id); w.Code != http.StatusTooManyRequests {
				allowed++
			}
		}
		return allowed
	}
	const here, there, elsewhere = "127.0.0.1:50000", "192.0.2.1:50000", "198.51.100.1:50000"
	for _, test := range []struct {
		from, key string
		want      int
	}{
		{here, "slow", 2}, {there, "slow", 0}, // the same key, wherever it is used
		{here, "plain", 10}, {there, "plain", 3}, {elsewhere, "plain", 0},
		{there, "other", 3},                           // another key of the same address
		{there, "unknown", 3}, {there, "unknown2", 0}, // those without a valid one, by address
	} {
		if got := count(test.from, test.key); got != test.want {
			t.Errorf("%s from %s: %d allowed, want %d", test.key, test.from, got, test.want)
		}
	}
	if policy := ask(here, "slow").Header().Get("RateLimit-Policy"); policy != `"default";q=2;w=60` {
		t.Errorf("the policy of slow: %s", policy)
	}
}

// pushes opens streams that have nothing to say.
type pushes struct{ noLive }

func (*pushes) Open(context.Context, live.Request) (httpapi.LiveStream, error) { return silent{}, nil }

type silent struct{}

func (silent) ID() string    { return "" }
func (silent) Passed() int64 { return 0 }
func (silent) Close()        {}
func (silent) Next(ctx context.Context, _ <-chan time.Time) ([]live.Event, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestRevokedKeysEndStreams, and no others.
func TestRevokedKeysEndStreams(t *testing.T) {
	t.Parallel()
	keys := newKeyring(apikeys.Key{ID: "a", Scope: apikeys.Read}, apikeys.Key{ID: "b", Scope: apikeys.Read})
	api := newAPI(t, func(s *setup) { s.Keys, s.Live = keys, &pushes{} })
	ended := map[string]chan struct{}{}
	ctx, hangUp := context.WithCancel(t.Context())
	for _, id := range []string{"a", "b"} {
		done := make(chan struct{})
		ended[id] = done
		r := request(http.MethodGet, "/api/v1/prices/stream?symbols=A", "", bearer(id)...).WithContext(ctx)
		go func() {
			defer close(done)
			api.ServeHTTP(httptest.NewRecorder(), r)
		}()
	}
	keys.revoke("a")
	select {
	case <-ended["a"]:
	case <-time.After(30 * time.Second):
		t.Error("the stream continues")
	}
	select {
	case <-ended["b"]:
		t.Error("another one ended")
	default:
	}
	hangUp()
	<-ended["b"]
}
