package csv_test

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/csv"
	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

type options = map[string]string

// taken is a file as it is taken: each quote as its symbol, price, time and size,
// each bad line, what ended reading, and what was said.
type taken struct {
	quotes, ids, notes []string
	bad                []string
	last               error
	rounded            int
}

func take(t testing.TB, file string, given options) (got taken) {
	t.Helper()
	p := newReader(t)
	lines, bad, last := providertest.FileLines(t, p, file, given)
	got.last = last
	for _, line := range lines {
		prices, err := p.Normalize(line.Quote)
		require.NoError(t, err)
		text := string(prices[0].Symbol) + " " + prices[0].Price.String() + " " + prices[0].Time.Format(time.RFC3339Nano)
		if !prices[0].Size.IsZero() {
			text += " x" + prices[0].Size.String()
		}
		text += barText(prices[0].Bar)
		got.quotes, got.ids, got.notes = append(got.quotes, text), append(got.ids, line.ID), append(got.notes, line.Notes...)
		if line.Rounded {
			got.rounded++
		}
	}
	for _, err := range bad {
		got.bad = append(got.bad, err.Error())
	}
	return got
}

// barText is a bar as its begin, open, high, low, volume and adjusted close.
func barText(b *schema.Bar) string {
	if b == nil {
		return ""
	}
	text := fmt.Sprintf(" [%s %s %s %s", b.OpenTime.Format(time.RFC3339Nano), b.Open, b.High, b.Low)
	if b.Volume != nil {
		text += " v" + b.Volume.String()
	}
	if b.AdjustedClose != nil {
		text += " a" + b.AdjustedClose.String()
	}
	return text + "]"
}

