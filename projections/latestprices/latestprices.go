// Package latestprices is the read model of the symbols that are known, each
// with its newest price.
package latestprices

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "latest-prices"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name: Name,
		Doc:  "Each symbol with its newest price by event time, when we last heard that it is, and how many there are.",
		New:  func(pipeline.Env) (pipeline.Projection, error) { return projection{}, nil },
	})
}

type projection struct{}

var _ pipeline.OrderFree = projection{}

const table = "latest_prices"

func (projection) Name() string         { return Name }
func (projection) Version() int         { return 3 }
func (projection) TableNames() []string { return []string{table} }

// OrderFree implements pipeline.OrderFree.
func (projection) OrderFree() {}

func (projection) Consumes() []schema.EventType {
	return append(schema.PriceTypes(), schema.QuoteUnchanged{}.EventType())
}

func (projection) Tables(g pipeline.Generation) []string {
	return []string{`CREATE TABLE ` + g.Table(table) + ` (
		provider    {text}    NOT NULL,
		symbol      {text}    NOT NULL,
		price       {decimal} NOT NULL,
		timestamp   {time}    NOT NULL,
		received_at {time}    NOT NULL,
		sequence    {int}     NOT NULL,
		price_id    {int}     NOT NULL,
		prices      {int}     NOT NULL,
		first_time  {time},
		PRIMARY KEY (provider, symbol)
	) {keyed}`}
}

// row is what one event, or all events of a batch, say about a key.
type row struct {
	Price
	// id is that of the price in the log; 0 where only a repeat of it was seen,
	// so that the price itself, when it comes, wins.
	id int64
	// sequence is that of the price, or where only a repeat was seen, the lowest.
	sequence schema.Sequence
	// prices is how many prices there are; first is the oldest event time among
	// them, the zero value for none.
	prices int64
	first  schema.Time
}

// Apply keeps, per key, of all events with the newest event time: the price with the
// highest sequence, of those the last in the log, and the latest receipt; and of all prices their
// number and the oldest event time. That is the same whatever order the events
// of the two topics come in.
func (projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	found := map[string]row{}
	for i := range in {
		next, err := read(&in[i])
		if err != nil {
			return err
		}
		key := schema.MarketKey(next.Provider, next.Symbol)
		if known, ok := found[key]; ok {
			next = merge(known, next)
		}
		found[key] = next
	}
	rows := store.Rows{Table: g.Table(table), Columns: []string{"provider", "symbol", "price", "timestamp", "received_at",
		"sequence", "price_id", "prices", "first_time"}, Clause: mergeSQL(g.Table(table))}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		r := found[key]
		var first any
		if r.prices > 0 {
			first = r.first
		}
		rows.Add(r.Provider, r.Symbol, r.Price.Price, r.Timestamp, r.ReceivedAt, r.sequence, r.id, r.prices, first)
	}
	return tx.Insert(ctx, rows)
}

func read(r *pipeline.Record) (row, error) {
	if p, ok := schema.PriceOf(r.Event.Payload); ok {
		id, err := r.RowID(0)
		if err != nil {
			return row{}, pipeline.Permanent(err)
		}
		return row{Price{p.Source, p.Symbol, p.Price, p.Timestamp, p.ReceivedAt}, id, p.Sequence, 1, p.Timestamp}, nil
	}
	if p, ok := r.Event.Payload.(schema.QuoteUnchanged); ok {
		return row{Price: Price{p.Provider, p.Symbol, p.Price, p.Timestamp, p.ReceivedAt}, sequence: math.MinInt64}, nil
	}
	return row{}, pipeline.Permanent(fmt.Errorf("unexpected event %T", r.Event.Payload))
}

// merge puts two rows of one key together.
func merge(a, b row) row {
	newest := a
	switch order := b.Timestamp.Compare(a.Timestamp); {
	case order > 0:
		newest = b
	case order == 0:
		if b.sequence > a.sequence || b.sequence == a.sequence && b.id > a.id {
			newest = b
		}
		if newest.ReceivedAt = a.ReceivedAt; b.ReceivedAt.After(a.ReceivedAt) {
			newest.ReceivedAt = b.ReceivedAt
		}
	}
	newest.prices, newest.first = a.prices+b.prices, a.first
	if a.prices == 0 || b.prices > 0 && a.first.After(b.first) {
		newest.first = b.first
	}
	return newest
}

// mergeSQL is merge for a row that is in the table.
func mergeSQL(t string) string {
	// The newest price, and of two at one time that with the higher sequence, or else the
	// later in the log.
	wins := `(excluded.timestamp, excluded.sequence, excluded.price_id) > (` + t + `.timestamp, ` + t + `.sequence, ` + t + `.price_id)`
	// Of two receipts of the newest event time, the later.
	heard := `excluded.timestamp > ` + t + `.timestamp OR (excluded.timestamp = ` + t + `.timestamp AND excluded.received_at > ` + t + `.received_at)`
	choose := func(column, condition string) string {
		return column + ` = CASE WHEN ` + condition + ` THEN excluded.` + column + ` ELSE ` + t + `.` + column + ` END`
	}
	return `ON CONFLICT (provider, symbol) DO UPDATE SET ` + strings.Join([]string{
		choose("price", wins), choose("sequence", wins), choose("price_id", wins), choose("received_at", heard),
		choose("timestamp", `excluded.timestamp > `+t+`.timestamp`),
		choose("first_time", `excluded.first_time < `+t+`.first_time OR `+t+`.first_time IS NULL`),
		`prices = ` + t + `.prices + excluded.prices`,
	}, ", ")
}
