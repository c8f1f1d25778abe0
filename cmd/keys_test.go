package cmd_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi/apikeys"
	"github.com/pricemill/pricemill/internal/tlstest"
)

// newKey creates a key by the command line.
func (p *program) newKey(name string, scope apikeys.Scope, args ...string) string {
	p.t.Helper()
	status, stdout, stderr := run(p.t, p.env, append([]string{"keys", "create", name, "--scope", string(scope)}, args...)...)
	require.Zero(p.t, status, stderr)
	return strings.TrimSpace(stdout)
}

// statusWith is that of a GET with a key, or with none.
func (p *program) statusWith(path, key string) int {
	p.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, p.url+path, nil)
	require.NoError(p.t, err)
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	require.NoError(p.t, response.Body.Close())
	return response.StatusCode
}

func (p *program) statusWithout(path string) int { p.t.Helper(); return p.statusWith(path, "") }

func (p *program) awaitStatus(path, key string, status int) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return p.statusWith(path, key) == status }, 30*time.Second, 10*time.Millisecond, "%s: want %d", path, status)
}

// TestKeysOfTheAPI follows keys from their creation to their end, by the command line and
// over HTTP, while the service runs.
func TestKeysOfTheAPI(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"LOG_LEVEL": "debug", "LOG_FORMAT": "json"})
	require.Equal(t, http.StatusOK, p.statusWithout("/api/v1/providers"), "without any key, as ever")
	reader := p.newKey("dashboard", apikeys.Read)
	assert.Regexp(t, `^pm_[a-z2-7]{8}_[a-z2-7]{52}$`, reader)
	require.Equal(t, http.StatusOK, p.statusWith("/api/v1/providers", reader), "at once")
	p.awaitStatus("/api/v1/providers", "", http.StatusUnauthorized)
	p.awaitStatus("/readyz", "", http.StatusOK)
	for path, status := range map[string]int{"/livez": 200, "/health": 200, "/docs": 200, "/openapi.json": 200,
		"/metrics": 401, "/version": 401, "/": 401, "/api/v1/prices/latest?symbol=AAPL": 401, "/dashboard/jobs": 401} {
		assert.Equal(t, status, p.statusWithout(path), path)
	}
	assert.Equal(t, http.StatusOK, p.statusWith("/metrics", reader))

	// The commands of pricemill send the key that they are given.
	client := environment{"HTTP_ADDR": addressOf(p.url)}
	status, _, stderr := run(t, client, "price", "AAPL")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "set PRICEMILL_API_KEY")
	client["PRICEMILL_API_KEY"] = reader
	status, stdout, stderr := run(t, client, "price", "AAPL")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "AAPL")
	status, _, stderr = run(t, client, "poll", "create", "AAPL")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "has the scope read; this needs command")
	client["PRICEMILL_API_KEY"] = p.newKey("loader", apikeys.Command)
	status, _, stderr = run(t, client, "poll", "create", "AAPL")
	require.Zero(t, status, stderr)
	status, stdout, stderr = run(t, client, "watch", "AAPL", "--count", "1")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "AAPL")

	status, stdout, stderr = run(t, p.env, "keys", "list")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `(?m)^[a-z2-7]{8}  dashboard  read     -     \S+Z  \S+ +-$`, stdout)
	assert.Regexp(t, `(?m)^[a-z2-7]{8}  loader     command  -     `, stdout)
	status, _, stderr = run(t, p.env, "keys", "create", "loader")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "there is a valid API key of this name")
	status, _, stderr = run(t, p.env, "keys", "create", "x", "--scope", "root")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "known are read, command, admin")
	status, _, stderr = run(t, p.env, "keys", "forget")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "revoke it first")

	// A stream that a key opened ends with it.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/api/v1/prices/stream?symbols=AAPL", nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+reader)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { assert.NoError(t, response.Body.Close()) }()
	require.Equal(t, http.StatusOK, response.StatusCode)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		}
	}()
	status, stdout, stderr = run(t, p.env, "keys", "revoke", "dashboard")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `^revoked dashboard \([a-z2-7]{8}\)\n$`, stdout)
	p.awaitStatus("/version", reader, http.StatusUnauthorized)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		assert.Fail(t, "the stream of a revoked key continues")
	}

	// The log names the keys that were used, and shows none.
	assert.Regexp(t, `"key":"`+regexp.QuoteMeta(reader[3:11])+`"`, p.logs.String())
	assert.NotContains(t, p.logs.String(), reader[12:])

	status, _, stderr = run(t, p.env, "keys", "revoke", "loader")
	require.Zero(t, status, stderr)
	p.awaitStatus("/version", client["PRICEMILL_API_KEY"], http.StatusUnauthorized)
	assert.Equal(t, http.StatusUnauthorized, p.statusWithout("/version"), "no key is valid, which opens nothing")
	status, _, stderr = run(t, p.env, "keys", "forget")
	require.Zero(t, status, stderr)
	p.awaitStatus("/version", "", http.StatusOK)
}

