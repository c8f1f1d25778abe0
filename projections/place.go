package projections

import (
	"cmp"
	"math"

	"github.com/pricemill/pricemill/schema"
)

// Place is a place in the order of a symbol's prices: by event time, within one
// instant by the provider's sequence, and where that is equal too by log order.
type Place struct {
	Timestamp schema.Time
	Sequence  schema.Sequence
	ID        int64
}

// Compare is -1, 0 or +1 as p is before, at or after q.
func (p Place) Compare(q Place) int {
	return cmp.Or(p.Timestamp.Compare(q.Timestamp), cmp.Compare(p.Sequence, q.Sequence), cmp.Compare(p.ID, q.ID))
}

// Until is the place after which a list with the newest first has all that is of an event
// time or earlier.
func Until(t schema.Time) Place { return Place{t, math.MaxInt64, math.MaxInt64} }

// Before is the place after which such a list has all that is earlier than an event time.
func Before(t schema.Time) Place { return Place{t, math.MinInt64, math.MinInt64} }

// Newest is the place after which such a list has everything.
var Newest = Until(EndOfTime)

// Earlier is the earlier of two places.
func (p Place) Earlier(q Place) Place {
	if p.Compare(q) < 0 {
		return p
	}
	return q
}
