package cmd_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSimulatedPricesAreTold on a service without a key, where they are the default:
// by the routes of the original and by the command line; and a symbol whose prices
// come from a file is never simulated by accident.
func TestSimulatedPricesAreTold(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	file := filepath.Join(t.TempDir(), "acme.csv")
	require.NoError(t, os.WriteFile(file, []byte("symbol,price,time\nACME,12.50,2025-06-15T14:30:00Z\n"), 0o600))
	status, _, stderr := run(t, p.env, "ingest", "--provider", "csv", file)
	require.Zero(t, status, stderr)

	const others = "other providers with prices of ACME: csv"
	for target, want := range map[string]int{"/api/v1/prices/latest?symbol=ACME": http.StatusNotFound,
		"/api/v1/prices/moving-average?symbol=ACME": http.StatusNotFound} {
		got := p.get(target)
		assert.Equal(t, want, got.status, "%s: %s", target, got.body)
		assert.Contains(t, got.field(t, "detail"), others, target)
		assert.Empty(t, got.header.Get("Pricemill-Simulated"), target)
	}
	refused := p.post("/api/v1/prices/poll", `{"symbols":["ACME"],"interval":60}`)
	assert.Equal(t, http.StatusBadRequest, refused.status, refused.body)
	assert.Contains(t, refused.field(t, "detail"), others)
	history := p.get("/api/v1/prices/history?symbol=ACME")
	assert.JSONEq(t, `{"items":[]}`, history.body, "nothing was made up")
	assert.Equal(t, "csv", history.header.Get("Pricemill-Other-Providers"))
	real := p.eventually("/api/v1/prices/latest?symbol=ACME&provider=csv&stale=allow", http.StatusOK)
	assert.JSONEq(t, `{"symbol":"ACME","price":12.5,"timestamp":"2025-06-15T14:30:00.000000Z","provider":"csv"}`, real.body)
	assert.Empty(t, real.header.Get("Pricemill-Simulated"))

	for _, target := range []string{"/api/v1/prices/latest?symbol=AAPL", "/api/v1/prices/moving-average?symbol=AAPL",
		"/api/v1/prices/history?symbol=AAPL", "/api/v1/prices/moving-average/history?symbol=AAPL", "/api/v1/symbols"} {
		// The read models follow one by one.
		assert.Eventually(t, func() bool {
			got := p.get(target)
			return got.status == http.StatusOK && got.header.Get("Pricemill-Simulated") == "true"
		}, 20*time.Second, 5*time.Millisecond, target)
	}
	accepted := p.post("/api/v1/prices/poll", `{"symbols":["AAPL"],"interval":60}`)
	assert.Equal(t, http.StatusAccepted, accepted.status, accepted.body)

	for _, test := range []struct {
		command        []string
		status         int
		stdout, stderr string
	}{
		{[]string{"price", "AAPL"}, 0, "AAPL", "note: simulated prices"},
		{[]string{"price", "AAPL", "-o", "json"}, 0, `"provider": "simulated"`, "note: simulated prices"},
		{[]string{"average", "AAPL"}, 0, "AAPL", "note: simulated prices"},
		{[]string{"average", "ACME", "--provider", "csv"}, 0, "12.5", ""},
		{[]string{"price", "ACME", "--provider", "csv", "--stale"}, 0, "12.5", ""},
		{[]string{"price", "ACME", "--provider", "csv"}, 1, "", "stale=allow"},
		{[]string{"price", "ACME"}, 1, "", others},
		{[]string{"average", "ACME"}, 1, "", others},
		{[]string{"poll", "create", "ACME"}, 2, "", others},
	} {
		status, stdout, stderr := p.asClient(test.command...)
		assert.Equal(t, test.status, status, "%q: %s", test.command, stderr)
		assert.Contains(t, stdout, test.stdout, test.command)
		assert.Contains(t, stderr, test.stderr, test.command)
		if test.stderr == "" {
			assert.Empty(t, stderr, test.command)
		}
	}
	assert.JSONEq(t, `{"items":[]}`, p.get("/api/v1/prices/history?symbol=ACME").body, "nothing was made up")
	byName := p.get("/api/v1/prices/latest?symbol=ACME&provider=simulated")
	assert.Equal(t, http.StatusOK, byName.status, byName.body)
	assert.Equal(t, "true", byName.header.Get("Pricemill-Simulated"))
}
