package latestprices

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// repeatsTable has a row for all repeats of a price of one event time: what is known where
// a newer price is retracted.
const repeatsTable = "latest_price_repeats"

func repeatsDDL(g pipeline.Generation) string {
	return `CREATE TABLE ` + g.Table(repeatsTable) + ` (
		symbol      {text}    NOT NULL,
		provider    {text}    NOT NULL,
		timestamp   {time}    NOT NULL,
		price       {decimal} NOT NULL,
		received_at {time}    NOT NULL,
		PRIMARY KEY (symbol, provider, timestamp)
	) {keyed}`
}

// saveRepeats stores when repeats came, and returns those that count: at whose event time
// no price was retracted.
func (p projection) saveRepeats(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, repeats []row) ([]row, error) {
	if len(repeats) == 0 {
		return nil, nil
	}
	type at struct {
		market
		time schema.Time
	}
	latest := map[at]row{}
	var order []at
	quotes := make([]schema.Quote, len(repeats))
	for i, r := range repeats {
		quotes[i] = schema.Quote{Provider: r.Provider, Symbol: r.Symbol}
		key := at{r.market(), r.Timestamp}
		known, again := latest[key]
		if !again {
			order = append(order, key)
		} else if known.ReceivedAt.After(r.ReceivedAt) {
			r.ReceivedAt = known.ReceivedAt
		}
		if again { // the price stays that of the first
			r.Price.Price = known.Price.Price
		}
		latest[key] = r
	}
	slices.SortFunc(order, func(a, b at) int {
		if n := a.compare(b.market); n != 0 {
			return n
		}
		return a.time.Compare(b.time)
	})
	t := g.Table(repeatsTable)
	rows := store.Rows{Table: t, Columns: []string{"symbol", "provider", "timestamp", "price", "received_at"},
		Clause: "ON CONFLICT (symbol, provider, timestamp) DO UPDATE SET received_at = excluded.received_at WHERE excluded.received_at > " + t + ".received_at"}
	for _, key := range order {
		r := latest[key]
		rows.Add(r.Symbol, r.Provider, r.Timestamp, r.Price.Price, r.ReceivedAt)
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return nil, err
	}
	corrected, err := p.corrections.Of(ctx, tx, g, quotes)
	if err != nil || len(corrected) == 0 {
		return repeats, err
	}
	var counted []row
	for _, r := range repeats {
		if corrected[schema.MarketKey(r.Provider, r.Symbol)] {
			var of []repeat
			err := tx.Select(ctx, &of, `SELECT timestamp, price, received_at `+p.counted(g)+` AND timestamp = $3`, r.Symbol, r.Provider, r.Timestamp)
			if err != nil {
				return nil, fmt.Errorf("looking whether a repeat counts: %w", err)
			}
			if len(of) == 0 {
				continue
			}
		}
		counted = append(counted, r)
	}
	return counted, nil
}

// repeat is a row of repeatsTable.
type repeat struct {
	Timestamp  schema.Time    `db:"timestamp"`
	Price      schema.Decimal `db:"price"`
	ReceivedAt schema.Time    `db:"received_at"`
}

// counted are the repeats of a price at whose event time none was retracted.
func (p projection) counted(g pipeline.Generation) string {
	said := g.Table(p.corrections.Said())
	return `FROM ` + g.Table(repeatsTable) + ` AS p WHERE symbol = $1 AND provider = $2 AND NOT EXISTS (
		SELECT 1 FROM ` + said + ` AS c WHERE c.symbol = $1 AND c.provider = $2 AND c.timestamp = p.timestamp AND c.price IS NULL
		AND NOT EXISTS (SELECT 1 FROM ` + said + ` AS d WHERE d.correction_key = c.correction_key AND d.id > c.id))`
}

// readAgain reads the rows of symbols that were corrected, each with how many prices more
// there are.
func (p projection) readAgain(ctx context.Context, batch *projections.Batch, tx *pipeline.Tx, g pipeline.Generation, again map[market]int64) error {
	for _, m := range slices.SortedFunc(maps.Keys(again), market.compare) {
		if err := p.readMarket(ctx, batch, tx, g, m, again[m]); err != nil {
			return fmt.Errorf("reading the latest price of %s again: %w", schema.MarketKey(m.provider, m.symbol), err)
		}
	}
	return nil
}

func (p projection) readMarket(ctx context.Context, batch *projections.Batch, tx *pipeline.Tx, g pipeline.Generation, m market, more int64) error {
	newest, err := batch.Before(ctx, m.symbol, m.provider, projections.Newest, math.MaxInt64)
	if err != nil {
		return err
	}
	var repeats []repeat
	err = tx.Select(ctx, &repeats, `SELECT timestamp, price, received_at `+p.counted(g)+` ORDER BY timestamp DESC LIMIT 1`, m.symbol, m.provider)
	if err != nil {
		return err
	}
	var r row
	switch {
	case newest == nil && len(repeats) == 0:
		_, err := tx.Exec(ctx, `DELETE FROM `+g.Table(table)+` WHERE provider = $1 AND symbol = $2`, m.provider, m.symbol)
		return err
	case newest == nil || len(repeats) > 0 && repeats[0].Timestamp.After(newest.Timestamp):
		r = row{Price: Price{m.provider, m.symbol, repeats[0].Price, repeats[0].Timestamp, repeats[0].ReceivedAt}, sequence: math.MinInt64}
	default:
		r = rowOf(*newest)
		same, err := batch.Between(ctx, m.symbol, m.provider, newest.Timestamp, newest.Timestamp.Add(1000)) // one microsecond
		if err != nil {
			return err
		}
		for _, f := range same {
			if f.ReceivedAt.After(r.ReceivedAt) {
				r.ReceivedAt = f.ReceivedAt
			}
		}
		if len(repeats) > 0 && repeats[0].Timestamp == newest.Timestamp && repeats[0].ReceivedAt.After(r.ReceivedAt) {
			r.ReceivedAt = repeats[0].ReceivedAt
		}
	}
	var first any
	if newest != nil {
		oldest, err := batch.Oldest(ctx, m.symbol, m.provider)
		if err != nil {
			return err
		}
		first = oldest.Timestamp
	}
	rows := store.Rows{Table: g.Table(table), Columns: rowColumns, Clause: `ON CONFLICT (provider, symbol) DO UPDATE SET price = excluded.price,
		timestamp = excluded.timestamp, received_at = excluded.received_at, sequence = excluded.sequence, price_id = excluded.price_id,
		first_time = excluded.first_time, prices = ` + g.Table(table) + `.prices + excluded.prices`}
	rows.Add(m.provider, m.symbol, r.Price.Price, r.Timestamp, r.ReceivedAt, r.sequence, r.id, more, first)
	return tx.Insert(ctx, rows)
}
