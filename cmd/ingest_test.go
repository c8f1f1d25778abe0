package cmd_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/cmd"
	"github.com/pricemill/pricemill/handlers/ingest"
	"github.com/pricemill/pricemill/schema"
)

const (
	recordedSession = "testdata/coinbase-2021-04-17.jsonl"
	monthlyCloses   = "testdata/monthly-closes.csv"
)

var ofCloses = []string{"--provider", "csv", "--time-column", "date", "--time-format", "Jan 2 2006"}

// ingested runs ingest, and returns its summary.
func ingested(t testing.TB, env environment, args ...string) ingest.Summary {
	t.Helper()
	status, stdout, stderr := run(t, env, append([]string{"ingest", "-o", "json"}, args...)...)
	require.Zero(t, status, stderr)
	var summary ingest.Summary
	require.NoError(t, json.Unmarshal([]byte(stdout), &summary), stdout)
	return summary
}

// alone makes this process do the work on Kafka as well.
func alone(args ...string) []string {
	if onServices() {
		return append(args, "--work")
	}
	return args
}

// fileQuote is a quote as the tests read it from a file.
type fileQuote struct {
	symbol   string
	price    string
	time     time.Time
	received time.Time
	raw      string
}

// readSession reads the trades on its own: each is told by two frames, of which the first
// counts.
func readSession(t testing.TB) (quotes []fileQuote, lines int) {
	t.Helper()
	file, err := os.Open(recordedSession)
	require.NoError(t, err)
	defer func() { assert.NoError(t, file.Close()) }()
	scanner, seen := bufio.NewScanner(file), map[string]bool{}
	for scanner.Scan() {
		lines++
		var line struct {
			At    string `json:"received_at"`
			Frame string
		}
		require.NoError(t, json.Unmarshal(scanner.Bytes(), &line))
		var frame struct {
			Price   string
			Product string `json:"product_id"`
			TradeID int    `json:"trade_id"`
			Time    time.Time
		}
		require.NoError(t, json.Unmarshal([]byte(line.Frame), &frame))
		trade := fmt.Sprint(frame.Product, frame.TradeID)
		if frame.TradeID == 0 || seen[trade] {
			continue
		}
		seen[trade] = true
		received, err := time.ParseDuration(line.At + "s")
		require.NoError(t, err)
		quotes = append(quotes, fileQuote{frame.Product, frame.Price, frame.Time,
			time.Unix(0, 0).Add(received).UTC().Truncate(time.Microsecond), line.Frame})
	}
	require.NoError(t, scanner.Err())
	return quotes, lines
}

// readCloses reads the file of closes on its own: it quotes nothing.
func readCloses(t testing.TB) (quotes []fileQuote) {
	t.Helper()
	text, err := os.ReadFile(monthlyCloses)
	require.NoError(t, err)
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
		line = strings.TrimSuffix(line, "\r")
		fields := strings.Split(line, ",")
		require.Len(t, fields, 3)
		at, err := time.Parse("Jan 2 2006", fields[1])
		require.NoError(t, err)
		quotes = append(quotes, fileQuote{fields[0], fields[2], at, at, line})
	}
	return quotes
}

// averageRow is a row of moving_averages.
type averageRow struct {
	Symbol string         `db:"symbol"`
	Value  schema.Decimal `db:"value"`
	Time   schema.Time    `db:"timestamp"`
}

// expectedAverages are, by symbol, those after each quote: of the newest five by
// event time.
func expectedAverages(quotes []fileQuote) map[string][]averageRow {
	history, averages := map[string][]observed{}, map[string][]averageRow{}
	for _, q := range quotes {
		known := append(history[q.symbol], observed{price: schema.PriceObserved{
			Price: schema.MustDecimal(q.price), Timestamp: schema.NewTime(q.time)}})
		slices.SortStableFunc(known, func(a, b observed) int { return a.price.Timestamp.Compare(b.price.Timestamp) })
		history[q.symbol] = known
		last := known[max(0, len(known)-5):]
		averages[q.symbol] = append(averages[q.symbol], averageRow{q.symbol, naiveMean(last), last[len(last)-1].price.Timestamp})
	}
	return averages
}

