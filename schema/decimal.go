package schema

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/quagmt/udecimal"
)

// Limits of a price as it comes from outside. Computed values (sums, averages)
// may have more integer digits, never more fractional ones.
const (
	MaxIntegerDigits  = 18
	MaxFractionDigits = 18
)

// ErrDecimal is wrapped by every failure to read a decimal.
var ErrDecimal = errors.New("not an exact decimal")

// Decimal is an exact decimal number with at most MaxFractionDigits fractional
// digits. The zero value is 0. It is immutable, so it may be shared freely.
//
// On the wire it is a JSON number written digit by digit, never by way of a
// float; in SQL it is text that the engine keeps exactly.
type Decimal struct{ d udecimal.Decimal }

// priceLimit is 10^MaxIntegerDigits: the least number with too many digits.
var priceLimit = Decimal{udecimal.MustFromUint64(1_000_000_000_000_000_000, 0)}

// ParseDecimal reads plain or exponent notation ("185.75", "-2", "1.304e-05"),
// as JSON numbers have it. More than MaxIntegerDigits before the point or more
// than MaxFractionDigits significant ones after it is an error: a price is
// refused rather than rounded. So is an exponent beyond ±64.
func ParseDecimal(s string) (Decimal, error) { return parseDecimal(s, MaxIntegerDigits) }

func parseDecimal(s string, maxInteger int) (Decimal, error) {
	n, err := readNotation(s)
	if err == nil && (len(n.whole) > maxInteger || len(n.fraction) > MaxFractionDigits) {
		err = tooManyDigits(maxInteger)
	}
	if err != nil {
		return Decimal{}, fmt.Errorf("reading %q: %w", shorten(s), err)
	}
	d, err := udecimal.Parse(n.plain())
	if err != nil {
		return Decimal{}, fmt.Errorf("reading %q: %w: %w", shorten(s), ErrDecimal, err)
	}
	return Decimal{d}, nil
}

// parseShort reads what most prices are, a JSON number in plain notation of at most 18
// digits, as ParseDecimal reads it; false for anything else.
func parseShort(text []byte) (Decimal, bool) {
	negative := len(text) > 0 && text[0] == '-'
	digits := text
	if negative {
		digits = text[1:]
	}
	if len(digits) == 0 || len(digits) > MaxIntegerDigits+len(".") {
		return Decimal{}, false
	}
	coefficient, point := uint64(0), -1
	for i, c := range digits {
		switch {
		case c >= '0' && c <= '9':
			coefficient = coefficient*10 + uint64(c-'0')
		case c == '.' && point < 0 && i > 0 && i < len(digits)-1:
			point = i
		default:
			return Decimal{}, false
		}
	}
	fraction := 0
	if point < 0 && len(digits) > MaxIntegerDigits {
		return Decimal{}, false
	}
	if point >= 0 {
		for fraction = len(digits) - 1 - point; fraction > 0 && coefficient%10 == 0; fraction-- {
			coefficient /= 10
		}
	}
	d, err := udecimal.NewFromHiLo(negative, 0, coefficient, uint8(fraction))
	return Decimal{d}, err == nil
}

// maxRoundedDigits bounds the fraction that RoundDecimal reads: far above what
// prints a float.
const maxRoundedDigits = 2000

// RoundDecimal is ParseDecimal for numbers with more than MaxFractionDigits after
// the point, as programs print floats: it rounds them half-even, and reports
// whether it had to.
func RoundDecimal(s string) (d Decimal, rounded bool, err error) {
	n, err := readNotation(s)
	switch {
	case err == nil && len(n.fraction) <= MaxFractionDigits:
		d, err = ParseDecimal(s)
		return d, false, err
	case err == nil && (len(n.whole) > MaxIntegerDigits || len(n.fraction) > maxRoundedDigits):
		err = tooManyDigits(MaxIntegerDigits)
	}
	if err != nil {
		return Decimal{}, false, fmt.Errorf("reading %q: %w", shorten(s), err)
	}
	digits, _ := new(big.Int).SetString(n.sign+n.whole+n.fraction, 10) // digits only
	beyond := big.NewInt(int64(len(n.fraction) - MaxFractionDigits))
	d = RoundUnits(digits, beyond.Exp(big.NewInt(10), beyond, nil))
	if d.Cmp(priceLimit) >= 0 || (Decimal{}).Sub(d).Cmp(priceLimit) >= 0 {
		return Decimal{}, false, fmt.Errorf("reading %q: %w", shorten(s), tooManyDigits(MaxIntegerDigits))
	}
	return d, true, nil
}

