package cmd_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

// orderSeed draws the trades, and shuffles them.
const orderSeed = 20240131

// trade is one that a test has drawn.
type trade struct {
	symbol      string
	at          time.Time
	id          int
	price, size string
}

// drawTrades draws trades of a few symbols over three days, by event time: many have the
// time of the one before, and only their ids tell which was first.
func drawTrades(random *rand.Rand, n int) []trade {
	trades, ids := make([]trade, n), map[string]int{}
	at := time.Date(2024, 1, 29, 6, 0, 0, 0, time.UTC)
	for i := range trades {
		if random.IntN(3) > 0 {
			at = at.Add(time.Duration(random.IntN(int(60*time.Hour) * 3 / n)).Truncate(time.Microsecond))
		}
		symbol := []string{"BTC-USD", "ETH-USD", "SOL-USD"}[random.IntN(3)]
		ids[symbol]++
		trades[i] = trade{symbol, at, 1000 + ids[symbol], fmt.Sprintf("%d.%02d", 100+random.IntN(400), random.IntN(100)),
			fmt.Sprintf("%d.%03d", random.IntN(5), 1+random.IntN(999))}
	}
	return trades
}

// writeTrades writes a file of frames.
func writeTrades(t *testing.T, trades []trade) string {
	t.Helper()
	var text strings.Builder
	for _, d := range trades {
		fmt.Fprintf(&text, `{"type":"ticker","product_id":%q,"price":%q,"last_size":%q,"time":%q,"trade_id":%d}`+"\n",
			d.symbol, d.price, d.size, d.at.Format(time.RFC3339Nano), d.id)
	}
	name := filepath.Join(t.TempDir(), "trades.jsonl")
	require.NoError(t, os.WriteFile(name, []byte(text.String()), 0o600))
	return name
}

// orderedSeries are the routes of the series, with the values of a point.
var orderedSeries = map[string][]string{
	"indicators/ema?period=12":                  {"value"},
	"indicators/ema?period=26&seed=sma":         {"value"},
	"indicators/bollinger?":                     {"middle", "deviation"},
	"indicators/bollinger?ddof=1&warm_up=full":  {"middle", "deviation"},
	"indicators/vwap?":                          {"value", "volume"},
	"indicators/candles?interval=1h":            {"open", "high", "low", "close", "volume"},
	"prices/history?":                           {"price"},
	"prices/moving-average/history?window=5":    {"value"},
	"prices/moving-average/history?window=1000": {"value"},
}

// lineOf is a point as the tests compare it.
func lineOf(at time.Time, values ...*big.Rat) string {
	text := at.UTC().Format(time.RFC3339Nano)
	for _, v := range values {
		text += " " + v.RatString()
	}
	return text
}

// read are all points of a route of a symbol, oldest first, page by page.
func (p *program) read(route, symbol string, columns []string) []string {
	p.t.Helper()
	var lines []string
	for cursor := ""; ; {
		got := p.get("/api/v1/" + route + "&provider=coinbase&limit=1000&symbol=" + symbol + cursor)
		require.Equal(p.t, http.StatusOK, got.status, got.body)
		var page struct {
			Items []map[string]any
			Next  *string `json:"next_cursor"`
		}
		decoder := json.NewDecoder(strings.NewReader(got.body))
		decoder.UseNumber()
		require.NoError(p.t, decoder.Decode(&page), got.body)
		for _, item := range page.Items {
			at, err := time.Parse(time.RFC3339Nano, item["timestamp"].(string))
			require.NoError(p.t, err)
			values := make([]*big.Rat, len(columns))
			for i, column := range columns {
				values[i], _ = new(big.Rat).SetString(item[column].(json.Number).String())
			}
			lines = append(lines, lineOf(at, values...))
		}
		if page.Next == nil {
			slices.Reverse(lines)
			return lines
		}
		cursor = "&cursor=" + *page.Next
	}
}