// checkIngested holds prices, answers and averages against the file.
func checkIngested(t testing.TB, env environment, provider string, quotes []fileQuote) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	type row struct {
		Symbol   string         `db:"symbol"`
		Price    schema.Decimal `db:"price"`
		Time     schema.Time    `db:"timestamp"`
		Received schema.Time    `db:"received_at"`
		Raw      string         `db:"raw_response"`
	}
	var rows []row
	require.NoError(t, db.Select(t.Context(), &rows, `SELECT p.symbol, p.price, p.timestamp, p.received_at, r.raw_response
		FROM processed_prices p JOIN raw_market_data r ON r.event_id = p.raw_response_id
		WHERE p.provider = $1 AND r.provider = $1 ORDER BY p.id`, provider))
	require.Len(t, rows, len(quotes))
	bySymbol := map[string][]row{}
	for _, r := range rows {
		bySymbol[r.Symbol] = append(bySymbol[r.Symbol], r)
	}
	next := map[string]int{}
	for _, q := range quotes {
		got := bySymbol[q.symbol][next[q.symbol]] // of one symbol, in the order of the file
		next[q.symbol]++
		assert.Zero(t, got.Price.Cmp(schema.MustDecimal(q.price)), "%v is not %v", got, q)
		assert.True(t, got.Time.Equal(q.time), "%v is not %v", got, q)
		assert.True(t, got.Received.Equal(q.received), "%v is not %v", got, q)
		if provider == "csv" {
			var kept struct{ Row string }
			require.NoError(t, json.Unmarshal([]byte(got.Raw), &kept))
			got.Raw = kept.Row
		}
		assert.Equal(t, q.raw, got.Raw, "byte for byte")
	}
	for symbol, want := range expectedAverages(quotes) {
		var got []averageRow
		require.NoError(t, db.Select(t.Context(), &got, `SELECT symbol, value, timestamp FROM moving_averages
			WHERE provider = $1 AND symbol = $2 AND window_size = 5 ORDER BY id`, provider, symbol))
		require.Len(t, got, len(want), symbol)
		for i := range want {
			assert.Zero(t, want[i].Value.Cmp(got[i].Value), "%s %d: %v is not %v", symbol, i, got[i], want[i])
			assert.True(t, want[i].Time.Equal(got[i].Time.Time), "%s %d", symbol, i)
		}
	}
}

// A recorded session goes through the chain once, however often it is ingested.
func TestIngestARecordedSession(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	quotes, lines := readSession(t)
	require.Len(t, quotes, 107)
	told := 2 * len(quotes)
	want := ingest.Summary{Lines: lines, Quotes: told, PassedOver: lines - told, New: len(quotes), Repeated: len(quotes)}
	assert.Equal(t, want, ingested(t, env, alone("--provider", "coinbase", recordedSession)...))
	checkIngested(t, env, "coinbase", quotes)
	final := expectedAverages(quotes)
	assert.Equal(t, "0.000013044", final["SKL-BTC"][len(final["SKL-BTC"])-1].Value.String())
	assert.Len(t, final["YFI-BTC"], 1, "fewer than the window")
	assert.Len(t, final["NU-GBP"], 2, "fewer than the window")

	want.New, want.Repeated = 0, told
	assert.Equal(t, want, ingested(t, env, alone("--provider", "coinbase", recordedSession)...))
	checkIngested(t, env, "coinbase", quotes)
	status, stdout, stderr := run(t, env, "replay", "raw-quotes")
	require.Zero(t, status, stderr)
	assert.Equal(t, len(quotes), strings.Count(stdout, "\n"), "the second time nothing was written")
	assert.Contains(t, stdout, `"ce_source":"pricemill/ingest"`)

	status, stdout, stderr = run(t, env, "stages", "list")
	require.Zero(t, status, stderr)
	assert.NotContains(t, stdout, "schedule", "no job polls meanwhile")
}

