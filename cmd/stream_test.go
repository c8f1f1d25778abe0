package cmd_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/coinbase"
	"github.com/pricemill/pricemill/internal/exchangetest"
	"github.com/pricemill/pricemill/schema"
)

// streamEnvironment leads coinbase's streams to an exchange, with short pauses
// between connections.
func streamEnvironment(t testing.TB, exchange *exchangetest.Exchange) environment {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pricemill.yaml")
	require.NoError(t, os.WriteFile(file, []byte("modules:\n  stream:\n    backoff_min: 10ms\n    backoff_max: 100ms\n"), 0o600))
	// No history is to be had: nothing listens there.
	return environment{"COINBASE_WS_URL": exchange.URL, "COINBASE_BASE_URL": "http://127.0.0.1:1", "CONFIG_FILE": file}
}

// startStream posts a stream of all products of frames, and returns its path.
func startStream(t testing.TB, p *program, frames []exchangetest.Frame) string {
	t.Helper()
	return startStreamOf(t, p, coinbase.Name, frames)
}

func startStreamOf(t testing.TB, p *program, provider schema.Provider, frames []exchangetest.Frame) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"provider": provider, "symbols": exchangetest.Products(frames)})
	require.NoError(t, err)
	accepted := p.post("/api/v1/streams", string(body))
	require.Equal(t, http.StatusAccepted, accepted.status, accepted.body)
	return "/api/v1/streams/" + accepted.field(t, "stream_id").(string)
}

// TestStreamOfTheRecordedSession streams a real session over a WebSocket that is
// cut 20 times at random moments, after each of which some frames come again.
func TestStreamOfTheRecordedSession(t *testing.T) {
	t.Parallel()
	const cuts = 20
	frames := exchangetest.Session(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	plans := make([]exchangetest.Plan, cuts)
	for i := range plans {
		// A connection gets on by 0 to 5 frames, so that the session outlasts
		// them all.
		rewind := random.IntN(6)
		cut := rewind + random.IntN(6)
		plans[i] = exchangetest.Plan{Rewind: rewind, At: func(n int) exchangetest.Act {
			if n == cut {
				return exchangetest.Cut
			}
			return nil
		}}
	}
	exchange := exchangetest.Start(t, frames, func(connection int) exchangetest.Plan {
		if connection < cuts {
			return plans[connection]
		}
		return exchangetest.Plan{Rewind: 3}
	})
	p := start(t, streamEnvironment(t, exchange))
	path := startStream(t, p, frames)
	assert.Equal(t, http.StatusOK, p.get(path).status, "it is found at once")
	awaitPrices(t, p.env, frames)
	checkStreamed(t, p.env, frames)
	checkAveragesOf(t, p, frames)

	var shown answer
	require.Eventually(t, func() bool {
		shown = p.get(path)
		count, err := shown.field(t, "reconnects").(json.Number).Int64()
		return err == nil && count >= cuts && shown.field(t, "status") == "active"
	}, 30*time.Second, 20*time.Millisecond)
	assert.Equal(t, true, shown.field(t, "owner_alive"), shown.body)
	assert.Equal(t, json.Number("0"), shown.field(t, "gaps"), shown.body)
	assert.NotNil(t, shown.field(t, "last_message_at"), shown.body)
	assert.NotNil(t, shown.field(t, "last_error"), shown.body)

	require.Equal(t, http.StatusAccepted, p.do(http.MethodDelete, path, "").status)
	require.Eventually(t, func() bool {
		shown = p.get(path)
		return shown.field(t, "status") == "stopped" && shown.field(t, "owner_alive") == false
	}, 20*time.Second, 20*time.Millisecond)
	assert.Equal(t, http.StatusConflict, p.do(http.MethodDelete, path, "").status)
	assert.Equal(t, http.StatusNotFound, p.get("/api/v1/streams/stream_zzzzzzzz").status)
	refused := p.post("/api/v1/streams", `{"provider":"yahoo","symbols":["A"]}`)
	assert.Equal(t, http.StatusBadRequest, refused.status)
	assert.Contains(t, refused.body, "those that can are coinbase, finnhub")
}

// awaitPrices returns once there are as many prices as frames.
func awaitPrices(t testing.TB, env environment, frames []exchangetest.Frame) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	prices := 0
	require.Eventually(t, func() bool {
		return db.Get(t.Context(), &prices, `SELECT count(*) FROM processed_prices`) == nil && prices >= len(frames)
	}, 60*time.Second, 20*time.Millisecond, "not all prices came")
}