// Files as services and programs write them, and what is right for each.
func TestFilesAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file  string
		given options
		want  []string
		bad   []string // a part of each bad line
		says  []string // a part of a note
	}{
		"epoch in microseconds": {
			file: "symbol,price,timestamp\nDOGEUSDT,0.31600000,1735689600000000\n",
			want: []string{"DOGEUSDT 0.316 2025-01-01T00:00:00Z"}, says: []string{`column "timestamp"`, "microseconds since 1970"},
		},
		"epoch in milliseconds, microseconds after a change": {
			file: "symbol,price,time\nA,1,1735689599999\nA,2,1735689600000001\n",
			want: []string{"A 1 2024-12-31T23:59:59.999Z", "A 2 2025-01-01T00:00:00.000001Z"}, says: []string{"milliseconds", "microseconds"},
		},
		"epoch with a fraction": {
			file: "symbol,price,timestamp\nFXSUSDT,5.2390,1696982287.4922\n",
			want: []string{"FXSUSDT 5.239 2023-10-10T23:58:07.4922Z"}, says: []string{"seconds since 1970"},
		},
		"epoch of a float": {
			file: "symbol,price,timestamp\nBTCUSD,4.58,1325412060.0\nBTCUSD,4.59,1.32541212e+09\n",
			want: []string{"BTCUSD 4.58 2012-01-01T10:01:00Z", "BTCUSD 4.59 2012-01-01T10:02:00Z"},
		},
		"epoch in nanoseconds": {
			file: "symbol,price,timestamp\nAAPL,185.2,1704718800000000000\n",
			want: []string{"AAPL 185.2 2024-01-08T13:00:00Z"}, says: []string{"nanoseconds"},
		},
		"epochs as told": {
			file:  "symbol,price,time\nA,1,0\nA,2,-1500\nA,3,86400000.25\n",
			given: options{csv.OptionFormat: "unix_ms"},
			want:  []string{"A 1 1970-01-01T00:00:00Z", "A 2 1969-12-31T23:59:58.5Z", "A 3 1970-01-02T00:00:00.00025Z"},
		},
		"epoch in another unit than told": {
			file: "symbol,price,time\nA,1,1735689600000\nA,2,5\n", given: options{csv.OptionFormat: "unix"},
			want: []string{"A 2 1970-01-01T00:00:05Z"}, bad: []string{"in milliseconds it would be a time: --time-format unix_ms"},
		},
		"a number that may be anything": {
			file: "symbol,price,time\nA,1,86400\n", bad: []string{"no plausible time in any unit; say --time-format unix"},
		},
		"dates without marks, exponents, points without digits": {
			file: "symbol,price,time\nA,1.304e-05,20240131\nA,.5,20240131235958\nA,5.,1871-01-01\nA,-.5,1900-01-01\n", given: options{csv.OptionNegative: "true"},
			want: []string{"A 0.00001304 2024-01-31T00:00:00Z", "A 0.5 2024-01-31T23:59:58Z", "A 5 1871-01-01T00:00:00Z", "A -0.5 1900-01-01T00:00:00Z"},
		},
		"notations of ISO 8601": {
			file: "symbol,price,time\nA,1,2024-01-02 03:04\nA,1,2024/1/2 3:04:05.25\nA,1,2024-01-02T03:04:05+0530\nA,1,2024-01-02 03:04:05-05:00\n" +
				"A,1,2024-01-02 03:04:05+00\nA,1,2024-01-02 03:04:05.123456789 UTC\nA,1,2023-10-10D23:58:07.492200000\nA,1,2.1.2024 3:04\n",
			want: []string{"A 1 2024-01-02T03:04:00Z", "A 1 2024-01-02T03:04:05.25Z", "A 1 2024-01-01T21:34:05Z", "A 1 2024-01-02T08:04:05Z",
				"A 1 2024-01-02T03:04:05Z", "A 1 2024-01-02T03:04:05.123456Z", "A 1 2023-10-10T23:58:07.4922Z", "A 1 2024-01-02T03:04:00Z"},
			says: []string{"times have no zone, and are taken as UTC; --time-zone says otherwise"},
		},
		"no such times": {
			file: "symbol,price,time\nA,1,2023-02-29\nA,1,2024-01-02 24:00\nA,1,2024-13-01\nA,1,20241301\nA,1,02/01/2024\nA,1,yesterday\nA,1,2024-01-02 10:00 Nowhere\nA,1,0099-01-01\n",
			bad: []string{"not of a kind", "not of a kind", "not of a kind", "no plausible time", "the first number may be the day or the month; say --time-format 02/01/2006",
				"not of a kind", "not of a kind", "year 99"},
		},
		"names of months": {
			file: "symbol,price,time\nBTC/USD,\"42,380.9\",\"Feb 12, 2021\"\nBTC/USD,\"1,042,380\",12-Feb-2021\n", given: options{csv.OptionThousands: ","},
			want: []string{"BTC/USD 42380.9 2021-02-12T00:00:00Z", "BTC/USD 1042380 2021-02-12T00:00:00Z"},
		},
		"a German spreadsheet": {
			file: "symbol;price;time\nSAP.DE;127,45;02.01.2024\nSAP.DE;1.127,45;03.01.2024\n", given: options{csv.OptionDelimiter: ";", csv.OptionDecimal: ",", csv.OptionThousands: ".", csv.OptionFormat: "02.01.2006"},
			want: []string{"SAP.DE 127.45 2024-01-02T00:00:00Z", "SAP.DE 1127.45 2024-01-03T00:00:00Z"},
		},
		"notations of other countries": {
			file: "symbol|price|time\nA|CHF 1'234.50|2024-01-01\nA|-1'234|2024-01-01\nA|1'2345|2024-01-01\nA|12'34'567|2024-01-01\n", given: options{csv.OptionThousands: "'", csv.OptionCurrency: "CHF", csv.OptionNegative: "true"},
			want: []string{"A 1234.5 2024-01-01T00:00:00Z", "A -1234 2024-01-01T00:00:00Z", "A 1234567 2024-01-01T00:00:00Z"},
			bad:  []string{"not in groups of three"}, says: []string{`separated by '|'`},
		},
		"a comma that may be either": {
			file: "symbol;price;time\nA;127,45;2024-01-02\nA;$5;2024-01-02\n",
			bad:  []string{"--decimal , where it is the decimal mark, and with --thousands ,", "--currency SIGN"},
		},
		"floats as pandas prints them": {
			file: "symbol,price,time\nDOGE-USD,0.00029299999005161226,2014-09-17\nDOGE-USD,0.000276,2014-09-19\n",
			want: []string{"DOGE-USD 0.000292999990051612 2014-09-17T00:00:00Z", "DOGE-USD 0.000276 2014-09-19T00:00:00Z"},
		},
		"exactly": {
			file: "symbol,price,time\nDOGE-USD,0.00029299999005161226,2014-09-17\nDOGE-USD,0.000276,2014-09-19\n", given: options{csv.OptionExact: "true"},
			want: []string{"DOGE-USD 0.000276 2014-09-19T00:00:00Z"}, bad: []string{"more than 18 digits after the point; without --exact"},
		},
		"oil in April 2020": {
			file: "symbol,price,time\nCL=F,-36.98,2020-04-20\nCL=F,0,2020-04-21\nCL=F,8.91,2020-04-22\n", given: options{csv.OptionNegative: "true"},
			want: []string{"CL=F -36.98 2020-04-20T00:00:00Z", "CL=F 0 2020-04-21T00:00:00Z", "CL=F 8.91 2020-04-22T00:00:00Z"},
		},
		"oil as any price": {
			file: "symbol,price,time\nCL=F,-36.98,2020-04-20\nCL=F,0,2020-04-21\nCL=F,8.91,2020-04-22\n",
			want: []string{"CL=F 8.91 2020-04-22T00:00:00Z"}, bad: []string{"price -36.98 is not positive; --allow-negative", "price 0 is not positive; --allow-negative"},
		},
		"two columns of time": {
			file: "Date,Time,Close\n2006-01-02,09:01:00,3599.00\n", given: options{csv.OptionName: "F"},
			want: []string{"F 3599 2006-01-02T09:01:00Z"}, says: []string{`columns "Date" and "Time"`, `column "Close"`},
		},
		"two columns of time, as told": {
			file: "day,at,c\n01/02/2006,0901,3599.00\n", given: options{csv.OptionName: "F", csv.OptionDate: "day", csv.OptionTime: "at", csv.OptionPrice: "3", csv.OptionFormat: "01/02/2006 1504"},
			want: []string{"F 3599 2006-01-02T09:01:00Z"},
		},
		"no header": {
			file: "x,2024-01-01,1.5,3\nx,2024-01-02,1.6,4\n", given: options{csv.OptionName: "F", csv.OptionNoHeader: "true", csv.OptionTime: "2", csv.OptionPrice: "3", csv.OptionSize: "4"},
			want: []string{"F 1.5 2024-01-01T00:00:00Z x3", "F 1.6 2024-01-02T00:00:00Z x4"},
		},
		"names of columns": {
			file: "2024-01-01,1.5,3\n2024-01-02,1.6,4\n", given: options{csv.OptionName: "F", csv.OptionColumns: "time,price,size", csv.OptionSize: "size"},
			want: []string{"F 1.5 2024-01-01T00:00:00Z x3", "F 1.6 2024-01-02T00:00:00Z x4"}, says: []string{"first line looks like a row"},
		},
		"names of columns that say what they are": {
			file: "7,2024-01-01,1.5,3\n8,2024-01-01,1.5,4\n", given: options{csv.OptionName: "F", csv.OptionColumns: "id,time,price,size"},
			want: []string{"F 1.5 2024-01-01T00:00:00Z x3", "F 1.5 2024-01-01T00:00:00Z x4"},
		},
		"columns by name and number": {
			file: "Date,Time,Close,Vol\n2006-01-02,09:01:00,3599.00,5\n", given: options{csv.OptionName: "F", csv.OptionColumns: "date=1,time=Time,price=3,size=Vol"},
			want: []string{"F 3599 2006-01-02T09:01:00Z x5"},
		},
		"two columns of time in one option": {
			file: "Date,Time,Close\n2006-01-02,09:01:00,3599.00\n", given: options{csv.OptionName: "F", csv.OptionTime: "Date,Time"},
			want: []string{"F 3599 2006-01-02T09:01:00Z"},
		},
		"other names of columns": {
			file: "when,what\n2024-01-01,1.5\n", given: options{csv.OptionName: "F", csv.OptionColumns: "time,price"},
			want: []string{"F 1.5 2024-01-01T00:00:00Z"},
		},
		"lines before the header": {
			file: "Exported by a terminal\n\"with an open quote\nsymbol\tprice\ttime\nA\t1\t2024-01-01\nA\tx\t2024-01-01\n", given: options{csv.OptionSkip: "2"},
			want: []string{"A 1 2024-01-01T00:00:00Z"}, bad: []string{`line 5, column "price"`}, says: []string{"tabs"},
		},
		"a column a symbol": {
			file: "time,BTC-USD,ETH-USD\n2024-01-01,42000,2300\n2024-01-02,,2310\n2024-01-03,x,2320\n", given: options{csv.OptionWide: "true"},
			want: []string{"BTC-USD 42000 2024-01-01T00:00:00Z", "ETH-USD 2300 2024-01-01T00:00:00Z", "ETH-USD 2310 2024-01-02T00:00:00Z", "ETH-USD 2320 2024-01-03T00:00:00Z"},
			bad:  []string{`line 4, column "BTC-USD"`},
		},
		"prices that are missing": {
			file: "symbol,price,time\nA,NaN,2024-01-01\nA,1,2024-01-02\nA,,2024-01-03\n", given: options{csv.OptionMissing: "nan"},
			want: []string{"A 1 2024-01-02T00:00:00Z"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := take(t, test.file, test.given)
			require.NoError(t, got.last)
			assert.Equal(t, test.want, got.quotes)
			require.Len(t, got.bad, len(test.bad), "%s", got.bad)
			for i, part := range test.bad {
				assert.Contains(t, got.bad[i], part)
			}
			for _, part := range test.says {
				assert.Contains(t, strings.Join(got.notes, "\n"), part)
			}
		})
	}
	assert.Equal(t, 1, take(t, "symbol,price,time\nA,0.00029299999005161226,2014-09-17\nA,1.5000000000000000000,2014-09-18\n", nil).rounded)
}

