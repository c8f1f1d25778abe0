package csv

import (
	"bufio"
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// sequence orders the rows of one symbol and time: by their ids, where those are whole
// numbers; else by the file, which in one that lists the newest row first is upwards.
// Zero where the order of the lines is right.
func (r *rowReader) sequence(fields []string, line int) schema.Sequence {
	if sequence, ok := schema.ParseSequence(cell(fields, r.idAt)); ok {
		return sequence
	}
	if r.falls {
		return -schema.Sequence(line)
	}
	return 0
}

// seen is what the beginning of a file shows.
type seen struct {
	falls bool // times mostly fall from row to row of a symbol
	span  span // what bars would be as long as; the zero value where that is unclear
}

// look reads the beginning of a file.
func look(start *bufio.Reader, given map[string]string) (s seen) {
	sample, fault := start.Peek(sampleBytes) // its error comes again, as do faults below
	if end := bytes.LastIndexByte(sample, '\n'); fault == nil && end >= 0 {
		sample = sample[:end+1] // no row that is cut
	}
	trial := bufio.NewReaderSize(bytes.NewReader(sample), sampleBytes)
	given = maps.Clone(given)
	if given == nil {
		given = map[string]string{}
	}
	given[OptionBars] = "none" // rows are told by when bars begin
	l, err := sniff(trial, given)
	if err != nil {
		return s
	}
	file := newFile(trial, l.skip, l.delimiter)
	if err := l.read(file); err != nil {
		return s
	}
	last, rises, falls := map[schema.Symbol]schema.Time{}, 0, 0
	var steps []time.Duration
	rows := &rowReader{layout: l, yield: func(line pipeline.FileLine, err error) bool {
		if err != nil || line.ID == "" {
			return true
		}
		at := line.Quote.ReceivedAt
		if before, known := last[line.Quote.Symbol]; known {
			switch order := at.Compare(before); {
			case order > 0:
				rises++
			case order < 0:
				falls++
			}
			if step := at.Sub(before.Time).Abs(); step > 0 {
				steps = append(steps, step)
			}
		}
		last[line.Quote.Symbol] = at
		return true
	}}
	for {
		fields, row, err := file.next()
		if err != nil { // the end of the sample, or a line that is told later
			break
		}
		rows.row(fields, row, file.line)
	}
	s.falls, s.span = falls > rises, spanOf(steps)
	if len(steps) == 0 && len(last) > 0 && !slices.ContainsFunc(slices.Collect(maps.Values(last)), func(at schema.Time) bool { return !l.isDate(at) }) {
		s.span = span{days: 1} // a row a symbol, of a date
	}
	return s
}

// isDate reports whether a time is midnight, as one of which only the date is written.
func (l *layout) isDate(at schema.Time) bool {
	local := at.Time
	if l.clock.zone != nil {
		local = at.In(l.clock.zone)
	}
	return local.Hour()+local.Minute()+local.Second()+local.Nanosecond() == 0
}
