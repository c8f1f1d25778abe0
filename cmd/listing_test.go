package cmd_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// The commands that print what a service has, on a file of five prices of two symbols.
func TestTheCommandsThatPrintSeries(t *testing.T) {
	t.Parallel()
	env := environment{"PLUGINS": "ema,candles", "MOVING_AVERAGE_WINDOW": "3,5"}
	file := filepath.Join(t.TempDir(), "prices.csv")
	require.NoError(t, os.WriteFile(file, []byte("symbol,price,time\nAAA,10.50,2025-06-15T14:30:00Z\nAAA,11,2025-06-15T14:31:00Z\n"+
		"BBB,3,2025-06-15T14:31:00Z\nAAA,12,2025-06-16T00:00:00Z\nAAA,13,2025-06-16T00:00:01Z\n"), 0o600))
	p := start(t, env) // which does the work, on Kafka as well
	status, _, stderr := run(t, p.env, "ingest", "--provider", "csv", file)
	require.Zero(t, status, stderr)
	require.Eventually(t, func() bool {
		return strings.Count(p.get("/api/v1/indicators/candles?symbol=AAA&provider=csv&interval=1d").body, `"open"`) == 2
	}, 20*time.Second, 10*time.Millisecond)

	prints := func(want string, args ...string) {
		t.Helper()
		status, stdout, stderr := p.asClient(args...)
		assert.Zero(t, status, "%q: %s", args, stderr)
		assert.Regexp(t, "^"+want+"$", stdout, "%q", args)
	}
	prints(`SYMBOL +WINDOW +AVERAGE +TIMESTAMP\nAAA +3 +12 +2025-06-16T00:00:01.000000Z[^\n]*\n`, "average", "AAA", "--provider", "csv")
	prints(`TIMESTAMP +PRICE +RECEIVED AT +PROVIDER
2025-06-16T00:00:01.000000Z +13 +\S+Z +csv
2025-06-16T00:00:00.000000Z +12 +\S+Z +csv
2025-06-15T14:31:00.000000Z +11 +\S+Z +csv
2025-06-15T14:30:00.000000Z +10.5 +\S+Z +csv
`, "history", "AAA", "--provider", "csv")
	prints(`TIMESTAMP .*\n2025-06-15T14:31:00.000000Z .*\n2025-06-15T14:30:00.000000Z .*\n`,
		"history", "AAA", "--provider", "csv", "--from", "2025-06-15", "--to", "2025-06-16")
	prints(`TIMESTAMP .*\n2025-06-16T00:00:01.000000Z .*\n`, "history", "AAA", "--provider", "csv", "--limit", "1")
	prints(`TIMESTAMP +PRICE +RECEIVED AT +PROVIDER\n`, "history", "CCC", "--provider", "csv")
	prints(`SYMBOL +PROVIDER +LAST PRICE +LAST TIMESTAMP +COUNT +FIRST TIMESTAMP
AAA +csv +13 +2025-06-16T00:00:01.000000Z +4 +2025-06-15T14:30:00.000000Z
BBB +csv +3 +2025-06-15T14:31:00.000000Z +1 +2025-06-15T14:31:00.000000Z
`, "symbols")
	prints(`INDICATOR +ON +PARAMETERS +DESCRIPTION\n(bollinger +no [^\n]+\n)candles +yes +interval=\S+ [^\n]+\nema +yes [^\n]+\nvwap +no [^\n]+\n`, "indicators")
	prints(`TIMESTAMP +OPEN +HIGH +LOW +CLOSE [^\n]*\n2025-06-16T00:00:00.000000Z +12 +13 +12 +13 [^\n]*\n2025-06-15T00:00:00.000000Z +10.5 +11 +10.5 +11 [^\n]*\n`,
		"indicator", "candles", "AAA", "--provider", "csv", "--set", "interval=1d")
	prints(`(?s)PROVIDER +DEFAULT +CONFIGURED +GIVES +CALLS LEFT +BREAKER +DESCRIPTION\ncoinbase +no +yes .*simulated +yes .*`, "providers")
	prints(`STREAM ID +STATUS [^\n]*\n`, "streams", "list")
	prints(`BACKFILL ID +STATUS [^\n]*\n`, "backfill", "list")

	// As JSON each item has the digits that the service sent.
	status, stdout, _ := p.asClient("history", "AAA", "--provider", "csv", "--limit", "0", "-o", "json")
	assert.Zero(t, status)
	var items []struct{ Price json.Number }
	require.NoError(t, json.Unmarshal([]byte(stdout), &items))
	require.Len(t, items, 4)
	assert.Equal(t, json.Number("10.5"), items[3].Price)

	// As files they have every column; a Parquet file is read again as what it was.
	status, stdout, stderr = p.asClient("indicator", "candles", "AAA", "--provider", "csv", "--set", "interval=1d", "-o", "csv")
	assert.Zero(t, status, stderr)
	assert.Regexp(t, `^symbol,provider,interval,timestamp,open,high,low,close,[^\n]*\r\nAAA,csv,1d,2025-06-16T00:00:00.000000Z,12,13,12,13,`, stdout)
	status, stdout, stderr = p.asClient("history", "AAA", "--provider", "csv", "--limit", "0", "-o", "parquet")
	require.Zero(t, status, stderr)
	exported := filepath.Join(t.TempDir(), "AAA")
	require.NoError(t, os.WriteFile(exported, []byte(stdout), 0o600))
	again := newStack(t, nil)
	assert.Equal(t, 4, ingested(t, again, alone(exported)...).New)
	db := openTables(t, again)
	defer func() { assert.NoError(t, db.Close()) }()
	var rows []struct {
		Price     schema.Decimal `db:"price"`
		Timestamp schema.Time    `db:"timestamp"`
	}
	require.NoError(t, db.Select(t.Context(), &rows, `SELECT price, timestamp FROM processed_prices WHERE provider = 'csv' AND symbol = 'AAA'`))
	prices := map[string]string{}
	for _, row := range rows {
		prices[row.Timestamp.Format(time.RFC3339)] = row.Price.String()
	}
	assert.Equal(t, map[string]string{"2025-06-15T14:30:00Z": "10.5", "2025-06-15T14:31:00Z": "11", "2025-06-16T00:00:00Z": "12", "2025-06-16T00:00:01Z": "13"}, prices)

	for _, test := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"symbols", "-o", "parquet"}, 2, `"parquet" for "-o, --output"`},
		{[]string{"history", "AAA", "--from", "yesterday"}, 2, "from: Input should be a valid datetime"},
		{[]string{"history", "AAA", "--limit", "-1"}, 2, "--limit: -1 is below 0"},
		{[]string{"history"}, 2, "accepts 1 arg"},
		{[]string{"symbols", "-o", "xml"}, 2, `"xml" for "-o, --output" flag: no such value; known are table, json`},
		{[]string{"indicator", "bollinger", "AAA"}, 1, `Indicator "bollinger" is switched off; start the service with PLUGINS=bollinger`},
		{[]string{"indicator", "bends", "AAA"}, 1, `Unknown indicator "bends"; known are candles, ema`},
		{[]string{"indicator", "candles", "AAA", "--set", "interval=2m"}, 2, "interval: Input should be"},
		{[]string{"streams", "start", "AAA"}, 2, "--provider is needed"},
		{[]string{"streams", "stop", "stream_none"}, 1, "404 Not Found"},
		{[]string{"backfill", "stop", "backfill_none"}, 1, "404 Not Found"},
		{[]string{"backfill", "show", "backfill_none"}, 1, "404 Not Found"},
		{[]string{"backfill", "simulated", "AAA"}, 2, "--from and --to are needed"},
		{[]string{"backfill", "lst"}, 2, "unknown command"},
	} {
		status, stdout, stderr := p.asClient(test.args...)
		assert.Equal(t, test.status, status, "%q: %s", test.args, stderr)
		assert.Contains(t, stderr, test.stderr, test.args)
		assert.Empty(t, stdout, test.args)
	}
	assert.Equal(t, http.StatusOK, p.get("/api/v1/indicators").status)
}