// Abbreviations of zones do not tell an offset, whatever the zone of this machine.
func TestZones(t *testing.T) {
	const file = "symbol,price,time\nSPY,474.10,2024-01-15 16:00:00 EST\nSPY,552.20,2024-07-15 16:00:00 EDT\nN225,35901.79,2024-01-15 15:00:00 JST\n"
	layout := options{csv.OptionFormat: "2006-01-02 15:04:05 MST"}
	machine := time.Local
	t.Cleanup(func() { time.Local = machine })
	for _, name := range []string{"UTC", "America/New_York", "Asia/Tokyo"} {
		var err error
		time.Local, err = time.LoadLocation(name)
		require.NoError(t, err)
		for _, given := range []options{layout, {}} {
			got := take(t, file, given)
			assert.Empty(t, got.quotes, name)
			require.Len(t, got.bad, 3, name)
			for i, zone := range []string{"EST", "EDT", "JST"} {
				assert.Contains(t, got.bad[i], zone+" does not tell an offset", name)
				assert.Contains(t, got.bad[i], "--time-zone America/New_York", name)
			}
			given = options{csv.OptionZone: "America/New_York"}
			if layout := layout[csv.OptionFormat]; len(given) > 0 {
				given[csv.OptionFormat] = layout
			}
			got = take(t, file, given)
			assert.Equal(t, []string{"SPY 474.1 2024-01-15T21:00:00Z", "SPY 552.2 2024-07-15T20:00:00Z"}, got.quotes, name)
			require.Len(t, got.bad, 1, name)
			assert.Contains(t, got.bad[0], "JST does not tell an offset", name)
		}
		got := take(t, "symbol,price,time\nA,1,2024-01-15 16:00:00 UTC\nA,2,2024-07-15 16:00:00 GMT\nA,3,2024-07-15 16:00:00 Z\nA,4,2024-07-15 16:00:00 GMT+2\nA,5,2024-07-15 16:00:00 +03\n", layout)
		assert.Equal(t, []string{"A 1 2024-01-15T16:00:00Z", "A 2 2024-07-15T16:00:00Z", "A 3 2024-07-15T16:00:00Z", "A 4 2024-07-15T14:00:00Z", "A 5 2024-07-15T13:00:00Z"}, got.quotes, name)
	}
	got := take(t, "symbol,price,time\nA,1,2024-01-15 16:00:00 EDT\nA,2,2024-01-15 16:00\nA,3,2024-01-15T16:00:00Z\nA,4,2024-07-15T16:00:00\nA,5,2024-03-10 02:30\n", options{csv.OptionZone: "America/New_York"})
	assert.Equal(t, []string{"A 2 2024-01-15T21:00:00Z", "A 3 2024-01-15T16:00:00Z", "A 4 2024-07-15T20:00:00Z"}, got.quotes)
	require.Len(t, got.bad, 2)
	assert.Contains(t, got.bad[0], "EDT does not tell an offset: America/New_York does not have it at 2024-01-15 16:00:00")
	assert.Contains(t, got.bad[1], "2024-03-10 02:30:00 does not occur in America/New_York")
	got = take(t, "symbol,price,time\nA,1,2024-01-15T16:00:00\n", options{csv.OptionZone: "America/New_York", csv.OptionFormat: "rfc3339"})
	assert.Equal(t, []string{"A 1 2024-01-15T21:00:00Z"}, got.quotes)
	assert.Len(t, take(t, "symbol,price,time\nA,1,2024-01-15T16:00:00\n", options{csv.OptionFormat: "rfc3339"}).bad, 1)
}

