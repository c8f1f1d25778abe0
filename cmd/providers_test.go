package cmd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/coinbase"
	"github.com/pricemill/pricemill/handlers/provider/finnhub"
	"github.com/pricemill/pricemill/handlers/provider/yahoo"
	"github.com/pricemill/pricemill/schema"
)

// canaryKey is a key that must be found in a header to its service, and nowhere
// else.
const canaryKey = "canary-9b1d77e0"

// fake plays a service: for a symbol in the URL it answers with what is there,
// and for HANG with nothing.
type fake struct {
	*httptest.Server
	answers map[string]string
	hangs   chan struct{} // holds something once a request hangs
}

// newFake starts a service. An answer that begins with three digits has that
// status, and asks to be left alone.
func newFake(t testing.TB, keyHeader string, answers map[string]string) *fake {
	t.Helper()
	f := &fake{answers: answers, hangs: make(chan struct{}, 1)}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.NotContains(t, r.RequestURI, canaryKey)
		if keyHeader != "" {
			assert.Equal(t, canaryKey, r.Header.Get(keyHeader))
		}
		assert.True(t, strings.HasPrefix(r.UserAgent(), "pricemill/"), r.UserAgent())
		f.answer(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) answer(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.RequestURI, "HANG") {
		select {
		case f.hangs <- struct{}{}:
		default:
		}
		<-r.Context().Done()
		return
	}
	for symbol, answer := range f.answers {
		var status int
		if !strings.Contains(r.RequestURI, symbol) {
			continue
		}
		if n, err := fmt.Sscanf(answer, "%3d ", &status); n == 1 && err == nil {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(status)
			answer = answer[4:]
		}
		_, _ = w.Write([]byte(answer)) // the client may be gone
		return
	}
	w.WriteHeader(http.StatusTeapot)
}

// fakes are the services of all real providers, as they answer.
func fakes(t testing.TB) map[schema.Provider]*fake {
	const limited = `429 {"error":"API limit reached."}`
	return map[schema.Provider]*fake{
		finnhub.Name: newFake(t, "X-Finnhub-Token", map[string]string{
			"AAPL": `{"c":612345.67,"d":2.29,"dp":0.8826,"h":263.31,"l":260.68,"o":261.07,"pc":259.45,"t":1582641000}`,
			"NOPE": `{"c":0,"d":null,"dp":null,"h":0,"l":0,"o":0,"pc":0,"t":0}`,
			"BUSY": limited,
		}),
		coinbase.Name: newFake(t, "", map[string]string{
			"SKL-BTC": `{"trade_id":280231,"price":"0.00001304","size":"0.4","time":"2021-04-17T16:43:37.067586Z"}`,
			"NOPE":    `404 {"message":"NotFound"}`,
			"BUSY":    limited,
		}),
		yahoo.Name: newFake(t, "", map[string]string{
			"MSFT": `{"chart":{"result":[{"meta":{"symbol":"MSFT","regularMarketPrice":189.97999572753906,` +
				`"regularMarketTime":1700168402}}],"error":null}}`,
			"NOPE": `404 {"chart":{"result":null,"error":{"code":"Not Found","description":"No data found, symbol may be delisted"}}}`,
			"BUSY": limited,
		}),
	}
}

// settingsFor point the providers to the fakes.
func settingsFor(services map[schema.Provider]*fake) environment {
	env := environment{"FINNHUB_API_KEY": canaryKey, "DEBUG": "true"}
	for name, service := range services {
		env[strings.ToUpper(string(name))+"_BASE_URL"] = service.URL
	}
	return env
}

