package dashboard

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// StaleAfter is the age from which on a price is marked as stale.
const StaleAfter = 15 * time.Minute

// minus is the sign of negative numbers in tables, as wide as a plus.
const minus = "−"

// Direction is the way of a change, for colours.
type Direction string

// The directions.
const (
	Up   Direction = "up"
	Down Direction = "down"
	Flat Direction = "flat"
)

// Change is what became of a price since an earlier one.
type Change struct {
	// Reference is the earlier price. Zero where Since is.
	Reference schema.Decimal
	Since     schema.Time
	// Text is such as "+1.25", Percent such as "+0.68 %".
	Text, Percent string
	Direction     Direction
}

// NewChange compares a price with an earlier one, with at least so many digits.
func NewChange(price, reference schema.Decimal, since schema.Time, to int) Change {
	difference := price.Sub(reference)
	c := Change{Reference: reference, Since: since, Text: signed(fixed(difference, max(to, digits(price), digits(reference)))), Direction: Flat}
	switch difference.Sign() {
	case 1:
		c.Direction = Up
	case -1:
		c.Direction = Down
	}
	if !reference.IsZero() {
		ratio := new(big.Rat).SetFrac(difference.Units(), new(big.Int).Abs(reference.Units()))
		c.Percent = signed(ratio.Mul(ratio, big.NewRat(100, 1)).FloatString(2)) + " %"
	}
	return c
}

// signed gives a number its sign.
func signed(number string) string {
	if rest, negative := strings.CutPrefix(number, "-"); negative {
		return minus + rest
	}
	if strings.Trim(number, "0.") == "" {
		return number
	}
	return "+" + number
}

// NewFigure shows a value with two digits more than prices have.
func NewFigure(value schema.Decimal, ofPrices int) Figure {
	return Figure{strings.Replace(fixed(value, min(maxDigits, ofPrices+2)), "-", minus, 1), value.String()}
}

// maxDigits is how many digits a decimal has after the point, at the most.
const maxDigits = 18

// one is a decimal's 1 in its units.
var one = new(big.Int).Exp(big.NewInt(10), big.NewInt(maxDigits), nil)

// fixed writes a decimal with so many digits after the point.
func fixed(d schema.Decimal, digits int) string {
	return new(big.Rat).SetFrac(d.Units(), one).FloatString(digits)
}

// Padded writes a price with so many digits after the point, if it has no more, so that
// the points of a column stand below each other.
func Padded(price schema.Decimal, to int) string { return fixed(price, max(to, digits(price))) }

// Digits is how many digits after the point the prices of a column need.
func Digits(prices ...schema.Decimal) int {
	most := 0
	for _, p := range prices {
		most = max(most, digits(p))
	}
	return most
}

// digits is how many digits a decimal has after the point.
func digits(d schema.Decimal) int {
	_, fraction, _ := strings.Cut(d.String(), ".")
	return len(fraction)
}

// Age says how old something is: "now", "12 s", "3 min", "5 h", "2 d".
func Age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}

// The box of a sparkline.
const (
	SparklineWidth  = 96
	SparklineHeight = 24
)

// Sparkline is the points of a line through prices, the newest first, in a box of
// SparklineWidth and SparklineHeight. Heights are pixels, for which floats will do.
func Sparkline(newestFirst []schema.Decimal) string {
	if len(newestFirst) < 2 {
		return ""
	}
	heights := make([]float64, len(newestFirst))
	low, high := 0.0, 0.0
	for i := range heights {
		h, _ := strconv.ParseFloat(newestFirst[len(newestFirst)-1-i].String(), 64) // a decimal is always a number
		if heights[i] = h; i == 0 {
			low, high = h, h
		}
		low, high = min(low, h), max(high, h)
	}
	var out strings.Builder
	for i, h := range heights {
		y := SparklineHeight / 2.0
		if high > low {
			y = 1 + (SparklineHeight-2)*(high-h)/(high-low)
		}
		fmt.Fprintf(&out, "%.1f,%.1f ", float64(i)*SparklineWidth/float64(len(heights)-1), y)
	}
	return strings.TrimSpace(out.String())
}