// Compressed, by standard input, and each row twice.
func TestIngestMonthlyCloses(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	quotes := readCloses(t)
	text, err := os.ReadFile(monthlyCloses)
	require.NoError(t, err)
	_, rows, _ := strings.Cut(string(text), "\n")
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	_, err = io.WriteString(writer, "\ufeff"+strings.TrimSpace(string(text))+"\n"+rows)
	require.NoError(t, err)
	require.NoError(t, writer.Close())
	name := filepath.Join(t.TempDir(), "closes") // no name that tells
	require.NoError(t, os.WriteFile(name, zipped.Bytes(), 0o600))

	// Twice in one file they are two prices each; the file again is none.
	both := append(slices.Clone(quotes), quotes...)
	assert.Equal(t, ingest.Summary{Lines: len(both), Quotes: len(both), New: len(both)}, ingested(t, env, alone(append(ofCloses, name)...)...))
	checkIngested(t, env, "csv", both)
	assert.Len(t, expectedAverages(quotes), 5)

	// A program of its own, for its standard input.
	process := command(t, env, alone(append([]string{"ingest", "-"}, ofCloses...)...)...)
	process.Stdin = bytes.NewReader(zipped.Bytes())
	out, err := process.Output()
	require.NoError(t, err)
	assert.Regexp(t, `1120 +1120 +0 +0 +1120 +0\n$`, string(out))
	checkIngested(t, env, "csv", both)
}

// While a service runs, that service applies the imported quotes and serves the results.
func TestIngestBesideAService(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	quotes := readCloses(t)
	summary := ingested(t, p.env, append(ofCloses, monthlyCloses)...)
	assert.Equal(t, len(quotes), summary.New)
	checkIngested(t, p.env, "csv", quotes)
	averages := expectedAverages(quotes)["MSFT"]
	got := p.get("/api/v1/prices/moving-average?symbol=MSFT&provider=csv")
	require.Equal(t, 200, got.status, got.body)
	assert.Equal(t, averages[len(averages)-1].Value.String(), string(got.field(t, "value").(json.Number)))
	latest := p.get("/api/v1/prices/latest?symbol=MSFT&provider=csv")
	assert.Equal(t, 502, latest.status, "an old price is not a fresh one: %s", latest.body)
	assert.Contains(t, latest.body, "come from files")

	session, _ := readSession(t)
	ingested(t, p.env, "--provider", "coinbase", "--no-wait", recordedSession)
	awaitDrained(t, p.env)
	checkIngested(t, p.env, "coinbase", session)
}

// Where no one works, it says so, and what it wrote waits in the log.
func TestIngestWhereNobodyWorks(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	// A process that consumes, or is about to: it has the lock, or the lease.
	holder := flock.New(filepath.Join(env["DATA_DIR"], "serve.lock"))
	held, err := holder.TryLock()
	require.NoError(t, err)
	require.True(t, held)
	db := openTables(t, env)
	held, err = db.AcquireLease(t.Context(), "log", "another process", time.Hour)
	require.NoError(t, err)
	require.True(t, held)
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	exit := make(chan int, 1)
	go func() {
		exit <- cmd.Main(ctx, []string{"ingest", "--provider", "coinbase", recordedSession}, env.lookup, io.Discard, writer)
		_ = writer.Close() // never fails
	}()
	l, followed := newLogs(), make(chan struct{})
	go func() { l.follow(reader); close(followed) }()
	said := l.await(t, "no process applies what was written: waiting for a pricemill serve; --work would do it here, --no-wait would not wait")
	assert.InDelta(t, 107, said["behind"], 0)
	cancel()
	assert.Equal(t, 1, <-exit)
	<-followed
	require.NoError(t, holder.Close())
	require.NoError(t, db.ReleaseLease(t.Context(), "log", "another process"))
	require.NoError(t, db.Close())
	quotes, _ := readSession(t)
	ingested(t, env, alone("--provider", "coinbase", recordedSession)...)
	checkIngested(t, env, "coinbase", quotes)
}

