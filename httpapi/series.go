package httpapi

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/parquet"
)

// Types of a page of a series.
const (
	csvMedia   = "text/csv"
	csvContent = "text/csv; charset=utf-8; header=present"
)

// Columns that series have in common.
var (
	symbolColumn    = parquet.Column{Name: "symbol", Type: parquet.Text}
	providerColumn  = parquet.Column{Name: "provider", Type: parquet.Text}
	timestampColumn = parquet.Column{Name: "timestamp", Type: parquet.Time}
)

// PriceColumns are those of GET history.
func PriceColumns() []parquet.Column {
	return []parquet.Column{symbolColumn, providerColumn, {Name: "price", Type: parquet.Decimal}, timestampColumn,
		{Name: "received_at", Type: parquet.Time}}
}

// IndicatorColumns are those of GET indicators/{indicator}: parameters are the names of
// those that each point repeats.
func IndicatorColumns(parameters []string, values []projections.Column) []parquet.Column {
	columns := []parquet.Column{symbolColumn, providerColumn}
	for _, name := range parameters {
		columns = append(columns, parquet.Column{Name: name, Type: parquet.Text})
	}
	columns = append(columns, timestampColumn)
	types := map[projections.ColumnType]parquet.Type{projections.DecimalColumn: parquet.Decimal, projections.IntColumn: parquet.Int,
		projections.TimeColumn: parquet.Time, projections.TextColumn: parquet.Text}
	for _, v := range values {
		columns = append(columns, parquet.Column{Name: v.Name, Type: types[v.Type], Optional: v.Nullable})
	}
	return columns
}

func namesOf(columns []parquet.Column) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	return names
}

// seriesItem is a line of a series.
type seriesItem interface {
	// row is a value for each column, of the types that parquet.Writer takes.
	row() []any
}

// writeSeries writes a page as the client wants it.
func writeSeries[T seriesItem](w http.ResponseWriter, r *http.Request, page listBody[T], columns []parquet.Column) error {
	vary(w.Header(), "Accept")
	vary(w.Header(), "Accept-Encoding")
	linkNext(w, r, page.NextCursor)
	var out bytes.Buffer
	var table TableWriter
	media := preferred(r, csvMedia, parquet.Media)
	switch media {
	case csvMedia:
		media, table = csvContent, NewCSV(&out, columns)
	case parquet.Media:
		table = parquet.NewWriter(&out, columns)
	default:
		text, err := encode(page)
		if err != nil {
			return err
		}
		writePacked(w, r, jsonContent, text)
		return nil
	}
	for _, item := range page.Items {
		if err := table.Write(item.row()...); err != nil {
			return fmt.Errorf("writing %s: %w", media, err)
		}
	}
	if err := table.Close(); err != nil {
		return fmt.Errorf("writing %s: %w", media, err)
	}
	writePacked(w, r, media, out.Bytes())
	return nil
}

// TableWriter writes the rows of a table in some form.
type TableWriter interface {
	// Write writes a row, of the values that parquet.Writer takes.
	Write(row ...any) error
	// Close writes what is left. It does not close the underlying writer.
	Close() error
}

// csvWriter writes RFC 4180. A symbol may begin with =, which a spreadsheet takes for a
// formula, but holds no parenthesis, quote or bar that would let it call anything: so it
// is left as it is.
type csvWriter struct {
	lines  *csv.Writer
	fields []string
}

// NewCSV begins a table of comma-separated values with its header. Times have six digits
// after the second, so that all of a column are written alike.
func NewCSV(w io.Writer, columns []parquet.Column) TableWriter {
	c := &csvWriter{lines: csv.NewWriter(w), fields: namesOf(columns)}
	c.lines.UseCRLF = true
	_ = c.lines.Write(c.fields) // the error comes again
	return c
}

// Write implements TableWriter.
func (c *csvWriter) Write(row ...any) error {
	c.fields = c.fields[:0]
	for _, value := range row {
		text := ""
		switch v := value.(type) {
		case nil:
		case string:
			text = v
		case int64:
			text = strconv.FormatInt(v, 10)
		case schema.Decimal:
			text = v.String()
		case schema.Time:
			text = v.Text()
		default:
			return fmt.Errorf("no column holds a %T", value)
		}
		c.fields = append(c.fields, text)
	}
	return c.lines.Write(c.fields)
}

// Close implements TableWriter.
func (c *csvWriter) Close() error {
	c.lines.Flush()
	return c.lines.Error()
}