// TestTLS: the API over TLS, by certificate files, and the clients that use the same
// settings. A renewed certificate needs no restart.
func TestTLS(t *testing.T) {
	t.Parallel()
	first, second := tlstest.New(t), tlstest.New(t)
	certFile, keyFile := tlstest.Files(t, first.Issue(t))
	p := start(t, environment{"TLS_CERT_FILE": certFile, "TLS_KEY_FILE": keyFile})
	require.True(t, strings.HasPrefix(p.url, "https://"), p.url)
	var http1, http2 http.Protocols
	http1.SetHTTP1(true)
	http2.SetHTTP2(true)
	speaks := &http1
	trusting := func(a *tlstest.Authority) *http.Client {
		return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool()}, DisableKeepAlives: true,
			Protocols: speaks}}
	}
	proto := "HTTP/1.1"
	get := func(client *http.Client) error {
		response, err := client.Get(p.url + "/livez")
		if err != nil {
			return err
		}
		assert.Equal(t, proto, response.Proto)
		return response.Body.Close()
	}
	require.NoError(t, get(trusting(first)))
	require.ErrorContains(t, get(trusting(second)), "certificate")
	speaks, proto = &http2, "HTTP/2.0"
	require.NoError(t, get(trusting(first)))
	address := strings.TrimPrefix(p.url, "https://")
	client := environment{"HTTP_ADDR": address, "TLS_CERT_FILE": certFile}
	for _, args := range [][]string{{"health", "--live"}, {"price", "AAPL"}, {"watch", "AAPL", "--count", "1"}} {
		status, _, stderr := run(t, client, args...)
		require.Zero(t, status, "%q: %s", args, stderr)
	}
	// Another certificate is not the service's.
	otherCert, otherKey := tlstest.Files(t, second.Issue(t))
	status, _, stderr := run(t, environment{"HTTP_ADDR": address, "TLS_CERT_FILE": otherCert}, "health")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "certificate")

	require.NoError(t, os.Rename(otherCert, certFile))
	require.NoError(t, os.Rename(otherKey, keyFile))
	require.Eventually(t, func() bool { return get(trusting(second)) == nil }, 30*time.Second, 10*time.Millisecond)

	for _, wrong := range []environment{{"TLS_CERT_FILE": certFile}, {"TLS_KEY_FILE": keyFile},
		{"TLS_CERT_FILE": filepath.Join(t.TempDir(), "none"), "TLS_KEY_FILE": keyFile}} {
		status, _, stderr := run(t, wrong.with(environment{"DATA_DIR": t.TempDir()}), "serve")
		assert.Equal(t, 2, status)
		assert.Contains(t, stderr, "TLS_")
	}
}

// TestKeysAsJSON is for scripts that create keys.
func TestKeysAsJSON(t *testing.T) {
	t.Parallel()
	env := start(t, nil).env
	status, stdout, stderr := run(t, env, "keys", "create", "loader", "--scope", "command", "--rate", "600", "-o", "json")
	require.Zero(t, status, stderr)
	var key struct {
		apikeys.Key
		Secret string
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &key))
	assert.Equal(t, "loader command 600", fmt.Sprint(key.Name, " ", key.Scope, " ", key.RatePerMinute))
	assert.True(t, strings.HasPrefix(key.Secret, "pm_"+key.ID))
	status, _, stderr = run(t, env, "keys", "create", "x", "--rate", "-1")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "--rate: -1 is not within")
	status, _, stderr = run(t, env, "keys", "revoke", "nobody")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "there is no valid API key")
}
