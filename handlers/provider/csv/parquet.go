package csv

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"

	"github.com/pricemill/pricemill/schema/parquet"
)

// parquetText is a Parquet file as separated values: a header with the names of the
// columns, and a line for each row. So a Parquet file is read as any other.
type parquetText struct {
	next func() ([]string, error, bool)
	text bytes.Buffer // not yet read
	rows *csv.Writer
	err  error
}

// parquetAsText reads a Parquet file. Close ends reading. A Parquet file describes itself
// at its end, so it is copied to a temporary file first.
func parquetAsText(r io.Reader, given options) (text io.Reader, closeText func(), err error) {
	for _, option := range []string{OptionNoHeader, OptionSkip, OptionDelimiter} {
		if given.given(option) {
			return nil, nil, wrong(option, "a Parquet file says itself what its columns are")
		}
	}
	file, size, remove, err := Spool(r)
	if err != nil {
		return nil, nil, fmt.Errorf("copying the Parquet file: %w", err)
	}
	parsed, err := parquet.Open(io.NewSectionReader(file, 0, size), size) // whose errors name no file
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	t := &parquetText{}
	t.rows = csv.NewWriter(&t.text)
	next, stop := iter.Pull2(parsed.Rows())
	t.next = next
	_ = t.rows.Write(parsed.Columns()) // a buffer takes everything
	return t, func() { stop(); _ = remove() }, nil
}

// Read implements io.Reader.
func (t *parquetText) Read(p []byte) (int, error) {
	for t.text.Len() < len(p) && t.err == nil {
		row, err, more := t.next()
		switch {
		case !more:
			t.err = io.EOF
		case err != nil:
			t.err = err
		default:
			_ = t.rows.Write(row)
		}
		t.rows.Flush()
	}
	if t.text.Len() == 0 {
		return 0, t.err
	}
	return t.text.Read(p)
}

// optionsOfParquet are the options of a file with which its text is read. A price that
// is null is no price.
func optionsOfParquet(given options) options {
	o := maps.Clone(given)
	if o == nil {
		o = options{}
	}
	o[OptionDelimiter] = ","
	if !o.given(OptionMissing) {
		o[OptionMissing] = "NaN"
	}
	return o
}

// Spool copies r to a temporary file, for formats that are read from their end, and
// returns its size. remove closes and removes it.
func Spool(r io.Reader) (file *os.File, size int64, remove func() error, err error) {
	file, err = os.CreateTemp("", "pricemill-*")
	if err != nil {
		return nil, 0, nil, err
	}
	remove = func() error { return errors.Join(file.Close(), os.Remove(file.Name())) }
	if size, err = io.Copy(file, r); err != nil {
		return nil, 0, nil, errors.Join(err, remove())
	}
	return file, size, remove, nil
}
