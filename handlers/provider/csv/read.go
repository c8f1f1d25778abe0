package csv

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/pricemill/pricemill/handlers/provider/payload"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// ReadFile implements pipeline.FileReader, with the options of this package. Two
// rows of one symbol, time and price are one fact. ReceivedAt is the time of the
// price.
func (p provider) ReadFile(r io.Reader, given map[string]string) iter.Seq2[pipeline.FileLine, error] {
	return func(yield func(pipeline.FileLine, error) bool) {
		o, err := readOptions(given)
		if err != nil {
			yield(pipeline.FileLine{}, err)
			return
		}
		file := newFile(r)
		header, _, err := file.next()
		if errors.Is(err, io.EOF) {
			yield(pipeline.FileLine{}, errors.New("the file is empty: it has no header"))
			return
		}
		if err != nil {
			if wrong := (*pipeline.LineError)(nil); errors.As(err, &wrong) {
				err = wrong.Err // nothing can be read behind it
			}
			yield(pipeline.FileLine{}, fmt.Errorf("reading the header: %w", err))
			return
		}
		at, err := o.find(header)
		if err != nil {
			yield(pipeline.FileLine{}, err)
			return
		}
		for {
			fields, row, err := file.next()
			if errors.Is(err, io.EOF) {
				return
			}
			var wrong *pipeline.LineError
			line := pipeline.FileLine{Number: file.line}
			if err == nil {
				line.ID, line.Quote, err = o.quote(fields, at, row, file.line)
			}
			if !yield(line, err) || err != nil && !errors.As(err, &wrong) {
				return
			}
		}
	}
}

// quote makes a quote of a row.
func (o options) quote(fields []string, at columns, row []byte, line int) (id string, quote schema.QuoteFetched, err error) {
	wrong := func(column string, err error) (string, schema.QuoteFetched, error) {
		return "", schema.QuoteFetched{}, &pipeline.LineError{Line: line, Column: column, Err: err}
	}
	symbol, err := schema.ParseSymbol(fields[at.symbol])
	if err != nil {
		return wrong(o.symbol, err)
	}
	text := strings.TrimSpace(fields[at.price])
	price, err := payload.ParsePrice(text)
	if err != nil {
		return wrong(o.price, err)
	}
	when, err := o.parse(strings.TrimSpace(fields[at.time]))
	if err == nil {
		err = when.Validate()
	}
	if err != nil {
		return wrong(o.time, err)
	}
	raw, err := json.Marshal(answer{Symbol: symbol, Price: &text, Time: &when, Row: row})
	if err == nil && len(raw) > schema.MaxRawResponse {
		err = fmt.Errorf("the row makes %d bytes, more than %d", len(raw), schema.MaxRawResponse)
	}
	if err != nil {
		return wrong("", err)
	}
	id = schema.DeriveID("file", string(Name), string(symbol), when.Format(time.RFC3339Nano), price.String())
	return id, schema.QuoteFetched{Quote: schema.Quote{Provider: Name, Symbol: symbol}, RawResponse: raw, ReceivedAt: when}, nil
}

// file reads rows with their text.
type file struct {
	text *recorder
	rows *csv.Reader
	line int // where the row read last begins
}

func newFile(r io.Reader) *file {
	start := bufio.NewReader(r)
	if mark, _ := start.Peek(3); string(mark) == "\ufeff" { // its error comes again
		_, _ = start.Discard(3)
	}
	text := &recorder{r: start}
	rows := csv.NewReader(text)
	rows.ReuseRecord = true
	return &file{text: text, rows: rows}
}

// next reads a row: its fields, and its bytes without the end of the line, both
// until the next call.
func (f *file) next() (fields []string, row []byte, err error) {
	fields, err = f.rows.Read()
	end := f.rows.InputOffset()
	var wrong *csv.ParseError
	switch {
	case errors.As(err, &wrong) && f.text.broken(end):
		err = f.text.err // the row is wrong because the file ends in it
	case errors.As(err, &wrong):
		f.line = wrong.StartLine
		err = &pipeline.LineError{Line: f.line, Err: fmt.Errorf("%w (at byte %d)", wrong.Err, wrong.Column)}
	case err == nil:
		f.line, _ = f.rows.FieldPos(0)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, new(*pipeline.LineError)) {
		err = fmt.Errorf("reading behind line %d: %w", f.line, err)
	}
	// Empty lines before a row were stepped over.
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