// When clocks go back an hour occurs twice: rows are of the first and then of the
// second, in the order of the file.
func TestTheHourThatOccursTwice(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ rows, want, says string }{
		"hours":               {"01:30 02:30 02:30 03:30", "23:30 00:30 01:30 02:30", "first second"},
		"hours, newest first": {"03:30 02:30 02:30 01:30", "02:30 01:30 00:30 23:30", "second first"},
		"quarters":            {"01:45 02:00 02:30 02:45 02:00 02:30 03:00", "23:45 00:00 00:30 00:45 01:00 01:30 02:00", "first second"},
		"one of them":         {"01:30 02:30 03:30", "23:30 00:30 02:30", "first"},
		"trades":              {"01:59 01:59 02:10 02:10 02:20 02:05 02:05", "23:59 23:59 00:10 00:10 00:20 01:05 01:05", "first second"},
		"no such hour":        {"01:30 03:30 03:30", "23:30 02:30 02:30", ""},
		"the file begins":     {"02:10 02:20 02:10 03:00", "00:10 00:20 01:10 02:00", "first second"},
	} {
		file := "symbol,price,time\n"
		for _, at := range strings.Fields(test.rows) {
			file += "DE,1,2024-10-27 " + at + "\nOTHER,1,2024-10-27 00:00\n"
		}
		got := take(t, file, options{csv.OptionZone: "Europe/Berlin"})
		require.NoError(t, got.last)
		require.Empty(t, got.bad)
		var times []string
		for _, quote := range got.quotes {
			if at, ours := strings.CutPrefix(quote, "DE 1 "); ours {
				times = append(times, at[len("2024-10-27T"):len("2024-10-27T00:00")])
			}
		}
		assert.Equal(t, strings.Fields(test.want), times, name)
		require.Len(t, got.notes, len(strings.Fields(test.says)), name)
		for i, which := range strings.Fields(test.says) {
			assert.Contains(t, got.notes[i], "taken as its "+which, name)
		}
	}
}

