package cmd_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/ingest"
)

// newestAverage is the 5-price average of a symbol at its newest time.
func newestAverage(t testing.TB, env environment, symbol string) string {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var rows []averageRow
	require.NoError(t, db.Select(t.Context(), &rows, `SELECT symbol, value, timestamp FROM moving_averages
		WHERE provider = 'csv' AND symbol = $1 AND window_size = 5 ORDER BY id DESC LIMIT 1`, symbol))
	require.Len(t, rows, 1)
	return rows[0].Value.String()
}

// Files as people have them go through the whole chain, and the same again changes
// nothing.
func TestIngestFilesAsTheyAre(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for name, test := range map[string]struct {
		file    string
		flags   []string
		symbol  string
		quotes  int
		average string
		says    string
	}{
		"oil.csv": {"symbol,price,time\nCL=F,19.82,2020-04-16\nCL=F,18.31,2020-04-17\nCL=F,-36.98,2020-04-20\nCL=F,8.91,2020-04-21\n" +
			"CL=F,13.64,2020-04-22\nCL=F,15.06,2020-04-23\nCL=F,15.99,2020-04-24\n", []string{"--allow-negative"}, "CL=F", 7, "3.324", ""},
		"trades.csv": {"id,symbol,price,qty,time\n1,FXSUSDT,7.500,34.3,1700179221067\n2,FXSUSDT,7.500,1.5,1700179221067\n3,FXSUSDT,7.500,9.9,1700179221067\n" +
			"4,FXSUSDT,7.503,2.0,1700179221070\n", []string{"--id-column", "id", "--size-column", "qty", "--time-format", "unix_ms"}, "FXSUSDT", 4, "7.50075", ""},
		"trades-without-ids.csv": {"symbol,price,time\nSAMEUSDT,7.500,1700179221067\nSAMEUSDT,7.500,1700179221067\nSAMEUSDT,7.500,1700179221067\nSAMEUSDT,7.503,1700179221070\n",
			nil, "SAMEUSDT", 4, "7.50075", "milliseconds since 1970"},
		"hours.csv": {"symbol,price,time\nDE-POWER,88.1,2024-10-27 01:30\nDE-POWER,85.0,2024-10-27 02:30\nDE-POWER,85.0,2024-10-27 02:30\nDE-POWER,83.2,2024-10-27 03:30\n",
			[]string{"--time-zone", "Europe/Berlin"}, "DE-POWER", 4, "85.325", "occurs twice in Europe/Berlin"},
		"floats.csv": {"symbol,price,time\nDOGE-USD,0.00029299999005161226,2014-09-17\nDOGE-USD,0.00029799999902024865,2014-09-18\n",
			nil, "DOGE-USD", 2, "0.000295499994535930", "rounded half-even; --exact refuses them"},
		"old.csv": {"symbol,price,time\n^GSPC,4.44,1871-01-01\n^GSPC,6.10,1900-01-01\n", nil, "^GSPC", 2, "5.27", ""},
	} {
		path := write(name, test.file)
		args := append([]string{"ingest", "-o", "json", path}, test.flags...)
		status, stdout, stderr := run(t, env, alone(args...)...)
		require.Zero(t, status, "%s: %s", name, stderr)
		assert.Contains(t, stderr, test.says, name)
		var summary ingest.Summary
		require.NoError(t, json.Unmarshal([]byte(stdout), &summary), name)
		assert.Equal(t, test.quotes, summary.New, name)
		assert.Equal(t, strings.TrimRight(test.average, "0"), newestAverage(t, env, test.symbol), name)
		again := ingested(t, env, alone(args[1:]...)[2:]...)
		assert.Zero(t, again.New, name)
		assert.Equal(t, test.quotes, again.Repeated, name)
		assert.Zero(t, again.Ambiguous, name)
	}
	status, _, stderr := run(t, env, alone("ingest", write("oil-refused.csv", "symbol,price,time\nCL=F,-36.98,2020-04-20\n"))...)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "--allow-negative takes prices of zero and below")
}

