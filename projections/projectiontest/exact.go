package projectiontest

import (
	"cmp"
	"math/big"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// For recomputations, which are to share no arithmetic with the fold that they check.

// Rat is a decimal as a rational number.
func Rat(d schema.Decimal) *big.Rat {
	r, _ := new(big.Rat).SetString(d.String())
	return r
}

// ByKey is the prices of each symbol at each provider, in the order of projections.Place:
// by event time, then by sequence, then as in the log. Of a bar it is the close.
func ByKey(log []pipeline.Record) map[string][]schema.PriceObserved {
	keys := map[string][]schema.PriceObserved{}
	for _, r := range log {
		p, _ := schema.PriceOf(r.Event.Payload)
		keys[p.Key()] = append(keys[p.Key()], p)
	}
	for _, prices := range keys {
		slices.SortStableFunc(prices, func(a, b schema.PriceObserved) int {
			return cmp.Or(a.Timestamp.Compare(b.Timestamp), cmp.Compare(a.Sequence, b.Sequence))
		})
	}
	return keys
}

// HalfEven rounds to 18 digits, by its definition: of the two neighbours the nearer
// one, of two as near the even one.
func HalfEven(r *big.Rat) *big.Rat {
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil)
	scaled := new(big.Rat).Mul(r, new(big.Rat).SetInt(scale))
	below := new(big.Int).Div(scaled.Num(), scaled.Denom())
	above := new(big.Int).Add(below, big.NewInt(1))
	down, up := new(big.Rat).Sub(scaled, new(big.Rat).SetInt(below)), new(big.Rat).Sub(new(big.Rat).SetInt(above), scaled)
	nearest := below
	if order := up.Cmp(down); order < 0 || order == 0 && below.Bit(0) == 1 {
		nearest = above
	}
	return new(big.Rat).SetFrac(nearest, scale)
}
