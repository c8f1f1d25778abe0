package cmd_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asClient runs a subcommand against the program.
func (p *program) asClient(args ...string) (status int, stdout, stderr string) {
	p.t.Helper()
	return run(p.t, environment{"HTTP_ADDR": strings.TrimPrefix(p.url, "http://")}, args...)
}

func TestClientCommands(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	status, stdout, stderr := p.asClient("price", "aapl", "-o", "json")
	require.Zero(t, status, stderr)
	var price struct {
		Price     json.Number
		Timestamp string
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &price))
	require.Eventually(t, func() bool {
		return strings.Contains(p.get("/api/v1/symbols").body, `"last_timestamp":"`+price.Timestamp+`","last_price":`+price.Price.String()+`,"`)
	}, 10*time.Second, 5*time.Millisecond, stdout)
	p.eventually("/api/v1/prices/moving-average?symbol=AAPL&window=3", http.StatusOK)
	status, stdout, stderr = p.asClient("average", "AAPL", "--window", "3")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `^SYMBOL +WINDOW +AVERAGE +TIMESTAMP\nAAPL +3 +[0-9.]+ +20\S+Z\n$`, stdout)
	status, _, stderr = p.asClient("average", "AAPL", "--as-of", "2001-01-01T00:00:00Z")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "404 Not Found: Moving average not found")

	status, stdout, stderr = p.asClient("poll", "create", "AAPL", "MSFT", "--interval", "90", "--idempotency-key", "k", "-o", "json")
	require.Zero(t, status, stderr)
	var created struct {
		JobID string `json:"job_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &created))
	status, stdout, stderr = p.asClient("poll", "create", "AAPL", "MSFT", "--interval", "90", "--idempotency-key", "k")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `\n`+created.JobID+` +AAPL,MSFT +90s +simulated\n$`, stdout, "the same job")
	for _, c := range []struct{ command, becomes string }{{"pause", "paused"}, {"resume", "active"}, {"stop", "stopped"}} {
		status, stdout, stderr = p.asClient("poll", c.command, created.JobID)
		require.Zero(t, status, stderr)
		assert.Equal(t, created.JobID+"  accepted\n", stdout)
		var list string
		require.Eventually(t, func() bool {
			status, list, stderr = p.asClient("poll", "list")
			require.Zero(t, status, stderr)
			return strings.Contains(list, created.JobID+"  "+c.becomes)
		}, 10*time.Second, 5*time.Millisecond, list)
	}
	status, _, stderr = p.asClient("poll", "stop", created.JobID)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "409 Conflict: Polling job "+created.JobID+" is stopped")
	status, stdout, _ = p.asClient("poll", "list", "-o", "json")
	assert.Zero(t, status)
	var jobs []map[string]any
	require.NoError(t, json.Unmarshal([]byte(stdout), &jobs))
	require.Len(t, jobs, 1)
	assert.Equal(t, "stopped", jobs[0]["status"])
}

// What the service cannot read is an error of usage, as what we cannot.
func TestClientErrors(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	for _, test := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"price", "a<b"}, 2, "symbol: String should match pattern"},
		{[]string{"price", "AAPL", "--provider", "nobody"}, 2, `Unknown provider "nobody"`},
		{[]string{"average", "AAPL", "--window", "0"}, 2, "window: Input should be greater than or equal to 1"},
		{[]string{"average", "AAPL", "--as-of", "now"}, 2, "as_of: Input should be a valid datetime"},
		{[]string{"poll", "create", "AAPL", "--interval", "1"}, 2, "interval: Input should be greater than or equal to 60"},
		{[]string{"poll", "create"}, 2, "requires at least 1 arg"},
		{[]string{"poll", "pause"}, 2, "accepts 1 arg"},
		{[]string{"poll", "list", "-o", "xml"}, 2, `"xml" for "-o, --output" flag: no such value; known are table, json`},
		{[]string{"poll", "create", "AAPL", "-o", "xml"}, 2, `"xml" for "-o, --output" flag: no such value; known are table, json`},
		{[]string{"poll", "list", "--url", "nowhere"}, 2, `"nowhere" is not like`},
		{[]string{"poll", "resume", "no such?job"}, 1, `404 Not Found: There is no polling job`},
		{[]string{"price", "AAPL", "--url", "http://127.0.0.1:1"}, 1, "asking the service"},
	} {
		status, stdout, stderr := p.asClient(test.args...)
		assert.Equal(t, test.status, status, "%q: %s", test.args, stderr)
		assert.Contains(t, stderr, test.stderr, test.args)
		assert.Empty(t, stdout, test.args)
	}
	assert.JSONEq(t, `{"items":[]}`, p.get("/api/v1/prices/poll").body, "nothing was created")
}

func TestClientOfAnotherServer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/below/api/v1/prices/poll" {
			w.WriteHeader(http.StatusTeapot)
		}
		_, _ = w.Write([]byte("<html>")) // to a client that reads
	}))
	defer server.Close()
	status, _, stderr := run(t, environment{}, "poll", "list", "--url", server.URL+"/below/")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "418 I'm a teapot: no explanation")
	status, _, stderr = run(t, environment{}, "price", "AAPL", "--url", server.URL)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "reading the answer of "+server.URL+"/api/v1/prices/latest?symbol=AAPL")
}
