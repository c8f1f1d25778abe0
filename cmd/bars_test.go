package cmd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// candles are those of a symbol of files, oldest first, once there are so many that the
// last rests on something.
func (p *program) candles(symbol, interval string, count int, restsOn string) []string {
	p.t.Helper()
	var lines []string
	require.Eventually(p.t, func() bool {
		var body struct{ Items []map[string]any }
		decoder := json.NewDecoder(strings.NewReader(p.get("/api/v1/indicators/candles?provider=csv&interval=" + interval + "&symbol=" + url.QueryEscape(symbol)).body))
		decoder.UseNumber()
		if decoder.Decode(&body) != nil || len(body.Items) != count || body.Items[0]["rests_on"] != restsOn {
			return false
		}
		lines = nil
		for i := range body.Items {
			c := body.Items[count-1-i]
			lines = append(lines, fmt.Sprint(c["timestamp"], " ", c["open"], " ", c["high"], " ", c["low"], " ", c["close"], " ", c["volume"], " ", c["prices"], " ", c["rests_on"]))
		}
		return true
	}, 20*time.Second, 20*time.Millisecond, "%s candles of %s", interval, symbol)
	return lines
}

// Bars of real files make the candles that they cover, together with trades, once: in
// every read model, for verify, and after a rebuild.
func TestTheCasesOfBars(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"PLUGINS": "candles,ema,vwap"})
	klines := []string{"--preset", "binance-klines", "--symbol", "BTCUSDT", caseFile("BTCUSDT-1h-2023-10-27.csv")}
	assert.Equal(t, 1, ingested(t, p.env, klines...).New)
	again := ingested(t, p.env, klines...)
	assert.Equal(t, [2]int{0, 1}, [2]int{again.New, again.Repeated})
	assert.Equal(t, 1, ingested(t, p.env, "--preset", "yahoo", "--symbol", "AAPL", caseFile("yahoo-AAPL.csv")).New)
	assert.Equal(t, 1, ingested(t, p.env, "--preset", "yfinance", caseFile("yfinance-0.2.54.csv")).New)
	assert.Equal(t, 1, ingested(t, p.env, "--preset", "cryptodatadownload", caseFile("cdd.csv")).New)

	hour := "2023-10-27T00:00:00.000000Z 34151.66 34171.28 33972.39 34015.27 908.27901 0 bars"
	for symbol, want := range map[string]string{
		"BTCUSDT": "2023-10-27T00:00:00.000000Z 34151.66 34171.28 33972.39 34015.27 908.27901 0 bars",
		"AAPL":    "2018-01-19T00:00:00.000000Z 178.610001 179.580002 177.410004 178.460007 31269600 0 bars",
		"MSFT":    "2023-02-17T00:00:00.000000Z 255.8 256.5 252.4 254.5 30000100 0 bars",
		"BTC/USD": "2022-08-20T00:00:00.000000Z 20840 20972 20811 20957 244.3 0 bars",
	} {
		assert.Equal(t, []string{want}, p.candles(symbol, "1d", 1, "bars"), symbol)
		end := strings.Fields(want)[4]
		for path, value := range map[string]string{"/prices/moving-average/history?window=5": "value", "/indicators/ema?period=12": "value", "/prices/history?": "price"} {
			assert.True(t, strings.HasSuffix(p.values(path, symbol, value, 1)[0], " "+end), "%s of %s is the close", path, symbol)
		}
	}

	file := filepath.Join(t.TempDir(), "trades.csv")
	require.NoError(t, os.WriteFile(file, []byte("symbol,price,qty,time\nBTCUSDT,35000,7,2023-10-27T00:10:00Z\nBTCUSDT,36000,2,2023-10-27T01:10:00Z\n"), 0o600))
	assert.Equal(t, 2, ingested(t, p.env, "--size-column", "qty", file).New)
	hours := []string{hour, "2023-10-27T01:00:00.000000Z 36000 36000 36000 36000 2 1 ticks"}
	days := []string{"2023-10-27T00:00:00.000000Z 34151.66 36000 33972.39 36000 910.27901 1 both"}
	check := func(when string) {
		assert.Equal(t, hours, p.candles("BTCUSDT", "1h", 2, "ticks"), when)
		assert.Equal(t, days, p.candles("BTCUSDT", "1d", 1, "both"), when)
		assert.Len(t, p.candles("BTCUSDT", "1m", 2, "ticks"), 2, when)
		assert.Len(t, p.values("/indicators/vwap?", "BTCUSDT", "value", 2), 2, "%s: a bar is no trade", when)
	}
	check("live")
	assert.Equal(t, []string{"symbol,provider,interval,timestamp,open,high,low,close,volume,prices,rests_on",
		"BTCUSDT,csv,1d,2023-10-27T00:00:00.000000Z,34151.66,36000,33972.39,36000,910.27901,1,both"},
		strings.Fields(p.csv("/api/v1/indicators/candles?provider=csv&interval=1d&symbol=BTCUSDT")))
	require.Eventually(t, func() bool {
		return strings.Contains(p.get("/api/v1/symbols?provider=csv&limit=1000").body, `"last_price":178.460007,"`)
	}, 20*time.Second, 20*time.Millisecond, "the latest price of AAPL is the close")

	status, stdout, stderr := run(t, p.env, "verify")
	require.Zero(t, status, stdout+stderr)
	last, status := rebuild(t, p.env, "candles", "--promote", "if-equal")
	require.Zero(t, status, "%+v", last)
	check("after a rebuild")
	p.stopped()
	for _, damage := range []struct{ do, undo string }{
		{`UPDATE candle_bars SET id = id + 1 WHERE symbol = 'AAPL'`, `UPDATE candle_bars SET id = id - 1 WHERE symbol = 'AAPL'`},
		{`UPDATE candles SET rests_on = 'ticks' WHERE rests_on = 'both'`, ""},
	} {
		damageTables(t, p.env, damage.do)
		status, stdout, _ = run(t, p.env, "verify")
		assert.Equal(t, 1, status, damage.do)
		assert.Regexp(t, `projection candles +different `, stdout, damage.do)
		if damage.undo != "" {
			damageTables(t, p.env, damage.undo)
		}
	}
}

// csv is a page as CSV.
func (p *program) csv(path string) string {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+path, nil)
	require.NoError(p.t, err)
	request.Header.Set("Accept", "text/csv")
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	require.NoError(p.t, response.Body.Close())
	return string(text)
}