// checkStreamed holds answers and prices against the frames: each once, byte for
// byte.
func checkStreamed(t testing.TB, env environment, frames []exchangetest.Frame) {
	t.Helper()
	checkStreamedOf(t, env, coinbase.Name, frames)
}

func checkStreamedOf(t testing.TB, env environment, provider schema.Provider, frames []exchangetest.Frame) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	type raw struct {
		EventID string `db:"event_id"`
		Text    string `db:"raw_response"`
	}
	var got, want []raw
	require.NoError(t, db.Select(t.Context(), &got, `SELECT event_id, raw_response FROM raw_market_data`))
	for _, f := range frames {
		want = append(want, raw{schema.DeriveID("stream", string(provider), f.Product, fmt.Sprint(f.TradeID)), string(f.Text)})
	}
	assert.ElementsMatch(t, want, got)
	type price struct {
		Symbol string         `db:"symbol"`
		Price  schema.Decimal `db:"price"`
		Time   schema.Time    `db:"timestamp"`
	}
	text := func(p price) string { return fmt.Sprint(p.Symbol, " ", p.Price, " ", p.Time.Format(time.RFC3339Nano)) }
	var rows []price
	require.NoError(t, db.Select(t.Context(), &rows, `SELECT symbol, price, timestamp FROM processed_prices`))
	var prices, expected []string
	for _, row := range rows {
		prices = append(prices, text(row))
	}
	for _, f := range frames {
		at, err := schema.ParseTime(f.Time)
		require.NoError(t, err)
		expected = append(expected, text(price{f.Product, schema.MustDecimal(f.Price), at}))
	}
	slices.Sort(prices)
	slices.Sort(expected)
	assert.Equal(t, expected, prices)
}

// checkAveragesOf computes the average of each product's last five prices from
// the frames, and asks for it.
func checkAveragesOf(t testing.TB, p *program, frames []exchangetest.Frame) {
	t.Helper()
	for _, product := range exchangetest.Products(frames) {
		var history []observed
		for _, f := range frames {
			if f.Product == product {
				at, err := schema.ParseTime(f.Time)
				require.NoError(t, err)
				history = append(history, observed{price: schema.PriceObserved{Price: schema.MustDecimal(f.Price), Timestamp: at}})
			}
		}
		slices.SortStableFunc(history, func(a, b observed) int { return a.price.Timestamp.Compare(b.price.Timestamp) })
		want := naiveMean(history[max(0, len(history)-5):])
		path := "/api/v1/prices/moving-average?provider=coinbase&window=5&symbol=" + product
		var got answer
		assert.Eventually(t, func() bool { // the averages may be behind the prices
			got = p.get(path)
			average, ok := got.field(t, "value").(json.Number)
			return ok && schema.MustDecimal(average.String()).Cmp(want) == 0
		}, 20*time.Second, 20*time.Millisecond, "%s: want %s", product, want)
		t.Logf("%s: %s", product, got.body)
	}
}

// TestAStreamIsTakenOver kills the process that owns a stream; the other continues.
func TestAStreamIsTakenOver(t *testing.T) {
	if !onServices() {
		t.Log("on SQLite one process works: there the stream is taken over after a restart")
	}
	frames := exchangetest.Session(t)
	const half = 60
	reached, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	exchange := exchangetest.Start(t, frames, func(connection int) exchangetest.Plan {
		if connection > 0 {
			return exchangetest.Plan{Rewind: exchangetest.Restart}
		}
		return exchangetest.Plan{At: func(n int) exchangetest.Act {
			if n < half {
				return nil
			}
			once.Do(func() { close(reached) })
			return exchangetest.Await(release)
		}}
	})
	defer close(release)
	env := newStack(t, streamEnvironment(t, exchange))
	owner, l := spawn(t, env)
	p := &program{t: t, env: env, logs: l}
	p.url = l.await(t, "listening")["url"].(string)
	l.await(t, "pipeline running")
	path := startStream(t, p, frames)
	<-reached

	if onServices() {
		p = start(t, env)
		assert.Equal(t, 1, exchange.Connections(), "one owner")
	}
	require.NoError(t, owner.Process.Kill())
	_ = owner.Wait() // killed
	if !onServices() {
		p = start(t, env)
	}
	awaitPrices(t, env, frames)
	checkStreamed(t, env, frames)
	checkAveragesOf(t, p, frames)
	shown := p.eventually(path, http.StatusOK)
	assert.Equal(t, "active", shown.field(t, "status"), shown.body)
	assert.GreaterOrEqual(t, exchange.Connections(), 2)
	assert.False(t, strings.Contains(p.logs.String(), "halted"), p.logs)
}
