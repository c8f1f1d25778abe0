package csv_test

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	parquetgo "github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/csv"
	"github.com/pricemill/pricemill/pipeline"
)

// parquetOf is a Parquet file of rows, as text.
func parquetOf[T any](t testing.TB, rows ...T) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, parquetgo.Write(&out, rows))
	return out.String()
}

// A Parquet file is read as separated values are: columns are found by their names, and
// each type is read for what it is.
func TestParquetFiles(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 1, 2, 3, 4, 5, 123456789, time.UTC)
	cents, eighths := int64(-3698), 185.375
	for name, test := range map[string]struct {
		file  string
		given options
		want  []string
		bad   []string
		says  []string
	}{
		"floats and instants": {
			file: parquetOf(t, struct {
				Ticker string    `parquet:"ticker"`
				Close  float64   `parquet:"close"`
				Time   time.Time `parquet:"time,timestamp(nanosecond)"`
			}{"AAPL", 0.1, at}),
			want: []string{"AAPL 0.1 2024-01-02T03:04:05.123456Z"}, says: []string{`column "close"`},
		},
		"decimals of 64 bits, and a date": {
			file: parquetOf(t, struct {
				Symbol string `parquet:"symbol"`
				Price  int64  `parquet:"price,decimal(2:10)"`
				Date   int32  `parquet:"date,date"`
			}{"CL=F", cents, 18372}), given: options{csv.OptionNegative: "true"},
			want: []string{"CL=F -36.98 2020-04-20T00:00:00Z"},
		},
		"prices that are null or no number": {
			file: parquetOf(t, []struct {
				Symbol string   `parquet:"symbol"`
				Price  *float64 `parquet:"price,optional"`
				Time   int64    `parquet:"time"`
			}{{"A", nil, 1704164645}, {"A", &eighths, 1704164646}, {"A", new(float64), 1704164647}, {"A", ptr(math.NaN()), 1704164648}}...),
			want: []string{"A 185.375 2024-01-02T03:04:06Z"}, bad: []string{`line 4, column "price": bad_price: price 0 is not positive`}, says: []string{"seconds since 1970"},
		},
		"times without a zone, of older programs": {
			file: parquetOf(t, struct {
				Symbol string           `parquet:"symbol"`
				Price  float32          `parquet:"price"`
				Time   deprecated.Int96 `parquet:"time"`
			}{"A", 0.1, deprecated.Int96{0, 0, 2440589}}), given: options{csv.OptionZone: "America/New_York"},
			want: []string{"A 0.1 1970-01-02T05:00:00Z"},
		},
		"a preset by its names, and columns of lists": {
			file: parquetOf(t, struct {
				AggTradeID   int64     `parquet:"agg_trade_id"`
				Price        string    `parquet:"price"`
				Quantity     float64   `parquet:"quantity"`
				TransactTime int64     `parquet:"transact_time"`
				Flags        []int64   `parquet:"flags"`
				Levels       []float64 `parquet:"levels,list"`
			}{17, "1.5", 2.5, 1704164645123, nil, nil}), given: options{csv.OptionName: "BNBBTC"},
			want: []string{"BNBBTC 1.5 2024-01-02T03:04:05.123Z x2.5"}, says: []string{"--preset binance-aggtrades"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := take(t, test.file, test.given)
			assert.NoError(t, got.last)
			assert.Equal(t, test.want, got.quotes)
			assert.Len(t, got.bad, len(test.bad), "%q", got.bad)
			for i, part := range test.bad {
				assert.Contains(t, got.bad[i], part)
			}
			for _, part := range test.says {
				assert.Contains(t, strings.Join(got.notes, "\n"), part)
			}
		})
	}
}

func ptr[T any](value T) *T { return &value }

func TestParquetFilesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	type row struct {
		Symbol string  `parquet:"symbol"`
		Price  float64 `parquet:"price"`
		Time   int64   `parquet:"time"`
	}
	whole := parquetOf(t, row{"A", 1, 1704164645})
	assert.ErrorContains(t, take(t, whole[:len(whole)-9], nil).last, "the Parquet file is damaged")
	assert.ErrorContains(t, take(t, "PAR1", nil).last, "the Parquet file is damaged")
	for _, option := range []string{csv.OptionNoHeader, csv.OptionSkip, csv.OptionDelimiter} {
		got := take(t, whole, options{option: "true"})
		assert.ErrorIs(t, got.last, pipeline.ErrOption)
		assert.ErrorContains(t, got.last, "--"+option+": a Parquet file says itself")
	}
	assert.ErrorContains(t, take(t, whole, options{csv.OptionPrice: "close"}).last, `there is no column "close"; there are "symbol", "price", "time"`)
}

// The same facts are the same quotes, from a Parquet file or from separated values.
func TestParquetAndTextAreOneFact(t *testing.T) {
	t.Parallel()
	type row struct {
		Symbol string    `parquet:"symbol"`
		Price  float64   `parquet:"price"`
		Time   time.Time `parquet:"time,timestamp(millisecond)"`
	}
	at := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	columns := take(t, parquetOf(t, row{"A", 185.75, at}, row{"A", 185.75, at}, row{"B", 1e-7, at}), nil)
	text := take(t, "symbol,price,time\nA,185.75,2024-01-02T03:04:05Z\nA,185.750,2024-01-02T03:04:05Z\nB,0.0000001,2024-01-02T03:04:05Z\n", nil)
	assert.Equal(t, text.ids, columns.ids)
	assert.Equal(t, text.quotes, columns.quotes)
}
