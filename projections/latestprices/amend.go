package latestprices

import (
	"context"
	"fmt"
	"math"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// saveRepeats stores when repeats came, one row for all of one event time.
func saveRepeats(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, repeats []row) error {
	type at struct {
		market
		time schema.Time
	}
	latest := map[at]row{}
	var order []at
	for _, r := range repeats {
		key := at{market{r.Provider, r.Symbol}, r.Timestamp}
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
	t := g.Table(prices.Name)
	rows := store.Rows{Table: t, Columns: []string{"symbol", "provider", "timestamp", "sequence", "id", "fact", "price", "received_at"},
		Clause: "ON CONFLICT (symbol, provider, timestamp, sequence, id) DO UPDATE SET received_at = excluded.received_at WHERE excluded.received_at > " + t + ".received_at"}
	for _, key := range order {
		r := latest[key]
		rows.Add(r.Symbol, r.Provider, r.Timestamp, int64(math.MinInt64), 0, 0, r.Price.Price, r.ReceivedAt)
	}
	return tx.Insert(ctx, rows)
}

// counted are the facts, and the repeats of a price at whose event time none was retracted.
func (p projection) counted(g pipeline.Generation) string {
	said := g.Table(p.corrections.Said())
	return `FROM ` + g.Table(prices.Name) + ` AS p WHERE symbol = $1 AND provider = $2 AND (fact > 0 OR NOT EXISTS (
		SELECT 1 FROM ` + said + ` AS c WHERE c.symbol = $1 AND c.provider = $2 AND c.timestamp = p.timestamp AND c.price IS NULL
		AND NOT EXISTS (SELECT 1 FROM ` + said + ` AS d WHERE d.correction_key = c.correction_key AND d.id > c.id)))`
}

// readAgain reads the rows of symbols that have corrections, where counts says how many
// prices more there are.
func (p projection) readAgain(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, quotes []schema.Quote, corrected map[string]bool, counts map[string]int64) error {
	done := map[string]bool{}
	for _, q := range quotes {
		if key := q.Key(); corrected[key] && !done[key] {
			done[key] = true
			if err := p.readMarket(ctx, tx, g, market{q.Provider, q.Symbol}, counts[key]); err != nil {
				return fmt.Errorf("reading the latest price of %s again: %w", key, err)
			}
		}
	}
	return nil
}

func (p projection) readMarket(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, m market, more int64) error {
	var newest []projections.FactRow
	err := tx.Select(ctx, &newest, `SELECT timestamp, sequence, id, price, received_at `+p.counted(g)+` ORDER BY timestamp DESC, sequence DESC, id DESC LIMIT 1`, m.symbol, m.provider)
	if err != nil {
		return err
	}
	if len(newest) == 0 {
		_, err := tx.Exec(ctx, `DELETE FROM `+g.Table(table)+` WHERE provider = $1 AND symbol = $2`, m.provider, m.symbol)
		return err
	}
	var first []projections.FactRow
	err = tx.Select(ctx, &first, `SELECT timestamp FROM `+g.Table(prices.Name)+` WHERE symbol = $1 AND provider = $2 AND fact > 0 ORDER BY timestamp, sequence, id LIMIT 1`, m.symbol, m.provider)
	if err != nil {
		return err
	}
	n := newest[0]
	var heard []projections.FactRow
	err = tx.Select(ctx, &heard, `SELECT received_at `+p.counted(g)+` AND timestamp = $3 ORDER BY received_at DESC LIMIT 1`, m.symbol, m.provider, n.Timestamp)
	if err != nil {
		return err
	}
	var oldest any
	if len(first) > 0 {
		oldest = first[0].Timestamp
	}
	rows := store.Rows{Table: g.Table(table), Columns: rowColumns, Clause: `ON CONFLICT (provider, symbol) DO UPDATE SET price = excluded.price,
		timestamp = excluded.timestamp, received_at = excluded.received_at, sequence = excluded.sequence, price_id = excluded.price_id,
		first_time = excluded.first_time, prices = ` + g.Table(table) + `.prices + excluded.prices`}
	rows.Add(m.provider, m.symbol, n.Price, n.Timestamp, heard[0].ReceivedAt, n.Sequence, n.ID, more, oldest)
	return tx.Insert(ctx, rows)
}
