package chart_test

import (
	"bytes"
	"fmt"
	"image/png"
	"math"
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

// TestVolumesHaveAPane: where a bar says its volume, columns are drawn below the prices,
// and their greatest is named; where none does, the prices have the room.
func TestVolumesHaveAPane(t *testing.T) {
	t.Parallel()
	for _, kind := range []chart.Kind{chart.Lines, chart.Candles} {
		p := picture(kind, "100")
		bare, without := p.Plot(), columns(t, p)
		volume, other := schema.MustDecimal("1250"), schema.MustDecimal("0.5")
		p.Bars[0].Volume, p.Bars[1].Volume = &volume, &other
		plot, with := p.Plot(), columns(t, p)
		assert.Equal(t, bare.Bottom, bare.End)
		assert.Zero(t, without)
		assert.Less(t, plot.Bottom, plot.End-20)
		assert.Equal(t, bare.End, plot.End)
		assert.Equal(t, 2, with, "one column for each bar with a volume")
		svg, err := p.Draw(chart.SVG)
		require.NoError(t, err)
		assert.Contains(t, string(svg), ">1.25k<")
		p.Bars[1].Volume = nil
		assert.Equal(t, 1, columns(t, p))
	}
}

// columns counts what is drawn in the colour of volumes, which is that of nothing else.
func columns(t *testing.T, p chart.Picture) int {
	t.Helper()
	p.Theme = chart.Light
	svg, err := p.Draw(chart.SVG)
	require.NoError(t, err)
	return strings.Count(string(svg), "fill:rgb(213,218,225)")
}

// TestThePlotIsThatOfThePicture: bars are in slots of equal width from left to right, and
// prices between low and high from bottom to top.
func TestThePlotIsThatOfThePicture(t *testing.T) {
	t.Parallel()
	p := picture(chart.Candles, "100") // bars at 100 and 200
	p.Lines = nil
	plot := p.Plot()
	assert.Equal(t, 40, plot.Slots)
	assert.LessOrEqual(t, plot.Low, 100.0)
	assert.GreaterOrEqual(t, plot.High, 200.0)
	svg, err := p.Draw(chart.SVG)
	require.NoError(t, err)
	for slot, price := range []float64{100, 200} {
		middle := plot.Left + (float64(slot)+0.5)*(plot.Right-plot.Left)/float64(plot.Slots)
		height := plot.Bottom - (price-plot.Low)/(plot.High-plot.Low)*(plot.Bottom-plot.Top)
		// The wick, four of whose pixels are one.
		assert.Contains(t, string(svg), fmt.Sprintf("M %.0f %.0f", math.Round(4*(middle-0.5)), math.Round(4*height)), "the bar at %v", price)
	}
}

func TestVolumesAreShort(t *testing.T) {
	t.Parallel()
	for volume, want := range map[float64]string{0: "0", 0.00012: "0.00012", 1: "1", 9.5: "9.5", 950: "950", 1250: "1.25k", 3.1e6: "3.1M", 100_000: "100k", 2e9: "2B", 5e15: "5000T"} {
		assert.Equal(t, want, chart.Short(volume), "%v", volume)
	}
}
