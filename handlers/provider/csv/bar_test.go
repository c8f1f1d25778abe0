package csv_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/csv"
	"github.com/pricemill/pricemill/pipeline"
)

// rows is a file of bars that begin at times.
func rows(times ...string) string {
	text := "symbol,time,open,high,low,close,volume\n"
	for _, at := range times {
		text += "A," + at + ",1,3,0.5,2,10\n"
	}
	return text
}

// How long bars are is told by the times of the rows, or by the option. Where
// neither tells, closes are prices.
func TestTheLengthOfBars(t *testing.T) {
	t.Parallel()
	newYork := options{csv.OptionZone: "America/New_York"}
	for name, test := range map[string]struct {
		file  string
		given options
		ends  string // of the first bar; empty: none is one
		says  string
	}{
		"hours":                   {rows("2024-01-02 10:00", "2024-01-02 11:00", "2024-01-02 14:00"), nil, "2024-01-02T10:59:59.999999Z", "bars of 1h"},
		"newest first":            {rows("2024-01-02 11:00", "2024-01-02 10:55"), nil, "2024-01-02T11:04:59.999999Z", "bars of 5m"},
		"days, without weekends":  {rows("2024-01-05", "2024-01-08", "2024-01-09"), nil, "2024-01-05T23:59:59.999999Z", "bars of 1d"},
		"one date":                {rows("2024-01-05"), nil, "2024-01-05T23:59:59.999999Z", "bars of 1d"},
		"weeks":                   {rows("2024-01-01", "2024-01-08", "2024-01-15"), nil, "2024-01-07T23:59:59.999999Z", "bars of 1w"},
		"months":                  {rows("2024-01-01", "2024-02-01", "2024-03-01"), nil, "2024-01-31T23:59:59.999999Z", "bars of 1mo"},
		"quarters":                {rows("2024-01-01", "2024-04-01", "2024-07-01"), nil, "2024-03-31T23:59:59.999999Z", "bars of 3mo"},
		"years":                   {rows("2023-01-01", "2024-01-01"), nil, "2023-12-31T23:59:59.999999Z", "bars of 1y"},
		"days of 23 and 25 hours": {rows("2024-03-09", "2024-03-10", "2024-03-11", "2024-11-03", "2024-11-04"), newYork, "2024-03-10T04:59:59.999999Z", "bars of 1d"},
		"the day of 23 hours":     {rows("2024-03-10", "2024-03-11"), newYork, "2024-03-11T03:59:59.999999Z", "bars of 1d"},
		"one time":                {rows("2024-01-02 10:00"), nil, "", "closes are taken as prices"},
		"uneven":                  {rows("2024-01-02 10:00", "2024-01-02 10:05", "2024-01-02 10:12"), nil, "", "closes are taken as prices"},
		"no usual step":           {rows("2024-01-02 10:00", "2024-01-02 10:07"), nil, "", "closes are taken as prices"},
		"nine days":               {rows("2024-01-02", "2024-01-11"), nil, "", "closes are taken as prices"},
		"days and hours":          {rows("2024-01-02 00:00", "2024-01-03 02:00"), nil, "", "closes are taken as prices"},
		"as told":                 {rows("2024-01-02 10:00"), options{csv.OptionBars: "4h"}, "2024-01-02T13:59:59.999999Z", ""},
		"as told, a month":        {rows("2024-02-01"), options{csv.OptionBars: "1mo"}, "2024-02-29T23:59:59.999999Z", ""},
		"none wanted":             {rows("2024-01-02 10:00", "2024-01-02 11:00"), options{csv.OptionBars: "none"}, "", ""},
		"another price":           {rows("2024-01-02", "2024-01-03"), options{csv.OptionPrice: "open"}, "", ""},
		"without a low":           {"symbol,time,open,high,close\nA,2024-01-02,1,3,2\n", nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := take(t, test.file, test.given)
			require.NoError(t, got.last)
			require.Empty(t, got.bad)
			if test.ends == "" {
				assert.NotContains(t, strings.Join(got.quotes, " "), "[")
			} else {
				assert.Contains(t, got.quotes[0], " "+test.ends+" [")
				assert.Contains(t, got.quotes[0], " 1 3 0.5 v10]")
			}
			if notes := strings.Join(got.notes, "\n"); test.says != "" {
				assert.Contains(t, notes, test.says)
			} else {
				assert.NotContains(t, notes, csv.OptionBars)
			}
		})
	}
	for _, text := range []string{"", "0m", "1", "h", "-1h", "1x", "2000d"} {
		assert.ErrorIs(t, take(t, rows("2024-01-02"), options{csv.OptionBars: text}).last, pipeline.ErrOption, text)
	}
}

