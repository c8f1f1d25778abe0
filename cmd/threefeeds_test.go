package cmd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// market is a feed that speaks as one of the shipped definitions expects, and misbehaves.
// Its trades are numbered from 1, of its symbols in turn; those of absent are never sent.
type market struct {
	provider    string
	symbols     []string
	frame       func(symbol string, trade int, at time.Time) string
	acknowledge string
	limited     string // the frame of a client that asks too often
	// history plays the service's route of past trades; nil where the definition has none.
	history func(m *market) http.HandlerFunc
	trades  int // of each symbol

	mu          sync.Mutex
	connections int
	place       int
	times       []time.Time // of the trades of all symbols in turn, as far as they happened
}

// markets are three of the shipped providers.
func markets(trades int) []*market {
	return []*market{
		{provider: "binance", symbols: []string{"BTC-USDT", "ETH-USDT"}, trades: trades,
			frame: func(symbol string, trade int, at time.Time) string {
				return fmt.Sprintf(`{"e":"aggTrade","E":%d,"s":%q,"a":%d,"p":"%s","q":"0.5","f":1,"l":2,"T":%d,"m":true}`,
					at.UnixMilli()+3, strings.ReplaceAll(symbol, "-", ""), trade, marketPrice(trade), at.UnixMilli())
			},
			history: binanceHistory, acknowledge: `{"result":null,"id":1}`, limited: `{"error":{"code":1008,"msg":"Too many requests"}}`},
		{provider: "kraken", symbols: []string{"BTC-USD", "ETH-EUR"}, trades: trades,
			frame: func(symbol string, trade int, at time.Time) string {
				return fmt.Sprintf(`{"channel":"trade","type":"update","data":[{"symbol":%q,"side":"buy","price":%s,"qty":0.25,"ord_type":"limit","trade_id":%d,"timestamp":%q}]}`,
					strings.ReplaceAll(symbol, "-", "/"), marketPrice(trade), trade, at.Format(time.RFC3339Nano))
			},
			history: krakenHistory, acknowledge: `{"method":"subscribe","result":{"channel":"trade"},"success":true}`, limited: `{"error":"Exceeded msg rate","success":false}`},
		{provider: "bitstamp", symbols: []string{"BTC-USD", "XRP-EUR"}, trades: trades,
			frame: func(symbol string, trade int, at time.Time) string {
				return fmt.Sprintf(`{"event":"trade","channel":"live_trades_%s","data":{"id":%d,"timestamp":"%d","microtimestamp":"%d","amount":0.125,"amount_str":"0.12500000","price":%s,"price_str":"%s","type":0}}`,
					strings.ToLower(strings.ReplaceAll(symbol, "-", "")), trade, at.Unix(), at.UnixMicro(), marketPrice(trade), marketPrice(trade))
			},
			acknowledge: `{"event":"bts:subscription_succeeded","channel":"","data":{}}`, limited: `{"event":"bts:request_reconnect","channel":"","data":""}`},
	}
}

func marketPrice(trade int) string { return fmt.Sprintf("%d.%02d", 100+trade%7, trade%100) }

// at is when a trade of a symbol happened: when it would first have been sent, since streams
// look for what they missed by our clock. Zero: not yet.
func (m *market) at(symbol, trade int) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := (trade-1)*len(m.symbols) + symbol; i < len(m.times) {
		return m.times[i]
	}
	return time.Time{}
}

// happen has the i-th trade happen, unless it has.
func (m *market) happen(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.times) <= i {
		m.times = append(m.times, time.Now().UTC().Truncate(time.Millisecond))
	}
}

// isAbsent says of a trade whether the feed loses it.
func isAbsent(trade int) bool { return trade%41 == 0 }