// TestRealProviders: what the service says is what the client gets, the first
// time already, and the key goes nowhere else.
func TestRealProviders(t *testing.T) {
	t.Parallel()
	p := start(t, settingsFor(fakes(t)))
	p.eventually("/readyz", http.StatusOK)
	var seen strings.Builder
	latest := func(query string) answer {
		got := p.get("/api/v1/prices/latest?" + query)
		fmt.Fprintln(&seen, got.header, got.body)
		return got
	}
	for query, want := range map[string]string{
		"symbol=AAPL": `{"symbol":"AAPL","price":612345.67,"timestamp":"2020-02-25T14:30:00.000000Z","provider":"finnhub"}`,
		"symbol=SKL-BTC&provider=coinbase": `{"symbol":"SKL-BTC","price":0.00001304,"timestamp":"2021-04-17T16:43:37.067586Z",` +
			`"provider":"coinbase"}`,
		"symbol=MSFT&provider=yahoo_finance": `{"symbol":"MSFT","price":189.97999572753906,"timestamp":"2023-11-16T21:00:02.000000Z",` +
			`"provider":"yahoo_finance"}`,
	} {
		got := latest(query)
		assert.Equal(t, http.StatusOK, got.status, got.body)
		assert.Equal(t, want, strings.TrimSpace(got.body), "digit by digit")
	}
	for _, name := range []schema.Provider{finnhub.Name, coinbase.Name, yahoo.Name} {
		got := latest("symbol=NOPE&provider=" + string(name))
		assert.Equal(t, http.StatusNotFound, got.status, "%s: %s", name, got.body)
		got = latest("symbol=BUSY&provider=" + string(name))
		assert.Equal(t, http.StatusBadGateway, got.status, "%s: %s", name, got.body)
		assert.Contains(t, got.field(t, "detail"), "rate_limited: status 429", name)
	}
	assertNoKey(t, p, seen.String())
}

// assertNoKey looks for the key wherever the service writes. What must be there
// shows that it has looked.
func assertNoKey(t *testing.T, p *program, responses string) {
	t.Helper()
	log := ""
	for _, topic := range schema.Topics() {
		status, stdout, stderr := run(t, p.env, "replay", string(topic))
		require.Zero(t, status, stderr)
		log += stdout + stderr
	}
	_, settings, _ := run(t, p.env, "config")
	for place, c := range map[string]struct{ text, known string }{
		"responses": {responses, "612345.67"},
		"log lines": {p.logs.String(), `"level":"DEBUG"`},
		"metrics":   {p.get("/metrics").body, "pricemill_stage_lag"},
		"topics":    {log, "612345.67"},
		"tables":    {dumpTables(t, p.env), `"c":612345.67`},
		"settings":  {settings, "***"},
	} {
		assert.Contains(t, c.text, c.known, place)
		assert.NotContains(t, c.text, canaryKey, place)
	}
}

// dumpTables is the text of every column of every table.
func dumpTables(t *testing.T, env environment) string {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	query := `SELECT m.name AS tab, c.name AS col, c.type AS kind FROM sqlite_master m JOIN pragma_table_info(m.name) c
		WHERE m.type = 'table'`
	if onPostgres() {
		query = `SELECT table_name AS tab, column_name AS col, data_type AS kind FROM information_schema.columns
			WHERE table_schema = current_schema()`
	}
	var columns []struct{ Tab, Col, Kind string }
	require.NoError(t, db.Select(t.Context(), &columns, query))
	var dump strings.Builder
	for _, c := range columns {
		text := `CAST("` + c.Col + `" AS TEXT)`
		if c.Kind == "bytea" {
			text = `encode("` + c.Col + `", 'escape')`
		}
		var values []string
		require.NoError(t, db.Select(t.Context(), &values, `SELECT `+text+` FROM "`+c.Tab+`" WHERE "`+c.Col+`" IS NOT NULL`))
		fmt.Fprintln(&dump, c.Tab, c.Col, values)
	}
	return dump.String()
}

