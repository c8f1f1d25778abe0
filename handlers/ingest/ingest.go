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

// Config describes one file. All fields but SkipBad and Report are required.
type Config struct {
	Reader  pipeline.FileReader
	Options map[string]string
	File    io.Reader
	// SkipBad goes on behind lines that should hold a quote and do not.
	SkipBad bool
	// Report is told of each line that was skipped.
	Report func(*pipeline.LineError)
	Now    func() time.Time
}

// Sink is where quotes go.
type Sink struct {
	// Known are those of the ids whose quotes are stored already.
	Known func(ctx context.Context, ids []string) ([]string, error)
	// Append brings events into the log, as pipeline.Appender does.
	Append func(ctx context.Context, events []schema.Event) error
	// Stored returns once what was appended is stored; nil: nobody waits.
	Stored func(ctx context.Context) error
}

// Summary counts what became of the lines.
type Summary struct {
	// Lines is the sum of Quotes, PassedOver and Bad, unless an error came
	// between.
	Lines int `json:"lines"`
	// Quotes is the sum of Repeated and New.
	Quotes     int `json:"quotes"`
	PassedOver int `json:"passed_over"`
	Bad        int `json:"bad"`
	// Repeated were stored before, or stand in the file before.
	Repeated int `json:"repeated"`
	// New were not stored yet when they were sent.
	New int `json:"new"`
}

// Source is a file that is being read. It is not safe for concurrent use.
type Source struct {
	cfg   Config
	next  func() (pipeline.FileLine, error, bool)
	stop  func()
	count Summary
	batch []schema.Event
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
		if err == nil && line.ID != "" && line.Quote.ReceivedAt.Time.After(s.cfg.Now().Add(maxAhead)) {
			err = &pipeline.LineError{Line: line.Number, Err: fmt.Errorf("the quote is of %s, which is to come", line.Quote.ReceivedAt)}
		}
		if err != nil {
			s.refuse(err)
			continue
		}
		s.count.Lines++
		if line.ID == "" {
			s.count.PassedOver++
			continue
		}
		size += len(line.Quote.RawResponse)
		s.batch = append(s.batch, schema.Event{ID: line.ID, Source: source, Payload: line.Quote})
	}
}

// refuse counts a bad line, and ends reading unless it may be skipped.
func (s *Source) refuse(err error) {
	var bad *pipeline.LineError
	if errors.As(err, &bad) {
		s.count.Lines++
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
	for i, event := range s.batch {
		ids[i] = event.ID
	}
	known, err := sink.Known(ctx, ids)
	if err != nil {
		return err
	}
	seen := make(map[string]bool, len(s.batch))
	for _, id := range known {
		seen[id] = true
	}
	var fresh []schema.Event
	for _, event := range s.batch {
		if !seen[event.ID] {
			seen[event.ID] = true
			fresh = append(fresh, event)
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
