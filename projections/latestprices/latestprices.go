// Package latestprices is the read model of the newest price of each symbol.
package latestprices

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "latest-prices"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name: Name,
		Doc:  "The newest price of each symbol by event time, and when we last heard that it is.",
		New:  func(pipeline.Env) (pipeline.Projection, error) { return projection{}, nil },
	})
}

type projection struct{}

var _ pipeline.Projection = projection{}

const table = "latest_prices"

func (projection) Name() string         { return Name }
func (projection) Version() int         { return 1 }
func (projection) TableNames() []string { return []string{table} }

func (projection) Takes() []schema.EventType {
	return []schema.EventType{schema.PriceObserved{}.EventType(), schema.QuoteUnchanged{}.EventType()}
}

func (projection) Tables(g pipeline.Generation) []string {
	return []string{`CREATE TABLE ` + g.Table(table) + ` (
		provider    {text}    NOT NULL,
		symbol      {text}    NOT NULL,
		price       {decimal} NOT NULL,
		timestamp   {time}    NOT NULL,
		received_at {time}    NOT NULL,
		price_id    {int}     NOT NULL,
		PRIMARY KEY (provider, symbol)
	) {keyed}`}
}

// row is a candidate for the newest price of its key.
type row struct {
	Price
	// id is that of the price in the log; 0 where only a repeat of it was seen,
	// so that the price itself, when it comes, wins.
	id int64
}

// Apply keeps, per key, of all events with the newest event time: the price
// that is last in the log, and the latest receipt. That is the same whatever
// order the events of the two topics come in.
func (projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	best := map[string]row{}
	for i := range in {
		candidate, err := read(&in[i])
		if err != nil {
			return err
		}
		key := schema.MarketKey(candidate.Provider, candidate.Symbol)
		if known, ok := best[key]; ok {
			candidate = merge(known, candidate)
		}
		best[key] = candidate
	}
	name := g.Table(table)
	rows := store.Rows{Table: name, Columns: []string{"provider", "symbol", "price", "timestamp", "received_at", "price_id"},
		Clause: `ON CONFLICT (provider, symbol) DO UPDATE SET
		price = CASE WHEN excluded.timestamp > ` + name + `.timestamp OR excluded.price_id > ` + name + `.price_id
			THEN excluded.price ELSE ` + name + `.price END,
		price_id = CASE WHEN excluded.timestamp > ` + name + `.timestamp OR excluded.price_id > ` + name + `.price_id
			THEN excluded.price_id ELSE ` + name + `.price_id END,
		received_at = CASE WHEN excluded.timestamp > ` + name + `.timestamp OR excluded.received_at > ` + name + `.received_at
			THEN excluded.received_at ELSE ` + name + `.received_at END,
		timestamp = excluded.timestamp
		WHERE excluded.timestamp >= ` + name + `.timestamp`}
	for _, key := range slices.Sorted(maps.Keys(best)) {
		r := best[key]
		rows.Add(r.Provider, r.Symbol, r.Price.Price, r.Timestamp, r.ReceivedAt, r.id)
	}
	return tx.Insert(ctx, rows)
}

func read(r *pipeline.Record) (row, error) {
	switch p := r.Event.Payload.(type) {
	case schema.PriceObserved:
		id, err := r.RowID(0)
		if err != nil {
			return row{}, pipeline.Permanent(err)
		}
		return row{Price{p.Source, p.Symbol, p.Price, p.Timestamp, p.ReceivedAt}, id}, nil
	case schema.QuoteUnchanged:
		return row{Price{p.Provider, p.Symbol, p.Price, p.Timestamp, p.ReceivedAt}, 0}, nil
	default:
		return row{}, pipeline.Permanent(fmt.Errorf("unexpected event %T", p))
	}
}

// merge is what the SQL does, for two events of one batch.
func merge(known, next row) row {
	switch order := next.Timestamp.Compare(known.Timestamp); {
	case order > 0:
		return next
	case order < 0:
		return known
	}
	received := known.ReceivedAt
	if next.ReceivedAt.After(received) {
		received = next.ReceivedAt
	}
	if next.id > known.id {
		known = next
	}
	known.ReceivedAt = received
	return known
}
