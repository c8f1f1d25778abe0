package ema_test

import (
	"math/big"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/ema"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

// recomputed is the averages at prices in their order, each from the rounded one before
// it; "" where there is none.
func recomputed(prices []schema.PriceObserved, n int, seed string) []string {
	averages := make([]string, len(prices))
	sum := new(big.Rat)
	var e *big.Rat
	for i, p := range prices {
		price := projectiontest.Rat(p.Price)
		sum.Add(sum, price)
		switch {
		case e != nil:
			step := new(big.Rat).Sub(price, e)
			e = projectiontest.HalfEven(new(big.Rat).Add(e, step.Mul(step, big.NewRat(2, int64(n)+1))))
		case seed == "first":
			e = price
		case i+1 == n:
			e = projectiontest.HalfEven(new(big.Rat).Quo(sum, big.NewRat(int64(n), 1)))
		}
		if e != nil {
			averages[i] = e.RatString()
		}
	}
	return averages
}

// The averages are those of the prices by event time, however late they came.
func TestAveragesEqualARecomputation(t *testing.T) {
	t.Parallel()
	periods := []int{1, 3, 26}
	p, err := ema.New(pipeline.Env{Settings: map[string]any{"periods": periods}})
	require.NoError(t, err)
	pipelinetest.CheckFold(t, p, projectiontest.Prices, func(t *rapid.T, f pipelinetest.Fold) {
		for key, prices := range projectiontest.ByKey(f.Log) {
			quote := schema.Quote{Provider: prices[0].Source, Symbol: prices[0].Symbol}
			for _, n := range periods {
				for _, seed := range []string{"first", "sma"} {
					points := projectiontest.PointsOf(t, f.DB, p.(projections.Indicator), quote, map[string]string{"period": strconv.Itoa(n), "seed": seed})
					var want, got []string
					for i, average := range recomputed(prices, n, seed) {
						if average != "" {
							want = append([]string{prices[i].Timestamp.String() + " " + average}, want...)
						}
					}
					for _, point := range points {
						got = append(got, point.Timestamp.String()+" "+projectiontest.Rat(point.Values[0].(schema.Decimal)).RatString())
					}
					require.Equal(t, want, got, "%s, period %d, seed %s", key, n, seed)
				}
			}
		}
	})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]any{
		"zero":     {"periods": []int{0}},
		"too long": {"periods": []int{1001}},
		"none":     {"periods": []int{}},
		"misspelt": {"period": []int{5}},
	} {
		_, err := ema.New(pipeline.Env{Settings: settings})
		require.Error(t, err, name)
	}
}
