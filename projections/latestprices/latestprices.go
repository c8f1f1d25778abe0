// Package latestprices is the read model of the symbols that are known, each
// with its newest price.
package latestprices

import (
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
			return projection{&projections.Corrections{Table: table, Keep: keep, Listed: func(projections.Fact) bool { return true }}}, nil
		},
	})
}

type projection struct{ corrections *projections.Corrections }

var _ pipeline.OrderFree = projection{}

const table = "latest_prices"

// keep is that of projections.Corrections.
func keep(f *projections.Fact) bool {
	received := f.ReceivedAt
	f.Lean(false)
	f.Size, f.Bar, f.ReceivedAt = schema.Decimal{}, nil, received
	return true
}

func (projection) Name() string { return Name }
func (projection) Version() int { return 4 }

func (p projection) TableNames() []string {
	return append([]string{table, repeatsTable}, p.corrections.TableNames()...)
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
	) {keyed}`, repeatsDDL(g)}, p.corrections.Tables(g))
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
// of the two topics come in. After a correction it is read from the list of prices.
func (p projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	batch, err := p.corrections.Batch(ctx, tx, g, in)
	if err != nil {
		return err
	}
	var repeats []row
	again := map[market]int64{} // how many prices more there are of those that are read again
	for i := range in {
		e := in[i].Event.Payload
		if r, isRepeat := e.(schema.QuoteUnchanged); isRepeat {
			repeats = append(repeats, row{Price: Price{r.Provider, r.Symbol, r.Price, r.Timestamp, r.ReceivedAt}, sequence: math.MinInt64})
		} else if c, ok := schema.CorrectionOf(e); ok {
			again[market{c.Source, c.Symbol}] = 0
		}
	}
	if repeats, err = p.saveRepeats(ctx, tx, g, repeats); err != nil {
		return err
	}
	found := map[market]row{}
	for _, c := range batch.Changes {
		key := market{c.Quote().Provider, c.Quote().Symbol}
		more, read := again[key]
		switch {
		case !read:
			add(found, rowOf(*c.After))
		case c.Before == nil:
			again[key] = more + 1
		case c.After == nil:
			again[key] = more - 1
		}
	}
	for _, r := range repeats {
		if _, read := again[r.market()]; !read {
			add(found, r)
		}
	}
	if err := save(ctx, tx, g, found); err != nil {
		return err
	}
	return p.readAgain(ctx, batch, tx, g, again)
}

func rowOf(f projections.Fact) row {
	return row{Price{f.Provider, f.Symbol, f.Price, f.Timestamp, f.ReceivedAt}, f.ID, f.Sequence, 1, f.Timestamp}
}

func (r row) market() market { return market{r.Provider, r.Symbol} }

func add(found map[market]row, next row) {
	key := next.market()
	if known, ok := found[key]; ok {
		next = merge(known, next)
	}
	found[key] = next
}

var rowColumns = []string{"provider", "symbol", "price", "timestamp", "received_at", "sequence", "price_id", "prices", "first_time"}

func save(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, found map[market]row) error {
	rows := store.Rows{Table: g.Table(table), Columns: rowColumns, Clause: mergeSQL(g.Table(table))}
	for _, key := range slices.SortedFunc(maps.Keys(found), market.compare) {
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
