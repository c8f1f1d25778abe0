package vwap_test

import (
	"context"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/projections/vwap"
	"github.com/pricemill/pricemill/schema"
)

// Each point is the quotient of the sums over all trades of its day so far.
func TestAveragesEqualARecomputation(t *testing.T) {
	t.Parallel()
	p, err := vwap.New(pipeline.Env{})
	require.NoError(t, err)
	pipelinetest.CheckFold(t, p, projectiontest.Prices, func(t *rapid.T, f pipelinetest.Fold) {
		var rows []struct {
			Provider  string         `db:"provider"`
			Symbol    string         `db:"symbol"`
			Timestamp schema.Time    `db:"timestamp"`
			Value     schema.Decimal `db:"value"`
			Volume    schema.Decimal `db:"volume"`
		}
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT provider, symbol, timestamp, value, volume FROM `+f.Generation.Table("vwap")+` ORDER BY id`))
		got, want := map[string][]string{}, map[string][]string{}
		for _, r := range rows {
			key := r.Provider + "/" + r.Symbol
			got[key] = append(got[key], r.Timestamp.String()+" "+projectiontest.Rat(r.Value).RatString()+" "+projectiontest.Rat(r.Volume).RatString())
		}
		for key, prices := range projectiontest.ByKey(f.Log) {
			for i, last := range prices {
				if last.Size.Sign() == 0 {
					continue
				}
				value, size, newest := new(big.Rat), new(big.Rat), last.Timestamp
				for _, p := range prices[:i+1] {
					if p.Size.Sign() > 0 && p.Timestamp.Format(time.DateOnly) == last.Timestamp.Format(time.DateOnly) {
						value.Add(value, new(big.Rat).Mul(projectiontest.Rat(p.Price), projectiontest.Rat(p.Size)))
						size.Add(size, projectiontest.Rat(p.Size))
						if p.Timestamp.After(newest) {
							newest = p.Timestamp
						}
					}
				}
				want[key] = append(want[key], newest.String()+" "+projectiontest.HalfEven(new(big.Rat).Quo(value, size)).RatString()+" "+size.RatString())
			}
		}
		require.Equal(t, want, got)
	})
}
