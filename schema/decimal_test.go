package schema_test

import (
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
)

// decimals draws the text of any number that ParseDecimal must read, in plain
// notation, zeros in any place included.
func decimals() *rapid.Generator[string] {
	return rapid.StringMatching(`-?(0|[0-9]{1,18})(\.[0-9]{1,18})?`)
}

func rat(t require.TestingT, text string) *big.Rat {
	r, ok := new(big.Rat).SetString(text)
	require.True(t, ok, text)
	return r
}

// assertEqual also checks that the text has no zeros too many.
func assertEqual(t require.TestingT, want *big.Rat, got schema.Decimal) {
	text := got.String()
	require.Zero(t, want.Cmp(rat(t, text)), "want %s, got %s", want.FloatString(20), text)
	if strings.Contains(text, ".") {
		require.False(t, strings.HasSuffix(text, "0"), text)
	}
	require.NotEqual(t, "-0", text)
}

func TestParseDecimalIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := decimals().Draw(t, "text")
		d, err := schema.ParseDecimal(text)
		require.NoError(t, err)
		assertEqual(t, rat(t, text), d)
		require.Equal(t, d.String(), schema.MustDecimal(d.String()).String())
		require.Equal(t, rat(t, text).Sign(), d.Sign())
	})
}

func TestParseDecimalReadsExponents(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		mantissa := rapid.StringMatching(`-?[0-9]{1,9}(\.[0-9]{1,9})?`).Draw(t, "mantissa")
		text := mantissa + rapid.StringMatching(`[eE]([+-]?[0-9]|-?0[0-9])`).Draw(t, "exponent")
		want := rat(t, text)
		d, err := schema.ParseDecimal(text)
		require.NoError(t, err, text)
		assertEqual(t, want, d)
	})
}

func TestParseDecimal(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"0": "0", "-0": "0", "0.000": "0", "0e9": "0", "+7": "7", "007": "7",
		"185.7500": "185.75", "1.304e-05": "0.00001304", "1E+3": "1000", "-12.5e1": "-125",
		"1e17": "100000000000000000", "1e-18": "0.000000000000000001",
		"123e-20":                           "refused",
		"100e-20":                           "0.000000000000000001",
		"0.1000000000000000000000":          "0.1",
		"0000000000000000000000000001":      "1",
		"0.00000000000000000001e20":         "1",
		"999999999999999999.99999999999999": "999999999999999999.99999999999999",
	} {
		d, err := schema.ParseDecimal(text)
		if want == "refused" {
			assert.ErrorIs(t, err, schema.ErrDecimal, text)
			continue
		}
		if assert.NoError(t, err, text) {
			assert.Equal(t, want, d.String(), text)
		}
	}
}

func TestParseDecimalRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", " ", ".", "-", "+", "--1", "+-1", "1.", ".5", "-.5", "1..2", "1.2.3", " 1", "1 ", "1,5", "1_000",
		"NaN", "nan", "Infinity", "-Inf", "0x1", "0x1p4", "1e", "e5", "1e+", "1e5.5", "1e 5", "1e5e5", "٣",
		"1e999999999", "1e-999999999", "1e65", "1e-65", "1e99999999999999999999999",
		"1000000000000000000", "1e18", "0.1234567890123456789", "1e-19", "1\x00", "null", `"1"`,
		strings.Repeat("9", 1<<20), "0." + strings.Repeat("9", 1<<20),
	} {
		_, err := schema.ParseDecimal(text)
		assert.ErrorIs(t, err, schema.ErrDecimal, "%.40q", text)
		if err != nil {
			assert.Less(t, len(err.Error()), 300, "the error repeats the input")
		}
	}
}

func TestMustDecimalPanics(t *testing.T) {
	t.Parallel()
	assert.Panics(t, func() { schema.MustDecimal("1,5") })
}

func TestAddSubCmpAreExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := decimals().Draw(t, "a"), decimals().Draw(t, "b")
		d, e := schema.MustDecimal(a), schema.MustDecimal(b)
		assertEqual(t, new(big.Rat).Add(rat(t, a), rat(t, b)), d.Add(e))
		assertEqual(t, new(big.Rat).Sub(rat(t, a), rat(t, b)), d.Sub(e))
		require.Equal(t, rat(t, a).Cmp(rat(t, b)), d.Cmp(e))
		require.Zero(t, d.Add(e).Sub(e).Cmp(d))
	})
}

