package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/ingest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC)

// lines is a reader of quotes with these ids: "" holds none, bad and broken are
// errors, early is of a time to come.
type lines struct {
	pipeline.FileReader
	ids  []string
	size int
}

var errBroken = errors.New("the disk is gone")

func (l lines) ReadFile(io.Reader, map[string]string) iter.Seq2[pipeline.FileLine, error] {
	return func(yield func(pipeline.FileLine, error) bool) {
		for i, id := range l.ids {
			line := pipeline.FileLine{Number: i + 1, ID: id}
			var err error
			line.Quote = schema.QuoteFetched{Quote: schema.Quote{Provider: "p", Symbol: "A"},
				RawResponse: schema.RawResponse(strings.Repeat("x", max(1, l.size))), ReceivedAt: schema.NewTime(now)}
			switch id {
			case "bad":
				err = &pipeline.LineError{Line: i + 1, Err: errors.New("no price")}
			case "broken":
				err = errBroken
			case "bar", "weekly":
				line.Bar = true
				line.Quote.ReceivedAt = line.Quote.ReceivedAt.Add(map[string]time.Duration{"bar": time.Minute, "weekly": 5 * 24 * time.Hour}[id])
			case "early":
				line.Quote.ReceivedAt = line.Quote.ReceivedAt.Add(25 * time.Hour)
			}
			if !yield(line, err) || id == "broken" {
				return
			}
		}
	}
}

// log is what a chain would be: it stores what was appended when asked to.
type log struct {
	stored, pending []string
	batches         []int
	fail            error
}

func (l *log) sink() ingest.Sink {
	return ingest.Sink{
		Known: func(_ context.Context, ids []string) (known []string, err error) {
			for _, id := range ids {
				if slices.Contains(l.stored, id) {
					known = append(known, id)
				}
			}
			return known, nil
		},
		Append: func(_ context.Context, events []schema.Event) error {
			if l.fail != nil {
				return l.fail
			}
			l.batches = append(l.batches, len(events))
			for _, e := range events {
				if _, _, err := e.Encode(); err != nil {
					return err
				}
				l.pending = append(l.pending, e.ID)
			}
			return nil
		},
		Stored: func(context.Context) error {
			l.stored, l.pending = append(l.stored, l.pending...), nil
			return nil
		},
	}
}

func ingestAll(t *testing.T, l *log, reader lines, skip bool) (ingest.Summary, []int, error) {
	t.Helper()
	var reported []int
	source, err := ingest.Open(ingest.Config{Reader: reader, SkipBad: skip, Now: func() time.Time { return now },
		Report: func(bad *pipeline.LineError) { reported = append(reported, bad.Line) }})
	if err != nil {
		return ingest.Summary{}, reported, err
	}
	defer source.Close()
	summary, err := source.Run(t.Context(), l.sink())
	return summary, reported, err
}

func TestRepeatsAreFoundOut(t *testing.T) {
	t.Parallel()
	l := &log{stored: []string{"2"}}
	summary, _, err := ingestAll(t, l, lines{ids: []string{"1", "", "2", "3", "1", ""}}, false)
	require.NoError(t, err)
	assert.Equal(t, ingest.Summary{Lines: 6, Quotes: 4, PassedOver: 2, Repeated: 2, New: 2}, summary)
	assert.Equal(t, []string{"2", "1", "3"}, l.stored)

	// Also where the repeat is in a later batch.
	var ids []string
	for i := range 5000 {
		ids = append(ids, fmt.Sprint("b", i))
	}
	summary, _, err = ingestAll(t, l, lines{ids: append(ids, ids...)}, false)
	require.NoError(t, err)
	assert.Equal(t, ingest.Summary{Lines: 10_000, Quotes: 10_000, Repeated: 5000, New: 5000}, summary)
	l.batches = nil
	summary, _, err = ingestAll(t, l, lines{ids: ids}, false)
	require.NoError(t, err)
	assert.Equal(t, 5000, summary.Repeated)
	assert.Empty(t, l.batches, "nothing is written")
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	l := &log{}
	var ids []string
	for i := range 100 {
		ids = append(ids, fmt.Sprint(i))
	}
	_, _, err := ingestAll(t, l, lines{ids: ids, size: schema.MaxRawResponse}, false)
	require.NoError(t, err)
	assert.LessOrEqual(t, slices.Max(l.batches), 16, "of 256 KiB each")
	assert.Equal(t, ids, l.stored, "in order")
}

