package candles

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
)

// A candle does not say which prices it was made of, so that of a price that was
// corrected or retracted is made again: the shortest of its single prices, and each longer
// one of the shortest, as where there are bars.

// keep is that of projections.Corrections: all prices, and the bars that are within an
// interval.
func (p *projection) keep(f *projections.Fact) bool {
	f.Lean(f.Bar != nil)
	if f.Bar == nil {
		return true
	}
	b := *f.Bar
	b.AdjustedClose = nil
	f.Bar = &b
	return len(p.within(rowOf(*f))) > 0
}

// find is that of projections.Corrections, for bars.
func (p *projection) find(ctx context.Context, q store.Querier, g pipeline.Generation, names []projections.FactName) ([]projections.Fact, error) {
	args := make([]any, 0, 4*len(names))
	for _, n := range names {
		args = append(args, n.Symbol, n.Provider, n.Timestamp, n.Key)
	}
	var bars []barRow
	err := q.Select(ctx, &bars, store.ForEach(`SELECT `+strings.Join(barColumns, ", ")+` FROM `+g.Table(barsTable)+`
		WHERE symbol = ? AND provider = ? AND close_time = ? AND fact = ?`, len(names)), args...)
	if err != nil {
		return nil, fmt.Errorf("looking for bars: %w", err)
	}
	facts := make([]projections.Fact, len(bars))
	for i, b := range bars {
		facts[i] = b.asFact()
	}
	return facts, nil
}

// amend makes the shortest candles of amended prices again, as of ticks alone, and has
// all that have one made again.
func (f *fold) amend(ctx context.Context) error {
	var shortest []place
	for at := range f.amended {
		if f.again[at] = true; at.interval == f.intervals[0] {
			shortest = append(shortest, at)
		}
	}
	slices.SortFunc(shortest, func(a, b place) int { return cmp.Compare(a.String(), b.String()) })
	for part := range slices.Chunk(shortest, 100) {
		barred, err := f.haveBars(ctx, part)
		if err != nil {
			return err
		}
		made, err := f.ofPrices(ctx, part)
		if err != nil {
			return err
		}
		// Where there are bars, the ticks are kept apart; else they are the candle.
		ofTicks, under := map[place]candle{}, map[place]candle{}
		for _, at := range part {
			if ofTicks[at], under[at] = made[at], (candle{}); barred[at] {
				ofTicks[at], under[at] = candle{}, made[at]
			}
		}
		if err := save(ctx, f.tx, f.g.Table(table), ofTicks); err != nil {
			return err
		}
		if err := save(ctx, f.tx, f.g.Table(ticksTable), under); err != nil {
			return err
		}
	}
	return nil
}

// haveBars are those of some candles that have a bar within.
func (f *fold) haveBars(ctx context.Context, places []place) (map[place]bool, error) {
	var bars []barRow
	err := f.tx.Select(ctx, &bars, store.ForEach(`SELECT `+strings.Join(barColumns, ", ")+` FROM `+f.g.Table(barsTable)+`
		WHERE symbol = ? AND provider = ? AND close_time > ? AND close_time <= ? AND open_time >= ?`, len(places)), bounds(places)...)
	if err != nil {
		return nil, fmt.Errorf("looking for bars: %w", err)
	}
	found := map[place]bool{}
	for _, b := range bars {
		for _, at := range f.within(b) {
			found[at] = true
		}
	}
	return found, nil
}

// ofPrices are candles of all their prices, without bars.
func (f *fold) ofPrices(ctx context.Context, places []place) (map[place]candle, error) {
	made := map[place]candle{}
	for _, at := range places {
		facts, err := f.batch.Between(ctx, at.symbol, at.provider, at.start(), at.end())
		if err != nil {
			return nil, fmt.Errorf("reading the prices of candles: %w", err)
		}
		for _, fact := range facts {
			made[at] = made[at].add(tick(fact))
		}
	}
	return made, nil
}

// bounds are parameters for the intervals of candles.
func bounds(places []place) []any {
	args := make([]any, 0, 5*len(places))
	for _, at := range places {
		args = append(args, at.symbol, at.provider, at.start(), at.end(), at.start())
	}
	return args
}
