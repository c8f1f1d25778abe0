package projections

import (
	"context"
	"fmt"
	"strings"
)

// mending puts late prices of a market in their places.
type mending[S any] struct {
	*seriesFold[S]
	market market
	// newest is where the series stands after its last price.
	newest standing[S]
	// coming are the prices that are not yet in their places, in their order; the first
	// one is late.
	coming []SeriesPrice
	// late is where the late prices of a session lead alone, of a series with a Join: what
	// the states that are stored after them lack.
	late standing[S]
}

// Prices are read in pages, of which the first is smaller: mostly a state is soon as it
// was.
const (
	firstMendRows = 4 * stateGap
	mendRows      = 1000
)

// run steps from before the first late price over all that come after it, until a stored
// state is as it was and no price is left to come soon.
func (r *mending[S]) run(ctx context.Context) error {
	all, err := r.before(ctx, r.market, r.coming[0].Place)
	if err != nil {
		return err
	}
	at, from := all[0], r.coming[0].Place
	for limit := firstMendRows; ; limit = mendRows {
		rows, err := r.rowsAfter(ctx, from, limit, "")
		if err != nil {
			return err
		}
		for _, row := range rows {
			if at, err = r.insertBefore(at, row.price().Place); err != nil {
				return err
			}
			if at, err = r.step(at, row.price()); err != nil {
				return err // which Apply makes the fault of the late price
			}
			if row.State == nil {
				continue
			}
			text, err := stateText(at.state)
			if err != nil {
				return err
			}
			settled := text == *row.State
			if !settled {
				r.change(row, text)
			}
			if soon := len(r.coming) > 0 && r.coming[0].Compare(rows[len(rows)-1].price().Place) < 0; soon {
				continue
			}
			switch {
			case settled:
				return nil
			case r.Join != nil:
				return r.join(ctx, at)
			}
		}
		if len(rows) < limit {
			r.newest = at
			return nil
		}
		from = rows[len(rows)-1].price().Place
	}
}

// insertBefore adds the prices that come before a place.
func (r *mending[S]) insertBefore(at standing[S], place Place) (standing[S], error) {
	for len(r.coming) > 0 && r.coming[0].Compare(place) < 0 {
		price := r.coming[0]
		r.coming = r.coming[1:]
		var err error
		if at, err = r.add(r.market, at, price); err != nil {
			return at, err
		}
		if r.Join == nil {
			continue
		}
		if r.late, err = r.step(r.late, price); err != nil {
			return at, err
		}
	}
	return at, nil
}

// join adds the late prices to the states that are stored in the rest of their session,
// up to the next price that is to come; the states after that one get both.
func (r *mending[S]) join(ctx context.Context, at standing[S]) error {
	if at.session != r.late.session {
		return fmt.Errorf("joining states of %s: a late price of the session %q changed the session %q", r.Series.Name, r.late.session, at.session)
	}
	for from := at.place; ; {
		rows, err := r.rowsAfter(ctx, from, mendRows, "AND state IS NOT NULL")
		if err != nil {
			return err
		}
		for _, row := range rows {
			price := row.price()
			if r.Session != nil && r.Session(price) != at.session {
				rows = nil // the rest is as it was
				break
			}
			if len(r.coming) > 0 && r.coming[0].Compare(price.Place) < 0 {
				return nil
			}
			stored, _, err := r.follow([]seriesRow{row}, 0, true)
			if err != nil {
				return err
			}
			text, err := stateText(r.Join(stored[0].state, r.late.state))
			if err != nil {
				return err
			}
			r.change(row, text)
		}
		if len(rows) < mendRows {
			break
		}
		from = rows[len(rows)-1].price().Place
	}
	if r.newest.session == at.session {
		r.newest.state = r.Join(r.newest.state, r.late.state)
	}
	return nil
}

// rowsAfter reads prices after a place, oldest first.
func (r *mending[S]) rowsAfter(ctx context.Context, after Place, limit int, and string) ([]seriesRow, error) {
	var rows []seriesRow
	err := r.tx.Select(ctx, &rows, `SELECT `+strings.Join(seriesColumns, ", ")+` FROM `+r.table+`
		WHERE symbol = $1 AND provider = $2 AND (`+seriesPlace+`) > ($3, $4, $5) `+and+`
		ORDER BY timestamp, sequence, id LIMIT $6`,
		r.market.symbol, r.market.provider, after.Timestamp, after.Sequence, after.ID, limit)
	if err != nil {
		return nil, fmt.Errorf("loading later prices: %w", err)
	}
	return rows, nil
}
