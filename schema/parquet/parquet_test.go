package parquet_test

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/parquet"
)

var columns = []parquet.Column{{Name: "symbol"}, {Name: "price", Type: parquet.Decimal}, {Name: "at", Type: parquet.Time},
	{Name: "count", Type: parquet.Int}, {Name: "size", Type: parquet.Decimal, Optional: true}, {Name: "absent", Optional: true}}

func write(t require.TestingT, rows ...[]any) []byte {
	var out bytes.Buffer
	w := parquet.NewWriter(&out, columns)
	for _, row := range rows {
		require.NoError(t, w.Write(row...))
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

func read(t require.TestingT, file []byte) (names []string, rows [][]string) {
	f, err := parquet.Open(bytes.NewReader(file), int64(len(file)))
	require.NoError(t, err)
	for row, err := range f.Rows() {
		require.NoError(t, err)
		rows = append(rows, slices.Clone(row))
	}
	return f.Columns(), rows
}

// Every price and every time comes back as it was, and columns keep their order.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var rows [][]any
		var want [][]string
		for range rapid.IntRange(0, 20).Draw(t, "rows") {
			price := rapid.StringMatching(`-?(0|[1-9][0-9]{0,17})(\.[0-9]{0,17}[1-9])?`).Draw(t, "price")
			at := schema.NewTime(time.UnixMicro(rapid.Int64Range(-30_610_224_000_000_000, 253_402_300_799_999_999).Draw(t, "at")))
			symbol, count := rapid.String().Draw(t, "symbol"), rapid.Int64().Draw(t, "count")
			row, text := []any{symbol, schema.MustDecimal(price), at, count, nil, nil}, []string{symbol, schema.MustDecimal(price).String(), at.Format(time.RFC3339Nano), fmt.Sprint(count), "", ""}
			if rapid.Bool().Draw(t, "sized") {
				row[4], text[4] = row[1], text[1]
			}
			rows, want = append(rows, row), append(want, text)
		}
		names, got := read(t, write(t, rows...))
		assert.Equal(t, []string{"symbol", "price", "at", "count", "size", "absent"}, names)
		assert.Equal(t, want, got)
	})
}

func TestWriteRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := parquet.NewWriter(&out, columns)
	now := schema.NewTime(time.Unix(0, 0))
	big := schema.MustDecimal("999999999999999999.999999999999999999")
	require.NoError(t, w.Write("A", big, now, int64(1), nil, nil))
	for want, row := range map[string][]any{
		"a row of 1 values for 6 columns":           {"A"},
		"column price: 1999999999999999999.999":     {"A", big.Add(schema.MustDecimal("999999999999999999")).Add(schema.MustDecimal("1")), now, int64(1), nil, nil},
		"column price: no value of a float64 fits":  {"A", 1.5, now, int64(1), nil, nil},
		"column symbol: no value of a <nil> fits":   {nil, big, now, int64(1), nil, nil},
		"column at: no value of a schema.Decimal f": {"A", big, big, int64(1), nil, nil},
	} {
		assert.ErrorContains(t, w.Write(row...), want)
	}
	require.NoError(t, w.Close())
	_, rows := read(t, out.Bytes())
	assert.Len(t, rows, 1, "what was refused is not in the file")
}

// However many rows there are, no more than a few pages of them are in memory.
func TestMemoryIsBounded(t *testing.T) {
	const rows = 200_000
	var out bytes.Buffer
	w := parquet.NewWriter(&out, columns)
	price, at := schema.MustDecimal("1"), schema.NewTime(time.Unix(0, 0))
	highest, most := uint64(0), func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc - uint64(out.Cap())
	}
	before := most()
	for i := range rows {
		price = price.Add(schema.MustDecimal("0.000000000000012347"))
		require.NoError(t, w.Write("SYMBOL", price, at, int64(i), price, nil))
		if i%50_000 == 49_999 {
			highest = max(highest, most()-before)
		}
	}
	require.NoError(t, w.Close())
	assert.Less(t, highest, uint64(48<<20), "while writing")
	file, err := parquet.Open(bytes.NewReader(out.Bytes()), int64(out.Len()))
	require.NoError(t, err)
	before, highest = most(), 0
	count := 0
	for _, err := range file.Rows() {
		require.NoError(t, err)
		if count++; count%50_000 == 0 {
			if now := most(); now > before {
				highest = max(highest, now-before)
			}
		}
	}
	assert.Equal(t, rows, count)
	assert.Less(t, highest, uint64(16<<20), "while reading")
}

// A damaged file gives an error or other values, and neither a panic nor rows without
// an end.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	price := schema.MustDecimal("185.75")
	var rows [][]any
	for i := range 300 {
		rows = append(rows, []any{fmt.Sprint("S", i%7), price, schema.NewTime(time.Unix(int64(i), 0)), int64(i), price, nil})
	}
	whole := write(t, rows...)
	look := func(file []byte) {
		f, err := parquet.Open(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		count := 0
		for _, err := range f.Rows() {
			if count++; err != nil || count > 10*len(rows) {
				break
			}
		}
	}
	for end := 0; end < len(whole); end += 11 {
		look(whole[:end])
	}
	rapid.Check(t, func(t *rapid.T) {
		damaged := slices.Clone(whole)
		for range rapid.IntRange(1, 4).Draw(t, "damages") {
			damaged[rapid.IntRange(0, len(whole)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
		look(damaged)
	})
	_, err := parquet.Open(bytes.NewReader(whole[:len(whole)-1]), int64(len(whole)-1))
	assert.ErrorContains(t, err, "the Parquet file is damaged")
}
