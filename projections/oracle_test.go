package projections_test

import (
	"encoding/csv"
	"encoding/json"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/bollinger"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/projections/ema"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/projections/vwap"
	"github.com/pricemill/pricemill/schema"
)

// The figures of testdata are those of other programs; see its README.

// table reads a file as its rows, each by column name.
func table(t *testing.T, file string) []map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	lines, err := csv.NewReader(strings.NewReader(string(text))).ReadAll()
	require.NoError(t, err)
	var rows []map[string]string
	for _, line := range lines[1:] {
		row := map[string]string{}
		for i, name := range lines[0] {
			row[name] = line[i]
		}
		rows = append(rows, row)
	}
	require.Greater(t, len(rows), 9, file)
	return rows
}

func monthlyCloses(t *testing.T) []schema.Payload {
	t.Helper()
	var prices []schema.Payload
	for _, row := range table(t, "../cmd/testdata/monthly-closes.csv") {
		at, err := time.Parse("Jan 2 2006", row["date"])
		require.NoError(t, err)
		prices = append(prices, schema.PriceObserved{Symbol: schema.Symbol(row["symbol"]), Source: "csv",
			Price: schema.MustDecimal(row["price"]), Timestamp: schema.NewTime(at), ReceivedAt: schema.NewTime(at)})
	}
	return prices
}

