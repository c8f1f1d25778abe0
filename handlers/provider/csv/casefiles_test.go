package csv_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/csv"
)

// Each file of testdata/cases has the form of a real download or of a public bug report;
// the numbers are our own.
func TestCases(t *testing.T) {
	t.Parallel()
	newYork := "America/New_York"
	tests := []struct {
		file    string
		given   options
		want    []string
		bad     []string // a part of each bad line
		says    []string // a part of a note
		rounded int
	}{
		{file: "zones.csv", given: options{csv.OptionFormat: "2006-01-02 15:04:05 MST"},
			bad: []string{"EST does not tell an offset", "EDT does not tell an offset", "JST does not tell an offset"}},
		{file: "zones.csv", given: options{csv.OptionFormat: "2006-01-02 15:04:05 MST", csv.OptionZone: newYork},
			want: []string{"SPY 474.1 2024-01-15T21:00:00Z", "SPY 552.2 2024-07-15T20:00:00Z"}, bad: []string{"JST does not tell an offset"}},
		{file: "trades-without-ids-apart.csv", given: options{csv.OptionID: "id", csv.OptionSize: "qty", csv.OptionFormat: "unix_ms"},
			want: []string{"FXSUSDT 7.5 2023-11-17T00:00:21.067Z x34.3", "FXSUSDT 7.5 2023-11-17T00:00:21.067Z x1.5",
				"FXSUSDT 7.5 2023-11-17T00:00:21.067Z x9.9", "FXSUSDT 7.503 2023-11-17T00:00:21.07Z x2"}},
		{file: "trades-without-ids-apart.csv", given: options{csv.OptionFormat: "unix_ms"},
			want: []string{"FXSUSDT 7.5 2023-11-17T00:00:21.067Z", "FXSUSDT 7.5 2023-11-17T00:00:21.067Z",
				"FXSUSDT 7.5 2023-11-17T00:00:21.067Z", "FXSUSDT 7.503 2023-11-17T00:00:21.07Z"}},
		{file: "yfinance-floats.csv", rounded: 4, want: []string{"DOGE-USD 0.000292999990051612 2014-09-17T00:00:00Z",
			"DOGE-USD 0.000297999999020249 2014-09-18T00:00:00Z", "DOGE-USD 0.000276 2014-09-19T00:00:00Z",
			"DOGE-USD 0.000292000011540949 2014-09-20T00:00:00Z", "DOGE-USD 0.000288000010186806 2014-09-21T00:00:00Z"}},
		{file: "wti-april-2020.csv", given: options{csv.OptionNegative: "true"}, want: []string{"CL=F 19.82 2020-04-16T00:00:00Z", "CL=F 18.31 2020-04-17T00:00:00Z",
			"CL=F -36.98 2020-04-20T00:00:00Z", "CL=F 8.91 2020-04-21T00:00:00Z", "CL=F 13.64 2020-04-22T00:00:00Z", "CL=F 15.06 2020-04-23T00:00:00Z", "CL=F 15.99 2020-04-24T00:00:00Z"}},
		{file: "wti-april-2020.csv", bad: []string{"--allow-negative"}, want: []string{"CL=F 19.82 2020-04-16T00:00:00Z", "CL=F 18.31 2020-04-17T00:00:00Z",
			"CL=F 8.91 2020-04-21T00:00:00Z", "CL=F 13.64 2020-04-22T00:00:00Z", "CL=F 15.06 2020-04-23T00:00:00Z", "CL=F 15.99 2020-04-24T00:00:00Z"}},
		{file: "binance-2025-us.csv", want: []string{"DOGEUSDT 0.316 2025-01-01T00:00:00Z"}, says: []string{"microseconds since 1970"}},
		{file: "bybit-fraction.csv", want: []string{"FXSUSDT 5.239 2023-10-10T23:58:07.4922Z"}},
		{file: "kaggle-float.csv", want: []string{"BTCUSD 4.58 2012-01-01T10:01:00Z"}},
		{file: "polygon-ns.csv", want: []string{"AAPL 185.2 2024-01-08T13:00:00Z"}, says: []string{"nanoseconds since 1970"}},
		{file: "BTCUSDT-1h-2023-10-27.csv", given: options{csv.OptionPreset: "binance-klines", csv.OptionName: "BTCUSDT"},
			want: []string{"BTCUSDT 34015.27 2023-10-27T00:59:59.999Z [2023-10-27T00:00:00Z 34151.66 34171.28 33972.39 v908.27901]"}},
		{file: "yahoo-AAPL.csv", given: options{csv.OptionPreset: "yahoo", csv.OptionName: "AAPL"}, want: []string{"AAPL 178.460007 2018-01-19T23:59:59.999999Z [2018-01-19T00:00:00Z 178.610001 179.580002 177.410004 v31269600 a178.460007]"}},
		{file: "yfinance-0.2.54.csv", given: options{csv.OptionPreset: "yfinance"}, want: []string{"MSFT 254.5 2023-02-17T23:59:59.999999Z [2023-02-17T00:00:00Z 255.8 256.5 252.4 v30000100]"}},
		{file: "cdd.csv", given: options{csv.OptionPreset: "cryptodatadownload"}, want: []string{"BTC/USD 20957 2022-08-20T23:59:59.999999Z [2022-08-20T00:00:00Z 20840 20972 20811 v244.3]"}},
		{file: "german.csv", given: options{csv.OptionDelimiter: ";", csv.OptionDecimal: ",", csv.OptionFormat: "02.01.2006"}, want: []string{"SAP.DE 127.45 2024-01-02T00:00:00Z"}},
		{file: "investing.csv", given: options{csv.OptionThousands: ",", csv.OptionFormat: "Jan 2, 2006"}, want: []string{"BTC/USD 42380.9 2021-02-12T00:00:00Z"}},
		{file: "two-time-columns.csv", given: options{csv.OptionName: "F", csv.OptionTime: "Date,Time"}, want: []string{"F 3599 2006-01-02T09:01:00Z"}},
		{file: "before-1900.csv", want: []string{"^GSPC 4.44 1871-01-01T00:00:00Z", "^GSPC 6.1 1900-01-01T00:00:00Z"}},
		{file: "local-hours.csv", given: options{csv.OptionZone: "Europe/Berlin"}, says: []string{"occurs twice in Europe/Berlin"},
			want: []string{"DE-POWER 88.1 2024-10-26T23:30:00Z", "DE-POWER 85 2024-10-27T00:30:00Z", "DE-POWER 85 2024-10-27T01:30:00Z", "DE-POWER 83.2 2024-10-27T02:30:00Z"}},
		{file: "symbols.csv", want: []string{"CL1! 1.5 2024-01-01T00:00:00Z", "$SPX 4800.25 2024-01-01T00:00:00Z", "/ES 4801 2024-01-01T00:00:00Z", "@ES#C 4801.25 2024-01-01T00:00:00Z"}},
		{file: "before-dividend.csv", want: []string{"T 100 2024-01-01T00:00:00Z", "T 101 2024-01-02T00:00:00Z", "T 102 2024-01-03T00:00:00Z", "T 103 2024-01-04T00:00:00Z", "T 104 2024-01-05T00:00:00Z"}},
		{file: "after-dividend.csv", want: []string{"T 99.5 2024-01-01T00:00:00Z", "T 100.5 2024-01-02T00:00:00Z", "T 101.5 2024-01-03T00:00:00Z", "T 102.5 2024-01-04T00:00:00Z", "T 104 2024-01-05T00:00:00Z"}},
		{file: "wrong-format.csv", bad: []string{"may be the day or the month", "may be the day or the month"}},
	}
	seen := map[string]bool{"newest-first.csv": true} // below
	for _, test := range tests {
		seen[test.file] = true
		t.Run(test.file, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(filepath.Join("testdata/cases", test.file))
			require.NoError(t, err)
			got := take(t, string(text), test.given)
			require.NoError(t, got.last)
			assert.Equal(t, test.want, got.quotes)
			assert.Equal(t, test.rounded, got.rounded)
			require.Len(t, got.bad, len(test.bad), "%q", got.bad)
			for i, part := range test.bad {
				assert.Contains(t, got.bad[i], part)
			}
			for _, part := range test.says {
				assert.True(t, slices.ContainsFunc(got.notes, func(note string) bool { return strings.Contains(note, part) }), "%q", got.notes)
			}
			again := take(t, string(text), test.given)
			assert.Equal(t, got.ids, again.ids, "the file again is nothing new")
			ids := slices.Clone(got.ids)
			slices.Sort(ids)
			assert.Len(t, slices.Compact(ids), len(got.ids), "no trade is taken for another")
		})
	}
	files, err := os.ReadDir("testdata/cases")
	require.NoError(t, err)
	for _, file := range files {
		assert.True(t, seen[file.Name()], "%s has a test", file.Name())
	}

	text, err := os.ReadFile("testdata/cases/newest-first.csv")
	require.NoError(t, err)
	got := take(t, string(text), nil)
	require.Len(t, got.quotes, 30)
	assert.Equal(t, "BTC/USD 20000 2024-01-30T00:00:00Z", got.quotes[0])
	assert.Equal(t, "BTC/USD 20000 2024-01-30T00:00:00Z", slices.MaxFunc(got.quotes, func(a, b string) int {
		return strings.Compare(a[strings.LastIndex(a, " "):], b[strings.LastIndex(b, " "):])
	}))
}
