package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/pricemill/pricemill/handlers/ingest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/schema"
)

// adjustmentRecorded is what a line of a file of adjustments becomes.
var adjustmentRecorded = schema.AdjustmentRecorded{}.EventType()

// adjustmentSource is the source of the events of a file of adjustments.
const adjustmentSource = "pricemill/ingest"

// readAdjustments reads the file of splits and dividends.
func (i *ingestion) readAdjustments(c config, file io.Reader, report func(*pipeline.LineError)) error {
	provider := schema.Provider(i.provider)
	fold := func(s schema.Symbol) schema.Symbol { return s.Fold() }
	for _, sensitive := range c.Providers.caseSensitive() {
		if sensitive == provider {
			fold = func(s schema.Symbol) schema.Symbol { return s }
		}
	}
	reason := i.reason
	if reason == "" {
		reason = schema.CutReason("recorded by " + filepath.Base(i.file))
	}
	var err error
	i.recorded, i.adjusted, err = ingest.ReadAdjustments(file, provider, fold, reason, func(wrong *pipeline.LineError) bool {
		if i.skipBad {
			report(wrong)
		}
		return i.skipBad
	})
	return err
}

// adjust records the adjustments of the file that do not count yet.
func (i ingestion) adjust(ctx context.Context, b *backends, sink ingest.Sink, applied func(context.Context) error) (ingested, error) {
	sum := i.adjusted
	result := func(err error) (ingested, error) {
		return ingested{Summary: ingest.Summary{Lines: sum.Lines, Bad: sum.Bad}, adjustments: &sum}, err
	}
	if err := applied(ctx); err != nil { // what is recorded depends on what was
		return result(err)
	}
	reader := adjustments.Reader{DB: b.store}
	var events []schema.Event
	seen := map[string]bool{}
	for _, one := range i.recorded {
		one.AdjustmentID = schema.AdjustmentID(one.Source, one.Symbol, one.AdjustmentTerms)
		known, err := reader.Get(ctx, one.AdjustmentID)
		switch {
		case err != nil && !errors.Is(err, projections.ErrNotFound):
			return result(err)
		case err == nil && !known.Retracted, seen[one.AdjustmentID]:
			sum.Unchanged++
			continue
		}
		seen[one.AdjustmentID] = true
		one.RecordedAt = schema.NewTime(time.Now())
		events = append(events, schema.Event{ID: schema.AdjustmentEventID(one.AdjustmentID, known.EventID), Source: adjustmentSource, Payload: one})
	}
	if len(events) > 0 {
		if err := sink.Append(ctx, events); err != nil {
			return result(fmt.Errorf("appending %d adjustments: %w", len(events), err))
		}
	}
	sum.Recorded = len(events)
	return result(applied(ctx))
}

func printAdjustments(w io.Writer, s ingest.AdjustmentSummary) {
	fmt.Fprintln(w, "LINES\tBAD\tRECORDED\tUNCHANGED")
	fmt.Fprintf(w, "%d\t%d\t%d\t%d\n", s.Lines, s.Bad, s.Recorded, s.Unchanged)
}
