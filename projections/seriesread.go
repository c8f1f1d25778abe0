package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/pricemill/pricemill/pipeline/store"
)

// leadRows is how many prices before the wanted ones are read at first, to find a stored
// state: more than 98 times in 100 there is one.
const leadRows = 4 * stateGap

// Points implements Indicator. Each statement reads all that its points follow from, so
// that a price that arrives meanwhile is in all of them or in none.
func (p *series[S]) Points(ctx context.Context, db store.Querier, q IndicatorQuery) ([]Point, error) {
	m := market{q.Symbol, q.Provider}
	var points []Point
	behind := q.Behind
	// Not every price has a point: there may be more to read than is wanted.
	for wanted := q.Limit; len(points) < q.Limit; wanted = max(2*wanted, stateGap) {
		standings, prices, err := p.standings(ctx, db, m, behind, wanted)
		if err != nil {
			return nil, QueryError(p.Series.Name+" of "+m.String(), err)
		}
		for i, price := range prices {
			if price.Timestamp.Before(q.From.Time) {
				return points, nil
			}
			values, err := p.values(standings[i], price, q.Parameters)
			if err != nil {
				return nil, fmt.Errorf("the point of %s of %s at %s: %w", p.Series.Name, m, price.Timestamp, err)
			}
			if values == nil {
				continue
			}
			if points = append(points, Point{price.Place, values}); len(points) == q.Limit {
				return points, nil
			}
		}
		if len(prices) < wanted {
			return points, nil
		}
		behind = prices[len(prices)-1].Place
	}
	return points, nil
}

// standings are where the series stands after each of the prices before a place, newest
// first, as many as are wanted or there are.
func (p *series[S]) standings(ctx context.Context, db store.Querier, m market, before Place, wanted int) ([]standing[S], []SeriesPrice, error) {
	for lead := leadRows; ; lead *= 8 {
		rows, err := p.rowsBefore(ctx, db, p.table, m, before, wanted+lead)
		if err != nil {
			return nil, nil, err
		}
		n := min(wanted, len(rows))
		all, known, err := p.follow(rows, n, len(rows) < wanted+lead)
		if err != nil {
			return nil, nil, err
		}
		if !known {
			continue // no state is stored as near as that
		}
		prices := make([]SeriesPrice, n)
		for i := range prices {
			prices[i] = rows[i].price()
		}
		return all[:n], prices, nil
	}
}

// follow steps through prices, newest first, of which the first n are wanted, and
// returns where the series stands after each from the newest on; with n = 0, the
// standing after the newest. It begins at the last state that is stored before them,
// at the beginning of their session, or, where the rows are all there are, with the
// first one. known is false where none of these is among the rows.
func (p *series[S]) follow(rows []seriesRow, n int, all bool) (standings []standing[S], known bool, err error) {
	session := func(i int) string {
		if p.Session == nil {
			return ""
		}
		return p.Session(rows[i].price())
	}
	first := n - 1 // the oldest one to be skipped
	var at standing[S]
	for {
		next := first + 1 // older by one
		switch {
		case next == len(rows):
			if !all {
				return nil, false, nil
			}
		case first >= 0 && session(next) != session(first):
		case rows[next].State != nil:
			at = standing[S]{place: rows[next].price().Place, session: session(next), begun: true}
			if err := json.Unmarshal([]byte(*rows[next].State), &at.state); err != nil {
				return nil, false, fmt.Errorf("reading the state after the price of %s: %w", at.place.Timestamp, err)
			}
		default:
			first++
			continue
		}
		break
	}
	if first < 0 {
		return []standing[S]{at}, true, nil
	}
	standings = make([]standing[S], first+1)
	for i := first; i >= 0; i-- {
		if at, err = p.step(at, rows[i].price()); err != nil {
			return nil, false, err
		}
		standings[i] = at
	}
	return standings, true, nil
}

// values are those of the point at a price; nil where it has none.
func (p *series[S]) values(at standing[S], price SeriesPrice, parameters map[string]string) (values []any, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v", panicked)
		}
	}()
	if values = p.Point(at.state, price, parameters); values == nil {
		return nil, nil
	}
	if len(values) != len(p.Columns) {
		return nil, fmt.Errorf("%d values, and there are %d columns", len(values), len(p.Columns))
	}
	for i, c := range p.Columns {
		want := columnTypes[c.Type].Elem()
		if is := reflect.TypeOf(values[i]); is != want && (is != nil || !c.Nullable) {
			return nil, fmt.Errorf("column %s is given a %v, and takes a %v", c.Name, is, want)
		}
	}
	return slices.Clip(values), nil
}