// Equal rows of one file are different trades; the same file again holds the same.
func TestEqualRows(t *testing.T) {
	t.Parallel()
	const trades = "id,symbol,price,qty,time\n1,FXSUSDT,7.500,34.3,1700179221067\n2,FXSUSDT,7.500,1.5,1700179221067\n3,FXSUSDT,7.50,9.9,1700179221067\n4,FXSUSDT,7.503,2.0,1700179221070\n"
	for name, given := range map[string]options{"with ids": {csv.OptionID: "id"}, "without": {}} {
		given[csv.OptionSize] = "qty"
		got := take(t, trades, given)
		assert.Equal(t, []string{"FXSUSDT 7.5 2023-11-17T00:00:21.067Z x34.3", "FXSUSDT 7.5 2023-11-17T00:00:21.067Z x1.5",
			"FXSUSDT 7.5 2023-11-17T00:00:21.067Z x9.9", "FXSUSDT 7.503 2023-11-17T00:00:21.07Z x2"}, got.quotes, name)
		ids := map[string]bool{}
		for _, id := range got.ids {
			ids[id] = true
		}
		assert.Len(t, ids, 4, name)
	}
	assert.Equal(t, take(t, trades, nil).ids, take(t, trades, options{csv.OptionSize: "qty"}).ids, "the size tells no rows apart")

	// An id is one trade wherever it stands, and one trade only.
	lines := strings.SplitAfter(trades, "\n")
	overlap := take(t, lines[0]+lines[3]+lines[4]+"5,FXSUSDT,7.503,1,1700179221070\n", options{csv.OptionID: "id"})
	assert.Equal(t, take(t, trades, options{csv.OptionID: "id"}).ids[2:], overlap.ids[:2])
	wrong := take(t, "symbol,price,time,order\nA,1,2024-01-01,7\nA,1,2024-01-01,7\nA,2,2024-01-01,7\nB,2,2024-01-01,7\nA,1,2024-01-01,\n", options{csv.OptionID: "order"})
	require.Len(t, wrong.bad, 2)
	assert.Contains(t, wrong.bad[0], `id "7" stands for another price or time in a row before`)
	assert.Contains(t, wrong.bad[1], "no id")
	assert.Equal(t, wrong.ids[0], wrong.ids[1], "a repeat")

	// What events cut still tells rows apart.
	got := take(t, "symbol,price,time\nA,1,1704718800000000001\nA,1,1704718800000000002\n", nil)
	assert.Equal(t, got.quotes[0], got.quotes[1])
	assert.NotEqual(t, got.ids[0], got.ids[1])
	assert.NotContains(t, take(t, "symbol,price,time\nA,1,1704718800000000002\n", nil).ids, got.ids[0])
}