// series are all points of all routes.
func (p *program) series(symbols []string) map[string][]string {
	p.t.Helper()
	all := map[string][]string{}
	for route, columns := range orderedSeries {
		for _, symbol := range symbols {
			all[route+" "+symbol] = p.read(route, symbol, columns)
		}
	}
	return all
}

// expectedSeries computes the points of one symbol from its trades, with rationals.
func expectedSeries(trades []trade) map[string][]string {
	all := map[string][]string{}
	rat := func(text string) *big.Rat { r, _ := new(big.Rat).SetString(text); return r }
	count := func(n int) *big.Rat { return big.NewRat(int64(n), 1) }
	averages := map[string]*big.Rat{}
	var sum, value, volume, day = new(big.Rat), new(big.Rat), new(big.Rat), ""
	for i, d := range trades {
		add := func(route string, values ...*big.Rat) { all[route] = append(all[route], lineOf(d.at, values...)) }
		price, size := rat(d.price), rat(d.size)
		last := func(n int) []trade { return trades[max(0, i+1-n) : i+1] }
		sum.Add(sum, price)
		add("prices/history?", price)
		for n, route := range map[int]string{5: "prices/moving-average/history?window=5", 1000: "prices/moving-average/history?window=1000"} {
			mean, _ := moments(last(n))
			add(route, projectiontest.HalfEven(mean))
		}

		for n, route := range map[int]string{12: "indicators/ema?period=12", 26: "indicators/ema?period=26&seed=sma"} {
			sma := strings.HasSuffix(route, "seed=sma")
			switch e := averages[route]; {
			case e != nil:
				step := new(big.Rat).Sub(price, e)
				averages[route] = projectiontest.HalfEven(new(big.Rat).Add(e, step.Mul(step, big.NewRat(2, int64(n)+1))))
			case !sma:
				averages[route] = price
			case i+1 == n:
				averages[route] = projectiontest.HalfEven(new(big.Rat).Quo(sum, count(n)))
			}
			if averages[route] != nil {
				add(route, averages[route])
			}
		}

		window := last(20)
		mean, squares := moments(window)
		add("indicators/bollinger?", projectiontest.HalfEven(mean), root(new(big.Rat).Quo(squares, count(len(window)))))
		if len(window) == 20 {
			add("indicators/bollinger?ddof=1&warm_up=full", projectiontest.HalfEven(mean), root(new(big.Rat).Quo(squares, count(19))))
		}

		if is := d.at.Format(time.DateOnly); is != day {
			value, volume, day = new(big.Rat), new(big.Rat), is
		}
		value.Add(value, new(big.Rat).Mul(price, size))
		volume.Add(volume, size)
		add("indicators/vwap?", projectiontest.HalfEven(new(big.Rat).Quo(value, volume)), volume)
	}
	for _, hour := range byHour(trades) {
		open, close := rat(hour[0].price), rat(hour[len(hour)-1].price)
		high, low, volume := open, open, new(big.Rat)
		for _, d := range hour {
			if price := rat(d.price); price.Cmp(high) > 0 {
				high = price
			}
			if price := rat(d.price); price.Cmp(low) < 0 {
				low = price
			}
			volume.Add(volume, rat(d.size))
		}
		all["indicators/candles?interval=1h"] = append(all["indicators/candles?interval=1h"],
			lineOf(hour[0].at.Truncate(time.Hour), open, high, low, close, volume))
	}
	return all
}

// moments are the mean of prices and the sum of the squares of what they are from it.
func moments(trades []trade) (mean, squares *big.Rat) {
	n := big.NewRat(int64(len(trades)), 1)
	mean, squares = new(big.Rat), new(big.Rat)
	for _, d := range trades {
		price, _ := new(big.Rat).SetString(d.price)
		mean.Add(mean, price)
		squares.Add(squares, price.Mul(price, price))
	}
	mean.Quo(mean, n)
	return mean, squares.Sub(squares, new(big.Rat).Mul(n, new(big.Rat).Mul(mean, mean)))
}