func tooManyDigits(maxInteger int) error {
	return fmt.Errorf("%w: more than %d digits before or %d after the point", ErrDecimal, maxInteger, MaxFractionDigits)
}

// MustDecimal is ParseDecimal for constants in code and tests; it panics.
func MustDecimal(s string) Decimal {
	d, err := ParseDecimal(s)
	if err != nil {
		panic(err)
	}
	return d
}

func splitExponent(s string) (mantissa string, exponent int, err error) {
	mantissa = s
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa = s[:i]
		// The bound keeps "1e999999999" from becoming a gigabyte of zeros.
		exponent, err = strconv.Atoi(s[i+1:])
		if err != nil || exponent > 64 || exponent < -64 {
			return "", 0, fmt.Errorf("%w: exponent out of range", ErrDecimal)
		}
	}
	return mantissa, exponent, nil
}

// notation is a number in plain notation without insignificant zeros.
type notation struct{ sign, whole, fraction string }

func (n notation) plain() string {
	whole := n.whole
	if whole == "" {
		whole = "0"
	}
	if n.fraction == "" {
		return n.sign + whole
	}
	return n.sign + whole + "." + n.fraction
}

// readNotation reads plain or exponent notation, of any number of digits.
func readNotation(s string) (n notation, err error) {
	digits, exponent, err := splitExponent(s)
	if err != nil {
		return notation{}, err
	}
	if strings.HasPrefix(digits, "-") || strings.HasPrefix(digits, "+") {
		if digits[0] == '-' {
			n.sign = "-"
		}
		digits = digits[1:]
	}
	whole, fraction, hasPoint := strings.Cut(digits, ".")
	if whole == "" || (hasPoint && fraction == "") || !allDigits(whole) || !allDigits(fraction) {
		return notation{}, ErrDecimal
	}
	if exponent > 0 {
		fraction += strings.Repeat("0", max(0, exponent-len(fraction)))
		whole, fraction = whole+fraction[:exponent], fraction[exponent:]
	} else if exponent < 0 {
		whole = strings.Repeat("0", max(0, -exponent-len(whole)+1)) + whole
		cut := len(whole) + exponent
		whole, fraction = whole[:cut], whole[cut:]+fraction
	}
	n.whole, n.fraction = strings.TrimLeft(whole, "0"), strings.TrimRight(fraction, "0")
	return n, nil
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func shorten(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// String is the number in plain notation, trailing zeros cut.
func (d Decimal) String() string { return d.d.String() }

// Add returns d + e, exactly.
func (d Decimal) Add(e Decimal) Decimal { return Decimal{d.d.Add(e.d)} }

// Sub returns d − e, exactly.
func (d Decimal) Sub(e Decimal) Decimal { return Decimal{d.d.Sub(e.d)} }

// Cmp is -1, 0 or +1 as d is less than, equal to or greater than e.
func (d Decimal) Cmp(e Decimal) int { return d.d.Cmp(e.d) }

// Sign is -1, 0 or +1.
func (d Decimal) Sign() int { return d.d.Sign() }

// IsZero reports whether d is 0, however it was computed; encoding/json asks it
// for fields with omitzero.
func (d Decimal) IsZero() bool { return d.d.IsZero() }

// Times returns d · n, exactly; n must not be negative.
func (d Decimal) Times(n int) Decimal {
	if n < 0 {
		panic("schema: Times of a negative count")
	}
	return Decimal{d.d.Mul64(uint64(n))}
}

// Units is d in units of the last place, d · 10^MaxFractionDigits: a whole number,
// with which what a Decimal cannot hold, such as a product, is computed exactly.
func (d Decimal) Units() *big.Int {
	units, ok := new(big.Int).SetString(strings.Replace(d.d.StringFixed(MaxFractionDigits), ".", "", 1), 10)
	if !ok {
		panic("schema: a decimal without digits: " + d.String())
	}
	return units
}

// RoundUnits is numerator / denominator in units of the last place, rounded
// half-even. The denominator must be positive.
func RoundUnits(numerator, denominator *big.Int) Decimal {
	quotient, remainder := new(big.Int).DivMod(numerator, denominator, new(big.Int)) // remainder ≥ 0
	switch remainder.Lsh(remainder, 1).Cmp(denominator) {
	case 1:
		quotient.Add(quotient, one)
	case 0:
		quotient.Add(quotient, new(big.Int).SetUint64(uint64(quotient.Bit(0))))
	}
	text := quotient.String()
	sign := ""
	if text[0] == '-' {
		sign, text = "-", text[1:]
	}
	text = strings.Repeat("0", max(0, MaxFractionDigits+1-len(text))) + text
	point := len(text) - MaxFractionDigits
	d, err := parseDecimal(sign+text[:point]+"."+text[point:], maxComputedDigits)
	if err != nil {
		panic(err) // only beyond maxComputedDigits
	}
	return d
}

var one = big.NewInt(1)

// Quo returns d / n rounded half-even to MaxFractionDigits; n must be positive.
func (d Decimal) Quo(n int) Decimal {
	if n <= 0 {
		panic("schema: Quo of a count that is not positive")
	}
	// The library truncates a quotient after its 19th digit, which is not
	// enough to tell a tie from a little more than one. So truncate to 18
	// here, and let the exact remainder decide.
	quotient, err := d.d.Div64(uint64(n))
	if err != nil {
		panic(err) // n is not zero: the library has no other error
	}
	q := quotient.Trunc(MaxFractionDigits)
	unit := ulp
	if d.d.Sign() < 0 {
		unit = unit.Neg()
	}
	twice := d.d.Sub(q.Mul64(uint64(n))).Abs().Mul64(2)
	switch twice.Cmp(ulp.Mul64(uint64(n))) {
	case 1:
		q = q.Add(unit)
	case 0:
		if odd(q) {
			q = q.Add(unit)
		}
	}
	return Decimal{q}
}

// ulp is one unit in the last kept place.
var ulp = udecimal.MustFromUint64(1, MaxFractionDigits)

func odd(q udecimal.Decimal) bool {
	text := q.StringFixed(MaxFractionDigits)
	return (text[len(text)-1]-'0')%2 == 1
}

// MarshalJSON writes a JSON number.
func (d Decimal) MarshalJSON() ([]byte, error) { return d.appendText(nil), nil }

// AppendText appends the number in plain notation.
func (d Decimal) AppendText(b []byte) ([]byte, error) { return d.appendText(b), nil }

func (d Decimal) appendText(b []byte) []byte {
	b, err := d.d.AppendText(b)
	if err != nil {
		panic("schema: a decimal without text: " + err.Error()) // the library has no error
	}
	return b
}

// UnmarshalJSON reads a JSON number, or a string that holds one.
func (d *Decimal) UnmarshalJSON(data []byte) error {
	if parsed, ok := parseShort(data); ok {
		*d = parsed
		return nil
	}
	text := string(data)
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	parsed, err := ParseDecimal(text)
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// Value implements driver.Valuer.
func (d Decimal) Value() (driver.Value, error) { return d.String(), nil }

// maxComputedDigits bounds the integer digits of a column: far above any sum
// of prices, and below what the decimal library takes.
const maxComputedDigits = 100

// Scan implements sql.Scanner. Columns hold computed values too, so more than
// MaxIntegerDigits are fine. A float is refused: the column lost the digits.
func (d *Decimal) Scan(src any) error {
	var text string
	switch v := src.(type) {
	case string:
		text = v
	case []byte:
		text = string(v)
	case int64:
		text = strconv.FormatInt(v, 10)
	default:
		return fmt.Errorf("reading a column of type %T: %w", src, ErrDecimal)
	}
	parsed, err := parseDecimal(text, maxComputedDigits)
	if err != nil {
		return fmt.Errorf("reading a column: %w", err)
	}
	*d = parsed
	return nil
}
