// Package processedprices is the read model of every price ever observed.
package processedprices

import (
	"context"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "processed-prices"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name: Name,
		Doc:  "Every price, with the answer it was read from.",
		New:  func(pipeline.Env) (pipeline.Projection, error) { return projection{}, nil },
	})
}

type projection struct{}

var _ pipeline.OrderFree = projection{}

const table = "processed_prices"

func (projection) Name() string         { return Name }
func (projection) Version() int         { return 2 }
func (projection) TableNames() []string { return []string{table} }

// OrderFree implements pipeline.OrderFree.
func (projection) OrderFree() {}

func (projection) Consumes() []schema.EventType {
	return schema.PriceTypes()
}

func (projection) Tables(g pipeline.Generation) []string {
	name := g.Table(table)
	return []string{`CREATE TABLE ` + name + ` (
		id              {int}     PRIMARY KEY,
		symbol          {text}    NOT NULL,
		price           {decimal} NOT NULL,
		timestamp       {time}    NOT NULL,
		sequence        {int}     NOT NULL,
		provider        {text}    NOT NULL,
		raw_response_id {text}    NOT NULL,
		received_at     {time}    NOT NULL,
		event_id        {text}    NOT NULL
	)`, `CREATE INDEX ` + name + `_by_time ON ` + name + ` (symbol, provider, timestamp, sequence, id)`}
}

// Apply appends one row a price.
func (projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	columns := []string{"id", "symbol", "price", "timestamp", "sequence", "provider", "raw_response_id", "received_at", "event_id"}
	rows := store.Rows{Table: g.Table(table), Columns: columns, Values: make([]any, 0, len(in)*len(columns))}
	for i := range in {
		p, _ := schema.PriceOf(in[i].Event.Payload)
		id, err := in[i].RowID(0)
		if err != nil {
			return pipeline.Permanent(err)
		}
		rows.Add(id, p.Symbol, p.Price, p.Timestamp, p.Sequence, p.Source, p.RawResponseID, p.ReceivedAt, in[i].Event.ID)
	}
	return tx.Insert(ctx, rows)
}