// serve plays the feed: each connection begins some trades before the end of the last one,
// and ends in one of several ways. From the tenth on it begins at the start and stays.
func (m *market) serve(t testing.TB) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serving.Add(1)
		defer serving.Done()
		m.mu.Lock()
		number, begin := m.connections, max(0, m.place-7)
		m.connections++
		m.mu.Unlock()
		last := number >= 10
		if number%5 == 1 && !last {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the client went away
		}
		defer func() { _ = conn.CloseNow() }() // it may be closed already
		send := func(frame string) bool { return conn.Write(ctx, websocket.MessageText, []byte(frame)) == nil }
		if _, _, err := conn.Read(ctx); err != nil || !send(m.acknowledge) {
			return
		}
		if last {
			begin = 0
		}
		reading := conn.CloseRead(ctx) // pings of the client
		all := m.trades * len(m.symbols)
		for i := begin; i < all; i++ {
			m.happen(i)
			if trade, symbol := i/len(m.symbols)+1, i%len(m.symbols); !isAbsent(trade) {
				if !send(m.frame(m.symbols[symbol], trade, m.at(symbol, trade))) {
					return
				}
			}
			m.mu.Lock()
			m.place = max(m.place, i+1)
			m.mu.Unlock()
			if i == begin+50 && !last {
				switch number % 5 {
				case 0: // cut
				case 2:
					send(`<html>not of the feed</html>`)
				case 3:
					send(m.limited)
				case 4:
					_ = conn.Close(websocket.StatusGoingAway, "maintenance")
				}
				return
			}
		}
		<-reading.Done()
	}))
	t.Cleanup(func() {
		stop()
		serving.Wait()
		server.Close()
	})
	return "ws" + strings.TrimPrefix(server.URL, "http")
}

// TestThreeFeedsAtOnce streams three shipped providers at once. Their feeds cut connections,
// refuse them, say that there were too many, send garbage, send trades again, and lose some. All
// that was sent is there once. What was lost is counted, and fetched from the history of those
// that have one. The program's own check finds nothing.
func TestThreeFeedsAtOnce(t *testing.T) {
	t.Parallel()
	const trades = 300
	file := filepath.Join(t.TempDir(), "pricemill.yaml")
	require.NoError(t, os.WriteFile(file, []byte("modules:\n  stream:\n    backoff_min: 10ms\n    backoff_max: 100ms\n"), 0o600))
	env := environment{"CONFIG_FILE": file}
	all := markets(trades)
	var definitions []string
	for _, m := range all {
		text, err := os.ReadFile("../handlers/provider/declared/shipped/" + m.provider + ".yaml")
		require.NoError(t, err)
		definitions = append(definitions, string(text))
		name := strings.ToUpper(m.provider)
		env[name+"_WS_URL"] = m.serve(t)
		past := http.NotFoundHandler()
		if m.history != nil {
			past = m.history(m)
		}
		server := httptest.NewServer(past)
		t.Cleanup(server.Close)
		env[name+"_BASE_URL"] = server.URL
	}
	env["PROVIDERS_DIR"] = declare(t, definitions...)
	p := start(t, env)
	paths := map[*market]string{}
	for _, m := range all {
		body, err := json.Marshal(map[string]any{"provider": m.provider, "symbols": m.symbols})
		require.NoError(t, err)
		accepted := p.post("/api/v1/streams", string(body))
		require.Equal(t, http.StatusAccepted, accepted.status, accepted.body)
		paths[m] = "/api/v1/streams/" + accepted.field(t, "stream_id").(string)
	}
	absent, expected := 0, 0
	for trade := 1; trade <= trades; trade++ {
		if isAbsent(trade) {
			absent++
		}
	}
	for _, m := range all {
		expected += trades * len(m.symbols)
		if m.history == nil {
			expected -= absent * len(m.symbols)
		}
	}
	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	require.Eventually(t, func() bool {
		prices := 0
		return db.Get(t.Context(), &prices, `SELECT count(*) FROM processed_prices`) == nil && prices >= expected
	}, 5*time.Minute, 50*time.Millisecond, "not all prices came")
	for _, m := range all {
		require.Eventually(t, func() bool {
			shown := p.get(paths[m])
			return shown.field(t, "status") == "active" && numberIn(t, shown, "reconnects") >= 10
		}, 60*time.Second, 50*time.Millisecond, m.provider)
		if m.history != nil {
			assert.GreaterOrEqual(t, numberIn(t, p.get(paths[m]), "missed"), int64(absent*len(m.symbols)), m.provider)
		}
	}
	want := map[string]int{}
	for _, m := range all {
		for i, symbol := range m.symbols {
			for trade := 1; trade <= trades; trade++ {
				if !isAbsent(trade) || m.history != nil {
					want[fmt.Sprint(m.provider, " ", symbol, " ", schema.MustDecimal(marketPrice(trade)), " ", m.at(i, trade).Format(time.RFC3339Nano))] = 1
				}
			}
		}
	}
	require.Zero(t, p.stop())
	assert.Equal(t, want, countedPrices(t, db))
	status, stdout, stderr := run(t, p.env, "verify")
	assert.Zero(t, status, "%s%s", stdout, stderr)
}