// A file may come as services compress it.
func TestIngestCompressedFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text, err := os.ReadFile("testdata/files/binance-klines.csv")
	require.NoError(t, err)
	archive := func(files map[string]string) []byte {
		var zipped bytes.Buffer
		w := zip.NewWriter(&zipped)
		for name, content := range files {
			f, err := w.Create(name)
			require.NoError(t, err)
			_, err = f.Write([]byte(content))
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		return zipped.Bytes()
	}
	encoder, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	whole := archive(map[string]string{"BTCUSDT-1h-2025-01-01.csv": string(text), "__MACOSX/._BTCUSDT": "x"})
	for name, test := range map[string]struct {
		content []byte
		says    string
	}{
		"zip":           {whole, ""},
		"zstd":          {encoder.EncodeAll(text, nil), ""},
		"a cut archive": {whole[:len(whole)-10], "not a valid zip file"},
		"cut zstd":      {encoder.EncodeAll(text, nil)[:60], "unexpected EOF"},
		"two files":     {archive(map[string]string{"a.csv": "x", "b.csv": "y"}), "the archive holds 2 files"},
		"no file":       {archive(nil)[:0], "the file is empty"},
	} {
		path := filepath.Join(dir, "file") // no name that tells
		require.NoError(t, os.WriteFile(path, test.content, 0o600))
		status, stdout, stderr := run(t, environment{}, "ingest", "--dry-run", "--symbol", "BTCUSDT", path)
		if test.says != "" {
			assert.Equal(t, 1, status, name)
			assert.Contains(t, stderr, test.says, name)
			continue
		}
		assert.Zero(t, status, "%s: %s", name, stderr)
		assert.Contains(t, stdout, "2025-01-01T00:59:59.999999Z", name)
	}
}

// A dry run shows what would be taken, and takes nothing.
func TestIngestDryRun(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	var look ingest.Preview
	status, stdout, stderr := run(t, env, "ingest", "--dry-run", "-o", "json", "--symbol", "AAPL", "testdata/files/yahoo.csv")
	require.Zero(t, status, stderr)
	require.NoError(t, json.Unmarshal([]byte(stdout), &look))
	require.Len(t, look.Quotes, 2)
	assert.Equal(t, "178.460007", look.Quotes[1].Price.String())
	assert.Contains(t, look.Notes[0].Text, "--preset yahoo")
	assert.NoFileExists(t, filepath.Join(env["DATA_DIR"], "pricemill.db"))

	wrong := filepath.Join(t.TempDir(), "wrong.csv")
	require.NoError(t, os.WriteFile(wrong, []byte("symbol,price,time\nAAPL,185.1,02/01/2024\nAAPL,186.1,03/01/2024\n"), 0o600))
	status, stdout, _ = run(t, env, "ingest", "--dry-run", wrong)
	assert.Equal(t, 1, status)
	assert.Contains(t, stdout, "may be the day or the month; say --time-format 02/01/2006")
	status, _, stderr = run(t, env, "ingest", "--dry-run", "--skip-bad-rows", wrong)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "no line holds a quote")
}

// Symbols of files are as they are written, and are asked for so.
func TestIngestSymbolsAsWritten(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	file := filepath.Join(t.TempDir(), "symbols.csv")
	text := "symbol,price,time\n"
	prices := map[string]string{"CL1!": "1.5", "$SPX": "4800.25", "/ES": "4801", "@ES#C": "4801.25", "BCpC": "1", "BCPC": "2", "币安人生USDT": "0.1",
		"O:SPXW240119C04800000-20240119-XYZ": "3", "0x2260FAC5E5542a773Aa44fBCfeDf7C193bc2C599": "42000"}
	for symbol, price := range prices {
		text += symbol + "," + price + ",2024-01-01T00:00:00Z\n"
	}
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	assert.Equal(t, len(prices), ingested(t, p.env, file).New)
	for symbol, price := range prices {
		got := p.get("/api/v1/prices/moving-average?provider=csv&symbol=" + url.QueryEscape(symbol))
		require.Equal(t, 200, got.status, got.body)
		assert.Equal(t, symbol, got.field(t, "symbol"))
		assert.Equal(t, price, string(got.field(t, "value").(json.Number)), symbol)
	}
	assert.Equal(t, 404, p.get("/api/v1/prices/moving-average?provider=csv&symbol=bcpc").status)
	assert.Contains(t, p.get("/api/v1/prices/history?provider=csv&symbol=BCpC").body, `"symbol":"BCpC"`)
}
