package chart

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/go-analyze/charts"

	"github.com/pricemill/pricemill/schema"
)

// Kind is how prices are drawn.
type Kind string

// The kinds, named as in requests.
const (
	Lines   Kind = "line"
	Candles Kind = "candles"
)

// Format is the format of a picture.
type Format string

// The formats, named as the ends of file names.
const (
	SVG Format = "svg"
	PNG Format = "png"
)

// Bounds of a picture, in pixels.
const (
	MinWidth, MaxWidth   = 240, 2400
	MinHeight, MaxHeight = 120, 1600
)

// Line is a line over the prices, such as an average.
type Line struct {
	// Name is for the legend. A line without one belongs to the line before it, and
	// has its colour.
	Name string
	// Values has one value for each bar; nil where there is none.
	Values []*schema.Decimal
}

// Picture is what is drawn.
type Picture struct {
	// Title is the symbol and Subtitle the rest that a reader needs: provider,
	// interval, and that prices are simulated.
	Title, Subtitle string
	Bars            []Bar
	Lines           []Line
	Interval        Interval
	Kind            Kind
	Theme           Theme
	// Width and Height are in pixels, within the bounds of this package.
	Width, Height int
}

// Draw returns the picture. The same picture is the same bytes.
func (p Picture) Draw(format Format) ([]byte, error) {
	d := newDrawing(p, format)
	painter, err := d.render()
	if err != nil {
		return nil, fmt.Errorf("drawing a chart of %s: %w", p.Title, err)
	}
	d.heading(painter)
	out, err := painter.Bytes()
	if err != nil {
		return nil, fmt.Errorf("drawing a chart of %s: %w", p.Title, err)
	}
	if format == SVG {
		out = sized(out, p.Width, p.Height)
	}
	return out, nil
}

// fine is how many of the library's pixels are one of an SVG. The library places
// everything at whole pixels, which alone makes lines look like stairs.
const fine = 4

// sized gives an SVG its size in pixels, and the lines whose width the library alone
// decides that of a pixel: grid and wicks.
func sized(svg []byte, width, height int) []byte {
	svg = bytes.ReplaceAll(svg, []byte("stroke-width:1;"), fmt.Appendf(nil, "stroke-width:%d;", fine))
	return bytes.Replace(svg, []byte(" viewBox="), fmt.Appendf(nil, ` width="%d" height="%d" viewBox=`, width, height), 1)
}

// drawing is a picture being drawn.
type drawing struct {
	Picture
	colours
	format Format
	scale  int
}

// fewestCandles is how many candles a picture has room for, at least: a lone one would
// fill it.
const fewestCandles = 40

func newDrawing(p Picture, format Format) *drawing {
	d := &drawing{Picture: p, colours: themes[p.Theme], format: format, scale: 1}
	if format == SVG {
		d.scale = fine
	}
	return d
}

// font is text of some pixels.
func (d *drawing) font(size float64, colour charts.Color) charts.FontStyle {
	return charts.NewFontStyleWithSize(size * float64(d.scale)).WithColor(colour)
}

func (d *drawing) box(left, top, right, bottom int) charts.Box {
	return charts.NewBox(left*d.scale, top*d.scale, right*d.scale, bottom*d.scale)
}

// The layout, in pixels.
const (
	margin        = 12
	headingHeight = 34
	labelSize     = 9.0
	titleSize     = 12.0
)

func (d *drawing) render() (*charts.Painter, error) {
	series, seriesColours := d.series()
	opt := charts.ChartOption{
		OutputFormat: string(d.format), Width: d.Width * d.scale, Height: d.Height * d.scale,
		Theme:   d.palette(d.Theme == Dark, seriesColours),
		Padding: d.box(margin, headingHeight, margin, margin-2),
		Legend:  charts.LegendOption{Show: charts.Ptr(false)}, SeriesList: series,
		LineStrokeWidth: 1.25 * float64(d.scale), Symbol: charts.Symbol{Shape: charts.SymbolNone},
		XAxis: charts.XAxisOption{Labels: d.timeLabels(), LabelCount: len(d.Bars) + d.empty(), LabelFontStyle: d.font(labelSize, d.faint),
			BoundaryGap: charts.Ptr(true)},
		YAxis: []charts.YAxisOption{d.priceAxis()},
	}
	if len(d.Bars) == 0 {
		opt.SeriesList, opt.YAxis, opt.XAxis.Labels = nil, nil, nil
		painter := charts.NewPainter(charts.PainterOptions{OutputFormat: opt.OutputFormat, Width: opt.Width, Height: opt.Height, Theme: opt.Theme})
		painter.FilledRect(0, 0, opt.Width, opt.Height, d.background, d.background, 0)
		painter.Text("No prices in this period", margin*d.scale, opt.Height/2, 0, d.font(titleSize, d.text))
		return painter, nil
	}
	return charts.Render(opt)
}

// empty is how much room is left free after the last bar.
func (d *drawing) empty() int {
	if d.Kind != Candles {
		return 0
	}
	return max(0, fewestCandles-len(d.Bars))
}

