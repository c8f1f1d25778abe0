package cmd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/cmd"
	"github.com/pricemill/pricemill/internal/exchangetest"
	"github.com/pricemill/pricemill/schema"
)

// pastMarket is an exchange's REST API for the trades of one product, which counts calls as the
// exchange does.
type pastMarket struct {
	t      testing.TB
	trades int // their ids are 1 to trades
	began  time.Time

	mu      sync.Mutex
	calls   []time.Time
	beyond  int               // calls that a limit of 10 a second does not allow
	waiting map[int]chan bool // closed at a number of calls
	refuse  int               // the status of answers; 0 for trades
}

// tradeStep is the time between two trades.
const tradeStep = 10 * time.Millisecond

func newPastMarket(t testing.TB, trades int) (*pastMarket, string) {
	m := &pastMarket{t: t, trades: trades, began: time.Date(2025, 6, 15, 12, 0, 0, 0, time.UTC), waiting: map[int]chan bool{}}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	return m, server.URL
}

// at is when a trade was made.
func (m *pastMarket) at(trade int) time.Time { return m.began.Add(time.Duration(trade) * tradeStep) }

// price is that of a trade.
func (m *pastMarket) price(trade int) string {
	return fmt.Sprintf("%d.%02d", 60000+trade%977, trade%89+1)
}

func (m *pastMarket) text(trade int) string {
	return fmt.Sprintf(`{"trade_id":%d,"side":"buy","size":"0.01","price":%q,"time":%q}`, trade, m.price(trade), m.at(trade).Format(time.RFC3339Nano))
}

// frame tells of a trade as a stream does.
func (m *pastMarket) frame(trade int) exchangetest.Frame {
	return exchangetest.Frame{Product: "BTC-USD", TradeID: int64(trade), Text: fmt.Appendf(nil,
		`{"type":"match","trade_id":%d,"product_id":"BTC-USD","side":"buy","size":"0.01","price":%q,"time":%q}`,
		trade, m.price(trade), m.at(trade).Format(time.RFC3339Nano))}
}

// ServeHTTP answers the newest trades below an id, as many as the limit says.
func (m *pastMarket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if refuse := m.count(); refuse != 0 {
		w.WriteHeader(refuse)
		return
	}
	if r.URL.Path != "/products/BTC-USD/trades" {
		http.Error(w, `{"message":"NotFound"}`, http.StatusNotFound)
		return
	}
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	below := m.trades + 1
	if text := r.URL.Query().Get("after"); text != "" && err == nil {
		below, err = strconv.Atoi(text)
	}
	if err != nil || limit < 1 || limit > 1000 {
		m.t.Errorf("asked for %s", r.URL)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	page := []json.RawMessage{}
	for id := min(below-1, m.trades); id >= 1 && len(page) < limit; id-- {
		page = append(page, json.RawMessage(m.text(id)))
	}
	_ = json.NewEncoder(w).Encode(page) // the client may have been killed
}

func (m *pastMarket) count() (refuse int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	recent := 0
	for _, at := range slices.Backward(m.calls) {
		if now.Sub(at) >= time.Second {
			break
		}
		recent++
	}
	if recent >= 10 {
		m.beyond++
	}
	m.calls = append(m.calls, now)
	if reached := m.waiting[len(m.calls)]; reached != nil {
		close(reached)
	}
	return m.refuse
}

// after is closed once there were so many calls.
func (m *pastMarket) after(calls int) <-chan bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	reached := make(chan bool)
	if m.waiting[calls] = reached; len(m.calls) >= calls {
		close(reached)
	}
	return reached
}

func (m *pastMarket) setRefuse(status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = status
}

// summary is how many calls there were, and how many of them too many.
func (m *pastMarket) summary() (calls, beyond int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.calls), m.beyond
}

// backfill is the command that backfills trades first to last.
func (m *pastMarket) backfill(first, last int, more ...string) []string {
	return append([]string{"backfill", "coinbase", "BTC-USD", "--from", m.at(first).Format(time.RFC3339Nano),
		"--to", m.at(last).Format(time.RFC3339Nano)}, more...)
}

