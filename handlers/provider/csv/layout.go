package csv

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// sampleBytes and sampleRows are how much of a file is looked at before it is read.
const (
	sampleBytes = 64 << 10
	sampleRows  = 12
)

// layout is how one file is read.
type layout struct {
	settings
	options options
	set     map[string]bool // options that the preset set
	preset  *preset
	skip    int
	headers int  // lines of the header: 0, 1, or 3
	wide    bool // a column a symbol

	header []string // names of the columns
	prices []priceColumn
	// at are the columns of the other fields, -1 for one that is absent.
	symbolAt, dateAt, timeAt, sizeAt, idAt int
	// openAt is the column of when bars begin, where the time is that of their end; -1
	// where the time is that of their begin, and they are as long as span.
	openAt int
	span   span

	notes []string // what was assumed
}

// priceColumn is a column of prices.
type priceColumn struct {
	at     int
	name   string
	symbol schema.Symbol // empty: the row's
	bar    *barColumns   // nil: prices alone
}

// sniff looks at the beginning of a file to find out how it is read.
func sniff(start *bufio.Reader, given map[string]string) (*layout, error) {
	o, err := readOptions(given)
	if err != nil {
		return nil, err
	}
	l := &layout{options: o, set: map[string]bool{}, headers: 1}
	sample, fault := start.Peek(sampleBytes) // its error comes again
	if bytes.HasPrefix(sample, []byte("\xff\xfe")) || bytes.HasPrefix(sample, []byte("\xfe\xff")) {
		return nil, errors.New("the file is UTF-16; iconv -f UTF-16 -t UTF-8 makes one that can be read")
	}
	if bytes.HasPrefix(bytes.TrimSpace(sample), []byte("{")) {
		return nil, fmt.Errorf("%w: the first line looks like JSON: --provider coinbase reads frames of its feed", pipeline.ErrOption)
	}
	if end := bytes.LastIndexByte(sample, '\n'); fault == nil && end >= 0 {
		sample = sample[:end+1] // no row that is cut
	}
	if l.skip, err = o.skip(); err != nil {
		return nil, err
	}
	if first, _, _ := bytes.Cut(sample, []byte("\n")); !o.given(OptionSkip) && bytes.Contains(bytes.ToLower(first), []byte("cryptodatadownload.com")) {
		l.skip = 1
		if !o.given(OptionPreset) {
			l.preset = presetNamed("cryptodatadownload")
		}
	}
	for range l.skip {
		_, sample, _ = bytes.Cut(sample, []byte("\n"))
	}
	if !o.given(OptionDelimiter) {
		if found := delimiterOf(sample); found != ',' {
			o[OptionDelimiter] = string(found)
			l.notes = append(l.notes, fmt.Sprintf("columns are taken to be separated by %s; --%s says otherwise", nameOf(found), OptionDelimiter))
		}
	}
	delimiter, err := o.character(OptionDelimiter, ',')
	if err != nil {
		return nil, err
	}
	rows := sampleOf(sample, delimiter)
	if err := l.choosePreset(rows); err != nil {
		return nil, err
	}
	if l.settings, err = o.settings(); err != nil {
		return nil, err
	}
	l.wide = o.is(OptionWide)
	if o.is(OptionNoHeader) {
		l.headers = 0
	} else if l.names != nil && len(rows) > 0 && looksLikeRow(rows[0]) {
		l.headers = 0
		l.notes = append(l.notes, "the first line looks like a row, and is taken as one")
	}
	return l, nil
}

func nameOf(delimiter rune) string {
	switch delimiter {
	case '\t':
		return "tabs"
	case ';':
		return "semicolons"
	}
	return strconv.QuoteRune(delimiter)
}

// delimiterOf is the character that most often comes between the columns of the
// first line, and a comma where that is unclear.
func delimiterOf(sample []byte) rune {
	first, _, _ := strings.Cut(strings.TrimLeft(string(sample), "\r\n"), "\n")
	counts, quoted := map[rune]int{}, false
	for _, r := range first {
		if r == '"' {
			quoted = !quoted
		} else if !quoted {
			counts[r]++
		}
	}
	best := ','
	for _, r := range []rune{';', '\t', '|'} {
		if counts[r] > counts[best] {
			best = r
		}
	}
	return best
}

func sampleOf(sample []byte, delimiter rune) (rows [][]string) {
	reader := csv.NewReader(bytes.NewReader(sample))
	reader.Comma, reader.FieldsPerRecord, reader.LazyQuotes = delimiter, -1, true
	for len(rows) < sampleRows {
		row, err := reader.Read()
		if err != nil {
			break
		}
		rows = append(rows, row)
	}
	return rows
}

