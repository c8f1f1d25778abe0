package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
)

// seriesFold is a batch that is folded into a generation of a series.
type seriesFold[S any] struct {
	*series[S]
	tx    *pipeline.Tx
	table string
	// added are rows of prices that came, changed those whose state is another one.
	added, changed store.Rows
}

// Apply puts each price in its place, and computes again the states that follow from it.
func (p *series[S]) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	batch, err := p.corrections.Batch(ctx, tx, g, in)
	if err != nil {
		return err
	}
	batches := byMarket(Net(batch.Changes))
	markets := slices.SortedFunc(maps.Keys(batches), func(a, b market) int { return strings.Compare(a.String(), b.String()) })
	newest := pipeline.CacheFor[market, standing[S]](tx, p)
	f := &seriesFold[S]{series: p, tx: tx, table: g.Table(p.table)}
	f.clear()
	if err := f.load(ctx, newest, markets); err != nil {
		return err
	}
	// In one order everywhere: two transactions never wait in a circle.
	for _, m := range markets {
		before, _ := newest.Get(m)
		if err := f.amend(ctx, batches[m].amended); err != nil {
			return err
		}
		after, err := f.fold(ctx, m, before, batches[m])
		if err != nil {
			return fmt.Errorf("folding prices of %s: %w", m, err)
		}
		newest.Put(m, after)
	}
	return f.flush(ctx)
}

// seriesBatch is what a batch changes in a market.
type seriesBatch struct {
	// coming are the prices that are not in the table, in their order.
	coming []SeriesPrice
	// amended are the changes of prices that are in it, in the order of their places.
	amended []Change
}

// byMarket divides changes.
func byMarket(changes []Change) map[market]seriesBatch {
	changes = slices.SortedFunc(slices.Values(changes), func(a, b Change) int { return a.fact().Compare(b.fact().Place) })
	batches := map[market]seriesBatch{}
	for _, c := range changes {
		m := c.fact().market()
		b := batches[m]
		if c.Before == nil {
			b.coming = append(b.coming, SeriesPrice{c.After.Place, c.After.Price, c.After.Size, c.After.Key})
		} else {
			b.amended = append(b.amended, c)
		}
		batches[m] = b
	}
	return batches
}

// amend changes the prices that were corrected, and takes away those that were retracted.
// The states are left to fold.
func (f *seriesFold[S]) amend(ctx context.Context, amended []Change) error {
	rows := store.Rows{Table: f.table, Columns: seriesColumns,
		Clause: "ON CONFLICT (symbol, provider, " + seriesPlace + ") DO UPDATE SET price = excluded.price, size = excluded.size"}
	for _, c := range amended {
		if c.After == nil {
			if err := deleteFact(ctx, f.tx, f.table, *c.Before); err != nil {
				return err
			}
			continue
		}
		a := c.After
		rows.Add(a.Symbol, a.Provider, a.Timestamp, a.Sequence, a.ID, a.Key, a.Price, a.Size, nil)
	}
	return f.tx.Insert(ctx, rows)
}

// load brings where the series stand into memory.
func (f *seriesFold[S]) load(ctx context.Context, newest *pipeline.Cache[market, standing[S]], markets []market) error {
	var missing []market
	for _, m := range markets {
		if _, ok := newest.Get(m); !ok {
			newest.Put(m, standing[S]{})
			missing = append(missing, m)
		}
	}
	for part := range slices.Chunk(missing, 100) {
		args := make([]any, 0, 2*len(part))
		for _, m := range part {
			args = append(args, m.symbol, m.provider)
		}
		var rows []seriesRow
		err := f.tx.Select(ctx, &rows, store.ForEach(fmt.Sprintf(`SELECT %s FROM %s WHERE symbol = ? AND provider = ?
			ORDER BY timestamp DESC, sequence DESC, id DESC LIMIT %d`, strings.Join(seriesColumns, ", "), f.table, leadRows), len(part)), args...)
		if err != nil {
			return fmt.Errorf("loading the newest prices of %s: %w", f.table, err)
		}
		// Those of one market follow each other, newest first.
		for len(rows) > 0 {
			m, n := rows[0].market(), 1
			for n < len(rows) && rows[n].market() == m {
				n++
			}
			at, known, err := f.follow(rows[:n], 0, n < leadRows)
			if err != nil {
				return err
			}
			if !known {
				if at, err = f.before(ctx, m, Newest); err != nil {
					return err
				}
			}
			newest.Put(m, at[0])
			rows = rows[n:]
		}
	}
	return nil
}

// before is where the series stands before a place, by what the table holds.
func (f *seriesFold[S]) before(ctx context.Context, m market, place Place) ([]standing[S], error) {
	for lead := leadRows; ; lead *= 8 {
		rows, err := f.rowsBefore(ctx, f.tx, f.table, m, place, lead)
		if err != nil {
			return nil, fmt.Errorf("loading earlier prices: %w", err)
		}
		if at, known, err := f.follow(rows, 0, len(rows) < lead); known || err != nil {
			return at, err
		}
	}
}

// fold adds prices, in their order, computes the states after amended ones again, and
// returns where the series stands then.
func (f *seriesFold[S]) fold(ctx context.Context, m market, newest standing[S], batch seriesBatch) (standing[S], error) {
	r := &mending[S]{seriesFold: f, market: m, newest: newest, coming: batch.coming, amended: batch.amended}
	for r.isLate() {
		if err := r.run(ctx); err != nil {
			return newest, err
		}
		if len(r.coming)+len(r.amended) > 0 { // which may follow from what was changed
			if err := f.flush(ctx); err != nil {
				return newest, err
			}
		}
	}
	newest = r.newest
	for _, price := range r.coming {
		var err error
		if newest, err = f.add(m, newest, price); err != nil {
			return newest, err
		}
	}
	return newest, nil
}

// add is the step to a price that came.
func (f *seriesFold[S]) add(m market, before standing[S], price SeriesPrice) (standing[S], error) {
	after, err := f.step(before, price)
	if err != nil {
		return after, err
	}
	var state any
	if keepsState(price.ID) {
		if state, err = stateText(after.state); err != nil {
			return after, err
		}
	}
	f.added.Add(m.symbol, m.provider, price.Timestamp, price.Sequence, price.ID, price.fact, price.Price, price.Size, state)
	return after, nil
}

// change stores another state after a price that is there.
func (f *seriesFold[S]) change(r seriesRow, state string) {
	f.changed.Add(r.Symbol, r.Provider, r.Timestamp, r.Sequence, r.ID, r.Key, r.Price, r.Size, state)
}

func stateText[S any](state S) (string, error) {
	text, err := json.Marshal(state)
	if err != nil {
		return "", pipeline.Permanent(fmt.Errorf("writing a state: %w", err))
	}
	return string(text), nil
}

// flush writes what was added and changed.
func (f *seriesFold[S]) flush(ctx context.Context) error {
	if err := f.tx.Insert(ctx, f.added); err != nil {
		return err
	}
	if err := f.tx.Insert(ctx, f.changed); err != nil {
		return err
	}
	f.clear()
	return nil
}

func (f *seriesFold[S]) clear() {
	f.added = store.Rows{Table: f.table, Columns: seriesColumns}
	f.changed = store.Rows{Table: f.table, Columns: seriesColumns,
		Clause: "ON CONFLICT (symbol, provider, " + seriesPlace + ") DO UPDATE SET state = excluded.state"}
}
