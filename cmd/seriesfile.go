package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/parquet"
)

// Outputs of a series that are files, as the API writes them too.
const csvOutput, parquetOutput = "csv", "parquet"

// seriesFile is what writes an output that is a file; nil for those that print.
func seriesFile(output string) func(io.Writer, []parquet.Column) httpapi.TableWriter {
	switch output {
	case csvOutput:
		return httpapi.NewCSV
	case parquetOutput:
		return func(w io.Writer, columns []parquet.Column) httpapi.TableWriter { return parquet.NewWriter(w, columns) }
	}
	return nil
}

// readItem reads an item of a list, with its numbers as they are written.
func readItem(item json.RawMessage) (map[string]any, error) {
	var row map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(item)))
	decoder.UseNumber()
	if err := decoder.Decode(&row); err != nil {
		return nil, errors.Join(errors.New("the answer is not what this version reads"), err)
	}
	return row, nil
}

// writeItems writes items as rows.
func writeItems(table httpapi.TableWriter, items []json.RawMessage, columns []parquet.Column) error {
	for _, item := range items {
		found, err := readItem(item)
		if err != nil {
			return err
		}
		row := make([]any, len(columns))
		for i, c := range columns {
			if row[i], err = typed(found[c.Name], c.Type); err != nil {
				return fmt.Errorf("reading %s of an answer: %w", c.Name, err)
			}
		}
		if err := table.Write(row...); err != nil {
			return err
		}
	}
	return nil
}

// typed is a value of an item as a column holds it.
func typed(value any, t parquet.Type) (any, error) {
	if value == nil {
		return nil, nil
	}
	text := fmt.Sprint(value)
	switch t {
	case parquet.Int:
		return json.Number(text).Int64()
	case parquet.Decimal:
		var d schema.Decimal
		err := d.UnmarshalJSON([]byte(text))
		return d, err
	case parquet.Time:
		return schema.ParseTime(text)
	}
	return text, nil
}
