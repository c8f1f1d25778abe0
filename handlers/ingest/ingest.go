// Package ingest brings the quotes of files into the log, where they go through
// the chain like any answer of a provider.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// source is the source of the events.
const source = "pricemill/ingest"

// A batch is what is held in memory, and sent at once.
const (
	batchEvents = 2000
	batchBytes  = 4 << 20
)

// maxAhead is how far the time of a quote may be ahead of our clock. normalize
// holds prices against the receipt, which is the file's own word here.
const maxAhead = 24 * time.Hour

// Config describes one file. All fields but SkipBad, Report and Note are required.
type Config struct {
	Reader  pipeline.FileReader
	Options map[string]string
	File    io.Reader
	// SkipBad continues after lines that should hold a quote and do not.
	SkipBad bool
	// Report is told of each line that was skipped.
	Report func(*pipeline.LineError)
	// Note is told what the reader assumed, from a line on; nil ignores it.
	Note func(line int, text string)
	Now  func() time.Time
}

// Sink is where quotes go.
type Sink struct {
	// Known are those of the ids whose quotes are stored already.
	Known func(ctx context.Context, ids []string) ([]string, error)
	// Append brings events into the log, as engine.Appender does.
	Append func(ctx context.Context, events []schema.Event) error
	// Stored returns once what was appended is stored; nil: nothing waits.
	Stored func(ctx context.Context) error
}

// Summary counts what became of the lines.
type Summary struct {
	// Lines is the sum of Quotes, PassedOver and Bad, unless an error came
	// between, or a line holds quotes of several symbols.
	Lines int `json:"lines"`
	// Quotes is the sum of Repeated and New.
	Quotes     int `json:"quotes"`
	PassedOver int `json:"passed_over"`
	Bad        int `json:"bad"`
	// Repeated were stored before, or come earlier in the file.
	Repeated int `json:"repeated"`
	// New were not stored yet when they were sent.
	New int `json:"new"`
	// Rounded are the quotes with a number of more digits than are kept.
	Rounded int `json:"rounded"`
	// Ambiguous are the quotes that equal others of this file, have no id of their
	// own, and were stored in part before this file, which also brought others. If
	// it is another download than the one before, one trade may be taken for another.
	Ambiguous int `json:"ambiguous"`
}

// item is a quote that waits for its batch.
type item struct {
	line    int
	event   schema.Event
	equal   string // see pipeline.FileLine
	rounded bool
}

// Source is a file that is being read. It is not safe for concurrent use.
type Source struct {
	cfg   Config
	next  func() (pipeline.FileLine, error, bool)
	stop  func()
	count Summary
	line  int // the last one counted
	batch []item
	fault error // why reading ended, if not by the end of the file
	ended bool
}

// Open reads the first lines, so that a file or an option that is wrong is known
// before anything else begins. Close it when done.
func Open(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg}
	s.next, s.stop = iter.Pull2(cfg.Reader.ReadFile(cfg.File, cfg.Options))
	s.fill()
	if len(s.batch) == 0 && s.fault != nil {
		s.stop()
		return nil, s.fault
	}
	return s, nil
}

// Close ends reading.
func (s *Source) Close() { s.stop() }

// Run brings all quotes into the log. After an error the summary says how far it
// came; the quotes that it counts are in the log, and to begin again with the
// whole file does no harm.
func (s *Source) Run(ctx context.Context, sink Sink) (Summary, error) {
	for len(s.batch) > 0 {
		if err := s.flush(ctx, sink); err != nil {
			return s.count, err
		}
		s.fill()
	}
	if s.count.New == 0 {
		s.count.Ambiguous = 0 // the same file again
	}
	return s.count, s.fault
}

// fill reads the next batch.
func (s *Source) fill() {
	size := 0
	for !s.ended && len(s.batch) < batchEvents && size < batchBytes {
		line, err, more := s.next()
		if !more {
			s.ended = true
			return
		}
		leaveUnfinished(&line, s.cfg.Now())
		if err == nil && line.ID != "" && line.Quote.ReceivedAt.Time.After(s.cfg.Now().Add(maxAhead)) {
			err = &pipeline.LineError{Line: line.Number, Err: fmt.Errorf("the quote is of %s, which is to come", line.Quote.ReceivedAt)}
		}
		if err != nil {
			s.refuse(err)
			continue
		}
		s.countLine(line.Number)
		if s.cfg.Note != nil {
			for _, note := range line.Notes {
				s.cfg.Note(line.Number, note)
			}
		}
		if line.ID == "" {
			s.count.PassedOver++
			continue
		}
		size += len(line.Quote.RawResponse)
		s.batch = append(s.batch, item{line.Number, schema.Event{ID: line.ID, Source: source, Payload: line.Quote}, line.Equal, line.Rounded})
	}
}

// leaveUnfinished skips a line whose bar has not ended, by taking its quote from it: its close
// is not one yet.
func leaveUnfinished(line *pipeline.FileLine, now time.Time) {
	if line.Bar && line.Quote.ReceivedAt.Time.After(now) {
		line.ID = ""
		line.Notes = append(line.Notes, fmt.Sprintf("the bar of %s ends at %s, in the future, and is skipped", line.Quote.Symbol, line.Quote.ReceivedAt))
	}
}

// countLine counts a line once, however many quotes it holds.
func (s *Source) countLine(number int) {
	if number != s.line {
		s.line = number
		s.count.Lines++
	}
}

// refuse counts a bad line, and ends reading unless it may be skipped.
func (s *Source) refuse(err error) {
	var bad *pipeline.LineError
	if errors.As(err, &bad) {
		s.countLine(bad.Line)
		s.count.Bad++
		if s.cfg.SkipBad {
			if s.cfg.Report != nil {
				s.cfg.Report(bad)
			}
			return
		}
	}
	s.fault, s.ended = err, true
}

// flush sends what is news of the batch. It then waits until that is stored, so
// that the next batch knows it.
func (s *Source) flush(ctx context.Context, sink Sink) error {
	ids := make([]string, len(s.batch))
	for i, item := range s.batch {
		ids[i] = item.event.ID
	}
	known, err := sink.Known(ctx, ids)
	if err != nil {
		return err
	}
	seen := make(map[string]bool, len(s.batch))
	for _, id := range known {
		seen[id] = true
	}
	s.count.Ambiguous += ambiguous(s.batch, seen)
	var fresh []schema.Event
	for _, item := range s.batch {
		if !seen[item.event.ID] {
			seen[item.event.ID] = true
			fresh = append(fresh, item.event)
		}
		if item.rounded {
			s.count.Rounded++
		}
	}
	if len(fresh) > 0 {
		if err := sink.Append(ctx, fresh); err != nil {
			return fmt.Errorf("appending %d quotes: %w", len(fresh), err)
		}
		if sink.Stored != nil {
			if err := sink.Stored(ctx); err != nil {
				return err
			}
		}
	}
	s.count.Quotes += len(s.batch)
	s.count.New += len(fresh)
	s.count.Repeated += len(s.batch) - len(fresh)
	s.batch = s.batch[:0]
	return nil
}

// ambiguous counts quotes that equal others of the file and were stored before it, or
// whose equals were.
func ambiguous(batch []item, stored map[string]bool) (n int) {
	for _, item := range batch {
		if item.equal != "" && (stored[item.event.ID] || stored[item.equal]) {
			n++
		}
	}
	return n
}
