package cmd_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/ingest"
)

// corrects takes a file for corrections.
func corrects(t testing.TB, env environment, args ...string) (s ingest.CorrectionSummary) {
	t.Helper()
	status, stdout, stderr := run(t, env, append([]string{"ingest", "--corrects", "-o", "json"}, alone(args...)...)...)
	require.Zero(t, status, stderr)
	require.NoError(t, json.Unmarshal([]byte(stdout), &s), stdout)
	return s
}

// The closes of a file, and the adjusted closes after a dividend as corrections of them, give
// what the adjusted closes alone give: in every read model, for verify and after a rebuild.
func TestTheCaseOfClosesAfterADividend(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(caseFile("after-dividend.csv"))
	require.NoError(t, err)
	atFirst := filepath.Join(t.TempDir(), "after.csv")
	require.NoError(t, os.WriteFile(atFirst, []byte(strings.ReplaceAll(string(text), "T,", "RIGHT,")), 0o600))

	p := start(t, environment{"PLUGINS": "candles,ema,vwap,bollinger"})
	assert.Equal(t, 5, ingested(t, p.env, caseFile("before-dividend.csv")).New)
	assert.Equal(t, 5, ingested(t, p.env, atFirst).New)
	average := func(symbol string) json.Number {
		return p.get("/api/v1/prices/moving-average?provider=csv&window=5&symbol="+symbol).field(t, "value").(json.Number)
	}
	assert.Equal(t, json.Number("102"), average("T"))
	then := p.get("/api/v1/prices/history?provider=csv&symbol=T&as_of_log=now").header.Get("X-Log-Position")
	require.NotEmpty(t, then)
	assert.Equal(t, ingest.CorrectionSummary{Lines: 5, Corrected: 4, Unchanged: 1}, corrects(t, p.env, "--reason", "a dividend", caseFile("after-dividend.csv")))
	assert.Equal(t, ingest.CorrectionSummary{Lines: 5, Unchanged: 5}, corrects(t, p.env, caseFile("after-dividend.csv")), "again")

	paths := map[string]string{"/prices/moving-average/history?window=5": "value", "/prices/history?": "price", "/indicators/ema?period=12": "value",
		"/indicators/bollinger?period=20": "upper", "/indicators/candles?interval=1d": "close"}
	wereThen := map[string][]string{}
	for path, value := range paths {
		wereThen[path] = p.values(path+"&as_of_log="+then, "T", value, 5)
	}
	assert.Equal(t, "2024-01-01T00:00:00.000000Z 100", wereThen["/prices/history?"][4])
	check := func(when string) {
		assert.Equal(t, json.Number("101.6"), average("T"), when)
		for path, value := range paths {
			assert.Equal(t, p.values(path, "RIGHT", value, 5), p.values(path, "T", value, 5), "%s: %s", when, path)
			assert.Equal(t, wereThen[path], p.values(path+"&as_of_log="+then, "T", value, 5), "%s: %s, as of before the corrections", when, path)
		}
	}
	check("live")
	var said struct{ Items []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/corrections?provider=csv&symbol=T").body), &said))
	require.Len(t, said.Items, 4)
	assert.Equal(t, []any{103.0, 102.5, "a dividend", "applied"}, []any{said.Items[0]["observed_price"], said.Items[0]["price"], said.Items[0]["reason"], said.Items[0]["status"]})

	status, stdout, stderr := run(t, p.env, "verify")
	require.Zero(t, status, stdout+stderr)
	for _, projection := range []string{"moving-averages", "processed-prices", "latest-prices", "candles", "ema", "bollinger"} {
		last, status := rebuild(t, p.env, projection, "--promote", "if-equal")
		require.Zero(t, status, "%+v", last)
	}
	check("after a rebuild")
	p.stopped()
	for _, damage := range []struct{ projection, do string }{
		{"moving-averages", `UPDATE moving_average_windows SET entries = REPLACE(entries, '104', '1') WHERE quote_key = 'csv/T'`},
		{"processed-prices", `UPDATE processed_prices SET observed_price = '1' WHERE observed_price = '100'`},
		{"latest-prices", `DELETE FROM latest_prices_corrected WHERE id = (SELECT MIN(id) FROM latest_prices_corrected)`},
		{"ema", `UPDATE ema_corrections SET reason = 'another' WHERE id = (SELECT MIN(id) FROM ema_corrections)`},
	} {
		damageTables(t, p.env, damage.do)
		status, stdout, _ = run(t, p.env, "verify")
		assert.Equal(t, 1, status, damage.do)
		assert.Regexp(t, `projection `+damage.projection+` +different `, stdout, damage.do)
	}
}

// A price that is corrected, retracted and brought back, by commands and by REST.
func TestCorrectionsByCommand(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "prices.csv")
	require.NoError(t, os.WriteFile(file, []byte("symbol,price,time\nA,1,2024-01-01\nA,20,2024-01-02\nA,3,2024-01-03\nB,1,2024-01-01\nB,2,2024-01-01\n"), 0o600))
	p := start(t, environment{"DEFAULT_PROVIDER": "csv"})
	assert.Equal(t, 5, ingested(t, p.env, file).New)
	latest := func() string { return p.get("/api/v1/symbols?provider=csv").body }
	prices := func(want ...string) {
		t.Helper()
		assert.Equal(t, want, p.values("/prices/history?", "A", "price", len(want)))
	}
	applied := func(args ...string) string {
		t.Helper()
		status, stdout, stderr := p.asClient(append(args, "-o", "json")...)
		require.Zero(t, status, stderr)
		var done struct {
			ID string `json:"correction_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(stdout), &done), stdout)
		require.Eventually(t, func() bool {
			return strings.Contains(p.get("/api/v1/corrections/"+done.ID).body, `"status":"applied"`)
		}, 20*time.Second, 20*time.Millisecond, stdout)
		return done.ID
	}
	corrected := applied("correct", "A", "2024-01-02", "--price", "2", "--reason", "a typo")
	prices("2024-01-03T00:00:00.000000Z 3", "2024-01-02T00:00:00.000000Z 2", "2024-01-01T00:00:00.000000Z 1")
	assert.Contains(t, p.get("/api/v1/prices/history?provider=csv&symbol=A").body, `"observed_price":20,"correction_id":"`+corrected+`"`)
	status, stdout, _ := p.asClient("correct", "A", "2024-01-02", "--price", "2.0", "--reason", "a typo")
	assert.Zero(t, status)
	assert.Regexp(t, corrected+` +unchanged`, stdout)

	retracted := applied("retract", "A", "2024-01-03", "--reason", "never traded", "--idempotency-key", "k")
	assert.Equal(t, retracted, applied("retract", "A", "2024-01-03", "--reason", "never traded", "--idempotency-key", "k"))
	prices("2024-01-02T00:00:00.000000Z 2", "2024-01-01T00:00:00.000000Z 1")
	require.Eventually(t, func() bool { return strings.Contains(latest(), `"last_price":2`) }, 20*time.Second, 20*time.Millisecond)
	assert.Eventually(t, func() bool {
		return p.get("/api/v1/prices/moving-average?provider=csv&symbol=A").field(t, "value") == json.Number("1.5")
	}, 20*time.Second, 20*time.Millisecond)
	applied("correct", "A", "2024-01-03", "--price", "4", "--reason", "traded after all")
	prices("2024-01-03T00:00:00.000000Z 4", "2024-01-02T00:00:00.000000Z 2", "2024-01-01T00:00:00.000000Z 1")
	assert.Contains(t, p.get("/api/v1/corrections/"+retracted).body, `"status":"superseded"`)
	status, stdout, _ = p.asClient("corrections", "A")
	assert.Zero(t, status)
	assert.Equal(t, 4, strings.Count(stdout, "\n"), stdout)

	for _, refused := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"correct", "A", "2024-01-04", "--price", "1", "--reason", "r"}, 1, "There is no price of A at csv of 2024-01-04T00:00:00.000000Z"},
		{[]string{"correct", "B", "2024-01-01", "--price", "1", "--reason", "r"}, 1, "There are several prices of B"},
		{[]string{"correct", "A", "2024-01-01", "--price", "x", "--reason", "r"}, 2, "price: Value error, not a decimal"},
		{[]string{"correct", "A", "2024-01-01", "--reason", "r"}, 2, "price: Field required"},
		{[]string{"retract", "A", "2024-01-01"}, 2, "reason: String should have at least 1 character"},
		{[]string{"ingest", "--corrects", "--no-wait", file}, 2, "exclude each other"},
		{[]string{"ingest", "--reason", "r", file}, 2, "--reason is for --corrects"},
	} {
		status, _, stderr := p.asClient(refused.args...)
		assert.Equal(t, refused.status, status, "%v: %s", refused.args, stderr)
		assert.Contains(t, stderr, refused.want)
	}
	status, _, stderr := run(t, p.env, append([]string{"ingest", "--corrects"}, alone(file)...)...)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "line 5: there are 2 prices of B at 2024-01-01T00:00:00.000000Z", "what comes before it is corrected")
	prices("2024-01-03T00:00:00.000000Z 3", "2024-01-02T00:00:00.000000Z 20", "2024-01-01T00:00:00.000000Z 1")
	assert.Equal(t, http.StatusNotFound, p.get("/api/v1/corrections/none").status)
	status, stdout, stderr = run(t, p.env, "verify")
	require.Zero(t, status, stdout+stderr)
}

// TestReadYourCorrections: a read that names the position of a correction sees it, whatever
// the read model.
func TestReadYourCorrections(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "prices.csv")
	require.NoError(t, os.WriteFile(file, []byte("symbol,price,time\nA,1,2024-01-01\nA,2,2024-01-02\nA,3,2024-01-03\n"), 0o600))
	p := start(t, environment{"DEFAULT_PROVIDER": "csv", "PLUGINS": "candles"})
	assert.Equal(t, 3, ingested(t, p.env, file).New)
	for price := range 12 {
		posted := p.post("/api/v1/corrections", fmt.Sprintf(`{"symbol":"A","timestamp":"2024-01-03T00:00:00Z","price":%d,"reason":"a test"}`, 100+price))
		require.Equal(t, http.StatusAccepted, posted.status, posted.body)
		after := "&wait=10s&after=" + posted.header.Get("X-Log-Position")
		paths := []string{"/api/v1/prices?symbols=A", "/api/v1/prices/history?symbol=A", "/api/v1/prices/moving-average?symbol=A&window=1",
			"/api/v1/prices/moving-averages?symbols=A&window=1", "/api/v1/prices/moving-average/history?symbol=A&window=1", "/api/v1/indicators/candles?symbol=A&interval=1d"}
		got := p.get(paths[price%len(paths)] + after)
		require.Equal(t, http.StatusOK, got.status, got.body)
		assert.Contains(t, got.body, fmt.Sprintf(":%d,", 100+price), paths[price%len(paths)])
	}
}
