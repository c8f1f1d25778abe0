package projections

import (
	"context"
	"fmt"
	"strings"
)

// mending puts late prices of a market in their places, and computes again what follows
// from them and from amended ones.
type mending[S any] struct {
	*seriesFold[S]
	market market
	// newest is where the series stands after its last price.
	newest standing[S]
	// coming are the prices that are not yet in their places, in their order.
	coming []SeriesPrice
	// amended are the changes of prices in the table that no state reflects yet, in the
	// order of their places.
	amended []Change
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

// isLate reports whether something is left that does not just follow the newest price.
func (r *mending[S]) isLate() bool {
	return len(r.amended) > 0 || len(r.coming) > 0 && r.newest.begun && r.coming[0].Compare(r.newest.place) < 0
}

// first is the place of the first price that comes or was amended.
func (r *mending[S]) first() (first Place, found bool) {
	if len(r.coming) > 0 {
		first, found = r.coming[0].Place, true
	}
	if len(r.amended) > 0 && (!found || r.amended[0].fact().Compare(first) < 0) {
		first, found = r.amended[0].fact().Place, true
	}
	return first, found
}

// run steps from before the first late or amended price over all that come after it,
// until a stored state is as it was and nothing is left to come soon.
func (r *mending[S]) run(ctx context.Context) error {
	first, _ := r.first()
	all, err := r.before(ctx, r.market, first)
	if err != nil {
		return err
	}
	joins := r.Join != nil && len(r.amended) == 0
	if !joins {
		defer func() { r.late = standing[S]{} }() // the states have them
	}
	at, from := all[0], first
	from.ID-- // the first may be in the table
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
			r.pass(at.place)
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
			if next, more := r.first(); more && next.Compare(rows[len(rows)-1].price().Place) < 0 {
				continue
			}
			switch {
			case settled:
				return nil
			case joins:
				return r.join(ctx, at)
			}
		}
		if len(rows) < limit {
			r.newest, r.amended = at, nil
			return nil
		}
		from = rows[len(rows)-1].price().Place
	}
}

// pass drops the amended prices up to a place.
func (r *mending[S]) pass(at Place) {
	for len(r.amended) > 0 && r.amended[0].fact().Compare(at) <= 0 {
		r.amended = r.amended[1:]
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
