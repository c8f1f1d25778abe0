package chart

import (
	"bytes"
	"fmt"
	"math"

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
	// Label is the name of this line alone, for readers of its numbers.
	Label string
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
	d.fill(box{0, 0, float64(p.Width), float64(p.Height)}, d.background)
	d.heading()
	if len(p.Bars) == 0 {
		d.write("No prices in this period", margin, float64(p.Height)/2, d.font(titleSize, d.text))
	} else {
		d.axes()
		d.volumes()
		d.prices()
		d.overlays()
	}
	out, err := d.painter.Bytes()
	if err != nil {
		return nil, fmt.Errorf("drawing a chart of %s: %w", p.Title, err)
	}
	if format == SVG {
		out = bytes.Replace(out, []byte(" viewBox="), fmt.Appendf(nil, ` width="%d" height="%d" viewBox=`, p.Width, p.Height), 1)
	}
	return out, nil
}

// fine is how many of the library's pixels are one of an SVG. The library places
// everything at whole pixels, which alone makes lines look like stairs.
const fine = 4

// Sizes, in pixels.
const (
	margin        = 12
	headingHeight = 34
	labelSize     = 9.0
	titleSize     = 12.0
	lineWidth     = 1.25
)

// drawing is a picture being drawn. Its coordinates are pixels of the picture.
type drawing struct {
	Picture
	colours
	layout
	painter *charts.Painter
	scale   float64
}

func newDrawing(p Picture, format Format) *drawing {
	d := &drawing{Picture: p, colours: themes[p.Theme], scale: 1}
	if format == SVG {
		d.scale = fine
	}
	d.painter = charts.NewPainter(charts.PainterOptions{OutputFormat: string(format), Width: d.at(float64(p.Width)), Height: d.at(float64(p.Height))})
	d.layout = newLayout(p, func(label string) float64 { return d.width(label, d.font(labelSize, d.faint)) })
	return d
}

// at is a coordinate in the library's pixels.
func (d *drawing) at(pixels float64) int { return int(math.Round(pixels * d.scale)) }

func (d *drawing) font(size float64, colour charts.Color) charts.FontStyle {
	return charts.NewFontStyleWithSize(size * d.scale).WithColor(colour)
}

func (d *drawing) fill(b box, colour charts.Color) {
	d.painter.FilledRect(d.at(b.left), d.at(b.top), d.at(b.right), d.at(b.bottom), colour, colour, 0)
}

func (d *drawing) write(text string, x, baseline float64, style charts.FontStyle) {
	d.painter.Text(text, d.at(x), d.at(baseline), 0, style)
}

func (d *drawing) width(text string, style charts.FontStyle) float64 {
	return float64(d.painter.MeasureText(text, 0, style).Width()) / d.scale
}

// heading writes the title and, after it, the names of the lines.
func (d *drawing) heading() {
	x, y := float64(margin), 22.0
	put := func(text string, size float64, colour charts.Color, gap float64) {
		style := d.font(size, colour)
		d.write(text, x, y, style)
		x += d.width(text, style) + gap
	}
	put(d.Title, titleSize, d.strong, 8)
	put(d.Subtitle, labelSize, d.faint, 16)
	for i, line := range d.Lines {
		if line.Name == "" {
			continue
		}
		if x+30+6*float64(len(line.Name)) > float64(d.Width-margin) { // no room is left
			return
		}
		d.fill(box{x, y - 5, x + 14, y - 3}, d.colourOf(i))
		x += 18
		put(line.Name, labelSize, d.text, 14)
	}
}

// colourOf is the colour of a line: that of the last one up to it that has a name.
func (d *drawing) colourOf(line int) charts.Color {
	named := -1
	for _, l := range d.Lines[:line+1] {
		if l.Name != "" {
			named++
		}
	}
	return d.lines[max(0, named)%len(d.lines)]
}

// axes draws the grid and its labels: prices to the right, times below.
func (d *drawing) axes() {
	style := d.font(labelSize, d.faint)
	for _, v := range d.values {
		y := d.y(v)
		d.fill(box{d.plot.left, y, d.plot.right, y + 1}, d.grid)
		d.write(d.label(v), d.plot.right+labelGap, y+labelSize/2-1, style)
	}
	if d.hasVolume() {
		d.fill(box{d.plot.left, d.volume.bottom, d.plot.right, d.volume.bottom + 1}, d.grid)
		d.write(short(d.most), d.plot.right+labelGap, d.volume.top+labelSize, style)
	}
	for i, text := range d.timeLabels() {
		if text != "" {
			d.write(text, d.x(i)-d.width(text, style)/2, float64(d.Height)-margin, style)
		}
	}
}

// volumes draws a column for each bar that has a volume.
func (d *drawing) volumes() {
	for i, b := range d.Bars {
		if d.hasVolume() && b.Volume != nil && b.Volume.Sign() > 0 {
			height := max(1, pixels(*b.Volume)/d.most*d.volume.height())
			d.fill(box{d.x(i) - d.body()/2, d.volume.bottom - height, d.x(i) + d.body()/2, d.volume.bottom}, d.column)
		}
	}
}

// prices draws the bars, as candles or as a line through their last prices.
func (d *drawing) prices() {
	if d.Kind != Candles {
		closes := make([]*schema.Decimal, len(d.Bars))
		for i := range d.Bars {
			closes[i] = &d.Bars[i].Close
		}
		d.line(closes, d.price)
		return
	}
	for i, b := range d.Bars {
		colour := d.up
		if b.Close.Cmp(b.Open) < 0 {
			colour = d.down
		}
		x, open, last := d.x(i), d.y(pixels(b.Open)), d.y(pixels(b.Close))
		d.fill(box{x - 0.5, d.y(pixels(b.High)), x + 0.5, d.y(pixels(b.Low))}, colour)
		top := min(open, last)
		d.fill(box{x - d.body()/2, top, x + d.body()/2, max(open, last, top+1)}, colour)
	}
}

// overlays draws the lines over the prices.
func (d *drawing) overlays() {
	for i, line := range d.Lines {
		d.line(line.Values, d.colourOf(i))
	}
}

// line draws a line through values, which breaks where one is missing. A value alone is
// a dot.
func (d *drawing) line(values []*schema.Decimal, colour charts.Color) {
	var run []charts.Point
	for i := 0; i <= len(values); i++ {
		if i < len(values) && values[i] != nil {
			run = append(run, charts.Point{X: d.at(d.x(i)), Y: d.at(d.y(pixels(*values[i])))})
			continue
		}
		switch {
		case len(run) > 1:
			d.painter.LineStroke(run, colour, lineWidth*d.scale)
		case len(run) == 1:
			d.painter.Dots(run, colour, colour, 0, 1.5*d.scale)
		}
		run = nil
	}
}
