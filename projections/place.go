package projections

import (
	"math"

	"github.com/pricemill/pricemill/schema"
)

// Place is a place in an order by event time, ties by log order.
type Place struct {
	Timestamp schema.Time
	ID        int64
}

// Until is the place behind which what is of an event time, or before it, stands
// when the newest is listed first.
func Until(t schema.Time) Place { return Place{t, math.MaxInt64} }

// Before is the place behind which what is before an event time stands.
func Before(t schema.Time) Place { return Place{t, math.MinInt64} }

// Newest is the place behind which everything stands.
var Newest = Until(EndOfTime)

// Earlier is that of two places behind which less stands.
func (p Place) Earlier(q Place) Place {
	if order := p.Timestamp.Compare(q.Timestamp); order < 0 || order == 0 && p.ID < q.ID {
		return p
	}
	return q
}
