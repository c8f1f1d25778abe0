package chart_test

import (
	"bytes"
	"image/png"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi/chart"
	"github.com/pricemill/pricemill/schema"
)

var start = schema.NewTime(time.Date(2025, 6, 15, 14, 30, 0, 0, time.UTC))

// prices are one at each of some seconds after start, given oldest first.
func prices(at ...any) []chart.Price {
	var all []chart.Price
	for i := 0; i < len(at); i += 2 {
		p := chart.Price{Timestamp: start.Add(time.Duration(at[i].(int)) * time.Second), Price: schema.MustDecimal(at[i+1].(string))}
		all = append([]chart.Price{p}, all...)
	}
	return all
}

func bar(second int, open, high, low, last string) chart.Bar {
	return chart.Bar{Start: start.Add(time.Duration(second) * time.Second), Open: schema.MustDecimal(open), High: schema.MustDecimal(high),
		Low: schema.MustDecimal(low), Close: schema.MustDecimal(last)}
}

func TestBarsOfPrices(t *testing.T) {
	t.Parallel()
	got := chart.NewBars(prices(0, "3", 1, "5", 9, "4", 30, "1", 31, "0.5", 39, "0.75", 40, "2"), 10*time.Second)
	assert.Equal(t, []chart.Bar{bar(0, "3", "5", "3", "4"), bar(30, "1", "1", "0.5", "0.75"), bar(40, "2", "2", "2", "2")}, got,
		"an interval without a price has no bar")
	assert.Empty(t, chart.NewBars(nil, time.Second))
}

func TestBarsBefore1970(t *testing.T) {
	t.Parallel()
	at := schema.NewTime(time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC))
	bars := chart.NewBars([]chart.Price{{Timestamp: at, Price: schema.MustDecimal("1")}}, time.Minute)
	assert.Equal(t, "1969-12-31T23:59:00Z", bars[0].Start.Format(time.RFC3339))
}

func TestLinesAreAlignedWithBars(t *testing.T) {
	t.Parallel()
	bars := chart.NewBars(prices(0, "1", 10, "1", 30, "1"), 10*time.Second)
	got := chart.Align(bars, prices(-5, "7", 1, "8", 9, "9", 20, "10", 35, "11"), 10*time.Second)
	require.Len(t, got, 3)
	assert.Equal(t, "9", got[0].String(), "the newest of its interval")
	assert.Nil(t, got[1], "a value after the interval is not of it")
	assert.Equal(t, "11", got[2].String())
}

func TestTheIntervalFitsThePeriod(t *testing.T) {
	t.Parallel()
	for period, want := range map[time.Duration]string{0: "1s", 2 * time.Minute: "1s", 20 * time.Minute: "10s", 2 * time.Hour: "1m",
		8 * time.Hour: "5m", 4 * 24 * time.Hour: "1h", 100 * 365 * 24 * time.Hour: "1d"} {
		assert.Equal(t, want, chart.Fitting(period).Name, period)
	}
}

// picture is one of some bars, at prices from a low one.
func picture(kind chart.Kind, low string) chart.Picture {
	interval, _ := chart.Named("10s")
	base := schema.MustDecimal(low)
	bars := chart.NewBars([]chart.Price{{Timestamp: start.Add(time.Minute), Price: base.Times(2)}, {Timestamp: start, Price: base}}, interval.Length)
	return chart.Picture{Title: "AAPL", Subtitle: "test", Bars: bars, Lines: []chart.Line{{Name: "Average 5", Values: []*schema.Decimal{nil, &base}}},
		Interval: interval, Kind: kind, Theme: chart.Dark, Width: 400, Height: 300}
}

// TestPicturesOfAnyPrice: huge and tiny prices, of which a float keeps few digits, and
// one price alone, which has no range, are drawn too.
func TestPicturesOfAnyPrice(t *testing.T) {
	t.Parallel()
	for _, low := range []string{"0", "0.000000000000000001", "0.00001304", "185.75", "400000000000000000", "-3"} {
		for _, kind := range []chart.Kind{chart.Lines, chart.Candles} {
			for _, theme := range []chart.Theme{chart.Light, chart.Dark} {
				p := picture(kind, low)
				p.Theme = theme
				svg, err := p.Draw(chart.SVG)
				require.NoError(t, err, low)
				assert.NotContains(t, string(svg), "NaN", low)
				assert.NotContains(t, string(svg), "Inf", low)
				p.Bars = p.Bars[:1]
				p.Lines[0].Values = p.Lines[0].Values[:1]
				raster, err := p.Draw(chart.PNG)
				require.NoError(t, err, low)
				_, err = png.Decode(bytes.NewReader(raster))
				require.NoError(t, err, low)
			}
		}
	}
}

func TestTheAxisNamesRoundPrices(t *testing.T) {
	t.Parallel()
	svg, err := picture(chart.Lines, "0.00001304").Draw(chart.SVG)
	require.NoError(t, err)
	for _, label := range []string{">0.000012<", ">0.000020<", ">0.000026<", ">0.000028<"} {
		if strings.Contains(string(svg), label) {
			return
		}
	}
	assert.Fail(t, "no label of the axis is a round price", string(svg))
}
