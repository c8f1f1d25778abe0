package cmd_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/exchangetest"
)

// exchangeDefinition declares the exchange of internal/exchangetest.
func exchangeDefinition(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../handlers/provider/declared/testdata/exchange.yaml")
	require.NoError(t, err)
	return string(text)
}

// TestAStreamOfADeclaredProvider streams a real session by a definition, over a connection
// that is cut several times, after each of which some trades come again and others are
// missing. Each answer keeps the definition that reads it, also when the file has changed.
func TestAStreamOfADeclaredProvider(t *testing.T) {
	t.Parallel()
	frames := exchangetest.Session(t)
	const cuts, lost = 5, 2
	exchange := exchangetest.Start(t, frames, func(connection int) exchangetest.Plan {
		switch {
		case connection >= cuts:
			return exchangetest.Plan{Rewind: exchangetest.Restart}
		case connection == lost:
			return exchangetest.Plan{Skip: 20, At: cutAt(4)}
		}
		return exchangetest.Plan{Rewind: 3, At: cutAt(8)}
	})
	directory := declare(t, exchangeDefinition(t))
	env := streamEnvironment(t, exchange)
	env["PROVIDERS_DIR"], env["EXCHANGE_WS_URL"] = directory, exchange.URL
	p := start(t, env)
	path := startStreamOf(t, p, "exchange", frames)
	awaitPrices(t, p.env, frames)
	checkStreamedOf(t, p.env, "exchange", frames)
	var shown answer
	require.Eventually(t, func() bool {
		shown = p.get(path)
		count, err := shown.field(t, "reconnects").(json.Number).Int64()
		return err == nil && count >= cuts && shown.field(t, "status") == "active"
	}, 30*time.Second, 20*time.Millisecond)
	assert.NotEqual(t, json.Number("0"), shown.field(t, "gaps"), shown.body)
	require.Equal(t, http.StatusAccepted, p.do(http.MethodDelete, path, "").status)
	require.Zero(t, p.stop())

	changed := strings.Replace(exchangeDefinition(t), "price: .price\n    time", "price: .other\n    time", 1)
	require.NotEqual(t, exchangeDefinition(t), changed)
	require.NoError(t, os.WriteFile(filepath.Join(directory, "0.yaml"), []byte(changed), 0o600))
	status, stdout, stderr := run(t, p.env, "verify")
	assert.Zero(t, status, "%s%s", stdout, stderr)
	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	var definitions []string
	require.NoError(t, db.Select(t.Context(), &definitions, `SELECT DISTINCT d.definition FROM raw_market_data r
		JOIN provider_definitions d ON d.version = r.definition`))
	assert.Equal(t, []string{exchangeDefinition(t)}, definitions)
}

// cutAt cuts a connection before its n-th frame.
func cutAt(n int) func(int) exchangetest.Act {
	return func(frame int) exchangetest.Act {
		if frame == n {
			return exchangetest.Cut
		}
		return nil
	}
}

// TestTheSettingOfAStream: it is shown and checked as that of a compiled provider.
func TestTheSettingOfAStream(t *testing.T) {
	t.Parallel()
	env := environment{"PROVIDERS_DIR": declare(t, exchangeDefinition(t))}
	status, stdout, stderr := run(t, env, "config")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `(?m)^EXCHANGE_WS_URL +wss://feed.exchange.example +default$`, stdout)
	env["EXCHANGE_WS_URL"] = "ws://feed.exchange.example"
	status, stdout, stderr = run(t, env, "serve")
	assert.NotZero(t, status)
	assert.Contains(t, stdout+stderr, "want wss, or ws to this machine")
}

// TestProviderTestReadsFrames: what a stream would send, and what is read of a frame,
// without asking anyone.
func TestProviderTestReadsFrames(t *testing.T) {
	t.Parallel()
	definition := filepath.Join(declare(t, exchangeDefinition(t), acmeDefinition), "0.yaml")
	without := filepath.Join(filepath.Dir(definition), "1.yaml")
	directory := t.TempDir()
	frame := func(name, text string) string {
		path := filepath.Join(directory, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	trade := frame("trade.json", `{"type":"match","product_id":"BTC-USD","price":"612345.67","size":"0.5","trade_id":862973857,"time":"2025-06-15T14:35:00.5Z"}`+"\n")
	status, stdout, stderr := run(t, environment{}, "provider", "test", definition, "--frame", trade)
	require.Zero(t, status, stderr)
	assert.Regexp(t, `(?m)^subscribe +\{"type":"subscribe","product_ids":\["BTC-USD"\],"channels":\["matches","heartbeat"\]\} +-$`, stdout)
	assert.Regexp(t, `(?m)^frame +trade +\.type == "match" or`, stdout)
	assert.Regexp(t, `(?m)^price +612345.67 +\.price$`, stdout)
	assert.Regexp(t, `(?m)^sequence +862973857 +-$`, stdout)
	for args, want := range map[string]string{
		definition + " --frame " + frame("other.json", `{"type":"match","product_id":"ETH-USD"}`): "trade of another symbol, ETH-USD",
		definition + " --frame " + frame("alive.json", `{"type":"heartbeat"}`):                    "alive",
		definition + " --frame " + frame("news.json", `{"type":"news"}`):                          "no rule is for it",
	} {
		status, stdout, stderr := run(t, environment{}, append([]string{"provider", "test"}, strings.Fields(args)...)...)
		assert.Zero(t, status, stderr)
		assert.Regexp(t, `(?m)^frame +`+regexp.QuoteMeta(want), stdout)
	}
	for args, want := range map[string]string{
		definition + " --frame " + frame("error.json", `{"type":"error"}`):                                             "bad_response: the frame means bad_response by rule 4 of the stream",
		definition + " --frame " + frame("garbage.json", `<html>`):                                                     "bad_response: the frame is not JSON",
		definition + " --frame " + frame("bad.json", `{"type":"match","product_id":"BTC-USD","trade_id":1,"price":0}`): "bad_price: price 0 is not positive",
		definition + " --frame " + frame("noid.json", `{"type":"match","product_id":"BTC-USD","price":1}`):             "bad_response: stream: read: id, .trade_id: gives no value",
		definition + " --frame nothing":                  "--frame: open nothing",
		definition + " --frame " + trade + " --sample x": "--sample, --frame and --page: want one of them",
		without + " --frame " + trade:                    "declares no stream",
	} {
		status, _, stderr := run(t, environment{}, append([]string{"provider", "test"}, strings.Fields(args)...)...)
		assert.NotZero(t, status, args)
		assert.Contains(t, stderr, want, args)
	}
}
