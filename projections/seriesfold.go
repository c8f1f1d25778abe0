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
	"github.com/pricemill/pricemill/schema"
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
	coming, err := p.byMarket(in)
	if err != nil {
		return err
	}
	markets := slices.SortedFunc(maps.Keys(coming), func(a, b market) int { return strings.Compare(a.String(), b.String()) })
	newest := pipeline.CacheFor[market, standing[S]](tx, p)
	f := &seriesFold[S]{series: p, tx: tx, table: g.Table(p.table)}
	f.clear()
	if err := f.load(ctx, newest, markets); err != nil {
		return err
	}
	// In one order everywhere: two transactions never wait in a circle.
	for _, m := range markets {
		before, _ := newest.Get(m)
		after, err := f.fold(ctx, m, before, coming[m])
		if err != nil {
			return fmt.Errorf("folding prices of %s: %w", m, err)
		}
		newest.Put(m, after)
	}
	return f.flush(ctx)
}

// byMarket are the prices that the series wants, in their order.
func (p *series[S]) byMarket(in []pipeline.Record) (map[market][]SeriesPrice, error) {
	coming := map[market][]SeriesPrice{}
	for i := range in {
		price, _ := schema.PriceOf(in[i].Event.Payload)
		if p.Wants != nil && !p.Wants(price) {
			continue
		}
		id, err := in[i].RowID(0)
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		m := market{price.Symbol, price.Source}
		coming[m] = append(coming[m], SeriesPrice{Place{price.Timestamp, price.Sequence, id}, price.Price, price.Size})
	}
	for _, prices := range coming {
		slices.SortFunc(prices, func(a, b SeriesPrice) int { return a.Compare(b.Place) })
	}
	return coming, nil
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

// fold adds prices, in their order, and returns where the series stands then.
func (f *seriesFold[S]) fold(ctx context.Context, m market, newest standing[S], coming []SeriesPrice) (standing[S], error) {
	r := &mending[S]{seriesFold: f, market: m, newest: newest, coming: coming}
	for len(r.coming) > 0 && newest.begun && r.coming[0].Compare(newest.place) < 0 {
		if err := r.run(ctx); err != nil {
			return newest, err
		}
		if len(r.coming) > 0 { // which may follow from what was changed
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
	f.added.Add(m.symbol, m.provider, price.Timestamp, price.Sequence, price.ID, price.Price, price.Size, state)
	return after, nil
}

// change stores another state after a price that is there.
func (f *seriesFold[S]) change(r seriesRow, state string) {
	f.changed.Add(r.Symbol, r.Provider, r.Timestamp, r.Sequence, r.ID, r.Price, r.Size, state)
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