// choosePreset finds the preset, where none was named, and takes its options but
// those that were given.
func (l *layout) choosePreset(rows [][]string) error {
	o := l.options
	name := o.text(OptionPreset)
	if name != "" && name != "none" {
		if l.preset = presetNamed(name); l.preset == nil {
			return wrong(OptionPreset, "there is no preset %.40q; %s", name, names.Hint(name, PresetNames()))
		}
	}
	if name == "" && l.preset == nil && len(rows) > 0 && !o.given(OptionColumns) {
		l.preset = l.recognize(rows)
	}
	if l.preset == nil {
		return nil
	}
	for option, value := range l.preset.options {
		if !o.given(option) {
			o[option], l.set[option] = value, true
		}
	}
	if l.set[OptionNoHeader] && len(rows) > 0 && !l.preset.rows(rows[0]) && !looksLikeRow(rows[0]) {
		delete(o, OptionNoHeader) // some of its files have one
		if l.set[OptionColumns] {
			delete(o, OptionColumns)
		}
	}
	if l.preset.name == "yfinance" {
		l.headers = 3
	}
	if name == "" {
		l.notes = append(l.notes, fmt.Sprintf("the file is read with --%s %s, as its first line says; --%s none reads it without", OptionPreset, l.preset.name, OptionPreset))
	}
	return nil
}

// recognize finds the preset of a file that is certain.
func (l *layout) recognize(rows [][]string) *preset {
	if !l.options.is(OptionNoHeader) {
		if p := ofHeader(rows[0]); p != nil {
			if p.name != "yfinance" || len(rows) > 1 && !slices.ContainsFunc(rows[1], func(cell string) bool { return isNumber(cell) }) {
				return p
			}
		}
	}
	if p := ofRows(rows); p != nil && p.sure {
		return p
	}
	return nil
}

// looksLikeRow reports whether most of the cells are numbers or times.
func looksLikeRow(row []string) bool {
	found := 0
	for _, cell := range row {
		cell = strings.TrimSpace(cell)
		if _, err := readAny(cell); err == nil || isNumber(cell) {
			found++
		}
	}
	return found > 0 && 2*found >= len(row)
}

// read takes the header of the file, and finds the columns. The first row is given
// where it was read for the number of columns.
func (l *layout) read(f *file) error {
	if l.headers == 0 {
		first := f.peek()
		if err := f.first.err; first == nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the first row: %w", err)
		} else if first == nil {
			return errors.New("the file is empty")
		}
		l.header = l.names
		if l.names == nil {
			for i := range first {
				l.header = append(l.header, strconv.Itoa(i+1))
			}
		}
		return l.findColumns(len(first), first)
	}
	lines := make([][]string, 0, l.headers)
	for range l.headers {
		fields, _, err := f.next()
		if errors.Is(err, io.EOF) {
			return errors.New("the file is empty: it has no header")
		}
		if err != nil {
			if wrong := (*pipeline.LineError)(nil); errors.As(err, &wrong) {
				err = wrong.Err // nothing can be read after it
			}
			return fmt.Errorf("reading the header: %w", err)
		}
		lines = append(lines, slices.Clone(fields))
	}
	l.header = lines[0]
	if l.names != nil {
		l.header = l.names
	}
	if l.headers > 1 {
		return l.findTickers(lines[0], lines[1])
	}
	return l.findColumns(len(lines[0]), lines[0])
}

// findTickers finds the columns of yfinance, where one line names fields and one
// tickers.
func (l *layout) findTickers(fields, tickers []string) error {
	price := l.options.text(OptionPrice)
	if !slices.Contains(fields, price) {
		fields, tickers = tickers, fields
	}
	l.symbolAt, l.dateAt, l.timeAt, l.sizeAt, l.idAt, l.openAt = -1, -1, 0, -1, -1, -1
	for i := 1; i < len(fields) && i < len(tickers); i++ {
		if fields[i] != price {
			continue
		}
		symbol, err := schema.ParseExactSymbol(tickers[i])
		if l.symbol != "" {
			symbol, err = l.symbol, nil
		}
		if err != nil {
			return fmt.Errorf("reading the header: %w", err)
		}
		bar := l.findBars(fields, i, func(at int) bool { return at < len(tickers) && tickers[at] == tickers[i] })
		l.prices = append(l.prices, priceColumn{i, tickers[i], symbol, bar})
	}
	switch {
	case len(l.prices) == 0:
		return wrong(OptionPrice, "there is no column %.40q; there are %.300q", price, slices.Compact(slices.Sorted(slices.Values(fields))))
	case len(l.prices) > 1 && l.symbol != "":
		return wrong(OptionName, "the file has prices of %d symbols", len(l.prices))
	}
	return nil
}
