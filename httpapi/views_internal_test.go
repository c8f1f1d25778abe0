package httpapi

import (
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
)

func drawCandidates(t *rapid.T) []candidate {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) candidate {
		at := func(label string) schema.Time {
			return schema.NewTime(time.Unix(int64(rapid.IntRange(0, 3).Draw(t, label)), 0))
		}
		value := rapid.SampledFrom([]string{"-1.5", "0", "0.000000000000000001", "0.000000000000000002", "7", "7.1", "999999999999999999.999999999999999999", "-0.000000000000000003"}).Draw(t, "value")
		return candidate{schema.MustDecimal(value), at("event time"), at("receipt"),
			rapid.SampledFrom([]memberStatus{memberCounted, memberCounted, memberStale, memberUnknown}).Draw(t, "status")}
	}), 0, 9).Draw(t, "members")
}

func rat(t require.TestingT, text string) *big.Rat {
	r, ok := new(big.Rat).SetString(text)
	require.True(t, ok, text)
	return r
}

// Held against a computation with rational numbers: the median of those that are counted is
// exact; the freshest is no older than any; any is the first. Nothing else is chosen, and
// what is not counted stays as it was.
func TestViewsOfMembers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		drawn := drawCandidates(t)
		var counted []candidate
		for _, c := range drawn {
			if c.status == memberCounted {
				counted = append(counted, c)
			}
		}
		for _, view := range []schema.Provider{schema.ViewAny, schema.ViewMedian, schema.ViewFreshest} {
			members := slices.Clone(drawn)
			mean, at, ok := newView(view, members)
			require.Equal(t, len(counted) > 0, ok)
			var chosen []candidate
			for i, m := range members {
				if m.status == memberChosen {
					require.Equal(t, memberCounted, drawn[i].status)
					chosen = append(chosen, m)
					continue
				}
				require.Equal(t, drawn[i].status, m.status)
			}
			if !ok {
				require.Empty(t, chosen)
				continue
			}
			got := rat(t, mean.String())
			if view != schema.ViewMedian {
				require.Len(t, chosen, 1)
				require.Equal(t, chosen[0].value.String(), mean.String())
				require.Equal(t, chosen[0].at, at)
			}
			switch view {
			case schema.ViewAny:
				require.Equal(t, counted[0].value, chosen[0].value)
			case schema.ViewFreshest:
				for _, c := range counted {
					require.False(t, c.at.After(chosen[0].at), "event time")
					require.False(t, c.at == chosen[0].at && c.received.After(chosen[0].received), "receipt")
				}
			case schema.ViewMedian:
				var values []*big.Rat
				newest := schema.Time{}
				for _, c := range counted {
					values = append(values, rat(t, c.value.String()))
					if c.at.After(newest) {
						newest = c.at
					}
				}
				slices.SortFunc(values, (*big.Rat).Cmp)
				n := len(values)
				want := new(big.Rat).Add(values[(n-1)/2], values[n/2])
				want.Quo(want, big.NewRat(2, 1))
				require.Zero(t, want.Cmp(got), "%s is not %s", mean, want.RatString())
				require.Equal(t, newest, at)
				require.Len(t, chosen, 2-n%2)
			}
		}
	})
}

// Of members that are equal in all else, the first of the map is the freshest.
func TestTheFirstOfEquallyFresh(t *testing.T) {
	t.Parallel()
	at := schema.NewTime(time.Unix(1, 0))
	members := []candidate{{schema.MustDecimal("1"), at, at, memberCounted}, {schema.MustDecimal("2"), at, at, memberCounted}}
	mean, _, _ := newView(schema.ViewFreshest, members)
	assert.Equal(t, "1", mean.String())
}

func TestMeansAreExact(t *testing.T) {
	t.Parallel()
	for _, test := range [][3]string{
		{"1", "2", "1.5"}, {"1.25", "1.25", "1.25"}, {"-1", "1", "0"}, {"-1", "-2", "-1.5"}, {"0", "0.000000000000000001", "0.0000000000000000005"},
		{"-0.000000000000000001", "0", "-0.0000000000000000005"}, {"10", "20", "15"}, {"100", "101", "100.5"},
		{"999999999999999999.999999999999999999", "999999999999999999.999999999999999998", "999999999999999999.9999999999999999985"},
	} {
		text, err := exactMean{schema.MustDecimal(test[0]), schema.MustDecimal(test[1])}.MarshalJSON()
		require.NoError(t, err)
		assert.Equal(t, test[2], string(text), "%s and %s", test[0], test[1])
	}
}