// TestAServiceThatHangsDelaysNoOther by what ends before what: its time is not up
// when the others have answered.
func TestAServiceThatHangsDelaysNoOther(t *testing.T) {
	t.Parallel()
	services := fakes(t)
	env := settingsFor(services)
	env["FETCH_TIMEOUT"] = "30s"
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/api/v1/prices/latest?symbol=HANG&provider=coinbase", nil)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = errors.Join(response.Body.Close(), errors.New(response.Status))
		}
		ended <- err
	}()
	select {
	case <-services[coinbase.Name].hangs:
	case err := <-ended:
		require.NoError(t, err, "it should hang")
	}
	for _, query := range []string{"symbol=AAPL&provider=finnhub", "symbol=MSFT&provider=yahoo", "symbol=SKL-BTC&provider=coinbase"} {
		got := p.get("/api/v1/prices/latest?" + query)
		assert.Equal(t, http.StatusOK, got.status, "%s: %s", query, got.body)
	}
	select {
	case err := <-ended:
		assert.NoError(t, err, "it ended before the others")
	default:
	}
	hangUp()
	assert.ErrorIs(t, <-ended, context.Canceled)
}

func TestAServiceThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	env := settingsFor(fakes(t))
	env["FETCH_TIMEOUT"] = "500ms"
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	for _, name := range []schema.Provider{finnhub.Name, coinbase.Name, yahoo.Name} {
		got := p.get("/api/v1/prices/latest?symbol=HANG&provider=" + string(name))
		assert.Equal(t, http.StatusGatewayTimeout, got.status, "%s: %s", name, got.body)
		assert.Contains(t, got.field(t, "detail"), "No answer from "+string(name)+" for HANG", name)
	}
}

// TestAProviderWithoutAKey is there, takes jobs, and says what it lacks.
func TestAProviderWithoutAKey(t *testing.T) {
	t.Parallel()
	services := fakes(t)
	env := settingsFor(services)
	delete(env, "FINNHUB_API_KEY")
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	got := p.get("/api/v1/prices/latest?symbol=AAPL&provider=finnhub")
	assert.Equal(t, http.StatusBadGateway, got.status, got.body)
	assert.Equal(t, "No price from finnhub for AAPL: not_configured: there is no key: set FINNHUB_API_KEY", got.field(t, "detail"))
	assert.Equal(t, "simulated", p.get("/api/v1/prices/latest?symbol=AAPL").field(t, "provider"), "the default without a key")

	accepted := p.post("/api/v1/prices/poll", `{"symbols":["MSFT"],"interval":60,"provider":"finnhub"}`)
	assert.Equal(t, http.StatusAccepted, accepted.status, accepted.body)
	require.Eventually(t, func() bool {
		status, stdout, stderr := run(t, p.env, "replay", string(schema.QuoteOutcomes))
		require.Zero(t, status, stderr)
		for line := range strings.Lines(stdout) {
			var record struct{ Value schema.QuoteFailed }
			require.NoError(t, json.Unmarshal([]byte(line), &record))
			if record.Value.Symbol == "MSFT" {
				return record.Value.Code == schema.CodeNotConfigured
			}
		}
		return false
	}, 20*time.Second, 20*time.Millisecond)
}

// TestProviderSettings: the defaults lead to the real services, and what does not
// lead anywhere safe is refused.
func TestProviderSettings(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := run(t, environment{"DEFAULT_PROVIDER": "yahoo_finance"}, "config")
	require.Zero(t, status, stderr)
	for _, url := range []string{finnhub.DefaultBaseURL, coinbase.DefaultBaseURL, yahoo.DefaultBaseURL} {
		assert.Contains(t, stdout, " "+url+" ")
	}
	status, stdout, stderr = run(t, environment{
		"FINNHUB_BASE_URL": "http://finnhub.example", "COINBASE_BASE_URL": "https://user:" + canaryKey + "@coinbase.example",
		"YAHOO_BASE_URL": "yahoo",
	}, "config")
	assert.Equal(t, 2, status)
	for _, name := range []string{"FINNHUB_BASE_URL:", "COINBASE_BASE_URL:", "YAHOO_BASE_URL:"} {
		assert.Contains(t, stderr, name)
	}
	assert.NotContains(t, stdout+stderr, canaryKey)
	status, stdout, stderr = run(t, environment{"FINNHUB_API_KEY": canaryKey + " two", "DATA_DIR": t.TempDir()}, "serve")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "provider finnhub: api_key:")
	assert.NotContains(t, stdout+stderr, canaryKey)
}