// Whole files of each service, as downloaded.
func TestPresets(t *testing.T) {
	t.Parallel()
	of := func(symbol string) options { return options{csv.OptionName: symbol} }
	files, err := filepath.Glob("../../../cmd/testdata/files/*.csv")
	require.NoError(t, err)
	tests := map[string]struct {
		given options
		told  bool // its preset has to be named
		want  []string
	}{
		"yahoo": {of("AAPL"), false, []string{"AAPL 179.259995 2018-01-18T23:59:59.999999Z [2018-01-18T00:00:00Z 179.369995 180.100006 178.25 v31193400 a169.847565]", "AAPL 178.460007 2018-01-19T23:59:59.999999Z [2018-01-19T00:00:00Z 178.610001 179.580002 177.410004 v31269600 a169.089569]"}},
		"yfinance": {nil, false, []string{"AAPL 151.96 2023-02-16T23:59:59.999999Z [2023-02-16T00:00:00Z 151.75 154.57 151.84 v68167900]", "MSFT 258.1 2023-02-16T23:59:59.999999Z [2023-02-16T00:00:00Z 264 266.2 257.9 v29603600]",
			"AAPL 150.81 2023-02-17T23:59:59.999999Z [2023-02-17T00:00:00Z 150.59 151.23 149.1 v59144100]", "MSFT 254.5 2023-02-17T23:59:59.999999Z [2023-02-17T00:00:00Z 255.8 256.5 252.4 v30000100]", "MSFT 255.1 2023-02-20T23:59:59.999999Z [2023-02-20T00:00:00Z 254 256 252 v28123400]"}},
		"stooq":              {nil, false, []string{"AAPL.US 186.85 2024-01-02T15:39:59.999999Z [2024-01-02T15:35:00Z 186.52 187.01 186.1 v1254333]", "AAPL.US 186.31 2024-01-02T15:44:59.999999Z [2024-01-02T15:40:00Z 186.85 186.99 186.2 v854120]"}},
		"cryptodatadownload": {nil, false, []string{"BTC/USD 20957 2022-08-20T00:59:59.999999Z [2022-08-20T00:00:00Z 20840 20972 20811 v244.3]", "BTC/USD 20840 2022-08-19T23:59:59.999999Z [2022-08-19T23:00:00Z 20901 20930 20800 v310.4]"}},
		"binance-klines": {of("BTCUSDT"), false, []string{"BTCUSDT 94401.14 2025-01-01T00:59:59.999999Z [2025-01-01T00:00:00Z 93576 94509.42 93489.03 v755.9901]",
			"BTCUSDT 93607.74 2025-01-01T01:59:59.999999Z [2025-01-01T01:00:00Z 94401.13 94408.72 93578.77 v586.53456]"}},
		"binance-aggtrades": {of("BNBBTC"), false, []string{"BNBBTC 0.01633102 2017-06-30T03:35:09.153Z x4.70443515",
			"BNBBTC 0.01633102 2017-06-30T03:35:09.153Z x1", "BNBBTC 0.016332 2017-06-30T03:35:10.001Z x0.5"}},
		"binance-trades": {of("BTCUSDT"), false, []string{"BTCUSDT 93576 2025-01-01T00:00:00.013331Z x0.00213",
			"BTCUSDT 93576 2025-01-01T00:00:00.013331Z x0.00213", "BTCUSDT 93576.01 2025-01-01T00:00:00.027184Z x0.01"}},
		"kraken-trades": {of("XBTUSD"), true, []string{"XBTUSD 52556.5 2021-03-25T08:59:00Z x0.003", "XBTUSD 52556.5 2021-03-25T08:59:00Z x0.003",
			"XBTUSD 52556.6 2021-03-25T08:59:01.1234Z x0.1"}},
		"kraken-ohlcvt": {of("XBTUSD"), true, []string{"XBTUSD 58711.3 2021-04-01T00:00:59.999999Z [2021-04-01T00:00:00Z 58750 58788.9 58661.2 v21.49172943]", "XBTUSD 58725.5 2021-04-01T00:01:59.999999Z [2021-04-01T00:01:00Z 58711.3 58740 58690 v9.10482]"}},
		"bybit":         {nil, false, []string{"FXSUSDT 5.239 2023-10-10T23:58:07.4922Z x34.3", "FXSUSDT 5.239 2023-10-10T23:58:07.4922Z x1.5"}},
		"kaggle-btc":    {of("BTCUSD"), false, []string{"BTCUSD 4.39 2011-12-31T07:52:59.999999Z [2011-12-31T07:52:00Z 4.39 4.39 4.39 v0.45558087]", "BTCUSD 4.58 2012-01-01T10:01:59.999999Z [2012-01-01T10:01:00Z 4.58 4.58 4.58 v1.502]"}},
		"ecb": {nil, false, []string{"USD 1.0919 2024-01-03T00:00:00Z", "JPY 155.81 2024-01-03T00:00:00Z", "BGN 1.9558 2024-01-03T00:00:00Z",
			"CZK 24.67 2024-01-03T00:00:00Z", "DKK 7.458 2024-01-03T00:00:00Z", "GBP 0.86318 2024-01-03T00:00:00Z", "USD 1.0956 2024-01-02T00:00:00Z",
			"JPY 155.87 2024-01-02T00:00:00Z", "BGN 1.9558 2024-01-02T00:00:00Z", "DKK 7.456 2024-01-02T00:00:00Z", "GBP 0.86645 2024-01-02T00:00:00Z"}},
		"metatrader": {options{csv.OptionName: "EURUSD", csv.OptionZone: "Europe/Nicosia"}, false,
			[]string{"EURUSD 1.10399 2024-01-02T07:59:59.999999Z [2024-01-02T07:00:00Z 1.10427 1.10451 1.10381 v0]", "EURUSD 1.10215 2024-01-02T08:59:59.999999Z [2024-01-02T08:00:00Z 1.10399 1.10402 1.10102 v0]"}},
		"investing": {of("BTC/USD"), false, []string{"BTC/USD 42380.9 2021-02-12T23:59:59.999999Z [2021-02-12T00:00:00Z 43380.2 43690 40955.9]", "BTC/USD 43381.4 2021-02-11T23:59:59.999999Z [2021-02-11T00:00:00Z 44897.6 48463.5 44187.8]"}},
		"german": {options{csv.OptionDecimal: ",", csv.OptionThousands: "."}, false,
			[]string{"SAP.DE 1127.45 2024-01-02T00:00:00Z", "SAP.DE 1128.1 2024-01-03T00:00:00Z"}},
		"fred": {nil, false, []string{"SP500 4783.83 2024-01-12T00:00:00Z", "SP500 4765.98 2024-01-16T00:00:00Z"}},
		"shiller": {of("SP500"), false, []string{"SP500 4.44 1871-01-01T00:00:00Z", "SP500 4.84 1871-09-01T00:00:00Z",
			"SP500 4.59 1871-10-01T00:00:00Z", "SP500 6.1 1900-01-01T00:00:00Z"}},
	}
	assert.Len(t, files, len(tests))
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile("../../../cmd/testdata/files/" + name + ".csv")
			require.NoError(t, err)
			given := options{}
			for option, value := range test.given {
				given[option] = value
			}
			if test.told {
				hint := take(t, string(text), given)
				require.ErrorIs(t, hint.last, pipeline.ErrOption)
				assert.ErrorContains(t, hint.last, "the first line looks like a row of --preset "+name)
				given[csv.OptionPreset] = name
			}
			got := take(t, string(text), given)
			require.NoError(t, got.last)
			assert.Empty(t, got.bad)
			assert.Equal(t, test.want, got.quotes)
			assert.Len(t, uniqueOf(got.ids), len(got.ids))
			if !test.told && name != "german" {
				assert.Contains(t, strings.Join(got.notes, "\n"), "read with --preset "+strings.TrimSuffix(name, "-yale"))
			}
			if symbol := test.given[csv.OptionName]; symbol != "" {
				delete(given, csv.OptionName)
				assert.ErrorContains(t, take(t, string(text), given).last, "--symbol NAME", "without a symbol")
			}
		})
	}
}

