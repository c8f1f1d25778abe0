// Package adjustments is the read model of the splits and dividends of symbols, and what they
// make of prices.
//
// A price before a split of N new shares for O old ones is multiplied by O/N. A price before a
// dividend is multiplied by 1 − amount/close, where the close is the last price before the
// ex-date, less other dividends and by the splits since that price: so the return over the ex-date
// is that of a holder who reinvests the dividends. That is
// the factor of the Center for Research in Security Prices ("Data Descriptions Guide: CRSP US
// Stock & US Index Databases", factor to adjust price), and of Yahoo's adjusted close. The
// product of all factors after a price is exact, and the adjusted price is rounded once,
// half-even, to 18 fractional digits.
package adjustments

import (
	"context"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "adjustments"

const table = "adjustments"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name: Name,
		Doc:  "The splits and dividends of symbols, by which queries adjust prices.",
		New:  func(pipeline.Env) (pipeline.Projection, error) { return projection{}, nil },
	})
}

type projection struct{}

var _ pipeline.OrderFree = projection{}

func (projection) Name() string         { return Name }
func (projection) Version() int         { return 1 }
func (projection) TableNames() []string { return []string{table} }

// OrderFree implements pipeline.OrderFree.
func (projection) OrderFree() {}

func (projection) Consumes() []schema.EventType {
	return []schema.EventType{schema.AdjustmentRecorded{}.EventType(), schema.AdjustmentRetracted{}.EventType()}
}

func (projection) Tables(g pipeline.Generation) []string {
	name := g.Table(table)
	return []string{`CREATE TABLE ` + name + ` (
		id            {int}  PRIMARY KEY,
		event_id      {text} NOT NULL,
		adjustment_id {text} NOT NULL,
		provider      {text} NOT NULL,
		symbol        {text} NOT NULL,
		effective_at  {time}, -- NULL where it was retracted, as are kind, value and per
		kind          {text},
		value         {decimal},
		per           {decimal},
		currency      {text} NOT NULL,
		reason        {text} NOT NULL,
		said_at       {time} NOT NULL
	)`,
		`CREATE INDEX ` + name + `_by_adjustment ON ` + name + ` (adjustment_id, id)`,
		`CREATE INDEX ` + name + `_by_symbol ON ` + name + ` (symbol, provider, id)`,
	}
}

var columns = []string{"id", "event_id", "adjustment_id", "provider", "symbol", "effective_at", "kind", "value", "per", "currency", "reason", "said_at"}

// Apply appends a row an event. Of those of one adjustment the last in the log counts.
func (projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	rows := store.Rows{Table: g.Table(table), Columns: columns}
	for i := range in {
		id, err := in[i].RowID(0)
		if err != nil {
			return pipeline.Permanent(err)
		}
		switch e := in[i].Event.Payload.(type) {
		case schema.AdjustmentRecorded:
			rows.Add(id, in[i].Event.ID, e.AdjustmentID, e.Source, e.Symbol, e.EffectiveAt, string(e.Kind), e.Value, e.Per, e.Currency, e.Reason, e.RecordedAt)
		case schema.AdjustmentRetracted:
			rows.Add(id, in[i].Event.ID, e.AdjustmentID, e.Source, e.Symbol, nil, nil, nil, nil, "", e.Reason, e.RetractedAt)
		}
	}
	return tx.Insert(ctx, rows)
}
