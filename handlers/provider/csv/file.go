package csv

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// file reads rows with their text.
type file struct {
	text    *recorder
	rows    *csv.Reader
	skipped int // lines before the first row
	line    int // where the row read last begins

	first *record // that was read by peek
}

type record struct {
	fields []string
	row    []byte
	line   int
	err    error
}

func newFile(start *bufio.Reader, skip int, delimiter rune) *file {
	for range skip {
		skipLine(start)
	}
	text := &recorder{r: start}
	rows := csv.NewReader(text)
	rows.ReuseRecord, rows.Comma = true, delimiter
	return &file{text: text, rows: rows, skipped: skip}
}

// skipLine skips a line. An error comes again.
func skipLine(r *bufio.Reader) {
	for {
		if _, err := r.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// peek is the first row, which next gives as well; nil where there is none.
func (f *file) peek() []string {
	fields, row, err := f.next()
	f.first = &record{slices.Clone(fields), bytes.Clone(row), f.line, err}
	return f.first.fields
}

// next reads a row: its fields, and its bytes without the end of the line, both
// until the next call.
func (f *file) next() (fields []string, row []byte, err error) {
	if first := f.first; first != nil {
		f.first, f.line = nil, first.line
		return first.fields, first.row, first.err
	}
	fields, err = f.rows.Read()
	end := f.rows.InputOffset()
	var wrong *csv.ParseError
	switch {
	case errors.As(err, &wrong) && f.text.broken(end):
		err = f.text.err // the row is wrong because the file ends in it
	case errors.As(err, &wrong):
		f.line = wrong.StartLine + f.skipped
		err = &pipeline.LineError{Line: f.line, Err: fmt.Errorf("%w (at byte %d)", wrong.Err, wrong.Column)}
	case err == nil:
		f.line, _ = f.rows.FieldPos(0)
		f.line += f.skipped
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, new(*pipeline.LineError)) {
		err = fmt.Errorf("reading after line %d: %w", f.line, err)
	}
	// Empty lines before a row were skipped.
	return fields, bytes.Trim(f.text.take(end), "\r\n"), err
}

// recorder keeps what was read and not yet taken. It bounds a row, which the
// reader of rows does not: one quote that is left open makes one row of all that
// follows.
type recorder struct {
	r     io.Reader
	kept  []byte
	start int64 // of kept in the file
	err   error // the first one
}

func (r *recorder) Read(p []byte) (int, error) {
	if r.err == nil && len(r.kept) > schema.MaxRawResponse {
		r.err = fmt.Errorf("a row of more than %d bytes; is a quote left open?", schema.MaxRawResponse)
	}
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.r.Read(p)
	r.kept, r.err = append(r.kept, p[:n]...), err
	return n, err
}

// take returns what lies before an offset, until the next call.
func (r *recorder) take(end int64) []byte {
	n := end - r.start
	taken := r.kept[:n]
	r.kept, r.start = r.kept[n:], end
	return taken
}

// broken reports whether all up to end was read, and reading failed there.
func (r *recorder) broken(end int64) bool {
	return r.err != nil && !errors.Is(r.err, io.EOF) && end == r.start+int64(len(r.kept))
}