func uniqueOf(ids []string) map[string]bool {
	set := map[string]bool{}
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// Files of one service that differ in their header, their units, or their number of
// columns.
func TestOtherFilesOfPresets(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file  string
		given options
		want  string
	}{
		"yfinance of one ticker": {"Price,Close,High,Low,Open,Volume\nTicker,MSFT,MSFT,MSFT,MSFT,MSFT\nDate,,,,,\n2023-02-17,254.5,256.5,252.4,255.8,30000100\n",
			nil, "MSFT 254.5 2023-02-17T23:59:59.999999Z [2023-02-17T00:00:00Z 255.8 256.5 252.4 v30000100]"},
		"yfinance, adjusted": {"Price,Adj Close,Close\nTicker,MSFT,MSFT\nDatetime,,\n2023-02-17 14:30:00+00:00,250.1,254.5\n",
			options{csv.OptionPrice: "Adj Close"}, "MSFT 250.1 2023-02-17T14:30:00Z"},
		"yfinance by ticker": {"Ticker,MSFT,MSFT\nPrice,Open,Close\nDate,,\n2023-02-17,250.1,254.5\n", nil, "MSFT 254.5 2023-02-17T00:00:00Z"},
		"Ticker.history":     {"Date,Open,High,Low,Close,Volume,Dividends,Stock Splits\n2018-01-19 00:00:00-05:00,1,2,1,178.46,5,0.0,0.0\n", options{csv.OptionName: "AAPL"}, "AAPL 178.46 2018-01-19T05:00:00Z"},
		"klines in milliseconds": {"1698364800000,34151.66,34171.28,33972.39,34015.27,908.27901,1698368399999,30937869.6,41459,416.4,14187002.7,0\n",
			options{csv.OptionName: "BTCUSDT"}, "BTCUSDT 34015.27 2023-10-27T00:59:59.999Z [2023-10-27T00:00:00Z 34151.66 34171.28 33972.39 v908.27901]"},
		"klines of futures": {"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n1698364800000,1,2,1,1.5,9,1698368399999,3,4,4,1,0\n",
			options{csv.OptionName: "BTCUSDT", csv.OptionPreset: "binance-klines"}, "BTCUSDT 1.5 2023-10-27T00:59:59.999Z [2023-10-27T00:00:00Z 1 2 1 v9]"},
		"trades of futures": {"id,price,qty,quote_qty,time,is_buyer_maker\n7,1.5,2,3,1698364800000,true\n", options{csv.OptionName: "BTCUSDT"}, "BTCUSDT 1.5 2023-10-27T00:00:00Z x2"},
		"older CryptoDataDownload": {"https://www.CryptoDataDownload.com\nDate,Symbol,Open,High,Low,Close,Volume BTC\n2019-01-02 00:00:00,BTCUSD,1,2,1,1.5,9\n", nil,
			"BTCUSD 1.5 2019-01-02T23:59:59.999999Z [2019-01-02T00:00:00Z 1 2 1 v9]"},
		"Stooq by symbol":           {"Date,Open,High,Low,Close,Volume\n2024-01-02,1,2,1,1.5,9\n", options{csv.OptionName: "SPX", csv.OptionPreset: "stooq"}, "SPX 1.5 2024-01-02T23:59:59.999999Z [2024-01-02T00:00:00Z 1 2 1 v9]"},
		"Stooq in Polish":           {"Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\n2024-01-02,1,2,1,1.5,9\n", options{csv.OptionName: "WIG20"}, "WIG20 1.5 2024-01-02T23:59:59.999999Z [2024-01-02T00:00:00Z 1 2 1 v9]"},
		"MetaTrader, days":          {"<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\n2024.01.02\t1\t2\t1\t1.5\t9\n", options{csv.OptionName: "EURUSD"}, "EURUSD 1.5 2024-01-02T23:59:59.999999Z [2024-01-02T00:00:00Z 1 2 1]"},
		"MetaTrader 4":              {"2018.01.02,00:00,1.20,1.21,1.19,1.205,123\n", options{csv.OptionName: "EURUSD"}, "EURUSD 1.205 2018-01-02T23:59:59.999999Z [2018-01-02T00:00:00Z 1.2 1.21 1.19]"},
		"ECB, one day":              {"Date, USD, JPY, BGN, CZK, DKK, \n27 November 2026, 1.0919, 155.81, N/A, N/A, N/A, \n", nil, "USD 1.0919 2026-11-27T00:00:00Z;JPY 155.81 2026-11-27T00:00:00Z"},
		"an older FRED":             {"DATE,DGS10\n2024-01-12,3.96\n", nil, "DGS10 3.96 2024-01-12T00:00:00Z"},
		"FRED under another name":   {"DATE,DGS10\n2024-01-12,3.96\n", options{csv.OptionName: "US10Y"}, "US10Y 3.96 2024-01-12T00:00:00Z"},
		"Nasdaq":                    {"Date,Close/Last,Volume,Open,High,Low\n01/31/2024,\"$1,184.40\",5,$187.04,$187.09,$184.35\n", options{csv.OptionName: "AAPL"}, "AAPL 1184.4 2024-01-31T23:59:59.999999Z [2024-01-31T00:00:00Z 187.04 187.09 184.35 v5]"},
		"investing.com in German":   {"\"Datum\",\"Zuletzt\",\"Eröffn.\",\"Hoch\",\"Tief\",\"Vol.\",\"+/- %\"\n\"12.02.2021\",\"42.380,9\",\"1\",\"2\",\"1\",\"5\",\"1%\"\n", options{csv.OptionName: "BTC"}, "BTC 42380.9 2021-02-12T23:59:59.999999Z [2021-02-12T00:00:00Z 1 2 1]"},
		"Kaggle, newer":             {"Timestamp,Open,High,Low,Close,Volume\n1325412060.0,4.58,4.58,4.58,4.58,0.0\n", options{csv.OptionName: "BTCUSD"}, "BTCUSD 4.58 2012-01-01T10:01:00Z"},
		"Shiller, as data packages": {"Date,SP500,Dividend,Earnings,Consumer Price Index\n1871-01-01,4.44,0.26,0.4,12.46\n", options{csv.OptionName: "SP500"}, "SP500 4.44 1871-01-01T00:00:00Z"},
		"Polygon":                   {"ticker,volume,open,close,high,low,window_start,transactions\nAAPL,4930,185.0,185.2,185.3,185.0,1704718800000000000,129\n", nil, "AAPL 185.2 2024-01-08T13:00:00Z"},
		"no preset":                 {"Date,Open,High,Low,Close,Adj Close,Volume\n2018-01-19,1,2,3,4,5,6\n", options{csv.OptionName: "A", csv.OptionPreset: "none", csv.OptionPrice: "Open"}, "A 1 2018-01-19T00:00:00Z"},
		"a preset but for a column": {"Date,Open,High,Low,Close,Adj Close,Volume\n2018-01-19,1,2,3,4,5,6\n", options{csv.OptionName: "A", csv.OptionPrice: "Adj Close"}, "A 5 2018-01-19T00:00:00Z"},
	} {
		got := take(t, test.file, test.given)
		require.NoError(t, got.last, name)
		assert.Empty(t, got.bad, name)
		assert.Equal(t, test.want, strings.Join(got.quotes, ";"), name)
	}
}

