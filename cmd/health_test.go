package cmd_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// addressOf is where a program of start listens, as HTTP_ADDR.
func addressOf(url string) string { return strings.TrimPrefix(url, "http://") }

func TestHealth(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	p.eventually("/readyz", http.StatusOK)
	_, port, _ := strings.Cut(addressOf(p.url), ":")
	for _, address := range []string{"127.0.0.1:" + port, "localhost:" + port, "0.0.0.0:" + port, ":" + port} {
		status, stdout, stderr := run(t, environment{"HTTP_ADDR": address}, "health")
		assert.Zero(t, status, "%s: %s", address, stderr)
		assert.Equal(t, "ready\n", stdout)
	}

	// A halt is named; the process lives all the same.
	haltAStage(t, p.env)
	p.eventually("/readyz", http.StatusServiceUnavailable)
	status, stdout, stderr := run(t, environment{"HTTP_ADDR": addressOf(p.url)}, "health")
	assert.Equal(t, 1, status)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "stage normalize on stored-quotes/1: failed: halted")
	assert.NotContains(t, stderr, "database: ok")
	status, stdout, stderr = run(t, environment{}, "health", "--live", "--http-addr", addressOf(p.url))
	assert.Zero(t, status, stderr)
	assert.Equal(t, "alive\n", stdout)

	require.Zero(t, p.stop())
	status, _, stderr = run(t, environment{"HTTP_ADDR": addressOf(p.url)}, "health")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "not well")
}

func TestHealthOfOthers(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	others := map[string]http.HandlerFunc{
		"another's page": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"a redirect":     func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ready", http.StatusFound) },
		"an endless answer": func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
		"none": func(http.ResponseWriter, *http.Request) { <-hang },
	}
	for name, handler := range others {
		server := httptest.NewServer(handler)
		status, _, stderr := run(t, environment{"HTTP_ADDR": addressOf(server.URL)}, "health", "--timeout", "500ms")
		assert.Equal(t, 1, status, name)
		assert.Contains(t, stderr, "not well", name)
		if name == "none" {
			assert.Contains(t, stderr, "deadline exceeded")
			close(hang)
		}
		server.Close()
	}
	for _, address := range []string{"127.0.0.1:0", "127.0.0.1", "127.0.0.1:", "a b:80"} {
		status, _, stderr := run(t, environment{"HTTP_ADDR": address}, "health")
		assert.Equal(t, 2, status, address)
		assert.Contains(t, stderr, "HTTP_ADDR", address)
	}
}

// TestHealthAsksOnLoopback: an address that stands for all interfaces is one to
// listen on, not to ask. No one listens on this port.
func TestHealthAsksOnLoopback(t *testing.T) {
	t.Parallel()
	for address, asked := range map[string]string{
		"0.0.0.0:1": "http://127.0.0.1:1/readyz", ":1": "http://127.0.0.1:1/readyz", "[::]:1": "http://[::1]:1/readyz",
		"127.0.0.2:1": "http://127.0.0.2:1/readyz",
	} {
		status, _, stderr := run(t, environment{"HTTP_ADDR": address, "HTTP_PROXY": "http://127.0.0.1:2"}, "health")
		assert.Equal(t, 1, status, address)
		assert.Contains(t, stderr, asked, address)
	}
}