// What stands before a bad row is ingested; with --skip-bad-rows what follows is
// as well.
func TestIngestBadRows(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	name := filepath.Join(t.TempDir(), "prices.csv")
	require.NoError(t, os.WriteFile(name, []byte("time,symbol,price,note\r\n"+
		"2024-01-01T00:00:00Z,AAPL,1.5,\"two\r\nlines\"\r\n"+
		"2024-01-02T00:00:00Z,AAPL,cheap,\r\n"+
		"2024-01-03T00:00:00Z,AAPL\r\n"+
		"2024-01-04T00:00:00Z,aapl,2.5,ok"), 0o600))
	status, stdout, stderr := run(t, env, alone("ingest", "--provider", "csv", "-o", "json", name)...)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, `line 4, column "price"`)
	var summary ingest.Summary
	require.NoError(t, json.Unmarshal([]byte(stdout), &summary))
	assert.Equal(t, ingest.Summary{Lines: 2, Quotes: 1, Bad: 1, New: 1}, summary)
	first := fileQuote{"AAPL", "1.5", time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC),
		"2024-01-01T00:00:00Z,AAPL,1.5,\"two\r\nlines\""}
	checkIngested(t, env, "csv", []fileQuote{first})

	status, stdout, stderr = run(t, env, alone("ingest", "--provider", "csv", "-o", "json", "--skip-bad-rows", name)...)
	assert.Zero(t, status, stderr)
	assert.Contains(t, stderr, `"line":5`)
	require.NoError(t, json.Unmarshal([]byte(stdout), &summary))
	assert.Equal(t, ingest.Summary{Lines: 4, Quotes: 2, Bad: 2, Repeated: 1, New: 1}, summary)
	last := fileQuote{"aapl", "2.5", time.Date(2024, 1, 4, 0, 0, 0, 0, time.UTC), time.Date(2024, 1, 4, 0, 0, 0, 0, time.UTC),
		"2024-01-04T00:00:00Z,aapl,2.5,ok"}
	checkIngested(t, env, "csv", []fileQuote{first, last})
}

// A file of which nothing is taken is a failure, whatever the flags; one of which all
// was taken before is none.
func TestIngestThatTakesNothing(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	wrong := write("wrong", "symbol,price,time\nAAPL,185.1,02/01/2024\nAAPL,186.1,03/01/2024\n")
	for name, args := range map[string][]string{
		"another format":      {"--provider", "csv", "--skip-bad-rows", wrong},
		"only a header":       {"--provider", "csv", write("header", "symbol,price,time\n")},
		"no frame of a quote": {"--provider", "coinbase", "--no-wait", write("frames", `{"type":"subscriptions"}`+"\n")},
	} {
		args = append([]string{"ingest", "-o", "json"}, args...)
		if !slices.Contains(args, "--no-wait") {
			args = alone(args...)
		}
		status, stdout, stderr := run(t, env, args...)
		assert.Equal(t, 1, status, name)
		assert.Contains(t, stderr, "no line holds a quote", name)
		var summary ingest.Summary
		require.NoError(t, json.Unmarshal([]byte(stdout), &summary), name)
		assert.Zero(t, summary.Quotes, name)
	}
	args := alone("--provider", "csv", "--time-format", "02/01/2006", wrong)
	assert.Equal(t, 2, ingested(t, env, args...).New)
	assert.Equal(t, 2, ingested(t, env, args...).Repeated, "all taken before")
}

