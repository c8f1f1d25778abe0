package bollinger_test

import (
	"context"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections/bollinger"
	"github.com/pricemill/pricemill/projections/projectiontest"
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

// ulp is one unit in the last place.
var ulp = new(big.Rat).SetFrac(big.NewInt(1), new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil))

// The bands are those of the last prices once all so far are sorted. The deviation
// is the decimal that no other is nearer to the root, which its square decides.
func TestBandsEqualARecomputation(t *testing.T) {
	t.Parallel()
	const period = 4
	p, err := bollinger.New(pipeline.Env{Settings: map[string]any{"period": period, "deviations": "2.5"}})
	require.NoError(t, err)
	pipelinetest.CheckFold(t, p, projectiontest.Prices, func(t *rapid.T, f pipelinetest.Fold) {
		type row struct {
			Provider  string         `db:"provider"`
			Symbol    string         `db:"symbol"`
			Timestamp schema.Time    `db:"timestamp"`
			Lower     schema.Decimal `db:"lower"`
			Middle    schema.Decimal `db:"middle"`
			Upper     schema.Decimal `db:"upper"`
			Deviation schema.Decimal `db:"deviation"`
		}
		var rows []row
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT provider, symbol, timestamp, lower, middle, upper, deviation
			FROM `+f.Generation.Table("bollinger")+` ORDER BY id`))
		got := map[string][]row{}
		for _, r := range rows {
			got[r.Provider+"/"+r.Symbol] = append(got[r.Provider+"/"+r.Symbol], r)
		}
		for key, prices := range byKey(f.Log) {
			require.Len(t, got[key], len(prices))
			for i, r := range got[key] {
				sorted := slices.Clone(prices[:i+1])
				slices.SortStableFunc(sorted, func(a, b schema.PriceObserved) int { return a.Timestamp.Compare(b.Timestamp) })
				last := sorted[max(0, len(sorted)-period):]
				n := big.NewRat(int64(len(last)), 1)
				mean, variance := new(big.Rat), new(big.Rat)
				for _, p := range last {
					mean.Add(mean, new(big.Rat).Quo(rat(p.Price), n))
				}
				for _, p := range last {
					d := new(big.Rat).Sub(rat(p.Price), mean)
					variance.Add(variance, d.Mul(d, d).Quo(d, n))
				}
				require.Equal(t, last[len(last)-1].Timestamp, r.Timestamp)
				require.Equal(t, halfEven(mean), rat(r.Middle).RatString())
				half := new(big.Rat).Mul(ulp, big.NewRat(1, 2))
				low, high := new(big.Rat).Sub(rat(r.Deviation), half), new(big.Rat).Add(rat(r.Deviation), half)
				if low.Sign() > 0 {
					require.LessOrEqual(t, low.Mul(low, low).Cmp(variance), 0)
				}
				require.GreaterOrEqual(t, high.Mul(high, high).Cmp(variance), 0)
				width, _ := new(big.Rat).SetString(halfEven(new(big.Rat).Mul(rat(r.Deviation), big.NewRat(5, 2))))
				require.Zero(t, new(big.Rat).Sub(rat(r.Middle), width).Cmp(rat(r.Lower)))
				require.Zero(t, new(big.Rat).Add(rat(r.Middle), width).Cmp(rat(r.Upper)))
			}
		}
	})
}

// Where the root lies in the middle of two decimals, the even one is taken: of the
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
