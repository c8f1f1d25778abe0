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

func rat(d schema.Decimal) *big.Rat {
	r, _ := new(big.Rat).SetString(d.String())
	return r
}

// byKey is the prices of each symbol at each provider, in the order of the log.
func byKey(log []pipeline.Record) map[string][]schema.PriceObserved {
	keys := map[string][]schema.PriceObserved{}
	for _, r := range log {
		p := r.Event.Payload.(schema.PriceObserved)
		keys[p.Key()] = append(keys[p.Key()], p)
	}
	return keys
}

// halfEven rounds to 18 digits, by its definition: of the two neighbours the nearer
// one, of two as near the even one.
func halfEven(r *big.Rat) string {
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil)
	scaled := new(big.Rat).Mul(r, new(big.Rat).SetInt(scale))
	below := new(big.Int).Div(scaled.Num(), scaled.Denom())
	above := new(big.Int).Add(below, big.NewInt(1))
	down, up := new(big.Rat).Sub(scaled, new(big.Rat).SetInt(below)), new(big.Rat).Sub(new(big.Rat).SetInt(above), scaled)
	nearest := below
	if order := up.Cmp(down); order < 0 || order == 0 && below.Bit(0) == 1 {
		nearest = above
	}
	return new(big.Rat).SetFrac(nearest, scale).RatString()
}

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
			got[key] = append(got[key], r.Timestamp.String()+" "+rat(r.Value).RatString()+" "+rat(r.Volume).RatString())
		}
		for key, prices := range byKey(f.Log) {
			for i, last := range prices {
				if last.Size.Sign() == 0 {
					continue
				}
				value, size, newest := new(big.Rat), new(big.Rat), last.Timestamp
				for _, p := range prices[:i+1] {
					if p.Size.Sign() > 0 && p.Timestamp.Format(time.DateOnly) == last.Timestamp.Format(time.DateOnly) {
						value.Add(value, new(big.Rat).Mul(rat(p.Price), rat(p.Size)))
						size.Add(size, rat(p.Size))
						if p.Timestamp.After(newest) {
							newest = p.Timestamp
						}
					}
				}
				want[key] = append(want[key], newest.String()+" "+halfEven(new(big.Rat).Quo(value, size))+" "+size.RatString())
			}
		}
		require.Equal(t, want, got)
	})
}