// numberIn is a whole number in an answer.
func numberIn(t testing.TB, a answer, field string) int64 {
	t.Helper()
	n, err := a.field(t, field).(json.Number).Int64()
	require.NoError(t, err, a.body)
	return n
}

// countedPrices says how often each price is in the table of prices.
func countedPrices(t testing.TB, db *store.Store) map[string]int {
	t.Helper()
	var rows []struct {
		Provider string         `db:"provider"`
		Symbol   string         `db:"symbol"`
		Price    schema.Decimal `db:"price"`
		Time     schema.Time    `db:"timestamp"`
	}
	require.NoError(t, db.Select(t.Context(), &rows, `SELECT provider, symbol, price, timestamp FROM processed_prices`))
	counts := map[string]int{}
	for _, r := range rows {
		counts[fmt.Sprint(r.Provider, " ", r.Symbol, " ", r.Price, " ", r.Time.Format(time.RFC3339Nano))]++
	}
	return counts
}

// binanceHistory plays aggTrades, from a time or from a number on.
func binanceHistory(m *market) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		symbol := slices.IndexFunc(m.symbols, func(s string) bool { return strings.ReplaceAll(s, "-", "") == r.URL.Query().Get("symbol") })
		number := func(name string) int {
			n, _ := strconv.Atoi(r.URL.Query().Get(name))
			return n
		}
		var found []string
		for trade := 1; trade <= m.trades && len(found) < number("limit") && symbol >= 0; trade++ {
			if at := m.at(symbol, trade); !at.IsZero() && trade >= number("fromId") && at.UnixMilli() >= int64(number("startTime")) {
				found = append(found, fmt.Sprintf(`{"a":%d,"p":"%s","q":"0.5","f":1,"l":2,"T":%d,"m":true,"M":true}`, trade, marketPrice(trade), at.UnixMilli()))
			}
		}
		_, _ = fmt.Fprintf(w, "[%s]", strings.Join(found, ","))
	}
}

// krakenHistory plays Trades, after a time.
func krakenHistory(m *market) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		symbol := slices.IndexFunc(m.symbols, func(s string) bool {
			return strings.ReplaceAll(strings.ReplaceAll(s, "BTC", "XBT"), "-", "") == r.URL.Query().Get("pair")
		})
		since, _ := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
		last := since
		var found []string
		for trade := 1; trade <= m.trades && len(found) < 1000 && symbol >= 0; trade++ {
			if at := m.at(symbol, trade); !at.IsZero() && at.UnixNano() > since {
				last = at.UnixNano()
				found = append(found, fmt.Sprintf(`["%s","0.25",%d.%09d,"b","l","",%d]`, marketPrice(trade), at.Unix(), at.Nanosecond(), trade))
			}
		}
		_, _ = fmt.Fprintf(w, `{"error":[],"result":{"PAIR":[%s],"last":"%d"}}`, strings.Join(found, ","), last)
	}
}
