package cmd

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/pricemill/pricemill/handlers/ingest"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// ingested is what became of a file.
type ingested struct {
	ingest.Summary
	// corrections is nil where the file brought quotes.
	corrections *ingest.CorrectionSummary
	// adjustments is nil unless it brought those.
	adjustments *ingest.AdjustmentSummary
}

// taken counts the lines that were good for something.
func (s ingested) taken() int {
	if c := s.corrections; c != nil {
		return c.Corrected + c.Unchanged
	}
	if a := s.adjustments; a != nil {
		return a.Recorded + a.Unchanged
	}
	return s.Quotes
}

// checkCorrects reports flags that do not go together.
func (i ingestion) checkCorrects() error {
	switch {
	case i.corrects && i.noWait:
		return fmt.Errorf("%w: --corrects and --no-wait exclude each other: what is corrected has to be known", errUsage)
	case i.adjustments && (i.corrects || i.noWait || i.dryRun || len(i.options) > 0):
		return fmt.Errorf("%w: of the other flags, --provider, --reason, --skip-bad-rows and --work go with --adjustments", errUsage)
	case !i.corrects && !i.adjustments && i.reason != "":
		return fmt.Errorf("%w: --reason is for --corrects and --adjustments", errUsage)
	case len(i.reason) > schema.MaxReason:
		return fmt.Errorf("%w: --reason: more than %d bytes", errUsage, schema.MaxReason)
	}
	return nil
}

// correct takes the file for corrections.
func (i ingestion) correct(ctx context.Context, b *backends, source *ingest.Source, sink ingest.Sink, applied func(context.Context) error) (ingested, error) {
	reader := processedprices.Reader{DB: b.store}
	reason := i.reason
	if reason == "" {
		reason = schema.CutReason("corrected by " + filepath.Base(i.file))
	}
	summary, err := source.Correct(ctx, ingest.CorrectionSink{
		Append: sink.Append, Applied: applied,
		Facts: func(ctx context.Context, moments []ingest.Moment) (map[ingest.Moment][]ingest.Fact, error) {
			asked := make([]processedprices.Moment, len(moments))
			for n, m := range moments {
				asked[n] = processedprices.Moment(m)
			}
			found, err := reader.Facts(ctx, asked)
			facts := make(map[ingest.Moment][]ingest.Fact, len(found))
			for m, all := range found {
				for _, f := range all {
					facts[ingest.Moment(m)] = append(facts[ingest.Moment(m)], ingest.Fact{ID: f.FactID, Price: f.Price, CorrectionID: f.CorrectionID})
				}
			}
			return facts, err
		},
	}, reason)
	return ingested{Summary: ingest.Summary{Lines: summary.Lines, Bad: summary.Bad, PassedOver: summary.PassedOver}, corrections: &summary}, err
}

func printCorrections(w io.Writer, s ingest.CorrectionSummary) {
	fmt.Fprintln(w, "LINES\tPASSED OVER\tBAD\tCORRECTED\tUNCHANGED")
	fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\n", s.Lines, s.PassedOver, s.Bad, s.Corrected, s.Unchanged)
}