// trades are the tickers of the recorded session, in the order they came.
func trades(t *testing.T) []schema.Payload {
	t.Helper()
	text, err := os.ReadFile("../cmd/testdata/coinbase-2021-04-17.jsonl")
	require.NoError(t, err)
	var prices []schema.Payload
	for line := range strings.Lines(string(text)) {
		var recorded struct {
			Frame string `json:"frame"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &recorded))
		var frame struct {
			Type    string         `json:"type"`
			Product schema.Symbol  `json:"product_id"`
			Price   schema.Decimal `json:"price"`
			Size    schema.Decimal `json:"last_size"`
			Time    schema.Time    `json:"time"`
		}
		require.NoError(t, json.Unmarshal([]byte(recorded.Frame), &frame))
		if frame.Type == "ticker" {
			prices = append(prices, schema.PriceObserved{Symbol: frame.Product, Source: "coinbase", Price: frame.Price,
				Size: frame.Size, Timestamp: frame.Time, ReceivedAt: frame.Time})
		}
	}
	require.Len(t, prices, 107)
	return prices
}

// assertNear: the other program computed with floats and wrote 12 digits.
func assertNear(t *testing.T, want string, got any, what string) {
	t.Helper()
	w, ok := new(big.Rat).SetString(want)
	require.True(t, ok, want)
	g, ok := new(big.Rat).SetString(got.(schema.Decimal).String())
	require.True(t, ok)
	difference := new(big.Rat).Sub(w, g)
	limit := new(big.Rat).Mul(new(big.Rat).Add(new(big.Rat).Abs(w), big.NewRat(1, 1)), big.NewRat(1, 10_000_000_000))
	assert.LessOrEqual(t, new(big.Rat).Abs(difference).Cmp(limit), 0, "%s: %v, and pandas has %s", what, got, want)
}

func TestAveragesAgainstPandas(t *testing.T) {
	t.Parallel()
	p, err := ema.New(pipeline.Env{})
	require.NoError(t, err)
	asker := projectiontest.Ask(t, p)
	asker.Fold(monthlyCloses(t)...)
	for _, period := range []string{"12", "26"} {
		compared := 0
		for _, symbol := range []schema.Symbol{"AAPL", "AMZN", "GOOG", "IBM", "MSFT"} {
			points := asker.Points("csv", symbol, map[string]string{"period": period})
			slices.Reverse(points)
			for _, row := range table(t, "testdata/ema.csv") {
				if row["symbol"] == string(symbol) {
					require.Equal(t, row["date"], points[0].Timestamp.Format(time.DateOnly))
					assertNear(t, row[period], points[0].Values[0], row["symbol"]+" "+row["date"])
					points = points[1:]
					compared++
				}
			}
			require.Empty(t, points)
		}
		assert.Equal(t, 560, compared)
	}
}

// holdPoints compares columns of a file with the values of the points of each symbol; a row
// without figures has no point.
func holdPoints(t *testing.T, asker *projectiontest.Asker, file string, columns []string, parameters map[string]string) (compared int) {
	t.Helper()
	points := map[string][]projections.Point{}
	for _, row := range table(t, file) {
		symbol := row["symbol"]
		if _, asked := points[symbol]; !asked {
			points[symbol] = asker.Points("csv", schema.Symbol(symbol), parameters)
			slices.Reverse(points[symbol])
		}
		if row[columns[0]] == "" {
			continue
		}
		require.NotEmpty(t, points[symbol], row)
		require.Equal(t, row["date"], points[symbol][0].Timestamp.Format(time.DateOnly))
		for i, column := range columns {
			assertNear(t, row[column], points[symbol][0].Values[i], symbol+" "+row["date"]+" "+column)
		}
		points[symbol] = points[symbol][1:]
		compared++
	}
	for symbol, left := range points {
		require.Empty(t, left, symbol)
	}
	return compared
}

// Under the conventions of another program, with its figures.
func TestConventions(t *testing.T) {
	t.Parallel()
	averages, err := ema.New(pipeline.Env{})
	require.NoError(t, err)
	bands, err := bollinger.New(pipeline.Env{})
	require.NoError(t, err)
	for name, test := range map[string]struct {
		p          pipeline.Projection
		file       string
		columns    []string
		parameters map[string]string
		compared   int
	}{
		"TA-Lib's EMA(12)": {averages, "ema-talib.csv", []string{"12"}, map[string]string{"period": "12", "seed": "sma"}, 560 - 5*11},
		"TA-Lib's EMA(26)": {averages, "ema-talib.csv", []string{"26"}, map[string]string{"period": "26", "seed": "sma"}, 560 - 5*25},
		"TA-Lib's BBANDS": {bands, "bollinger-full.csv", []string{"talib_lower", "talib_middle", "talib_upper"},
			map[string]string{"warm_up": "full"}, 560 - 5*19},
		"pandas' rolling(20).std()": {bands, "bollinger-full.csv", []string{"pandas_lower", "pandas_middle", "pandas_upper"},
			map[string]string{"warm_up": "full", "ddof": "1"}, 560 - 5*19},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asker := projectiontest.Ask(t, test.p)
			closes := monthlyCloses(t)
			slices.Reverse(closes) // the order does not matter
			asker.Fold(closes...)
			assert.Equal(t, test.compared, holdPoints(t, asker, "testdata/"+test.file, test.columns, test.parameters))
		})
	}
}

func TestBandsAgainstPandas(t *testing.T) {
	t.Parallel()
	p, err := bollinger.New(pipeline.Env{})
	require.NoError(t, err)
	asker := projectiontest.Ask(t, p)
	asker.Fold(monthlyCloses(t)...)
	compared := 0
	for _, symbol := range []schema.Symbol{"AAPL", "AMZN", "GOOG", "IBM", "MSFT"} {
		points := asker.Points("csv", symbol, map[string]string{"period": "20"})
		slices.Reverse(points)
		for _, row := range table(t, "testdata/bollinger.csv") {
			if row["symbol"] == string(symbol) {
				require.Equal(t, row["date"], points[0].Timestamp.Format(time.DateOnly))
				for i, column := range []string{"lower", "middle", "upper"} {
					assertNear(t, row[column], points[0].Values[i], row["symbol"]+" "+row["date"]+" "+column)
				}
				points = points[1:]
				compared++
			}
		}
		require.Empty(t, points)
	}
	assert.Equal(t, 560, compared)
}

func TestCandlesAgainstPandas(t *testing.T) {
	t.Parallel()
	p, err := candles.New(pipeline.Env{})
	require.NoError(t, err)
	asker := projectiontest.Ask(t, p)
	asker.Fold(trades(t)...)
	for _, interval := range []string{"1m", "1d"} {
		for _, row := range table(t, "testdata/candles-"+interval+".csv") {
			found := false
			for _, point := range asker.Points("coinbase", schema.Symbol(row["symbol"]), map[string]string{"interval": interval}) {
				if point.Timestamp.Format(time.RFC3339) != row["begin"] {
					continue
				}
				found = true
				for i, column := range []string{"open", "high", "low", "close", "volume"} {
					want, err := schema.ParseDecimal(row[column]) // Python writes 1E-7
					require.NoError(t, err)
					assert.Equal(t, want.String(), point.Values[i].(schema.Decimal).String(), "%v: %s", row, column)
				}
				assert.Equal(t, row["prices"], fmtInt(point.Values[5]))
			}
			assert.True(t, found, row)
		}
	}
}

func fmtInt(v any) string { return big.NewInt(v.(int64)).String() }

func TestVolumeWeightedAveragesAgainstFractions(t *testing.T) {
	t.Parallel()
	p, err := vwap.New(pipeline.Env{})
	require.NoError(t, err)
	asker := projectiontest.Ask(t, p)
	asker.Fold(trades(t)...)
	for _, row := range table(t, "testdata/vwap.csv") {
		points := asker.Points("coinbase", schema.Symbol(row["symbol"]), nil)
		require.NotEmpty(t, points, row)
		for i, column := range []string{"value", "volume"} {
			want, err := schema.ParseDecimal(row[column])
			require.NoError(t, err)
			assert.Equal(t, want.String(), points[0].Values[i].(schema.Decimal).String(), "%s of %s", column, row["symbol"])
		}
	}
}
