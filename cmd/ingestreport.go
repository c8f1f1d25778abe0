package cmd

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/pricemill/pricemill/handlers/ingest"
	"github.com/pricemill/pricemill/pipeline"
)

// mostReported is how many bad lines are told one by one.
const mostReported = 20

func reportBad(log *slog.Logger) func(*pipeline.LineError) {
	reported := 0
	return func(bad *pipeline.LineError) {
		switch reported++; {
		case reported <= mostReported:
			log.Warn("skipped a bad line", "line", bad.Line, "column", bad.Column, "error", bad.Err)
		case reported == mostReported+1:
			log.Warn("more bad lines are only counted")
		}
	}
}

// reportNotes tells what was assumed about a file: the reader may have been wrong.
func reportNotes(log *slog.Logger) func(int, string) {
	reported := 0
	return func(line int, note string) {
		switch reported++; {
		case reported <= mostReported:
			log.Warn(note, "line", line)
		case reported == mostReported+1:
			log.Warn("what else is assumed of the file is not listed")
		}
	}
}

// reportCounts tells what the counts of a file mean that should not be overlooked.
func reportCounts(log *slog.Logger, s ingest.Summary) {
	if s.Rounded > 0 {
		log.Warn("numbers with more than 18 digits after the point were rounded half-even; --exact refuses them", "rows", s.Rounded)
	}
	if s.Ambiguous > 0 {
		log.Warn("rows equal others in symbol, price and time, and some of them were stored before: if this file is another download than "+
			"that one, trades may have been taken for one another; --id-column tells them apart", "rows", s.Ambiguous)
	}
}

// previewRows is how many rows a dry run shows.
const previewRows = 10

// preview prints the beginning of a file as it would be taken. A dry run that finds no
// row, or a line that is wrong, fails.
func (a *app) preview(i ingestion, cfg ingest.Config) error {
	p, err := ingest.Look(cfg, previewRows)
	if err != nil {
		return asUsage(i.file, err)
	}
	err = a.print(i.output, p, func(w io.Writer) {
		printQuotes(w, p.Quotes)
		for _, n := range p.Notes {
			fmt.Fprintf(w, "\nfrom line %d: %s", n.Line, n.Text)
		}
		for _, n := range p.Bad {
			fmt.Fprintf(w, "\nbad: %s", n.Text)
		}
		if len(p.Notes)+len(p.Bad) > 0 {
			fmt.Fprintln(w)
		}
	})
	switch {
	case err != nil:
		return err
	case len(p.Bad) > 0 && !i.skipBad:
		return fmt.Errorf("reading %s: %d of the first lines are wrong", i.file, len(p.Bad))
	case len(p.Quotes) == 0:
		return fmt.Errorf("reading %s: %w", i.file, errNothingTaken)
	}
	return nil
}

// printQuotes prints what is taken of a file, with the columns of bars where it has any.
func printQuotes(w io.Writer, quotes []ingest.PreviewQuote) {
	bars := slices.ContainsFunc(quotes, func(q ingest.PreviewQuote) bool { return q.Bar != nil })
	if !bars {
		fmt.Fprintln(w, "LINE\tSYMBOL\tPRICE\tSIZE\tTIMESTAMP")
	} else {
		fmt.Fprintln(w, "LINE\tSYMBOL\tBEGIN\tOPEN\tHIGH\tLOW\tCLOSE\tVOLUME\tEND")
	}
	for _, q := range quotes {
		size, end := "-", q.Time.Format(time.RFC3339Nano)
		if !q.Size.IsZero() {
			size = q.Size.String()
		}
		switch b := q.Bar; {
		case !bars:
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", q.Line, q.Symbol, q.Price, size, end)
		case b == nil:
			fmt.Fprintf(w, "%d\t%s\t-\t-\t-\t-\t%s\t%s\t%s\n", q.Line, q.Symbol, q.Price, size, end)
		default:
			volume := "-"
			if b.Volume != nil {
				volume = b.Volume.String()
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", q.Line, q.Symbol, b.OpenTime.Format(time.RFC3339Nano),
				b.Open, b.High, b.Low, b.Close, volume, end)
		}
	}
}
