package cmd_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/demo"
)

// demoBegins is what the log says of a demo.
const demoBegins = "the demo streams simulated prices; DEMO=off turns it off"

// withDemo is a stack as a new user has it: nothing is configured.
func withDemo(t *testing.T, more environment) environment {
	t.Helper()
	env := environment{"DATA_DIR": t.TempDir(), "HTTP_ADDR": "127.0.0.1:0", "DATABASE_URL": "", "KAFKA_BOOTSTRAP_SERVERS": ""}
	return env.with(more)
}

// startDemo is start without what keeps other tests free of the demo.
func startDemo(t *testing.T, more environment) *program {
	t.Helper()
	return start(t, withDemo(t, environment{"DEMO": "auto"}).with(more))
}

// With nothing configured, prices, averages, indicators and the dashboard have something
// to show within seconds, and all of it says that it is simulated.
func TestTheDemo(t *testing.T) {
	t.Parallel()
	p := startDemo(t, nil)
	p.logs.await(t, demoBegins)
	first := demo.Symbols()[0]
	for _, target := range []string{"/api/v1/prices/moving-average?symbol=", "/api/v1/prices/latest?stale=allow&symbol=", "/api/v1/prices/history?limit=1&symbol="} {
		// A read model that has not yet seen the symbol has nothing simulated to show.
		require.Eventually(t, func() bool {
			shown := p.get(target + string(first))
			return shown.status == http.StatusOK && shown.header.Get("Pricemill-Simulated") == "true"
		}, 20*time.Second, 20*time.Millisecond, target)
	}
	for _, indicator := range []string{"candles", "ema"} {
		require.Eventually(t, func() bool {
			return strings.Contains(p.get("/api/v1/indicators/"+indicator+"?symbol="+string(first)).body, `"timestamp"`)
		}, 20*time.Second, 20*time.Millisecond, indicator)
	}
	require.Eventually(t, func() bool {
		known := p.get("/api/v1/symbols").body
		for _, symbol := range demo.Symbols() {
			if !strings.Contains(known, fmt.Sprintf(`"symbol":%q,"provider":"simulated"`, symbol)) {
				return false
			}
		}
		return true
	}, 20*time.Second, 20*time.Millisecond, "all symbols")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/", nil)
	require.NoError(t, err)
	request.Header.Set("Accept", "text/html")
	page := p.send(request)
	assert.Contains(t, page.body, `data-symbol="`+string(first)+`"`)
	assert.Contains(t, strings.ToLower(page.body), "simulated")

	// A stream of another provider ends it.
	accepted := p.post("/api/v1/prices/poll", `{"symbols":["BTC-USD"],"interval":3600,"provider":"coinbase"}`)
	require.Equal(t, http.StatusAccepted, accepted.status, accepted.body)
	ended := p.logs.await(t, "no demo: simulated prices are not mixed with others")
	assert.Equal(t, "another provider is in use: coinbase", ended["reason"])
	p.stop()

	// And it does not begin again in the next process.
	again := startDemo(t, environment{"DATA_DIR": p.env["DATA_DIR"]})
	again.logs.await(t, "no demo: simulated prices are not mixed with others")
	again.stop()
	assert.Empty(t, again.logs.all(demoBegins))
}

// The demo runs where nothing speaks against it.
func TestNoDemo(t *testing.T) {
	t.Parallel()
	for name, env := range map[string]environment{
		"off":               {"DEMO": "off"},
		"a key":             {"FINNHUB_API_KEY": "canary-key"},
		"a key, not chosen": {"FINNHUB_API_KEY": "canary-key", "DEFAULT_PROVIDER": "simulated"},
		"a real provider":   {"DEFAULT_PROVIDER": "coinbase"},
		"no handlers":       {"ROLES": "api"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startDemo(t, env)
			p.eventually("/livez", http.StatusOK)
			p.stop()
			assert.NotContains(t, p.logs.String(), `"module":"demo"`)
		})
	}
	t.Run("the log on Kafka", func(t *testing.T) {
		t.Parallel()
		p := start(t, newKafkaStack(t, environment{"DEMO": "auto"}))
		p.eventually("/livez", http.StatusOK)
		p.stop()
		assert.NotContains(t, p.logs.String(), `"module":"demo"`)
	})
	status, _, stderr := run(t, environment{"DEMO": "yes"}, "config")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, `DEMO: "yes" is neither auto nor off`)
}

// PLUGINS decides which indicators are on, with a demo too.
func TestTheDemoKeepsToPlugins(t *testing.T) {
	t.Parallel()
	p := startDemo(t, environment{"PLUGINS": "ema"})
	p.logs.await(t, demoBegins)
	assert.Equal(t, http.StatusOK, p.get("/api/v1/indicators/ema?symbol=ACME").status)
	assert.Equal(t, http.StatusNotFound, p.get("/api/v1/indicators/candles?symbol=ACME").status)
}