func TestIngestRefuses(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	session, err := os.ReadFile(recordedSession)
	require.NoError(t, err)
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	_, err = writer.Write(session)
	require.NoError(t, err)
	require.NoError(t, writer.Close())
	row := func(text string) string { return "symbol,price,time\n" + text + "\n" }
	for name, test := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"no provider":      {[]string{"--provider=", recordedSession}, 2, "--provider is empty"},
		"frames as csv":    {[]string{recordedSession}, 2, "the first line looks like JSON: --provider coinbase"},
		"unknown provider": {[]string{"--provider", "acme", recordedSession}, 2, `there is no provider "acme"; known are coinbase, csv`},
		"reads no files":   {[]string{"--provider", "yahoo", recordedSession}, 2, `provider "yahoo" reads no files`},
		"no file":          {[]string{"--provider", "csv", filepath.Join(dir, "absent")}, 1, "no such file"},
		"two files":        {[]string{"--provider", "csv", "a", "b"}, 2, "accepts 1 arg"},
		"no such column":   {[]string{"--provider", "csv", "--price-column", "close", monthlyCloses}, 2, `there is no column "close"; there are "symbol", "date", "price"`},
		"option of csv":    {[]string{"--provider", "coinbase", "--time-format", "unix", recordedSession}, 2, `take no option "time-format"`},
		"strftime":         {[]string{"--provider", "csv", "--time-format", "%b %d %Y", monthlyCloses}, 2, "reference time"},
		"work, no wait":    {[]string{"--provider", "csv", "--work", "--no-wait", monthlyCloses}, 2, "exclude each other"},
		"bad output":       {[]string{"--provider", "csv", "-o", "xml", monthlyCloses}, 2, `"xml" for "-o, --output" flag: no such value; known are table, json`},
		"bad price":        {[]string{"--provider", "csv", write("price", row("A,-1,2024-01-01T00:00:00Z"))}, 1, `line 2, column "price": bad_price: price -1 is not positive`},
		"bad time":         {[]string{"--provider", "csv", write("time", row("A,1,yesterday"))}, 1, `line 2, column "time": reading time "yesterday"`},
		"time to come":     {[]string{"--provider", "csv", write("future", row("A,1,2999-01-01T00:00:00Z"))}, 1, "line 2: the quote is of 2999"},
		"no symbol":        {[]string{"testdata/files/yahoo.csv"}, 2, "--symbol NAME is for a file of one symbol"},
		"unknown preset":   {[]string{"--preset", "acme", monthlyCloses}, 2, `there is no preset "acme"; known are yahoo, `},
		"zone of machine":  {[]string{"--time-zone", "Local", monthlyCloses}, 2, "the zone of this machine is not one of the file"},
		"unknown zone":     {[]string{"--time-zone", "EST5", monthlyCloses}, 2, `there is no zone "EST5"`},
		"UTF-16":           {[]string{write("utf16", "\xff\xfes\x00")}, 1, "the file is UTF-16"},
		"dry run, bad":     {[]string{"--dry-run", "-o", "xml", monthlyCloses}, 2, `"xml" for "-o, --output" flag: no such value; known are table, json`},
		"bad symbol":       {[]string{"--provider", "csv", write("symbol", row("§,1,2024-01-01T00:00:00Z"))}, 1, `line 2, column "symbol": invalid symbol`},
		"empty csv":        {[]string{"--provider", "csv", write("empty", "")}, 1, "the file is empty"},
		"empty session":    {[]string{"--provider", "coinbase", write("empty", "")}, 1, "the file is empty"},
		"csv as frames":    {[]string{"--provider", "coinbase", monthlyCloses}, 1, "line 1: not a frame in JSON"},
		"cut gzip header":  {[]string{"--provider", "coinbase", write("header", zipped.String()[:5])}, 1, "unexpected EOF"},
		"cut gzip":         {[]string{"--provider", "coinbase", write("cut", zipped.String()[:60])}, 1, "unexpected EOF"},
	} {
		status, stdout, stderr := run(t, env, append([]string{"ingest"}, test.args...)...)
		assert.Equal(t, test.status, status, name)
		assert.Empty(t, stdout, name)
		assert.Contains(t, stderr, test.says, name)
	}
	assert.NoFileExists(t, filepath.Join(env["DATA_DIR"], "pricemill.db"), "all of this is known before anything starts")
}