// root is the square root, rounded to 18 digits; no root of the test is a tie.
func root(r *big.Rat) *big.Rat {
	const digits = 18
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(digits+1), nil) // one more, to round by
	scaled := new(big.Rat).Mul(r, new(big.Rat).SetInt(new(big.Int).Mul(scale, scale)))
	tenths := new(big.Int).Sqrt(new(big.Int).Quo(scaled.Num(), scaled.Denom()))
	rounded := tenths.Quo(tenths.Add(tenths, big.NewInt(5)), big.NewInt(10))
	return new(big.Rat).SetFrac(rounded, new(big.Int).Exp(big.NewInt(10), big.NewInt(digits), nil))
}

// byHour cuts trades into those of each hour.
func byHour(trades []trade) [][]trade {
	var hours [][]trade
	for i, d := range trades {
		if i == 0 || !d.at.Truncate(time.Hour).Equal(trades[i-1].at.Truncate(time.Hour)) {
			hours = append(hours, nil)
		}
		hours[len(hours)-1] = append(hours[len(hours)-1], d)
	}
	return hours
}

// A file gives the same series whichever way round it is: those of its trades by event
// time, within one instant by their ids, and those that a rebuild gives.
func TestTheOrderOfAFileDoesNotMatter(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(orderSeed, 0))
	trades := drawTrades(random, orderedTrades)
	bySymbol, want := map[string][]trade{}, map[string][]string{}
	for _, d := range trades {
		bySymbol[d.symbol] = append(bySymbol[d.symbol], d)
	}
	for symbol, of := range bySymbol {
		for route, lines := range expectedSeries(of) {
			want[route+" "+symbol] = lines
		}
	}
	symbols := slices.Sorted(maps.Keys(bySymbol))
	newest, shuffled := slices.Clone(trades), slices.Clone(trades)
	slices.Reverse(newest)
	random.Shuffle(len(shuffled), func(i, k int) { shuffled[i], shuffled[k] = shuffled[k], shuffled[i] })
	for name, file := range map[string][]trade{"oldest first": trades, "newest first": newest, "shuffled": shuffled} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newStack(t, environment{"PLUGINS": allRight()})
			summary := ingested(t, env, alone("--provider", "coinbase", writeTrades(t, file))...)
			require.Equal(t, orderedTrades, summary.New)
			p := start(t, env)
			p.holdSeries(want, symbols, name)
			if name == "oldest first" {
				return
			}
			for _, projection := range []string{"ema", "bollinger", "vwap", "candles", "processed-prices"} {
				rebuilt, status := rebuild(t, env, projection, "--promote", "if-equal")
				require.Zero(t, status, "%s: %+v", projection, rebuilt)
			}
			p.holdSeries(want, symbols, name+", after a rebuild")
			for _, symbol := range symbols {
				last := bySymbol[symbol][len(bySymbol[symbol])-1]
				got := p.get("/api/v1/symbols?provider=coinbase&limit=1000")
				require.Equal(t, http.StatusOK, got.status, got.body)
				assert.Contains(t, got.body, fmt.Sprintf(`"last_price":%s,`, schema.MustDecimal(last.price)), "the latest price of %s", symbol)
			}
		})
	}
}

// holdSeries holds what the routes answer to what was computed.
func (p *program) holdSeries(want map[string][]string, symbols []string, name string) {
	p.t.Helper()
	got := p.series(symbols)
	for series, lines := range want {
		if !slices.Equal(lines, got[series]) {
			assert.Failf(p.t, "a series is not that of its prices", "%s, of the trades drawn by the seed %d and given %s: %d points, want %d; first difference %s",
				series, orderSeed, name, len(got[series]), len(lines), firstDifference(lines, got[series]))
		}
	}
}

func firstDifference(want, got []string) string {
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			return fmt.Sprintf("at %d: %s, want %s", i, got[i], want[i])
		}
	}
	return "at the end"
}