// check holds the tables against trades first to last: each is there, once.
func (m *pastMarket) check(env environment, first, last int) {
	m.t.Helper()
	db := openTables(m.t, env)
	defer func() { assert.NoError(m.t, db.Close()) }()
	var rows []struct {
		Price     schema.Decimal `db:"price"`
		Timestamp schema.Time    `db:"timestamp"`
	}
	require.NoError(m.t, db.Select(m.t.Context(), &rows, `SELECT price, timestamp FROM processed_prices WHERE provider = 'coinbase' ORDER BY timestamp`))
	require.Len(m.t, rows, last-first+1)
	for i, row := range rows {
		trade := first + i
		if !row.Timestamp.Time.Equal(m.at(trade)) || row.Price.Cmp(schema.MustDecimal(m.price(trade))) != 0 {
			require.Failf(m.t, "another price", "%s at %s, want %s at %s", row.Price, row.Timestamp, m.price(trade), m.at(trade))
		}
	}
	var answers int
	require.NoError(m.t, db.Get(m.t.Context(), &answers, `SELECT count(*) FROM raw_market_data`))
	assert.Equal(m.t, last-first+1, answers)
}

// TestABackfillIsKilledThreeTimes: 100,000 prices (fewer under the race detector) come through the history of an exchange that
// allows ten calls a second, while the service is killed three times, and while a stream tells
// of some of the same trades. Each is there once, and no second saw more calls than allowed.
func TestABackfillIsKilledThreeTimes(t *testing.T) {
	t.Parallel()
	const first, last, trades, kills = 20_001, 20_000 + backfilledPrices, 30_000 + backfilledPrices, 3
	m, url := newPastMarket(t, trades)
	var frames []exchangetest.Frame
	for _, trade := range []int{first, first + backfilledPrices*3/10, first + backfilledPrices*7/10, last - 500} {
		for i := range 250 {
			frames = append(frames, m.frame(trade+i))
		}
	}
	exchange := exchangetest.Start(t, frames, func(int) exchangetest.Plan { return exchangetest.Plan{Rewind: exchangetest.Restart} })
	env := newStack(t, streamEnvironment(t, exchange).with(environment{"COINBASE_BASE_URL": url}))

	process, l := spawn(t, env)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of the last process:\n%s", l)
		}
	})
	client := env.with(environment{"HTTP_ADDR": ""})
	reach := func() {
		client["HTTP_ADDR"] = l.await(t, "listening")["url"].(string)[len("http://"):]
		l.await(t, "pipeline running")
	}
	reach()
	status, _, stderr := run(t, client, "streams", "start", "BTC-USD", "--provider", "coinbase")
	require.Zero(t, status, stderr)
	status, out, stderr := run(t, client, m.backfill(first, last, "--detach", "-o", "json")...)
	require.Zero(t, status, stderr)
	var started struct {
		BackfillID string `json:"backfill_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &started))

	began := time.Now()
	for kill := range kills {
		select {
		case <-m.after(backfilledPrices / 4000 * (kill + 1)):
		case <-time.After(3 * time.Minute):
			require.Fail(t, "the backfill stands still")
		}
		require.NoError(t, process.Process.Kill())
		var exit *exec.ExitError
		require.ErrorAs(t, process.Wait(), &exit)
		process, l = spawn(t, env)
		reach()
	}
	type shown struct {
		Status           string
		Applied          bool
		Prices, Repeated int
		Calls            int
	}
	var b shown
	require.Eventually(t, func() bool {
		status, out, stderr := run(t, client, "backfill", "show", started.BackfillID, "-o", "json")
		require.Zero(t, status, stderr)
		require.NoError(t, json.Unmarshal([]byte(out), &b))
		return b.Applied
	}, 5*time.Minute, 100*time.Millisecond)
	calls, beyond := m.summary()
	t.Logf("%d prices and %d repeated with %d calls and %d kills in %v", b.Prices, b.Repeated, calls, kills, time.Since(began))
	assert.Equal(t, "completed", b.Status)
	assert.GreaterOrEqual(t, b.Prices+b.Repeated, last-first+1)
	assert.GreaterOrEqual(t, b.Repeated, 250, "the stream had brought some")
	assert.Zero(t, beyond, "calls beyond the limit")
	m.check(env, first, last)

	// Again: what is there is known.
	status, out, stderr = run(t, client, m.backfill(first, first+4999, "-o", "json")...)
	require.Zero(t, status, stderr)
	require.NoError(t, json.Unmarshal([]byte(out), &b))
	assert.Equal(t, shown{"completed", true, 0, 5000, b.Calls}, b)

	require.NoError(t, process.Process.Signal(os.Interrupt))
	require.NoError(t, process.Wait())
	m.check(env, first, last)
	_, beyond = m.summary()
	assert.Zero(t, beyond, "calls beyond the limit")
	proven(t, env)
}

// A backfill waits while the service is down, ends where another call would fail as well, and
// says why.
func TestTheEndsOfABackfill(t *testing.T) {
	t.Parallel()
	m, url := newPastMarket(t, 20_000)
	file := filepath.Join(t.TempDir(), "pricemill.yaml")
	require.NoError(t, os.WriteFile(file, []byte("modules:\n  backfill:\n    backoff_min: 10ms\n    backoff_max: 50ms\n"), 0o600))
	p := start(t, environment{"COINBASE_BASE_URL": url, "CONFIG_FILE": file})
	client := p.env.with(environment{"HTTP_ADDR": p.url[len("http://"):]})

	status, _, stderr := run(t, client, "backfill", "coinbase", "NO-USD", "--from", "2025-06-15", "--to", "2025-06-16")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "is failed: unknown_symbol: status 404")
	status, _, stderr = run(t, client, "backfill", "yahoo", "AAPL", "--from", "2025-06-15", "--to", "2025-06-16")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "cannot give its history; those that can are coinbase")
	status, _, stderr = run(t, client, "backfill", "coinbase", "BTC-USD", "--from", "2025-06-15", "--to", "2999-01-01")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "to is in the future")

	m.setRefuse(http.StatusServiceUnavailable)
	status, out, stderr := run(t, client, m.backfill(15_000, 17_999, "--detach", "-o", "json")...)
	require.Zero(t, status, stderr)
	var started struct {
		BackfillID string `json:"backfill_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &started))
	path := "/api/v1/backfills/" + started.BackfillID
	await := func(want string) (last answer) {
		require.Eventually(t, func() bool {
			last = p.get(path)
			return last.field(t, "status") == want
		}, 30*time.Second, 10*time.Millisecond, want)
		return last
	}
	assert.Contains(t, await("failing").body, "unavailable: status 503")
	assert.Contains(t, p.get("/dashboard/jobs").body, started.BackfillID)
	m.setRefuse(0)
	done := await("completed")
	assert.Equal(t, json.Number("3000"), done.field(t, "prices"), done.body)
	assert.Equal(t, http.StatusConflict, p.do(http.MethodDelete, path, "").status)
	require.Eventually(t, func() bool { return p.get(path).field(t, "applied") == true }, 30*time.Second, 10*time.Millisecond)
	m.check(p.env, 15_000, 17_999)

	// One that is interrupted says how to follow the backfill again, which does not end.
	m.setRefuse(http.StatusServiceUnavailable)
	interrupted, interrupt := context.WithCancel(t.Context())
	ended := make(chan string, 1)
	go func() {
		var stderr bytes.Buffer
		cmd.Main(interrupted, m.backfill(1, 20_000), client.lookup, io.Discard, &stderr)
		ended <- stderr.String()
	}()
	require.Eventually(t, func() bool {
		status, out, stderr := run(t, client, "backfill", "list", "-o", "json")
		require.Zero(t, status, stderr)
		var list []struct {
			BackfillID string `json:"backfill_id"`
			Status     string
		}
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		started.BackfillID = list[0].BackfillID
		return list[0].Status == "failing"
	}, 30*time.Second, 10*time.Millisecond)
	interrupt()
	assert.Equal(t, `pricemill: interrupted
The backfill continues in the service. To follow it again, or to stop it:
  pricemill backfill follow `+started.BackfillID+`
  pricemill backfill stop `+started.BackfillID+"\n", <-ended)
	status, _, stderr = run(t, client, "backfill", "follow", "backfill_none")
	assert.Equal(t, 1, status)
	assert.Equal(t, "pricemill: following backfill backfill_none: the service answered 404 Not Found: There is no backfill \"backfill_none\"\n", stderr)
	status, _, stderr = run(t, client, "backfill", "stop", started.BackfillID)
	require.Zero(t, status, stderr)
	path = "/api/v1/backfills/" + started.BackfillID
	await("stopped")
	status, out, stderr = run(t, client, "backfill", "list")
	require.Zero(t, status, stderr)
	assert.Regexp(t, started.BackfillID+` +stopped`, out)
	status, out, stderr = run(t, client, "backfill", "follow", started.BackfillID)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, started.BackfillID+" is stopped")
	assert.Regexp(t, started.BackfillID+` +stopped`, out)
}
