// Package vwap is the read model of volume-weighted average prices.
//
// The average of a (provider, symbol) is Σ price·size / Σ size over the trades of
// a day, midnight to midnight UTC by event time, as S. Berkowitz, D. Logue and E.
// Noser have it in "The Total Cost of Transactions on the NYSE", The Journal of
// Finance 43 (1988). The sums are exact; the quotient is rounded half-even to 18
// fractional digits. Each price that says its size adds a point: the average of
// its day so far. A late one counts for the day it belongs to, whatever day it is
// by then. A price without a size, such as a quote, adds nothing.
package vwap

import (
	"math/big"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "vwap"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name:     Name,
		Doc:      "The volume-weighted average price of each symbol over the day, after each trade.",
		Optional: true,
		New:      New,
	})
}

// state is the sums of a day so far.
type state struct {
	// Value is Σ price·size, in units of 10^-36.
	Value *big.Int `json:"value"`
	// Size is Σ size, in units of 10^-18.
	Size   *big.Int    `json:"size"`
	Newest schema.Time `json:"newest"`
}

// New makes the projection.
func New(env pipeline.Env) (pipeline.Projection, error) {
	if err := env.Decode(&struct{}{}); err != nil {
		return nil, err
	}
	return projections.NewSeries(projections.Series[state]{
		Name: Name, Version: 1,
		Doc: "The volume-weighted average price of the day so far, midnight to midnight UTC, after each price that says how much was traded at it.",
		Columns: []projections.Column{
			{Name: "value", Doc: "The average price.", Type: projections.DecimalColumn},
			{Name: "volume", Doc: "How much was traded that day so far.", Type: projections.DecimalColumn},
		},
		Key: func(p schema.PriceObserved) string { return p.Key() + "|" + day(p.Timestamp) }, // no symbol holds a |
		Step: func(before state, p projections.SeriesPrice) (state, []projections.SeriesPoint, error) {
			if p.Size.Sign() == 0 {
				return before, nil, nil
			}
			after := add(before, p.Price, p.Size, p.Timestamp)
			return after, []projections.SeriesPoint{{Timestamp: after.Newest,
				Values: []any{schema.RoundUnits(after.Value, after.Size), schema.RoundUnits(after.Size, one)}}}, nil
		},
	})
}

var one = big.NewInt(1)

func day(t schema.Time) string { return t.Format(time.DateOnly) }

// add is the sums with one more trade.
func add(before state, price, size schema.Decimal, at schema.Time) state {
	units := size.Units()
	after := state{Value: new(big.Int).Mul(price.Units(), units), Size: units, Newest: at}
	if before.Size != nil {
		after.Value.Add(after.Value, before.Value)
		after.Size.Add(after.Size, before.Size)
		if before.Newest.After(at) {
			after.Newest = before.Newest
		}
	}
	return after
}
