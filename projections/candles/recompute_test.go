package candles_test

import (
	"context"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

// A candle is what is left of its prices once they are sorted, however late they
// came.
func TestCandlesEqualARecomputation(t *testing.T) {
	t.Parallel()
	intervals := map[string]int64{"1m": 60, "1h": 3600, "1d": 86400}
	p, err := candles.New(pipeline.Env{Settings: map[string]any{"intervals": []string{"1d", "1m", "1h"}}})
	require.NoError(t, err)
	pipelinetest.CheckFold(t, p, projectiontest.Prices, func(t *rapid.T, f pipelinetest.Fold) {
		var rows []struct {
			Provider string          `db:"provider"`
			Symbol   string          `db:"symbol"`
			Interval string          `db:"interval"`
			Begin    schema.Time     `db:"timestamp"`
			Open     schema.Decimal  `db:"open"`
			High     schema.Decimal  `db:"high"`
			Low      schema.Decimal  `db:"low"`
			Close    schema.Decimal  `db:"close"`
			Volume   *schema.Decimal `db:"volume"`
			Prices   int64           `db:"prices"`
		}
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT provider, symbol, interval, timestamp, open, high, low, close, volume, prices
			FROM `+f.Generation.Table("candles")))
		got, want := map[string]string{}, map[string]string{}
		for _, r := range rows {
			volume := "none"
			if r.Volume != nil {
				volume = projectiontest.Rat(*r.Volume).RatString()
			}
			got[fmt.Sprintf("%s/%s %s %s", r.Provider, r.Symbol, r.Interval, r.Begin)] = fmt.Sprint(r.Open, r.High, r.Low, r.Close, volume, r.Prices)
		}
		for key, prices := range projectiontest.ByKey(f.Log) {
			for name, seconds := range intervals {
				buckets := map[int64][]schema.PriceObserved{}
				for _, p := range prices {
					begin := new(big.Int).Div(big.NewInt(p.Timestamp.Unix()), big.NewInt(seconds)).Int64() * seconds // Euclidean
					buckets[begin] = append(buckets[begin], p)
				}
				for begin, in := range buckets {
					high, low, volume, sized := in[0].Price, in[0].Price, new(big.Rat), "none"
					for _, p := range in {
						if projectiontest.Rat(p.Price).Cmp(projectiontest.Rat(high)) > 0 {
							high = p.Price
						}
						if projectiontest.Rat(p.Price).Cmp(projectiontest.Rat(low)) < 0 {
							low = p.Price
						}
						if p.Size.Sign() > 0 {
							sized = volume.Add(volume, projectiontest.Rat(p.Size)).RatString()
						}
					}
					want[fmt.Sprintf("%s %s %s", key, name, schema.NewTime(time.Unix(begin, 0)))] =
						fmt.Sprint(in[0].Price, high, low, in[len(in)-1].Price, sized, int64(len(in)))
				}
			}
		}
		require.Equal(t, want, got)
	})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]any{
		"none":     {"intervals": []string{}},
		"another":  {"intervals": []string{"1m", "2m"}},
		"misspelt": {"interval": []string{"1m"}},
	} {
		_, err := candles.New(pipeline.Env{Settings: settings})
		require.Error(t, err, name)
	}
}
