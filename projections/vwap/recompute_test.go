package vwap_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/projections/vwap"
	"github.com/pricemill/pricemill/schema"
)

// Each point is the quotient of the sums over the trades of its day up to it, however
// late they came.
func TestAveragesEqualARecomputation(t *testing.T) {
	t.Parallel()
	p, err := vwap.New(pipeline.Env{})
	require.NoError(t, err)
	pipelinetest.CheckFold(t, p, projectiontest.Prices, func(t *rapid.T, f pipelinetest.Fold) {
		for key, prices := range projectiontest.ByKey(f.Log) {
			var want, got []string
			value, size, day := new(big.Rat), new(big.Rat), ""
			for _, p := range prices {
				if p.Size.Sign() == 0 {
					continue
				}
				if is := p.Timestamp.Format(time.DateOnly); is != day {
					value, size, day = new(big.Rat), new(big.Rat), is
				}
				value.Add(value, new(big.Rat).Mul(projectiontest.Rat(p.Price), projectiontest.Rat(p.Size)))
				size.Add(size, projectiontest.Rat(p.Size))
				point := p.Timestamp.String() + " " + projectiontest.HalfEven(new(big.Rat).Quo(value, size)).RatString() + " " + size.RatString()
				want = append([]string{point}, want...)
			}
			quote := schema.Quote{Provider: prices[0].Source, Symbol: prices[0].Symbol}
			for _, point := range projectiontest.PointsOf(t, f.DB, p.(projections.Indicator), quote, nil) {
				got = append(got, point.Timestamp.String()+" "+projectiontest.Rat(point.Values[0].(schema.Decimal)).RatString()+" "+
					projectiontest.Rat(point.Values[1].(schema.Decimal)).RatString())
			}
			require.Equal(t, want, got, key)
		}
	})
}
