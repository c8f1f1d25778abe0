package csv

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/parquet"
)

// ReadFile implements pipeline.FileReader, with the options of this package.
// ReceivedAt is the time of the price.
func (p provider) ReadFile(r io.Reader, given map[string]string) iter.Seq2[pipeline.FileLine, error] {
	return func(yield func(pipeline.FileLine, error) bool) {
		start := bufio.NewReaderSize(r, sampleBytes)
		if magic, _ := start.Peek(len(parquet.Magic)); string(magic) == parquet.Magic { // its error comes again
			text, closeText, err := parquetAsText(start, given)
			if err != nil {
				yield(pipeline.FileLine{}, err)
				return
			}
			defer closeText()
			start, given = bufio.NewReaderSize(text, sampleBytes), optionsOfParquet(given)
		}
		if mark, _ := start.Peek(3); string(mark) == "\ufeff" { // its error comes again
			_, _ = start.Discard(3)
		}
		seen := look(start, given)
		l, err := sniff(start, given)
		if err != nil {
			yield(pipeline.FileLine{}, err)
			return
		}
		file := newFile(start, l.skip, l.delimiter)
		if err := l.read(file); err != nil {
			yield(pipeline.FileLine{}, err)
			return
		}
		if err := l.chooseSpan(seen.span); err != nil {
			yield(pipeline.FileLine{}, err)
			return
		}
		rows := &rowReader{layout: l, yield: yield, falls: seen.falls}
		for {
			fields, row, err := file.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil {
				if !rows.row(fields, row, file.line) {
					return
				}
				continue
			}
			if !yield(pipeline.FileLine{Number: file.line}, err) || !errors.As(err, new(*pipeline.LineError)) {
				return
			}
		}
	}
}

// rowReader makes quotes of rows.
type rowReader struct {
	*layout
	identities identities
	yield      func(pipeline.FileLine, error) bool
	said       map[string]bool
	falls      bool // the file lists the newest row first
}

// row yields the quotes of a row, one but in a wide file. It returns false once the
// reader wants no more.
func (r *rowReader) row(fields []string, row []byte, line int) bool {
	var written moment
	var timeErr error
	read := false
	for _, column := range r.prices {
		found := pipeline.FileLine{Number: line}
		text := cell(fields, column.at)
		if r.isMissing(text) {
			if !r.yield(found, nil) {
				return false
			}
			continue
		}
		symbol, name, err := column.symbol, "", error(nil)
		if symbol == "" {
			symbol, name, err = r.symbolOf(fields)
		}
		q := quoted{symbol: symbol}
		if err == nil {
			name = column.name
			q.price, found.Rounded, err = r.numbers.price(text)
		}
		if err == nil {
			name = r.header[r.timeAt]
			if !read {
				written, timeErr = r.moment(fields)
				read = true
			}
			if err = timeErr; err == nil {
				err = r.stamp(&q, written)
			}
		}
		if err == nil && column.bar != nil {
			var rounded bool
			rounded, name, err = r.bar(&q, column.bar, fields)
			found.Rounded = found.Rounded || rounded
		}
		if err == nil && q.bar != nil {
			found.ID, found.Bar = idOfBar(q), true
		} else if err == nil {
			name, err = r.rest(&q, &found, fields)
		}
		if err == nil {
			name = ""
			found.Quote, err = q.fetched(row, r.numbers.signed)
		}
		if err != nil {
			if !r.yield(pipeline.FileLine{Number: line}, &pipeline.LineError{Line: line, Column: name, Err: err}) {
				return false
			}
			continue
		}
		found.Notes, r.notes = r.notes, nil
		if !r.yield(found, nil) {
			return false
		}
	}
	return true
}

// cell is a field of a row; empty where the row is shorter than the header.
func cell(fields []string, at int) string {
	if at < 0 || at >= len(fields) {
		return ""
	}
	return strings.TrimSpace(fields[at])
}

func (r *rowReader) isMissing(price string) bool {
	if price == "" && (r.wide || len(r.prices) > 1 || len(r.missing) > 0) {
		return true
	}
	return slices.ContainsFunc(r.missing, func(m string) bool { return strings.EqualFold(m, price) })
}

func (r *rowReader) symbolOf(fields []string) (schema.Symbol, string, error) {
	if r.symbol != "" {
		return r.symbol, "", nil
	}
	symbol, err := schema.ParseExactSymbol(cell(fields, r.symbolAt))
	return symbol, r.header[r.symbolAt], err
}

// moment reads the time of a row, and takes note of what was assumed.
func (r *rowReader) moment(fields []string) (moment, error) {
	text := cell(fields, r.timeAt)
	if r.dateAt >= 0 {
		text = cell(fields, r.dateAt) + " " + text
	}
	m, err := r.clock.read(text)
	if err != nil {
		return m, err
	}
	if m.unit != "" {
		r.note("times are taken as " + m.unit + " since 1970; --" + OptionFormat + " says otherwise")
	}
	if !m.exact && m.zone == "" && r.clock.zone == nil && m.wall.Hour()+m.wall.Minute()+m.wall.Second() > 0 {
		r.note("times have no zone, and are taken as UTC; --" + OptionZone + " says otherwise")
	}
	return m, nil
}

// note says something once.
func (r *rowReader) note(text string) {
	if r.said == nil {
		r.said = map[string]bool{}
	}
	if !r.said[text] {
		r.said[text] = true
		r.notes = append(r.notes, text)
	}
}

// stamp gives a quote its time.
func (r *rowReader) stamp(q *quoted, m moment) error {
	at, note, err := r.clock.at(q.symbol, m)
	if err != nil {
		return err
	}
	if note != "" {
		r.notes = append(r.notes, note)
	}
	q.exact, q.time = at, schema.NewTime(at)
	return q.time.Validate()
}

// rest reads the size and gives the id.
func (r *rowReader) rest(q *quoted, found *pipeline.FileLine, fields []string) (column string, err error) {
	if text := cell(fields, r.sizeAt); r.sizeAt >= 0 && text != "" {
		size, rounded, err := r.numbers.size(text)
		if err != nil {
			return r.header[r.sizeAt], err
		}
		q.size, found.Rounded = size, found.Rounded || rounded
	}
	q.sequence = r.sequence(fields, found.Number)
	if r.idAt >= 0 {
		found.ID, err = r.identities.ofOwn(q.symbol, cell(fields, r.idAt), q.exact, q.price)
		return r.header[r.idAt], err
	}
	found.ID, found.Equal = r.identities.of(q.symbol, q.exact, q.price)
	return "", nil
}

// quoted is what a row tells.
type quoted struct {
	symbol schema.Symbol
	price  schema.Decimal
	size   schema.Decimal
	exact  time.Time   // as written
	time   schema.Time // cut

	sequence schema.Sequence
	bar      *schema.Bar // nil: a price alone
}

// fetched is the event of a row.
func (q quoted) fetched(row []byte, signed bool) (schema.QuoteFetched, error) {
	price, size := q.price.String(), ""
	if !q.size.IsZero() {
		size = q.size.String()
	}
	raw, err := json.Marshal(answer{Symbol: q.symbol, Price: &price, Time: &q.time, Size: size, Sequence: q.sequence, Bar: q.bar, Signed: signed, Row: row})
	if err == nil && len(raw) > schema.MaxRawResponse {
		err = fmt.Errorf("the row makes %d bytes, more than %d", len(raw), schema.MaxRawResponse)
	}
	return schema.QuoteFetched{Quote: schema.Quote{Provider: Name, Symbol: q.symbol}, RawResponse: raw, ReceivedAt: q.time}, err
}