func TestBadLines(t *testing.T) {
	t.Parallel()
	l := &log{}
	summary, _, err := ingestAll(t, l, lines{ids: []string{"1", "bad", "2"}}, false)
	require.ErrorContains(t, err, "line 2: no price")
	assert.Equal(t, ingest.Summary{Lines: 2, Quotes: 1, Bad: 1, New: 1}, summary)
	assert.Equal(t, []string{"1"}, l.stored, "what stands before it")

	summary, reported, err := ingestAll(t, l, lines{ids: []string{"bad", "1", "early", "2"}}, true)
	require.NoError(t, err)
	assert.Equal(t, []int{1, 3}, reported)
	assert.Equal(t, ingest.Summary{Lines: 4, Quotes: 2, Bad: 2, Repeated: 1, New: 1}, summary)

	_, reported, err = ingestAll(t, l, lines{ids: []string{"3", "broken", "4"}}, true)
	require.ErrorIs(t, err, errBroken, "no line is at fault")
	assert.Empty(t, reported)
	assert.Equal(t, []string{"1", "2", "3"}, l.stored)
	_, _, err = ingestAll(t, l, lines{ids: []string{"bad"}}, false)
	require.ErrorContains(t, err, "line 1", "known when it is opened")

	l.fail = errors.New("the log is gone")
	summary, _, err = ingestAll(t, l, lines{ids: []string{"5"}}, false)
	require.ErrorIs(t, err, l.fail)
	assert.Zero(t, summary.New)
}

// twins reads a file whose lines are the ids before and after a =, where the second
// is equal to another line.
type twins struct {
	pipeline.FileReader
	lines []pipeline.FileLine
}

func (t twins) ReadFile(io.Reader, map[string]string) iter.Seq2[pipeline.FileLine, error] {
	return func(yield func(pipeline.FileLine, error) bool) {
		for i, line := range t.lines {
			line.Number = i/2 + 1 // two quotes a line
			line.Quote = schema.QuoteFetched{Quote: schema.Quote{Provider: "p", Symbol: "A"}, RawResponse: schema.RawResponse("x"), ReceivedAt: schema.NewTime(now)}
			if !yield(line, nil) {
				return
			}
		}
	}
}

// Lines that equal others are told where another download may hold other trades.
func TestAmbiguousLines(t *testing.T) {
	t.Parallel()
	l := &log{}
	var notes []string
	all := func(lines ...pipeline.FileLine) ingest.Summary {
		source, err := ingest.Open(ingest.Config{Reader: twins{lines: lines}, Now: func() time.Time { return now },
			Note: func(line int, text string) { notes = append(notes, fmt.Sprint(line, text)) }})
		require.NoError(t, err)
		defer source.Close()
		summary, err := source.Run(t.Context(), l.sink())
		require.NoError(t, err)
		return summary
	}
	first := []pipeline.FileLine{{ID: "a", Rounded: true, Notes: []string{" assumed"}}, {ID: "a1", Equal: "a"}, {ID: "b"}}
	assert.Equal(t, ingest.Summary{Lines: 2, Quotes: 3, New: 3, Rounded: 1}, all(first...), "one file tells equal lines apart")
	assert.Equal(t, []string{"1 assumed"}, notes)
	assert.Equal(t, ingest.Summary{Lines: 2, Quotes: 3, Repeated: 3, Rounded: 1}, all(first...), "so does the same file again")
	assert.Equal(t, ingest.Summary{Lines: 2, Quotes: 4, Repeated: 3, New: 1, Rounded: 1, Ambiguous: 1}, all(append(first, pipeline.FileLine{ID: "c"})...))
	assert.Equal(t, ingest.Summary{Lines: 1, Quotes: 2, Repeated: 1, New: 1, Ambiguous: 1}, all(pipeline.FileLine{ID: "b"}, pipeline.FileLine{ID: "b1", Equal: "b"}))
	assert.Equal(t, ingest.Summary{Lines: 1, Quotes: 1, New: 1}, all(pipeline.FileLine{ID: "d"}))
}

// A bar that has not ended is skipped, however long it lasts: its close is not one yet.
func TestBarsThatHaveNotEnded(t *testing.T) {
	t.Parallel()
	var notes []string
	clock := now
	take := func(l *log) ingest.Summary {
		source, err := ingest.Open(ingest.Config{Reader: lines{ids: []string{"a", "bar", "weekly"}}, File: strings.NewReader(""),
			Now: func() time.Time { return clock }, Note: func(line int, text string) { notes = append(notes, fmt.Sprint(line, ": ", text)) }})
		require.NoError(t, err)
		defer source.Close()
		summary, err := source.Run(t.Context(), l.sink())
		require.NoError(t, err)
		return summary
	}
	l := &log{}
	assert.Equal(t, ingest.Summary{Lines: 3, Quotes: 1, PassedOver: 2, New: 1}, take(l))
	require.Len(t, notes, 2)
	assert.Contains(t, notes[0], "2: the bar of A ends at 2024-01-02 00:01:00 +0000 UTC, in the future, and is skipped")
	look, err := ingest.Look(ingest.Config{Reader: lines{ids: []string{"bar"}}, File: strings.NewReader(""), Now: func() time.Time { return clock }}, 5)
	require.NoError(t, err)
	assert.Empty(t, look.Quotes)
	assert.Len(t, look.Notes, 1)
	clock = now.Add(time.Minute)
	assert.Equal(t, ingest.Summary{Lines: 3, Quotes: 2, PassedOver: 1, Repeated: 1, New: 1}, take(l), "a minute later")
}