// series are the prices and the lines, and the colour of each.
func (d *drawing) series() (charts.GenericSeriesList, []charts.Color) {
	var list charts.GenericSeriesList
	var all []charts.Color
	if d.Kind == Candles {
		none := charts.GetNullValue()
		ohlc := slices.Repeat([]charts.OHLCData{{Open: none, High: none, Low: none, Close: none}}, len(d.Bars)+d.empty())
		for i, b := range d.Bars {
			ohlc[i] = charts.OHLCData{Open: pixels(b.Open), High: pixels(b.High), Low: pixels(b.Low), Close: pixels(b.Close)}
		}
		list = charts.CandlestickSeriesList{{Data: ohlc}}.ToGenericSeriesList()
	} else {
		closes := make([]float64, len(d.Bars))
		for i, b := range d.Bars {
			closes[i] = pixels(b.Close)
		}
		list = charts.GenericSeriesList{{Type: charts.ChartTypeLine, Values: closes}}
	}
	all = append(all, d.price)
	named := -1
	for _, line := range d.Lines {
		if line.Name != "" {
			named++
		}
		values := slices.Repeat([]float64{charts.GetNullValue()}, len(line.Values)+d.empty())
		for i, v := range line.Values {
			if v != nil {
				values[i] = pixels(*v)
			}
		}
		list = append(list, charts.GenericSeries{Type: charts.ChartTypeLine, Values: values})
		all = append(all, d.lines[max(0, named)%len(d.lines)])
	}
	return list, all
}

// pixels is where a price becomes a float: as a height in a picture.
func pixels(d schema.Decimal) float64 {
	f, _ := strconv.ParseFloat(d.String(), 64) // a decimal is always a number
	return f
}

// priceAxis ends at round numbers around all that is drawn.
func (d *drawing) priceAxis() charts.YAxisOption {
	low, high := math.Inf(1), math.Inf(-1)
	see := func(v float64) { low, high = min(low, v), max(high, v) }
	for _, b := range d.Bars {
		if see(pixels(b.Close)); d.Kind == Candles {
			see(pixels(b.Low))
			see(pixels(b.High))
		}
	}
	for _, line := range d.Lines {
		for _, v := range line.Values {
			if v != nil {
				see(pixels(*v))
			}
		}
	}
	if len(d.Bars) == 0 {
		low, high = 0, 1
	}
	from, to, step, digits := roundAxis(low, high, max(2, (d.Height-headingHeight)/56))
	return charts.YAxisOption{
		Min: charts.Ptr(from), Max: charts.Ptr(to), LabelCount: int(math.Round((to-from)/step)) + 1, Position: charts.PositionRight,
		LabelFontStyle: d.font(labelSize, d.faint), SplitLineShow: charts.Ptr(true),
		ValueFormatter: func(v float64) string { return strconv.FormatFloat(v, 'f', digits, 64) },
	}
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

// labelWidth is the room of a time, in pixels.
const labelWidth = 110

// timeLabels says of bars at equal distances when they start, as exactly as the interval
// and the period ask for. The others have an empty label, so that none covers another.
func (d *drawing) timeLabels() []string {
	labels := make([]string, len(d.Bars)+d.empty())
	if len(d.Bars) == 0 {
		return labels
	}
	format := "15:04"
	switch period := d.Bars[len(d.Bars)-1].Start.Sub(d.Bars[0].Start.Time); {
	case d.Interval.Length >= 24*time.Hour:
		format = "2 Jan 2006"
	case period >= 24*time.Hour:
		format = "2 Jan 15:04"
	case d.Interval.Length < time.Minute:
		format = "15:04:05"
	}
	most := max(1, d.Width/labelWidth)
	step := (len(labels) + most - 1) / most
	for i := step / 2; i < len(labels); i += step { // not at the edges, where a label is cut off
		start := d.Bars[min(i, len(d.Bars)-1)].Start.Add(time.Duration(max(0, i+1-len(d.Bars))) * d.Interval.Length)
		labels[i] = start.UTC().Format(format)
	}
	return labels
}

// heading writes the title and, after it, the names of the lines.
func (d *drawing) heading(painter *charts.Painter) {
	s := d.scale
	x, y := margin*s, 22*s
	put := func(text string, size float64, colour charts.Color, gap int) {
		style := d.font(size, colour)
		painter.Text(text, x, y, 0, style)
		x += painter.MeasureText(text, 0, style).Width() + gap*s
	}
	put(d.Title, titleSize, d.strong, 8)
	put(d.Subtitle, labelSize, d.faint, 16)
	named := 0
	for _, line := range d.Lines {
		if line.Name == "" {
			continue
		}
		colour := d.lines[named%len(d.lines)]
		named++
		if x+(30+6*len(line.Name))*s > (d.Width-margin)*s { // no room is left
			return
		}
		painter.FilledRect(x, y-5*s, x+14*s, y-3*s, colour, colour, 0)
		x += 18 * s
		put(line.Name, labelSize, d.text, 14)
	}
}
