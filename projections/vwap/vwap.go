// Package vwap is the read model of volume-weighted average prices.
//
// The average of a (provider, symbol) is Σ price·size / Σ size over the trades of
// a day, midnight to midnight UTC by event time, as S. Berkowitz, D. Logue and E.
// Noser have it in "The Total Cost of Transactions on the NYSE", The Journal of
// Finance 43 (1988). The sums are exact; the quotient is rounded half-even to 18
// fractional digits. Each price that says its size has a point: the average of the
// trades of its day up to it, by event time. A price without a size, such as a quote,
// has none. The day is the session of no convention but its own: other programs take
// the trades that they are given.
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
		Doc:      "The volume-weighted average price of each symbol over the day, at each trade.",
		Optional: true,
		New:      New,
	})
}

// state is the sums of a day so far.
type state struct {
	// Value is Σ price·size, in units of 10^-36.
	Value *big.Int `json:"value"`
	// Size is Σ size, in units of 10^-18.
	Size *big.Int `json:"size"`
}

// New makes the projection.
func New(env pipeline.Env) (pipeline.Projection, error) {
	if err := env.Decode(&struct{}{}); err != nil {
		return nil, err
	}
	return projections.NewSeries(projections.Series[state]{
		Name: Name, Version: 2,
		Doc: "The volume-weighted average price of the day so far, midnight to midnight UTC, at each price that says how much was traded at it.",
		Columns: []projections.Column{
			{Name: "value", Doc: "The average price.", Type: projections.DecimalColumn},
			{Name: "volume", Doc: "How much was traded that day so far.", Type: projections.DecimalColumn},
		},
		Wants:   func(p schema.PriceObserved) bool { return p.Size.Sign() > 0 },
		Session: func(p projections.SeriesPrice) string { return p.Timestamp.Format(time.DateOnly) },
		Step: func(before state, p projections.SeriesPrice) (state, error) {
			size := p.Size.Units()
			return join(before, state{new(big.Int).Mul(p.Price.Units(), size), size}), nil
		},
		Join: join,
		Point: func(at state, _ projections.SeriesPrice, _ map[string]string) []any {
			return []any{schema.RoundUnits(at.Value, at.Size), schema.RoundUnits(at.Size, one)}
		},
	})
}

var one = big.NewInt(1)

// join is the sums of two sets of trades.
func join(a, b state) state {
	if a.Size == nil {
		return b
	}
	return state{new(big.Int).Add(a.Value, b.Value), new(big.Int).Add(a.Size, b.Size)}
}
