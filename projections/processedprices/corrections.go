package processedprices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// CorrectionStatus is where a correction stands.
type CorrectionStatus string

// The states of a correction.
const (
	// CorrectionWaiting is without its fact, which has not come.
	CorrectionWaiting CorrectionStatus = "waiting"
	// CorrectionApplied is what the fact is by now.
	CorrectionApplied CorrectionStatus = "applied"
	// CorrectionSuperseded was followed by another one of the fact.
	CorrectionSuperseded CorrectionStatus = "superseded"
)

// Correction is a correction or a retraction of a price.
type Correction struct {
	projections.CorrectionRow
	Status CorrectionStatus
	// Observed is the price as it came; nil where it has not.
	Observed *schema.Decimal
}

// Retracted reports whether it says that there was no such price.
func (c Correction) Retracted() bool { return c.Price == nil }

// CorrectionQuery selects corrections of one symbol at one provider, the last in the log
// first.
type CorrectionQuery struct {
	Provider schema.Provider
	Symbol   schema.Symbol
	// Behind is the ID of the last that is not wanted any more; 0 begins with the first.
	Behind int64
	// Limit is how many at the most.
	Limit int
}

const (
	said      = table + "_corrections"
	originals = table + "_corrected"
)

// selectCorrections reads corrections with what follows for their status.
const selectCorrections = `SELECT c.id, c.correction_key, c.fact_id, c.symbol, c.provider, c.timestamp, c.correction_id, c.price, c.size, c.reason, c.corrected_at,
	(SELECT o.fact FROM ` + originals + ` AS o WHERE o.correction_key = c.correction_key LIMIT 1) AS original,
	(SELECT MAX(d.id) FROM ` + said + ` AS d WHERE d.correction_key = c.correction_key) AS last
	FROM ` + said + ` AS c WHERE `

func (r Reader) corrections(ctx context.Context, what, where string, args ...any) ([]Correction, error) {
	var rows []struct {
		projections.CorrectionRow
		Original *string `db:"original"`
		Last     int64   `db:"last"`
	}
	if err := r.DB.Select(ctx, &rows, selectCorrections+where, args...); err != nil {
		return nil, projections.QueryError(what, err)
	}
	all := make([]Correction, len(rows))
	for i, row := range rows {
		all[i] = Correction{CorrectionRow: row.CorrectionRow, Status: CorrectionApplied}
		if row.Original != nil {
			var fact projections.Fact
			if err := json.Unmarshal([]byte(*row.Original), &fact); err != nil {
				return nil, fmt.Errorf("reading a price as it came: %w", err)
			}
			all[i].Observed = &fact.Price
		}
		switch {
		case row.Last > row.ID:
			all[i].Status = CorrectionSuperseded
		case row.Original == nil:
			all[i].Status = CorrectionWaiting
		}
	}
	return all, nil
}

// Corrections lists corrections.
func (r Reader) Corrections(ctx context.Context, q CorrectionQuery) ([]Correction, error) {
	behind := q.Behind
	if behind == 0 {
		behind = 1<<63 - 1
	}
	return r.corrections(ctx, "the corrections of "+schema.MarketKey(q.Provider, q.Symbol),
		`c.symbol = $1 AND c.provider = $2 AND c.id < $3 ORDER BY c.id DESC LIMIT $4`, q.Symbol, q.Provider, behind, q.Limit)
}

// Correction returns the correction with an id, or projections.ErrNotFound.
func (r Reader) Correction(ctx context.Context, id string) (Correction, error) {
	found, err := r.corrections(ctx, "correction "+id, `c.correction_id = $1 ORDER BY c.id DESC LIMIT 1`, id)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("correction %s: %w", id, projections.ErrNotFound)
	}
	if err != nil {
		return Correction{}, err
	}
	return found[0], nil
}

// WaitCaughtUp returns once every price and correction is known that was in the log before
// the call, or the error of ctx.
func (r Reader) WaitCaughtUp(ctx context.Context) error {
	return projections.WaitCaughtUp(ctx, r.DB, Name, schema.PriceEvents)
}

// Moment names the prices of one symbol, provider and event time.
type Moment struct {
	Provider  schema.Provider
	Symbol    schema.Symbol
	Timestamp schema.Time
}

