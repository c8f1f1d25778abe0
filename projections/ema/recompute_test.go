package ema_test

import (
	"context"
	"math/big"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections/ema"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

// Each average follows from the rounded one before it, over the prices that were
// the newest when they came.
func TestAveragesEqualARecomputation(t *testing.T) {
	t.Parallel()
	periods := []int{1, 3, 26}
	p, err := ema.New(pipeline.Env{Settings: map[string]any{"periods": periods}})
	require.NoError(t, err)
	pipelinetest.CheckFold(t, p, projectiontest.Prices, func(t *rapid.T, f pipelinetest.Fold) {
		var rows []struct {
			Provider string         `db:"provider"`
			Symbol   string         `db:"symbol"`
			Period   string         `db:"period"`
			Value    schema.Decimal `db:"value"`
		}
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT provider, symbol, period, value FROM `+f.Generation.Table("ema")+` ORDER BY id`))
		got, want := map[string][]string{}, map[string][]string{}
		for _, r := range rows {
			key := r.Provider + "/" + r.Symbol + " " + r.Period
			got[key] = append(got[key], projectiontest.Rat(r.Value).RatString())
		}
		for key, prices := range projectiontest.ByKey(f.Log) {
			for _, n := range periods {
				var e *big.Rat
				newest := prices[0].Timestamp
				for _, p := range prices {
					if p.Timestamp.Before(newest.Time) {
						continue
					}
					newest = p.Timestamp
					if e == nil {
						e = projectiontest.Rat(p.Price)
					} else {
						step := new(big.Rat).Sub(projectiontest.Rat(p.Price), e)
						e.Add(e, step.Mul(step, big.NewRat(2, int64(n)+1)))
						e.Set(projectiontest.HalfEven(e))
					}
					want[key+" "+strconv.Itoa(n)] = append(want[key+" "+strconv.Itoa(n)], e.RatString())
				}
			}
		}
		require.Equal(t, want, got)
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