// A list that has more than a page is printed whole, or as far as it was asked for.
func TestACommandThatPrintsPages(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "prices.csv")
	var text strings.Builder
	text.WriteString("symbol,price,time\n")
	at := time.Date(2025, 6, 15, 0, 0, 0, 0, time.UTC)
	for i := range 2500 {
		text.WriteString("AAA,1," + at.Add(time.Duration(i)*time.Second).Format(time.RFC3339) + "\n")
	}
	require.NoError(t, os.WriteFile(file, []byte(text.String()), 0o600))
	p := start(t, nil)
	status, _, stderr := run(t, p.env, "ingest", "--provider", "csv", file)
	require.Zero(t, status, stderr)
	require.Eventually(t, func() bool { return strings.Contains(p.get("/api/v1/symbols").body, `"count":2500,`) }, 20*time.Second, 10*time.Millisecond)
	for limit, want := range map[string]int{"0": 2500, "1": 1, "1000": 1000, "1001": 1001, "9999": 2500} {
		status, stdout, stderr := p.asClient("history", "AAA", "--provider", "csv", "--limit", limit)
		assert.Zero(t, status, stderr)
		lines := strings.Split(strings.TrimSpace(stdout), "\n")
		assert.Len(t, lines, 1+want, limit)
		assert.Equal(t, len(lines), 1+len(uniqueTimes(lines[1:])), "each once")
	}
}

// uniqueTimes are the first columns, without repeats.
func uniqueTimes(lines []string) map[string]bool {
	seen := map[string]bool{}
	for _, line := range lines {
		seen[strings.Fields(line)[0]] = true
	}
	return seen
}
