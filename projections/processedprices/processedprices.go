// Package processedprices is the read model of every price that was observed, as it is
// after corrections. One that was retracted is in the table of corrections alone.
package processedprices

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = projections.PriceListName

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name: Name,
		Doc:  "Every price, with the answer it was read from.",
		New:  func(pipeline.Env) (pipeline.Projection, error) { return newProjection(), nil },
	})
}

type projection struct{ corrections *projections.Corrections }

var _ pipeline.OrderFree = projection{}

func newProjection() projection {
	return projection{&projections.Corrections{Table: table, Find: find,
		Keep: func(f *projections.Fact) bool {
			f.Key = 0
			if f.Bar != nil {
				f.Bar = &schema.Bar{OpenTime: f.Bar.OpenTime}
			}
			return true
		}}}
}

const table = projections.PriceListTable

func (projection) Name() string { return Name }
func (projection) Version() int { return projections.PriceListVersion }

func (p projection) TableNames() []string {
	return append([]string{table}, p.corrections.TableNames()...)
}

// OrderFree implements pipeline.OrderFree.
func (projection) OrderFree() {}

func (projection) Consumes() []schema.EventType {
	return schema.FactTypes()
}

func (p projection) Tables(g pipeline.Generation) []string {
	name := g.Table(table)
	return append([]string{`CREATE TABLE ` + name + ` (
		id              {int}     PRIMARY KEY,
		symbol          {text}    NOT NULL,
		price           {decimal} NOT NULL,
		timestamp       {time}    NOT NULL,
		sequence        {int}     NOT NULL,
		provider        {text}    NOT NULL,
		raw_response_id {text}    NOT NULL,
		received_at     {time}    NOT NULL,
		event_id        {text}    NOT NULL,
		size            {decimal}, -- NULL where the provider does not say
		open_time       {time},    -- of a bar, whose close the price is
		observed_price  {decimal},
		correction_id   {text}
	)`, `CREATE INDEX ` + name + `_by_time ON ` + name + ` (symbol, provider, timestamp, sequence, id)`}, p.corrections.Tables(g)...)
}

// columns are those of a price; the others are NULL of most.
var (
	columns    = []string{"id", "symbol", "price", "timestamp", "sequence", "provider", "raw_response_id", "received_at", "event_id", "size"}
	allColumns = append(slices.Clone(columns), "open_time", "observed_price", "correction_id")
)

// Apply appends one row a price, changes those that are corrected, and takes out those that
// are retracted. Why and when is in the table of corrections.
func (p projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	batch, err := p.corrections.Batch(ctx, tx, g, in)
	if err != nil {
		return err
	}
	changes := projections.Net(batch.Changes)
	came := store.Rows{Table: g.Table(table), Columns: columns, Values: make([]any, 0, len(changes)*len(columns))}
	fuller := store.Rows{Table: g.Table(table), Columns: allColumns}
	corrected := store.Rows{Table: g.Table(table), Columns: allColumns,
		Clause: "ON CONFLICT (id) DO UPDATE SET price = excluded.price, size = excluded.size, observed_price = excluded.observed_price, correction_id = excluded.correction_id"}
	for _, c := range changes {
		f := c.After
		switch {
		case f == nil:
			if _, err := tx.Exec(ctx, `DELETE FROM `+g.Table(table)+` WHERE id = $1`, c.Before.ID); err != nil {
				return fmt.Errorf("taking a retracted price out: %w", err)
			}
		case c.Before != nil:
			addRow(&corrected, c)
		case c.Correction != nil || f.Bar != nil:
			addRow(&fuller, c)
		default:
			came.Add(f.ID, f.Symbol, f.Price, f.Timestamp, f.Sequence, f.Provider, f.RawResponseID, f.ReceivedAt, f.EventID, sizeOf(f))
		}
	}
	for _, rows := range []store.Rows{came, fuller, corrected} {
		if err := tx.Insert(ctx, rows); err != nil {
			return err
		}
	}
	return nil
}

// addRow adds a row of allColumns.
func addRow(rows *store.Rows, c projections.Change) {
	f := c.After
	var opened, observed, by any
	if f.Bar != nil {
		opened = f.Bar.OpenTime
	}
	if c.Correction != nil {
		observed, by = c.Observed.Price, c.Correction.CorrectionID
	}
	rows.Add(f.ID, f.Symbol, f.Price, f.Timestamp, f.Sequence, f.Provider, f.RawResponseID, f.ReceivedAt, f.EventID, sizeOf(f), opened, observed, by)
}

// sizeOf is a size for the table; nil where the provider does not say.
func sizeOf(f *projections.Fact) any {
	if f.Size.Sign() <= 0 {
		return nil
	}
	return f.Size
}

// find is that of projections.Corrections.
func find(ctx context.Context, q store.Querier, g pipeline.Generation, names []projections.FactName) ([]projections.Fact, error) {
	args := make([]any, 0, 3*len(names))
	wanted := map[projections.FactName]bool{}
	for _, n := range names {
		args = append(args, n.Symbol, n.Provider, n.Timestamp)
		wanted[n] = true
	}
	var rows []struct {
		Price
		Symbol        schema.Symbol   `db:"symbol"`
		Provider      schema.Provider `db:"provider"`
		RawResponseID string          `db:"raw_response_id"`
		EventID       string          `db:"event_id"`
		Size          *schema.Decimal `db:"size"`
		OpenTime      *schema.Time    `db:"open_time"`
	}
	err := q.Select(ctx, &rows, store.ForEach(`SELECT id, symbol, price, timestamp, sequence, provider, raw_response_id, received_at, event_id, size, open_time
		FROM `+g.Table(table)+` WHERE symbol = ? AND provider = ? AND timestamp = ?`, len(names)), args...)
	if err != nil {
		return nil, fmt.Errorf("looking for prices: %w", err)
	}
	found := map[int64]projections.Fact{} // two names may be of one time
	for _, r := range rows {
		f := projections.Fact{Symbol: r.Symbol, Provider: r.Provider, Place: r.Place(), Key: projections.FactKey(r.EventID), Price: r.Price.Price,
			EventID: r.EventID, RawResponseID: r.RawResponseID, ReceivedAt: r.ReceivedAt}
		if r.Size != nil {
			f.Size = *r.Size
		}
		if r.OpenTime != nil {
			f.Bar = &schema.Bar{OpenTime: *r.OpenTime}
		}
		if wanted[projections.FactName{Symbol: f.Symbol, Provider: f.Provider, Timestamp: f.Timestamp, Key: f.Key}] {
			found[f.ID] = f
		}
	}
	return slices.Collect(maps.Values(found)), nil
}
