package remote

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever a service says about when to come back, it is not before now and not
// after an hour.
func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "120", "-1", "99999999999999999999", "Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "1e3", "soon"} {
		f.Add(seed, seed)
	}
	now := time.Date(2025, 6, 15, 14, 30, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, after, reset string) {
		header := http.Header{"Retry-After": {after}, "X-Ratelimit-Reset": {reset}}
		wait := RetryAfter(header, "X-Ratelimit-Reset", now)
		require.True(t, wait >= 0 && wait <= maxRetryAfter, "%v", wait)
	})
}

// An address that is accepted is one that requests can be made of, over TLS or to
// this machine.
func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{"https://finnhub.io/api/v1", "http://127.0.0.1:8080", "http://example.com", "wss://ws-feed.exchange.coinbase.com",
		"ws://[::1]:1", "https://user:password@example.com", "https://", "//x", "https://example.com/?a=b#c", "http://localhost.example.com", "\x00", "https://[::1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if u, err := ParseBaseURL(text); err == nil {
			require.NotEmpty(t, u.Host)
			require.Contains(t, []string{"https", "http"}, u.Scheme)
			again, err := ParseBaseURL(u.String())
			require.NoError(t, err)
			require.Equal(t, u.String(), again.String())
			_, err = http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
			require.NoError(t, err)
		}
		if u, err := ParseFeedURL(text); err == nil {
			require.NotEmpty(t, u.Host)
			require.Contains(t, []string{"wss", "ws"}, u.Scheme)
		}
	})
}
