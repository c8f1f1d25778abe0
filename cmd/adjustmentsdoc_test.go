package cmd_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheAdjustmentsDocument runs the commands of docs/adjustments.md against a service, in their
// order, and compares what they print.
func TestTheAdjustmentsDocument(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"PLUGINS": "candles,ema"})
	compared := pageAnswers(t, p, "adjustments.md", func(text string) string { return text })
	assert.Equal(t, 5, compared)

	// The same answers in other forms, and after a rebuild.
	const path = "/api/v1/prices/history?provider=csv&symbol=ACME&adjusted=true"
	recorded := p.post("/api/v1/adjustments", `{"symbol":"ACME","provider":"csv","effective_at":"2024-01-03T00:00:00Z","kind":"dividend","value":"2","reason":"paid after all"}`)
	require.Equal(t, http.StatusAccepted, recorded.status, recorded.body)
	listed := p.get("/api/v1/adjustments?provider=csv&symbol=ACME&wait=10s&after=" + recorded.header.Get("X-Log-Position"))
	require.Equal(t, 2, strings.Count(listed.body, `"active"`), listed.body)
	check := func(when string) {
		got := p.get(path)
		assert.Equal(t, "true", got.header.Get("Pricemill-Adjusted"), when)
		assert.Contains(t, got.body, `"price":24.519230769230769231`, when)
		assert.Contains(t, got.body, `"adjusted":true`, when)
		assert.Contains(t, p.get("/api/v1/indicators/candles?provider=csv&symbol=ACME&interval=1d&adjusted=true").body, `"close":24.519230769230769231`, when)
	}
	check("live")
	page := p.get(path + "&limit=2")
	assert.Contains(t, page.header.Get("Link"), "adjusted=true")
	assert.Equal(t, http.StatusUnprocessableEntity, p.get("/api/v1/indicators/ema?provider=csv&symbol=ACME&adjusted=true").status)
	straddled := p.post("/api/v1/adjustments", `{"symbol":"ACME","provider":"csv","effective_at":"2024-01-02T12:00:00Z","kind":"factor","value":"0.5","reason":"in a day"}`)
	id := straddled.field(t, "adjustment_id").(string)
	p.get("/api/v1/adjustments/" + id + "?wait=10s&after=" + straddled.header.Get("X-Log-Position"))
	candle := p.get("/api/v1/indicators/candles?provider=csv&symbol=ACME&interval=1d&adjusted=true")
	assert.Equal(t, http.StatusConflict, candle.status)
	assert.Contains(t, candle.body, "ask for a shorter interval")
	candle = p.get("/api/v1/indicators/candles?provider=csv&symbol=ACME&interval=1d&adjusted=true&limit=3")
	assert.Equal(t, http.StatusOK, candle.status, "of a candle beyond the page: %s", candle.body)
	undone := p.post("/api/v1/adjustments/"+id+"/retract", `{"reason":"a test"}`)
	require.Equal(t, http.StatusAccepted, undone.status, undone.body)
	p.get("/api/v1/adjustments/" + id + "?wait=10s&after=" + undone.header.Get("X-Log-Position"))
	again := p.post("/api/v1/adjustments/"+id+"/retract", `{"reason":"a test"}`)
	assert.Equal(t, http.StatusOK, again.status, "retracted once more")
	check("with one that was retracted")
	last, status := rebuild(t, p.env, "adjustments", "--promote", "if-equal")
	require.Zero(t, status, "%+v", last)
	check("after a rebuild")
	status, stdout, stderr := run(t, p.env, "verify")
	require.Zero(t, status, stdout+stderr)
}

// A file of adjustments is taken without a service, and one that is wrong says where.
func TestFilesOfAdjustments(t *testing.T) {
	t.Parallel()
	env := environment{"DATA_DIR": t.TempDir()}
	file := filepath.Join(t.TempDir(), "splits.csv")
	ingest := func(text string, args ...string) (int, string, string) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return run(t, env, append(append([]string{"ingest", "--adjustments"}, args...), file)...)
	}
	status, stdout, stderr := ingest("date,symbol,kind,value\n2020-08-31,AAPL,split,4:1\n2020-08-31,AAPL,Split,4:1\n")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "2      0    1         1")
	status, stdout, _ = ingest("symbol,date,kind,value\nAAPL,2020-08-31,split,0:1\nAAPL,2020-08-31,dividend,0.82\n", "--skip-bad-rows")
	assert.Zero(t, status)
	assert.Contains(t, stdout, "2      1    1         0")
	for text, want := range map[string]string{
		"symbol,date,kind\nA,2020-08-31,split\n":                      `names no column "value"`,
		"symbol,date,kind,value,price\n":                              `there is no column "price"`,
		"symbol,date,kind,value\nA,2020-08-31,spin,1\n":               `"spin" is not split, dividend or factor`,
		"symbol,date,kind,value\nA,tomorrow,split,1\n":                `"tomorrow" is neither a date`,
		"symbol,date,kind,value\nA,2020-08-31,dividend,4:1\n":         `line 2`,
		"symbol,date,kind,value,currency\nA,2020-08-31,split,2,USD\n": `of a dividend`,
	} {
		status, _, stderr := ingest(text)
		assert.NotZero(t, status, text)
		assert.Contains(t, stderr, want, text)
	}
	status, _, stderr = run(t, env, "ingest", "--adjustments", "--corrects", file)
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "go with --adjustments")
}
