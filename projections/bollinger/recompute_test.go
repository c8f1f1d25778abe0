package bollinger_test

import (
	"math/big"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/bollinger"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

// ulp is one unit in the last place.
var ulp = new(big.Rat).SetFrac(big.NewInt(1), new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil))

// The bands are those of the last prices by event time, however late they came. The
// deviation is the decimal that no other is nearer to the root, which its square decides.
func TestBandsEqualARecomputation(t *testing.T) {
	t.Parallel()
	const period = 4
	p, err := bollinger.New(pipeline.Env{Settings: map[string]any{"period": period, "deviations": "2.5"}})
	require.NoError(t, err)
	pipelinetest.CheckFold(t, p, projectiontest.Prices, func(t *rapid.T, f pipelinetest.Fold) {
		for key, prices := range projectiontest.ByKey(f.Log) {
			for _, ddof := range []int{0, 1} {
				for warmUp, least := range map[string]int{"partial": 1 + ddof, "full": period} {
					points := projectiontest.PointsOf(t, f.DB, p.(projections.Indicator), schema.Quote{Provider: prices[0].Source, Symbol: prices[0].Symbol},
						map[string]string{"ddof": strconv.Itoa(ddof), "warm_up": warmUp})
					slices.Reverse(points)
					require.Len(t, points, max(0, len(prices)-least+1), "%s, ddof %d, %s", key, ddof, warmUp)
					for i, point := range points {
						end := i + least
						require.Equal(t, prices[end-1].Timestamp, point.Timestamp)
						checkBands(t, prices[max(0, end-period):end], ddof, point.Values)
					}
				}
			}
		}
	})
}

// checkBands holds the bands of some prices, 2.5 deviations wide, to their definition.
func checkBands(t *rapid.T, last []schema.PriceObserved, ddof int, values []any) {
	rat := func(i int) *big.Rat { return projectiontest.Rat(values[i].(schema.Decimal)) }
	n, free := big.NewRat(int64(len(last)), 1), big.NewRat(int64(len(last)-ddof), 1)
	mean, variance := new(big.Rat), new(big.Rat)
	for _, p := range last {
		mean.Add(mean, new(big.Rat).Quo(projectiontest.Rat(p.Price), n))
	}
	for _, p := range last {
		d := new(big.Rat).Sub(projectiontest.Rat(p.Price), mean)
		variance.Add(variance, d.Mul(d, d).Quo(d, free))
	}
	lower, middle, upper, deviation := rat(0), rat(1), rat(2), rat(3)
	require.Equal(t, projectiontest.HalfEven(mean).RatString(), middle.RatString())
	half := new(big.Rat).Mul(ulp, big.NewRat(1, 2))
	low, high := new(big.Rat).Sub(deviation, half), new(big.Rat).Add(deviation, half)
	if low.Sign() > 0 {
		require.LessOrEqual(t, low.Mul(low, low).Cmp(variance), 0)
	}
	require.GreaterOrEqual(t, high.Mul(high, high).Cmp(variance), 0)
	width := projectiontest.HalfEven(new(big.Rat).Mul(deviation, big.NewRat(5, 2)))
	require.Zero(t, new(big.Rat).Sub(middle, width).Cmp(lower))
	require.Zero(t, new(big.Rat).Add(middle, width).Cmp(upper))
}

// Where the root is in the middle of two decimals, the even one is taken: of the
// prices 1u and 2u the deviation is u/2, of 1u and 4u it is 3u/2.
func TestTiesOfTheRoot(t *testing.T) {
	t.Parallel()
	for second, want := range map[string]string{"2": "0", "4": "2", "6": "2", "8": "4"} {
		p, err := bollinger.New(pipeline.Env{})
		require.NoError(t, err)
		asker := projectiontest.Ask(t, p)
		for i, digit := range []string{"1", second} {
			at := schema.NewTime(time.Unix(int64(i), 0))
			asker.Fold(schema.PriceObserved{Symbol: "A", Source: "p", Timestamp: at, ReceivedAt: at, Price: schema.MustDecimal("0.00000000000000000" + digit)})
		}
		deviation := asker.Points("p", "A", nil)[0].Values[3].(schema.Decimal)
		require.Equal(t, want, deviation.Units().String(), "1 and %s", second)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]any{
		"no prices":    {"period": 0},
		"too long":     {"period": 1001},
		"no width":     {"deviations": 0},
		"negative":     {"deviations": "-1"},
		"not a number": {"deviations": "wide"},
		"too wide":     {"deviations": "101"},
		"misspelt":     {"periods": 5},
	} {
		_, err := bollinger.New(pipeline.Env{Settings: settings})
		require.Error(t, err, name)
	}
}