// Rows of one time are in the order of their ids, or else of the file, whichever way
// round it is.
func TestTheOrderOfRowsOfOneTime(t *testing.T) {
	t.Parallel()
	const header, a, b, c = "symbol,price,time,id\n", "A,1,2024-01-01,7\n", "A,2,2024-01-01,8\n", "A,3,2024-01-02,9\n"
	for name, test := range map[string]struct {
		file  string
		given options
		want  string
	}{
		"oldest first":            {header + a + b + c, nil, "1 2 3"},
		"newest first":            {header + c + b + a, nil, "1 2 3"},
		"newest first, ties too":  {header + b + a + "A,0.5,2023-12-31,6\n", nil, "0.5 1 2"},
		"by id":                   {header + b + a + c, options{csv.OptionID: "id"}, "1 2 3"},
		"by id, newest first":     {header + c + a + b, options{csv.OptionID: "id"}, "1 2 3"},
		"ids that are no numbers": {"symbol,price,time,id\nA,2,2024-01-01,b\nA,1,2024-01-01,a\nA,0.5,2023-12-31,c\n", options{csv.OptionID: "id"}, "0.5 1 2"},
		"one time only":           {header + a + b, nil, "1 2"},
		"other symbols between":   {header + c + "B,9,2024-01-09,1\n" + b + "B,8,2024-01-08,1\n" + a, nil, "1 2 3"},
	} {
		p := newReader(t)
		lines, _, last := providertest.FileLines(t, p, test.file, test.given)
		require.NoError(t, last, name)
		var prices []pipeline.Price
		for _, line := range lines {
			found, err := p.Normalize(line.Quote)
			require.NoError(t, err, name)
			if found[0].Symbol == "A" {
				prices = append(prices, found[0])
			}
		}
		slices.SortStableFunc(prices, func(a, b pipeline.Price) int {
			return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Sequence, b.Sequence))
		})
		var got []string
		for _, p := range prices {
			got = append(got, p.Price.String())
		}
		assert.Equal(t, test.want, strings.Join(got, " "), name)
	}
}
