package httpapi_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/live"
	"github.com/pricemill/pricemill/schema"
)

// h2c is a client of HTTP/2 without TLS.
func h2c(t *testing.T) *http.Client {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// TestHTTP2: without TLS, to clients that begin with it, many requests at once on one
// connection, which counts as one; with the answers and the limits that HTTP/1.1 has.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	const atOnce = 20
	var arrived sync.WaitGroup
	arrived.Add(atOnce)
	api := newAPI(t, func(s *setup) {
		s.RateLimitPerMinute = -1
		known := knows("185.75", 0)
		s.LatestPrices = latestFunc(func(ctx context.Context, p schema.Provider, symbol schema.Symbol) (latestprices.Price, error) {
			if symbol == "ALL" { // none is answered before all are here
				arrived.Done()
				arrived.Wait()
			}
			return known(ctx, p, symbol)
		})
	})
	listener := listenTCP(t)
	connections := serveLimited(t, listener, api, httpapi.ConnectionLimits{})
	client, url := h2c(t), "http://"+listener.Addr().String()
	ask := func(method, path, body string) (status int, answer string) {
		r, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		require.NoError(t, err)
		response, err := client.Do(r)
		require.NoError(t, err)
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		assert.Equal(t, "HTTP/2.0", response.Proto)
		return response.StatusCode, string(text)
	}
	status, body := ask(http.MethodGet, "/api/v1/prices/latest?symbol=AAPL", "")
	assert.Equal(t, http.StatusOK, status, body)
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			status, body := ask(http.MethodGet, "/api/v1/prices/latest?symbol=ALL", "")
			assert.Equal(t, http.StatusOK, status, body)
		})
	}
	all.Wait()
	assert.Equal(t, 1, connections.Open())
	status, _ = ask(http.MethodPost, "/api/v1/prices/poll", strings.Repeat(" ", httpapi.MaxBody+1))
	assert.Equal(t, http.StatusRequestEntityTooLarge, status)
	status, _ = ask(http.MethodPost, batch, `{"series":[{"symbol":"A"}]}`)
	assert.Equal(t, http.StatusOK, status)
	client.CloseIdleConnections()
	require.Eventually(t, func() bool { return connections.Open() == 0 }, 20*time.Second, 5*time.Millisecond)
}

// TestHTTP2StreamsEndWithTheServer: a stream of prices over HTTP/2 has its events at once, and
// ends when the server shuts down, which waits for it.
func TestHTTP2StreamsEndWithTheServer(t *testing.T) {
	t.Parallel()
	script := newScript()
	url, api := listen(t, func(s *setup) { s.Live = script })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+pricesStream, nil)
	require.NoError(t, err)
	response, err := h2c(t).Do(r)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	assert.Equal(t, "HTTP/2.0", response.Proto)
	assert.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	lines := bufio.NewReader(response.Body)
	script.events <- []live.Event{event("price", "a", observedPrice("2"))}
	for line := ""; line != "event: price\n"; {
		line, err = lines.ReadString('\n')
		require.NoError(t, err)
	}
	api.Drain()
	_, err = io.ReadAll(lines)
	require.NoError(t, err)
}