// A bar is one fact, however often and wherever it is read; another statement about its
// span is another.
func TestABarIsOneFact(t *testing.T) {
	t.Parallel()
	twice := take(t, rows("2024-01-02", "2024-01-03", "2024-01-02"), nil)
	require.Len(t, twice.ids, 3)
	assert.Equal(t, twice.ids[0], twice.ids[2])
	assert.NotEqual(t, twice.ids[0], twice.ids[1])
	assert.Equal(t, twice.ids[1], take(t, rows("2024-01-03"), nil).ids[0], "in another file")
	adjusted := take(t, "symbol,date,open,high,low,close,adj close,volume\nA,2024-01-03,1,3,0.50,2.0,1.9,10\n", nil)
	assert.Equal(t, twice.ids[1], adjusted.ids[0], "a later dividend changes the adjusted close alone")
	seen := map[string]bool{twice.ids[1]: true}
	for _, row := range []string{"1,3,0.5,2,11", "1,3,0.5,2,", "1,3,0.5,2.5,10", "1,3,0.4,2,10", "1,4,0.5,2,10", "1.5,3,0.5,2,10"} {
		got := take(t, "symbol,time,open,high,low,close,volume\nA,2024-01-03,"+row+"\n", nil)
		assert.False(t, seen[got.ids[0]], row)
		seen[got.ids[0]] = true
	}
	hour := take(t, rows("2024-01-03"), options{csv.OptionBars: "1h"})
	assert.False(t, seen[hour.ids[0]], "another span")
}

// Rows that are not quite bars.
func TestRowsWithoutABar(t *testing.T) {
	t.Parallel()
	got := take(t, "symbol,time,open,high,low,close,volume\nA,2024-01-01,0,0,0,2,0\nA,2024-01-02,,3,1,2,5\nA,2024-01-03,1,3,4,2,5\nA,2024-01-04,x,3,1,2,5\n"+
		"A,2024-01-05,1,3,1,2,-5\nA,2024-01-06,1,3,1,2,\"1,5K\"\n", nil)
	assert.Equal(t, []string{"A 2 2024-01-01T00:00:00Z", "A 2 2024-01-02T00:00:00Z", "A 2 2024-01-05T23:59:59.999999Z [2024-01-05T00:00:00Z 1 3 1]",
		"A 2 2024-01-06T23:59:59.999999Z [2024-01-06T00:00:00Z 1 3 1]"}, got.quotes)
	require.Len(t, got.bad, 2)
	assert.Contains(t, got.bad[0], `column "high": high 3 is below the low 4`)
	assert.Contains(t, got.bad[1], `column "open"`)
	assert.Contains(t, strings.Join(got.notes, "\n"), "a row without an open, a high and a low is taken as a price")
	assert.Contains(t, strings.Join(got.notes, "\n"), `column "volume" is left out where it holds no number`)

	const kline = "1698364800000,1,2,1,1.5,9,%d,3,4,4,1,0\n"
	spans := take(t, fmt.Sprintf(kline, 1698364800000)+fmt.Sprintf(kline, 1698364800001), options{csv.OptionName: "A", csv.OptionPreset: "binance-klines"})
	require.Len(t, spans.bad, 1)
	assert.Contains(t, spans.bad[0], "is not before its end")
	assert.Equal(t, []string{"A 1.5 2023-10-27T00:00:00.001Z [2023-10-27T00:00:00Z 1 2 1 v9]"}, spans.quotes)
	signed := take(t, "symbol,time,open,high,low,close\nCL,2020-04-20,17.73,17.85,-40.32,-37.63\n", options{csv.OptionNegative: "true"})
	assert.Equal(t, []string{"CL -37.63 " + time.Date(2020, 4, 20, 23, 59, 59, 999999000, time.UTC).Format(time.RFC3339Nano) + " [2020-04-20T00:00:00Z 17.73 17.85 -40.32]"}, signed.quotes)
}

// A long file tells the length of its bars in its beginning, where its last row may be cut.
func TestBarsOfALongFile(t *testing.T) {
	t.Parallel()
	var times []string
	for i := range 3000 {
		times = append(times, time.Date(2024, 1, 2, 0, i, 0, 0, time.UTC).Format("2006-01-02 15:04"))
	}
	got := take(t, rows(times...), nil)
	require.Len(t, got.quotes, 3000)
	assert.Contains(t, got.quotes[2999], "2024-01-04T01:59:59.999999Z [2024-01-04T01:59:00Z")
}