// Fact is a price that can be corrected, as it is.
type Fact struct {
	Moment
	// FactID is the id of its event.
	FactID string
	// Price is what it is by now; nil where it was retracted.
	Price *schema.Decimal
	// CorrectionID is the last correction; empty where there is none.
	CorrectionID string
}

// Facts returns the prices of some moments, the retracted ones too.
func (r Reader) Facts(ctx context.Context, moments []Moment) (map[Moment][]Fact, error) {
	facts := map[string]Fact{}
	for part := range slices.Chunk(moments, 100) {
		args := make([]any, 0, 3*len(part))
		for _, m := range part {
			args = append(args, m.Symbol, m.Provider, m.Timestamp)
		}
		var rows []struct {
			Symbol       schema.Symbol   `db:"symbol"`
			Provider     schema.Provider `db:"provider"`
			Timestamp    schema.Time     `db:"timestamp"`
			FactID       string          `db:"event_id"`
			Price        schema.Decimal  `db:"price"`
			CorrectionID *string         `db:"correction_id"`
		}
		err := r.DB.Select(ctx, &rows, store.ForEach(`SELECT symbol, provider, timestamp, event_id, price, correction_id FROM `+table+`
			WHERE symbol = ? AND provider = ? AND timestamp = ?`, len(part)), args...)
		if err != nil {
			return nil, projections.QueryError("which prices there are", err)
		}
		for _, row := range rows {
			f := Fact{Moment: Moment{row.Provider, row.Symbol, row.Timestamp}, FactID: row.FactID, Price: &row.Price}
			if row.CorrectionID != nil {
				f.CorrectionID = *row.CorrectionID
			}
			facts[f.FactID] = f
		}
		if err := r.retracted(ctx, args, facts); err != nil {
			return nil, err
		}
	}
	found := map[Moment][]Fact{}
	for _, id := range slices.Sorted(maps.Keys(facts)) {
		found[facts[id].Moment] = append(found[facts[id].Moment], facts[id])
	}
	return found, nil
}

// retracted adds the prices that were retracted.
func (r Reader) retracted(ctx context.Context, args []any, facts map[string]Fact) error {
	var rows []projections.CorrectionRow
	err := r.DB.Select(ctx, &rows, store.ForEach(`SELECT symbol, provider, timestamp, fact_id, correction_id FROM `+said+` AS c
		WHERE symbol = ? AND provider = ? AND timestamp = ? AND price IS NULL
		AND EXISTS (SELECT 1 FROM `+originals+` AS o WHERE o.correction_key = c.correction_key)
		AND NOT EXISTS (SELECT 1 FROM `+said+` AS d WHERE d.correction_key = c.correction_key AND d.id > c.id)`, len(args)/3), args...)
	if err != nil {
		return projections.QueryError("which prices were retracted", err)
	}
	for _, c := range rows {
		facts[c.FactID] = Fact{Moment: Moment{c.Provider, c.Symbol, c.Timestamp}, FactID: c.FactID, CorrectionID: c.CorrectionID}
	}
	return nil
}

// ErrAmbiguous says that a moment has several prices.
var ErrAmbiguous = errors.New("there are several prices")

// Sole is the one of the prices of a moment that is to be corrected: the one with an id,
// or, without one, the only one there is, or that was not retracted. Its errors wrap
// projections.ErrNotFound, and ErrAmbiguous.
func Sole(m Moment, facts []Fact, id string) (Fact, error) {
	if id == "" && len(facts) > 1 {
		if live := slices.DeleteFunc(slices.Clone(facts), func(f Fact) bool { return f.Price == nil }); len(live) == 1 {
			facts = live
		}
	}
	if id != "" {
		facts = slices.DeleteFunc(slices.Clone(facts), func(f Fact) bool { return f.FactID != id })
	}
	switch len(facts) {
	case 0:
		if id != "" {
			id = " with the id " + id
		}
		return Fact{}, fmt.Errorf("there is no price of %s at %s of %s%s: %w", m.Symbol, m.Provider, m.Timestamp.Text(), id, projections.ErrNotFound)
	case 1:
		return facts[0], nil
	}
	ids := make([]string, 0, len(facts))
	for _, f := range facts[:min(len(facts), 10)] {
		ids = append(ids, f.FactID)
	}
	return Fact{}, fmt.Errorf("%w of %s at %s of %s: name one by its id: %s", ErrAmbiguous, m.Symbol, m.Provider, m.Timestamp.Text(), strings.Join(ids, ", "))
}
