package csv

import (
	"bufio"
	"bytes"

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

// isNewestFirst reports whether times mostly fall from row to row of a symbol at the
// beginning of a file.
func isNewestFirst(start *bufio.Reader, given map[string]string) bool {
	sample, _ := start.Peek(sampleBytes) // its error comes again, as do faults below
	trial := bufio.NewReaderSize(bytes.NewReader(sample), sampleBytes)
	l, err := sniff(trial, given)
	if err != nil {
		return false
	}
	file := newFile(trial, l.skip, l.delimiter)
	if err := l.read(file); err != nil {
		return false
	}
	last, rises, falls := map[schema.Symbol]schema.Time{}, 0, 0
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
		}
		last[line.Quote.Symbol] = at
		return true
	}}
	for {
		fields, row, err := file.next()
		if err != nil { // the end of the sample, or a line that is told later
			return falls > rises
		}
		rows.row(fields, row, file.line)
	}
}
