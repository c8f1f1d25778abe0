package ingest

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// adjustmentColumns are those that a file of adjustments must have, and may have.
var (
	adjustmentColumns = []string{"symbol", "date", "kind", "value"}
	furtherColumns    = []string{"currency", "reason"}
)

// AdjustmentSummary counts what became of the lines of a file of splits and dividends.
type AdjustmentSummary struct {
	Lines int `json:"lines"`
	// Bad are the lines that hold no adjustment.
	Bad int `json:"bad"`
	// Recorded are new, or count again after they were retracted; Unchanged counted already.
	Recorded  int `json:"recorded"`
	Unchanged int `json:"unchanged"`
}

// ReadAdjustments reads a file of splits and dividends: comma-separated values whose first line
// names the columns symbol, date, kind and value, in any order, and perhaps currency and reason.
// A bad line is given to bad, which returns whether to read on. The adjustments have neither ids
// nor the time when they were recorded.
func ReadAdjustments(file io.Reader, provider schema.Provider, symbol func(schema.Symbol) schema.Symbol, reason string, bad func(*pipeline.LineError) bool) ([]schema.AdjustmentRecorded, AdjustmentSummary, error) {
	lines := csv.NewReader(file)
	lines.FieldsPerRecord, lines.TrimLeadingSpace = -1, true
	header, err := lines.Read()
	if err != nil {
		return nil, AdjustmentSummary{}, fmt.Errorf("reading the first line: %w", err)
	}
	at := map[string]int{}
	for i, name := range header {
		name = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")))
		if !slices.Contains(adjustmentColumns, name) && !slices.Contains(furtherColumns, name) {
			return nil, AdjustmentSummary{}, fmt.Errorf("%w: there is no column %q of adjustments; they are %s", pipeline.ErrOption, name,
				strings.Join(append(slices.Clone(adjustmentColumns), furtherColumns...), ", "))
		}
		at[name] = i
	}
	for _, name := range adjustmentColumns {
		if _, named := at[name]; !named {
			return nil, AdjustmentSummary{}, fmt.Errorf("%w: the first line names no column %q", pipeline.ErrOption, name)
		}
	}
	var all []schema.AdjustmentRecorded
	var sum AdjustmentSummary
	for {
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return all, sum, nil
		}
		sum.Lines++
		var one schema.AdjustmentRecorded
		if err == nil {
			one, err = adjustmentOf(fields, at)
		}
		if err != nil {
			sum.Bad++
			line, _ := lines.FieldPos(0)
			if wrong := (&pipeline.LineError{Line: line, Err: err}); !bad(wrong) {
				return all, sum, wrong
			}
			continue
		}
		if one.Source, one.Symbol = provider, symbol(one.Symbol); one.Reason == "" {
			one.Reason = reason
		}
		all = append(all, one)
	}
}

func adjustmentOf(fields []string, at map[string]int) (one schema.AdjustmentRecorded, err error) {
	field := func(name string) string {
		if i, named := at[name]; named && i < len(fields) {
			return strings.TrimSpace(fields[i])
		}
		return ""
	}
	if one.Symbol, err = schema.ParseExactSymbol(field("symbol")); err != nil {
		return one, err
	}
	text := field("date")
	if len(text) == len(time.DateOnly) {
		text += "T00:00:00Z"
	}
	if one.EffectiveAt, err = schema.ParseTime(text); err != nil {
		return one, fmt.Errorf("%q is neither a date nor RFC 3339: %w", field("date"), err)
	}
	one.Kind, one.Currency, one.Reason = schema.AdjustmentKind(strings.ToLower(field("kind"))), field("currency"), schema.CutReason(field("reason"))
	if one.Value, one.Per, err = schema.ParseAdjustment(one.Kind, field("value")); err != nil {
		return one, err
	}
	return one, one.AdjustmentTerms.Validate()
}