// quoHalfEven is the reference: n/d in units of 10^-18, rounded half-even.
func quoHalfEven(sum *big.Rat, n int) *big.Rat {
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(schema.MaxFractionDigits), nil)
	exact := new(big.Rat).Quo(sum, new(big.Rat).SetInt64(int64(n)))
	exact.Mul(exact, new(big.Rat).SetInt(unit))
	floor := new(big.Int).Div(exact.Num(), exact.Denom()) // Euclidean: rounds down, as the denominator is positive
	rest := new(big.Rat).Sub(exact, new(big.Rat).SetInt(floor))
	up := rest.Cmp(big.NewRat(1, 2))
	if up > 0 || up == 0 && floor.Bit(0) == 1 {
		floor.Add(floor, big.NewInt(1))
	}
	return new(big.Rat).SetFrac(floor, unit)
}

func TestQuoRoundsHalfEven(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := decimals().Draw(t, "text")
		n := rapid.IntRange(1, 1<<20).Draw(t, "n")
		assertEqual(t, quoHalfEven(rat(t, text), n), schema.MustDecimal(text).Quo(n))
	})
}

// A quotient by a power of two of an odd count of units is often an exact tie.
func TestQuoOfTies(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := 1 << rapid.IntRange(1, 10).Draw(t, "log n")
		half := schema.MustDecimal("1e-18")
		units := rapid.IntRange(-4096, 4096).Draw(t, "units")
		sum := schema.Decimal{}
		for range max(units, -units) {
			if units < 0 {
				sum = sum.Sub(half)
			} else {
				sum = sum.Add(half)
			}
		}
		sum = sum.Add(schema.MustDecimal(rapid.StringMatching(`-?[0-9]{1,18}`).Draw(t, "whole")))
		assertEqual(t, quoHalfEven(rat(t, sum.String()), n), sum.Quo(n))
	})
}

func TestQuo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dividend string
		n        int
		want     string
	}{
		{"1", 3, "0.333333333333333333"},
		{"2", 3, "0.666666666666666667"},
		{"-2", 3, "-0.666666666666666667"},
		{"0", 7, "0"},
		{"1e-18", 2, "0"},                    // tie to 0, even
		{"3e-18", 2, "0.000000000000000002"}, // tie to 2, even
		{"5e-18", 2, "0.000000000000000002"}, // tie to 2, even
		{"-1e-18", 2, "0"},                   // and no minus zero
		{"-3e-18", 2, "-0.000000000000000002"},
		{"1e-18", 3, "0"},
		{"2e-18", 3, "0.000000000000000001"},
		{"999999999999999999.999999999999999999", 1, "999999999999999999.999999999999999999"},
		{"999999999999999999.999999999999999999", 2, "500000000000000000"}, // tie, to even
	} {
		assert.Equal(t, c.want, schema.MustDecimal(c.dividend).Quo(c.n).String(), "%s / %d", c.dividend, c.n)
	}
}

func TestQuoPanicsUnlessPositive(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, -1} {
		assert.Panics(t, func() { schema.MustDecimal("1").Quo(n) })
	}
}

// A window of 1,000 of the largest prices needs 39 digits, more than 128 bits.
func TestSumsOfLongPricesAreExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.StringMatching(`[1-9][0-9]{17}\.[0-9]{17}[1-9]`), 1, 5).Draw(t, "prices")
		sum, want := schema.Decimal{}, new(big.Rat)
		for i := range 1000 {
			text := seed[i%len(seed)]
			sum = sum.Add(schema.MustDecimal(text))
			want.Add(want, rat(t, text))
		}
		assertEqual(t, want, sum)
		for _, n := range []int{1000, 999, 7, 512} {
			assertEqual(t, quoHalfEven(want, n), sum.Quo(n))
		}
		// Sums leave the window as they entered it.
		for i := range 1000 {
			sum = sum.Sub(schema.MustDecimal(seed[i%len(seed)]))
		}
		require.Equal(t, "0", sum.String())
	})
}

func TestDecimalJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := decimals().Draw(t, "text")
		d := schema.MustDecimal(text)
		encoded, err := json.Marshal(d)
		require.NoError(t, err)
		require.Equal(t, d.String(), string(encoded), "a number, not a string")
		for _, form := range []string{string(encoded), `"` + text + `"`} {
			var back schema.Decimal
			require.NoError(t, json.Unmarshal([]byte(form), &back))
			require.Zero(t, d.Cmp(back))
		}
		appended, err := d.AppendText([]byte("x"))
		require.NoError(t, err)
		require.Equal(t, "x"+d.String(), string(appended))
	})
	for _, bad := range []string{`null`, `true`, `""`, `"1`, `{}`, `[1]`, `"NaN"`, `"\u0031"`} {
		d := schema.MustDecimal("5")
		assert.Error(t, json.Unmarshal([]byte(bad), &d), bad)
		assert.Equal(t, "5", d.String(), "a failure changed the target")
	}
}

func TestDecimalSQL(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := schema.MustDecimal(decimals().Draw(t, "text"))
		value, err := d.Value()
		require.NoError(t, err)
		for _, src := range []any{value, []byte(value.(string))} {
			var back schema.Decimal
			require.NoError(t, back.Scan(src))
			require.Zero(t, d.Cmp(back))
		}
	})
	for _, c := range []struct {
		src  any
		want string
	}{
		{int64(-7), "-7"},
		{"185.750000000000000000000000", "185.75"},
		{strings.Repeat("9", 21) + ".5", strings.Repeat("9", 21) + ".5"},
		{[]byte("0.00001304"), "0.00001304"},
	} {
		var d schema.Decimal
		require.NoError(t, d.Scan(c.src))
		assert.Equal(t, c.want, d.String())
	}
	for _, bad := range []any{nil, 1.5, true, "", "x", "1.", []byte(nil), strings.Repeat("9", 101), "0.1234567890123456789"} {
		d := schema.MustDecimal("5")
		assert.ErrorIs(t, d.Scan(bad), schema.ErrDecimal, "%v", bad)
		assert.Equal(t, "5", d.String(), "a failure changed the target")
	}
}

// Units and RoundUnits against rationals, whatever the digits.
func TestUnits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?[0-9]{1,18}(\.[0-9]{1,18})?`).Draw(t, "decimal")
		d := schema.MustDecimal(text)
		ten18 := new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil)
		want, _ := new(big.Rat).SetString(text)
		require.Zero(t, want.Cmp(new(big.Rat).SetFrac(d.Units(), ten18)), "the value of the units of %s", text)
		require.Equal(t, d.String(), schema.RoundUnits(d.Units(), big.NewInt(1)).String())

		n := rapid.IntRange(1, 1000).Draw(t, "n")
		require.Equal(t, d.Quo(n).String(), schema.RoundUnits(d.Units(), big.NewInt(int64(n))).String(), "%s / %d", text, n)
		require.Zero(t, want.Mul(want, big.NewRat(int64(n), 1)).Cmp(new(big.Rat).SetFrac(d.Times(n).Units(), ten18)))
	})
}

func TestRoundDecimal(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"185.75":                   "185.75",
		"0.123456789012345678":     "0.123456789012345678",
		"0.00029299999005161226":   "0.000292999990051612",
		"-36.98000000000000000051": "-36.980000000000000001",
		"0.1234567890123456785":    "0.123456789012345678", // a tie, to even
		"0.1234567890123456775":    "0.123456789012345678",
		"-0.1234567890123456785":   "-0.123456789012345678",
		"2.9299999005161226e-04":   "0.00029299999005161226"[:20],
		"1e-30":                    "0",
		"0.99999999999999999999":   "1",
	} {
		d, rounded, err := schema.RoundDecimal(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, d.String(), text)
		_, exact := schema.ParseDecimal(text)
		assert.Equal(t, exact != nil, rounded, text)
	}
	for _, text := range []string{"", ".", "1.", "nan", "1234567890123456789", "999999999999999999.9999999999999999999",
		"-999999999999999999.9999999999999999999", "0." + strings.Repeat("1", 5000), "1e99"} {
		_, _, err := schema.RoundDecimal(text)
		require.ErrorIs(t, err, schema.ErrDecimal, text)
	}
}
