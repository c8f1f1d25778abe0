package chart

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// box is a rectangle, in pixels from the top left corner of the picture.
type box struct{ left, top, right, bottom float64 }

func (b box) height() float64 { return b.bottom - b.top }

// layout is where a picture has what.
type layout struct {
	plot   box       // of the prices
	volume box       // of the volumes, below; without height where there are none
	slots  int       // places at equal distances from left to right, one for each bar
	low    float64   // the price at the bottom of plot
	high   float64   // the price at its top
	values []float64 // the prices that the axis names
	digits int       // of these, after the point
	most   float64   // the greatest volume
}

const (
	// fewestCandles is how many candles a picture has room for, at least: a lone one would
	// fill it.
	fewestCandles = 40
	// labelGap is between the plot and the prices to its right, in pixels.
	labelGap = 6
	// timesHeight is the room of the times below the plot, in pixels.
	timesHeight = 20
	// volumeShare is the part of the height that volumes have, and volumeGap the distance
	// between them and the prices, in pixels.
	volumeShare = 0.2
	volumeGap   = 10
)

// newLayout lays out a picture whose labels are as wide as measure says.
func newLayout(p Picture, measure func(label string) float64) layout {
	l := layout{slots: len(p.Bars), plot: box{margin, headingHeight, float64(p.Width) - margin, float64(p.Height) - margin - timesHeight}}
	if p.Kind == Candles {
		l.slots = max(l.slots, fewestCandles)
	}
	for _, b := range p.Bars {
		if b.Volume != nil {
			l.most = max(l.most, pixels(*b.Volume))
		}
	}
	l.volume = box{bottom: l.plot.bottom, top: l.plot.bottom}
	if l.most > 0 {
		l.volume.top -= l.plot.height() * volumeShare
		l.plot.bottom = l.volume.top - volumeGap
	}
	low, high := extent(p)
	var step float64
	l.low, l.high, step, l.digits = roundAxis(low, high, max(2, int(l.plot.height()/56)))
	width := measure(short(l.most))
	for i := range int(math.Round((l.high-l.low)/step)) + 1 {
		value := l.low + float64(i)*step
		l.values = append(l.values, value)
		width = max(width, measure(l.label(value)))
	}
	l.plot.right -= math.Ceil(width) + labelGap
	return l
}

func (l layout) hasVolume() bool { return l.most > 0 }

func (l layout) label(value float64) string { return strconv.FormatFloat(value, 'f', l.digits, 64) }

// x is the middle of a slot.
func (l layout) x(slot int) float64 {
	return l.plot.left + (float64(slot)+0.5)*(l.plot.right-l.plot.left)/float64(l.slots)
}

// y is the height of a price.
func (l layout) y(price float64) float64 {
	return l.plot.bottom - (price-l.low)/(l.high-l.low)*l.plot.height()
}

// body is how wide a candle is.
func (l layout) body() float64 { return max(1, 0.7*(l.plot.right-l.plot.left)/float64(l.slots)) }

// Plot is where an SVG shows which bar and which price, for a crosshair over it. Lengths
// are pixels from the top left corner.
type Plot struct {
	Left   float64 `json:"left"`
	Right  float64 `json:"right"`
	Top    float64 `json:"top"`
	Bottom float64 `json:"bottom"` // of the prices
	// End is the bottom of the volumes, or Bottom where there are none.
	End float64 `json:"end"`
	// Slots is how many bars would fill the width. Bars take the first of them.
	Slots int `json:"slots"`
	// Low and High are the prices at Bottom and Top.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Plot returns where the SVG of the picture shows what.
func (p Picture) Plot() Plot {
	l := newDrawing(p, SVG).layout
	return Plot{Left: l.plot.left, Right: l.plot.right, Top: l.plot.top, Bottom: l.plot.bottom, End: l.volume.bottom, Slots: l.slots, Low: l.low, High: l.high}
}

// extent returns the lowest and the highest price that is drawn.
func extent(p Picture) (low, high float64) {
	if len(p.Bars) == 0 {
		return 0, 1
	}
	low, high = math.Inf(1), math.Inf(-1)
	see := func(d schema.Decimal) { low, high = min(low, pixels(d)), max(high, pixels(d)) }
	for _, b := range p.Bars {
		if see(b.Close); p.Kind == Candles {
			see(b.Low)
			see(b.High)
		}
	}
	for _, line := range p.Lines {
		for _, v := range line.Values {
			if v != nil {
				see(*v)
			}
		}
	}
	return low, high
}

// short writes a volume with three digits: 950, 1.25k, 3.1M.
func short(v float64) string {
	unit := ""
	for _, next := range []string{"k", "M", "B", "T"} {
		if v < 1000 {
			break
		}
		v, unit = v/1000, next
	}
	if v < 1 {
		return strconv.FormatFloat(v, 'g', 3, 64) + unit
	}
	digits := max(0, 2-int(math.Log10(v)))
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if digits > 0 {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + unit
}

// pixels is where a price becomes a float: as a height in a picture.
func pixels(d schema.Decimal) float64 {
	f, _ := strconv.ParseFloat(d.String(), 64) // a decimal is always a number
	return f
}

// roundAxis returns an axis of about so many steps that has low and high in it, and
// the digits after the point that its labels need.
func roundAxis(low, high float64, steps int) (from, to, step float64, digits int) {
	span := high - low
	if span <= math.Abs(high)*1e-9 { // one price: an axis around it
		span = max(math.Abs(high)*0.01, 1e-12)
		low, high = low-span/2, high+span/2
	}
	exponent := math.Floor(math.Log10(span / float64(steps)))
	step = math.Pow(10, exponent)
	for _, factor := range []float64{1, 2, 5, 10} {
		if step = factor * math.Pow(10, exponent); span/step <= float64(steps) {
			break
		}
	}
	from, to = math.Floor(low/step)*step, math.Ceil(high/step)*step
	return from, to, step, max(0, int(-math.Floor(math.Log10(step)+1e-9)))
}

// timeWidth is the room of a time, in pixels.
const timeWidth = 110

// timeLabels says of bars at equal distances when they start, as exactly as the interval
// and the period ask for. The others have an empty label, so that none covers another.
func (d *drawing) timeLabels() []string {
	labels := make([]string, d.slots)
	format := "15:04"
	switch period := d.Bars[len(d.Bars)-1].Start.Sub(d.Bars[0].Start.Time); {
	case d.Interval.Length >= 24*time.Hour:
		format = "2 Jan 2006"
	case period >= 24*time.Hour:
		format = "2 Jan 15:04"
	case d.Interval.Length < time.Minute:
		format = "15:04:05"
	}
	most := max(1, d.Width/timeWidth)
	step := (len(labels) + most - 1) / most
	for i := step / 2; i < len(labels); i += step { // not at the edges, where a label is cut off
		start := d.Bars[min(i, len(d.Bars)-1)].Start.Add(time.Duration(max(0, i+1-len(d.Bars))) * d.Interval.Length)
		labels[i] = start.UTC().Format(format)
	}
	return labels
}
