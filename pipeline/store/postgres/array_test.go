package postgres

import (
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// readNumeric reads what numeric_recv reads.
func readNumeric(t *testing.T, b []byte) (value *big.Rat, scale int) {
	t.Helper()
	word := func(i int) int { return int(binary.BigEndian.Uint16(b[2*i:])) }
	require.Len(t, b, 8+2*word(0))
	sum := new(big.Rat)
	for i := range word(0) {
		digit := word(4 + i)
		require.Less(t, digit, 10_000)
		require.False(t, digit == 0 && (i == 0 || i == word(0)-1), "a digit that says nothing")
		power := new(big.Int).Exp(big.NewInt(10_000), new(big.Int).Abs(big.NewInt(int64(int16(word(1))-int16(i)))), nil)
		term := new(big.Rat).SetInt(power)
		if int(int16(word(1))) < i {
			term.Inv(term)
		}
		sum.Add(sum, term.Mul(term, new(big.Rat).SetInt64(int64(digit))))
	}
	if word(2) == 0x4000 {
		require.NotZero(t, sum.Sign(), "there is no -0")
		sum.Neg(sum)
	} else {
		require.Zero(t, word(2))
	}
	return sum, word(3)
}

func TestNumbersKeepAllDigits(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	texts := []string{"0", "-0", "0.0", "0.0001", "0.00001", "-0.000000000000000001", "9999", "10000", "100000000", "1.5", "00012.3400",
		"999999999999999999.999999999999999999"}
	for range 5000 {
		digits := make([]byte, 1+random.IntN(36))
		for i := range digits {
			digits[i] = "0000000123456789"[random.IntN(16)]
		}
		text := string(digits)
		if point := 1 + random.IntN(len(text)); point < len(text) {
			text = text[:point] + "." + text[point:]
		}
		texts = append(texts, strings.Repeat("-", random.IntN(2))+text)
	}
	for _, text := range texts {
		b, ok := addNumeric([]byte("before"), text)
		require.True(t, ok, text)
		got, scale := readNumeric(t, b[len("before"):])
		want, ok := new(big.Rat).SetString(text)
		require.True(t, ok)
		require.Zero(t, want.Cmp(got), "%s is %s", text, got.RatString())
		_, fraction, _ := strings.Cut(text, ".")
		require.Len(t, fraction, scale, text)
	}
	for _, value := range []any{"", "-", ".5", "1e5", "NaN", "+1", "1 ", "1.2.3", "--1", 1.5, int64(1), []byte("1")} {
		_, ok := addNumeric(nil, value)
		assert.False(t, ok, "%v", value)
	}
}

// What has no binary form goes as text, the whole column.
func TestArraysThatAreText(t *testing.T) {
	t.Parallel()
	at := schema.NewTime(time.Unix(1, 0))
	for columnType, values := range map[string][]any{
		"bigint":                   {1, "2"},
		"numeric":                  {schema.MustDecimal("1"), 2},
		"timestamp with time zone": {at, "2024-01-01"},
		"jsonb":                    {"{}"},
		"boolean":                  {true},
	} {
		got, err := arrayOf(columnType, values, 1)
		require.NoError(t, err)
		assert.IsType(t, "", got, columnType)
	}
	for columnType, values := range map[string][]any{
		"bigint":                   {1, nil},
		"numeric":                  {schema.MustDecimal("1"), nil, "2.50"},
		"timestamp with time zone": {at, nil, at.Time},
		"text":                     {"a", []byte("b"), schema.Symbol("c"), nil},
		"bytea":                    {"a", []byte("b"), []byte(nil), schema.RawResponse("c")},
	} {
		got, err := arrayOf(columnType, values, 1)
		require.NoError(t, err)
		assert.IsType(t, []byte(nil), got, columnType)
	}
	_, err := arrayOf("text", []any{struct{}{}}, 1)
	require.Error(t, err)
	for _, null := range []any{nil, []byte(nil), schema.RawResponse(nil)} {
		got, err := arrayOf("bytea", []any{null}, 1)
		require.NoError(t, err)
		assert.Equal(t, []byte("\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x11\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xff"), got, "%T", null)
	}
}

// What both sides hold of one statement is bounded, whatever the values are called.
func TestAStatementIsBounded(t *testing.T) {
	t.Parallel()
	const width, rows = 2, 100
	text := strings.Repeat("x", maxStatement/10)
	for _, large := range []any{text, []byte(text), schema.RawResponse(text), schema.Symbol(text)} {
		values := []any{}
		for i := range rows {
			values = append(values, i, large)
		}
		statements := 0
		for ; len(values) > 0; statements++ {
			n := statementOf(values, width)
			require.Zero(t, n%width)
			require.LessOrEqual(t, n/width, 11)
			values = values[n:]
		}
		assert.Equal(t, rows/10, statements, "%T", large)
	}
}
