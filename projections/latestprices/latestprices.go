// Package latestprices is the read model of the symbols that are known, each
// with its newest price.
package latestprices

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "latest-prices"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name: Name,
		Doc:  "Each symbol with its newest price by event time, when we last heard that it is, and how many there are.",
		New: func(pipeline.Env) (pipeline.Projection, error) {
			return projection{&projections.Corrections{Table: table, Keep: prices.Keep, Find: prices.Find}}, nil
		},
	})
}

type projection struct{ corrections *projections.Corrections }

var _ pipeline.OrderFree = projection{}

const table = "latest_prices"

// prices has a row for each price, and one for all repeats of a price of one event time,
// with the id 0: what is known where the newest price is retracted.
var prices = projections.FactTable{Name: "latest_price_prices", Receipts: true}

func (projection) Name() string { return Name }
func (projection) Version() int { return 4 }

func (p projection) TableNames() []string {
	return append([]string{table, prices.Name}, p.corrections.TableNames()...)
}

// OrderFree implements pipeline.OrderFree.
func (projection) OrderFree() {}

func (projection) Consumes() []schema.EventType {
	return append(schema.FactTypes(), schema.QuoteUnchanged{}.EventType())
}

func (p projection) Tables(g pipeline.Generation) []string {
	return slices.Concat([]string{`CREATE TABLE ` + g.Table(table) + ` (
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
	) {keyed}`}, prices.Tables(g), p.corrections.Tables(g))
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
// of the two topics come in. Where a price was corrected, it is read from all prices.
func (p projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	changes, err := p.corrections.Changes(ctx, tx, g, in)
	if err != nil {
		return err
	}
	if err := prices.Apply(ctx, tx, g, projections.Net(changes)); err != nil {
		return err
	}
	repeats, quotes := []row{}, []schema.Quote{}
	for i := range in {
		switch e := in[i].Event.Payload.(type) {
		case schema.QuoteUnchanged:
			repeats = append(repeats, row{Price: Price{e.Provider, e.Symbol, e.Price, e.Timestamp, e.ReceivedAt}, sequence: math.MinInt64})
			quotes = append(quotes, schema.Quote{Provider: e.Provider, Symbol: e.Symbol})
		default:
			c, _ := schema.CorrectionOf(e)
			price, _ := schema.PriceOf(e)
			quotes = append(quotes, schema.Quote{Provider: cmp.Or(c.Source, price.Source), Symbol: cmp.Or(c.Symbol, price.Symbol)})
		}
	}
	if err := saveRepeats(ctx, tx, g, repeats); err != nil {
		return err
	}
	corrected, err := p.corrections.Of(ctx, tx, g, quotes)
	if err != nil {
		return err
	}
	found := map[string]row{}
	counts := map[string]int64{} // of those that are read again
	for _, c := range changes {
		switch key := c.Market(); {
		case !corrected[key]:
			add(found, rowOf(*c.After))
		case c.Before == nil:
			counts[key]++
		case c.After == nil:
			counts[key]--
		}
	}
	for _, r := range repeats {
		if !corrected[schema.MarketKey(r.Provider, r.Symbol)] {
			add(found, r)
		}
	}
	if err := save(ctx, tx, g, found); err != nil {
		return err
	}
	return p.readAgain(ctx, tx, g, quotes, corrected, counts)
}

func rowOf(f projections.Fact) row {
	return row{Price{f.Provider, f.Symbol, f.Price, f.Timestamp, f.ReceivedAt}, f.ID, f.Sequence, 1, f.Timestamp}
}

func add(found map[string]row, next row) {
	key := schema.MarketKey(next.Provider, next.Symbol)
	if known, ok := found[key]; ok {
		next = merge(known, next)
	}
	found[key] = next
}

var rowColumns = []string{"provider", "symbol", "price", "timestamp", "received_at", "sequence", "price_id", "prices", "first_time"}

func save(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, found map[string]row) error {
	rows := store.Rows{Table: g.Table(table), Columns: rowColumns, Clause: mergeSQL(g.Table(table))}
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
