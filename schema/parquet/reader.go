package parquet

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// errDamaged is wrapped where a file cannot be read. The library's own error is not: it
// may be io.EOF, which callers would take for the end of a file.
var errDamaged = errors.New("the Parquet file is damaged, or of a kind that is not read")

// File is a Parquet file that is being read. It is not safe for concurrent use.
type File struct {
	file    *parquet.File
	columns []column
}

// column is one that has a single value in each row.
type column struct {
	name string
	at   int
	text func(parquet.Value) (string, error)
}

// Open reads the description of a file. Columns that hold lists are left out.
func Open(r io.ReaderAt, size int64) (f *File, err error) {
	defer recovered(&err)
	file, err := parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errDamaged, err)
	}
	f = &File{file: file}
	for _, path := range file.Schema().Columns() {
		leaf, found := file.Schema().Lookup(path...)
		if !found || leaf.MaxRepetitionLevel > 0 {
			continue
		}
		f.columns = append(f.columns, column{strings.Join(path, "."), leaf.ColumnIndex, texter(leaf.Node.Type())})
	}
	return f, nil
}

// recovered makes an error of a panic: the library panics on some damaged files.
func recovered(err *error) {
	if fault := recover(); fault != nil {
		*err = fmt.Errorf("%w: %v", errDamaged, fault)
	}
}

// Columns are the names of the columns; those of a column within another are joined
// by points.
func (f *File) Columns() []string {
	names := make([]string, len(f.columns))
	for i, c := range f.columns {
		names[i] = c.name
	}
	return names
}

// Rows are the rows as texts, as a file of separated values would have them: decimals
// with all their digits, floats with the fewest digits that tell them apart, times in
// ISO 8601, with a Z where the file says that they are of UTC. What is null or not a
// number is empty. A row is valid until the next. An error is the last.
func (f *File) Rows() iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		for _, group := range f.file.RowGroups() {
			if more, err := f.rows(group, yield); err != nil {
				yield(nil, err)
				return
			} else if !more {
				return
			}
		}
	}
}

// rows yields the rows of a row group, and reports whether more are wanted. It reads
// page by page.
func (f *File) rows(group parquet.RowGroup, yield func([]string, error) bool) (more bool, err error) {
	chunks := group.ColumnChunks()
	cursors := make([]*cursor, len(f.columns))
	for i, c := range f.columns {
		cursors[i] = &cursor{column: c, values: parquet.NewColumnChunkValueReader(chunks[c.at])}
		defer func() { err = errors.Join(err, cursors[i].values.Close()) }()
	}
	row := make([]string, len(f.columns))
	for range group.NumRows() {
		for i, c := range cursors {
			if row[i], err = c.next(); err != nil {
				return false, fmt.Errorf("column %q: %w", c.name, err)
			}
		}
		if !yield(row, nil) {
			return false, nil
		}
	}
	return true, nil
}

// cursor reads the values of a column in a row group.
type cursor struct {
	column
	values parquet.ColumnChunkValueReader
	buffer [256]parquet.Value
	rest   []parquet.Value
}

func (c *cursor) next() (text string, err error) {
	defer recovered(&err)
	for len(c.rest) == 0 {
		n, err := c.values.ReadValues(c.buffer[:])
		if c.rest = c.buffer[:n]; n > 0 {
			break // an error comes again
		}
		if err != nil {
			return "", fmt.Errorf("%w: %v", errDamaged, err)
		}
	}
	value := c.rest[0]
	c.rest = c.rest[1:]
	if value.IsNull() {
		return "", nil
	}
	return c.text(value)
}

// texter is how the values of a type are written.
func texter(t parquet.Type) func(parquet.Value) (string, error) {
	if logical := t.LogicalType(); logical != nil {
		switch l := logical.Value.(type) {
		case *format.DecimalType:
			return func(v parquet.Value) (string, error) { return decimalText(unscaled(v), int(l.Scale)), nil }
		case *format.TimestampType:
			layout := "2006-01-02T15:04:05.999999999"
			if l.IsAdjustedToUTC {
				layout += "Z"
			}
			return func(v parquet.Value) (string, error) { return since(v.Int64(), l.Unit).Format(layout), nil }
		case *format.TimeType:
			return func(v parquet.Value) (string, error) {
				n := int64(v.Int32())
				if v.Kind() == parquet.Int64 {
					n = v.Int64()
				}
				return since(n, l.Unit).Format("15:04:05.999999999"), nil
			}
		case *format.DateType:
			return func(v parquet.Value) (string, error) {
				return time.Unix(int64(v.Int32())*secondsOfDay, 0).UTC().Format(time.DateOnly), nil
			}
		case *format.IntType:
			if !l.IsSigned {
				return func(v parquet.Value) (string, error) {
					if v.Kind() == parquet.Int32 {
						return strconv.FormatUint(uint64(v.Uint32()), 10), nil
					}
					return strconv.FormatUint(v.Uint64(), 10), nil
				}
			}
		}
	}
	return plainText
}

// plainText writes a value of a type that says no more than how it is stored.
func plainText(v parquet.Value) (string, error) {
	switch v.Kind() {
	case parquet.Boolean:
		return strconv.FormatBool(v.Boolean()), nil
	case parquet.Int32:
		return strconv.FormatInt(int64(v.Int32()), 10), nil
	case parquet.Int64:
		return strconv.FormatInt(v.Int64(), 10), nil
	case parquet.Int96:
		return julian(v), nil
	case parquet.Float:
		return floatText(float64(v.Float()), 32), nil
	case parquet.Double:
		return floatText(v.Double(), 64), nil
	}
	if text := v.ByteArray(); utf8.Valid(text) {
		return string(text), nil
	}
	return "", errors.New("bytes that are no text")
}

// floatText is the shortest text that reads back as the same float; empty for NaN.
func floatText(f float64, bits int) string {
	if f != f {
		return ""
	}
	return strconv.FormatFloat(f, 'g', -1, bits)
}

// unscaled is the whole number of a decimal.
func unscaled(v parquet.Value) *big.Int {
	switch v.Kind() {
	case parquet.Int32:
		return big.NewInt(int64(v.Int32()))
	case parquet.Int64:
		return big.NewInt(v.Int64())
	}
	bytes := v.ByteArray()
	n := new(big.Int).SetBytes(bytes)
	if len(bytes) > 0 && bytes[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(bytes))))
	}
	return n
}

// decimalText is n / 10^scale. Zeros at the end tell nothing, and are left out.
func decimalText(n *big.Int, scale int) string {
	digits := new(big.Int).Abs(n).String()
	if missing := scale + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	whole, fraction := digits[:len(digits)-scale], strings.TrimRight(digits[len(digits)-scale:], "0")
	if n.Sign() < 0 {
		whole = "-" + whole
	}
	if fraction == "" {
		return whole
	}
	return whole + "." + fraction
}

const secondsOfDay = 24 * 60 * 60

// since is an instant by its distance from 1970.
func since(n int64, unit format.TimeUnit) time.Time {
	switch unit.Value.(type) {
	case *format.MilliSeconds:
		return time.UnixMilli(n).UTC()
	case *format.MicroSeconds:
		return time.UnixMicro(n).UTC()
	}
	return time.Unix(0, n).UTC()
}

// julian reads the times of older programs: nanoseconds of a day, and its Julian
// number. They have no zone.
func julian(v parquet.Value) string {
	const julianOf1970 = 2440588
	i := v.Int96()
	nanos := int64(i[1])<<32 | int64(i[0])
	return time.Unix((int64(i[2])-julianOf1970)*secondsOfDay, nanos).UTC().Format("2006-01-02T15:04:05.999999999")
}
