package projectiontest

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// orderSeed is that of the shuffled log.
const orderSeed = 17

// arrivals are the prices of the example logs in the orders in which they may come. Each
// price has a sequence of its own, so that their order is not the log's to decide.
func (s Suite) arrivals() map[string][]schema.PriceObserved {
	var prices []schema.PriceObserved
	for i := range examples {
		for _, payload := range s.example(i) {
			if p, ok := payload.(schema.PriceObserved); ok {
				prices = append(prices, p)
			}
		}
	}
	slices.SortStableFunc(prices, func(a, b schema.PriceObserved) int { return a.Timestamp.Compare(b.Timestamp) })
	for i := range prices {
		prices[i].Sequence = schema.Sequence(i + 1)
	}
	newest, shuffled := slices.Clone(prices), slices.Clone(prices)
	slices.Reverse(newest)
	rand.New(rand.NewPCG(orderSeed, 0)).Shuffle(len(shuffled), func(i, k int) { shuffled[i], shuffled[k] = shuffled[k], shuffled[i] })
	return map[string][]schema.PriceObserved{"oldest first": prices, "newest first": newest, "shuffled": shuffled}
}

// order folds the same prices in several orders, a few at a time, and compares the points.
func (s Suite) order(t testing.TB) {
	arrivals := s.arrivals()
	askers := map[string]*Asker{}
	quotes := map[schema.Quote]bool{}
	for name, prices := range arrivals {
		askers[name] = Ask(t, s.make(t))
		for few := range slices.Chunk(prices, 7) {
			payloads := make([]schema.Payload, len(few))
			for i, p := range few {
				payloads[i] = p
				quotes[schema.Quote{Provider: p.Source, Symbol: p.Symbol}] = true
			}
			askers[name].Fold(payloads...)
		}
	}
	for _, parameters := range choices(askers["oldest first"].indicator.Indicator()) {
		for quote := range quotes {
			want := withoutIDs(askers["oldest first"].Points(quote.Provider, quote.Symbol, parameters))
			for _, name := range []string{"newest first", "shuffled"} {
				got := withoutIDs(askers[name].Points(quote.Provider, quote.Symbol, parameters))
				require.Equal(t, want, got, "the points of %s depend on the order in which prices come: %s (seed %d), parameters %v (-: oldest first)",
					quote.Key(), name, orderSeed, parameters)
			}
		}
	}
}

// withoutIDs is points without what says where in the log their prices are.
func withoutIDs(points []projections.Point) []projections.Point {
	for i := range points {
		points[i].ID = 0
	}
	return points
}
