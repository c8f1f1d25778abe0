package candles_test

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
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

// A candle is what is left of its prices and bars once they are sorted, however late
// they came. The rule of bars.go is said once more here, without tables.
func TestCandlesEqualARecomputation(t *testing.T) {
	t.Parallel()
	intervals := map[string]int64{"1m": 60, "1h": 3600, "1d": 86400}
	p, err := candles.New(pipeline.Env{Settings: map[string]any{"intervals": []string{"1d", "1m", "1h"}}})
	require.NoError(t, err)
	pipelinetest.CheckFold(t, p, projectiontest.PricesAndBars, func(t *rapid.T, f pipelinetest.Fold) {
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
			RestsOn  string          `db:"rests_on"`
		}
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT provider, symbol, interval, timestamp, open, high, low, close, volume, prices, rests_on
			FROM `+f.Generation.Table("candles")))
		got, want := map[string]string{}, map[string]string{}
		for _, r := range rows {
			volume := "none"
			if r.Volume != nil {
				volume = projectiontest.Rat(*r.Volume).RatString()
			}
			got[fmt.Sprintf("%s/%s %s %s", r.Provider, r.Symbol, r.Interval, r.Begin)] = fmt.Sprint(r.Open, r.High, r.Low, r.Close, volume, r.Prices, r.RestsOn)
		}
		for key, all := range partsByKey(f.Log) {
			for name, seconds := range intervals {
				for begin, parts := range byInterval(all, seconds) {
					if text, any := recomputed(parts, 60); any {
						want[fmt.Sprintf("%s %s %s", key, name, schema.NewTime(time.Unix(begin, 0)))] = text
					}
				}
			}
		}
		require.Equal(t, want, got)
	})
}

// part is a price, or a bar, which lasts from its begin to its end.
type part struct {
	from, to               schema.Time
	open, high, low, close schema.Decimal
	volume                 *schema.Decimal
	tick                   bool
	sequence               schema.Sequence
	place                  int // in the log
}

// partsByKey are the prices and the bars of each market; of several bars of one span the
// one with the most volume, and of those the last.
func partsByKey(log []pipeline.Record) map[string][]part {
	keys := map[string][]part{}
	for i, r := range log {
		switch p := r.Event.Payload.(type) {
		case schema.PriceObserved:
			one := part{from: p.Timestamp, to: p.Timestamp, open: p.Price, high: p.Price, low: p.Price, close: p.Price, tick: true, sequence: p.Sequence, place: i}
			if p.Size.Sign() > 0 {
				one.volume = &p.Size
			}
			keys[p.Key()] = append(keys[p.Key()], one)
		case schema.BarObserved:
			keys[p.Key()] = slices.DeleteFunc(keys[p.Key()], func(o part) bool {
				return !o.tick && o.from == p.OpenTime && o.to == p.Timestamp && !more(o.volume, p.Volume)
			})
			if !slices.ContainsFunc(keys[p.Key()], func(o part) bool { return !o.tick && o.from == p.OpenTime && o.to == p.Timestamp }) {
				keys[p.Key()] = append(keys[p.Key()], part{from: p.OpenTime, to: p.Timestamp, open: p.Open, high: p.High, low: p.Low, close: p.Close, volume: p.Volume, place: i})
			}
		}
	}
	return keys
}

// more reports whether a volume is greater than another.
func more(a, b *schema.Decimal) bool {
	return a != nil && (b == nil || a.Cmp(*b) > 0)
}

// byInterval are the prices and bars that are within each interval.
func byInterval(all []part, seconds int64) map[int64][]part {
	in := map[int64][]part{}
	for _, p := range all {
		begin := new(big.Int).Div(big.NewInt(p.from.Unix()), big.NewInt(seconds)).Int64() * seconds // Euclidean
		if !p.to.After(schema.NewTime(time.Unix(begin+seconds, 0))) {
			in[begin] = append(in[begin], p)
		}
	}
	return in
}

// recomputed is the candle of the parts of an interval, of which ticks count in the pieces
// that no bar reaches into; false where there is none.
func recomputed(parts []part, piece int64) (string, bool) {
	var taken []part
	overlaps := func(from, to schema.Time) bool {
		return slices.ContainsFunc(taken, func(o part) bool { return o.from.Before(to.Time) && from.Before(o.to.Time) })
	}
	slices.SortStableFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(b.to.Sub(b.from.Time), a.to.Sub(a.from.Time)), a.from.Compare(b.from))
	})
	for _, p := range parts {
		if !p.tick && !overlaps(p.from, p.to) {
			taken = append(taken, p)
		}
	}
	bars, ticks := len(taken), 0
	var counted []part
	for _, p := range parts {
		begin := schema.NewTime(time.Unix(new(big.Int).Div(big.NewInt(p.from.Unix()), big.NewInt(piece)).Int64()*piece, 0))
		if p.tick && !overlaps(begin, begin.Add(time.Duration(piece)*time.Second)) {
			counted = append(counted, p)
			ticks++
		}
	}
	counted = append(counted, taken...)
	if len(counted) == 0 {
		return "", false
	}
	first := slices.MinFunc(counted, func(a, b part) int {
		return cmp.Or(a.from.Compare(b.from), cmp.Compare(a.sequence, b.sequence), cmp.Compare(a.place, b.place))
	})
	last := slices.MaxFunc(counted, func(a, b part) int {
		bar := func(p part) int { // the close of a bar comes before a price of its end
			if p.tick {
				return 1
			}
			return 0
		}
		return cmp.Or(a.to.Compare(b.to), cmp.Compare(bar(a), bar(b)), cmp.Compare(a.sequence, b.sequence), cmp.Compare(a.place, b.place))
	})
	high, low, volume, sized := counted[0].high, counted[0].low, new(big.Rat), "none"
	for _, p := range counted {
		if projectiontest.Rat(p.high).Cmp(projectiontest.Rat(high)) > 0 {
			high = p.high
		}
		if projectiontest.Rat(p.low).Cmp(projectiontest.Rat(low)) < 0 {
			low = p.low
		}
		if p.volume != nil {
			sized = volume.Add(volume, projectiontest.Rat(*p.volume)).RatString()
		}
	}
	rests := "both"
	if bars == 0 {
		rests = "ticks"
	} else if ticks == 0 {
		rests = "bars"
	}
	return fmt.Sprint(first.open, high, low, last.close, sized, int64(ticks), rests), true
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
