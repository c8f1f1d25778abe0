package parquet

import (
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"

	"github.com/pricemill/pricemill/schema"
)

// rowGroup is how many rows are held in memory until they are written.
const rowGroup = 64 << 10

// Writer writes one file. It holds no more than a row group in memory. It is not safe
// for concurrent use.
type Writer struct {
	columns []Column
	out     *parquet.GenericWriter[any]
	row     parquet.Row
}

// NewWriter begins a file with the columns in their order.
func NewWriter(w io.Writer, columns []Column) *Writer {
	root := ordered{Group: parquet.Group{}}
	for _, c := range columns {
		node := c.node()
		root.Group[c.Name] = node
		root.fields = append(root.fields, parquet.Group{c.Name: node}.Fields()[0])
	}
	return &Writer{columns: columns, out: parquet.NewGenericWriter[any](w, parquet.NewSchema("pricemill", root), parquet.Compression(&parquet.Snappy),
		parquet.MaxRowsPerRowGroup(rowGroup), parquet.DataPageVersion(1), parquet.CreatedBy("pricemill", "", ""))}
}

// node is how Parquet describes a column.
func (c Column) node() parquet.Node {
	var node parquet.Node
	switch c.Type {
	case Text:
		node = parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
	case Int:
		node = parquet.Int(64)
	case Decimal:
		node = parquet.Decimal(schema.MaxFractionDigits, Precision, parquet.FixedLenByteArrayType(decimalBytes))
	case Time:
		node = parquet.Timestamp(parquet.Microsecond)
	}
	if c.Optional {
		return parquet.Optional(node)
	}
	return node
}

// ordered is a group whose columns are in the order of a table: the library sorts
// them by name.
type ordered struct {
	parquet.Group
	fields []parquet.Field
}

// Fields implements parquet.Node.
func (o ordered) Fields() []parquet.Field { return o.fields }

// Write writes a row: a value for each column, which is a string, an int64, a
// schema.Decimal or a schema.Time as the column's Type has it, or nil where the column
// is Optional. A decimal of more digits than fit is an error.
func (w *Writer) Write(row ...any) error {
	if len(row) != len(w.columns) {
		return fmt.Errorf("a row of %d values for %d columns", len(row), len(w.columns))
	}
	w.row = w.row[:0]
	for i, c := range w.columns {
		value, err := c.value(row[i])
		if err != nil {
			return fmt.Errorf("column %s: %w", c.Name, err)
		}
		level := 0
		if c.Optional && !value.IsNull() {
			level = 1
		}
		w.row = append(w.row, value.Level(0, level, i))
	}
	_, err := w.out.WriteRows([]parquet.Row{w.row})
	return err
}

func (c Column) value(value any) (parquet.Value, error) {
	if value == nil && c.Optional {
		return parquet.NullValue(), nil
	}
	switch v := value.(type) {
	case string:
		if c.Type == Text {
			return parquet.ByteArrayValue([]byte(v)), nil
		}
	case int64:
		if c.Type == Int {
			return parquet.Int64Value(v), nil
		}
	case schema.Decimal:
		if c.Type == Decimal {
			bytes, err := encodeDecimal(v)
			return parquet.FixedLenByteArrayValue(bytes), err
		}
	case schema.Time:
		if c.Type == Time {
			return parquet.Int64Value(v.UnixMicro()), nil
		}
	}
	return parquet.Value{}, fmt.Errorf("no value of a %T fits", value)
}

// Close writes what is left, and the end of the file. It does not close the
// underlying writer.
func (w *Writer) Close() error { return w.out.Close() }
