// Package ema is the read model of exponential moving averages.
//
// The average of period N of a (provider, symbol) moves by α = 2/(N+1) of the way
// towards each further price by event time, as S. Hunter has it in "The Exponentially
// Weighted Moving Average", Journal of Quality Technology 18 (1986), and as charts show
// it: e ← e + α·(p − e). Each step is computed as (2·p + (N−1)·e) / (N+1), exactly but
// for the division, which is rounded half-even to 18 fractional digits; the rounded
// average is what the next step begins with.
//
// What it begins with is a convention, the parameter seed: "first", the default, is the
// first price, as pandas has it in ewm(span=N, adjust=False); "sma" is the mean of the
// first N prices, at the N-th, as TA-Lib has it in EMA. Both are kept.
package ema

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "ema"

// MaxPeriod is the longest period, in prices.
const MaxPeriod = 1000

// maxPeriods bounds how many are kept: each takes two steps a price.
const maxPeriods = 64

// Settings of the projection.
type Settings struct {
	Periods []int `mapstructure:"periods" doc:"periods kept, in prices, 1 to 1000, at most 64 of them"`
}

var defaults = Settings{Periods: []int{12, 26}}

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name:     Name,
		Doc:      "The exponential moving averages of each symbol at each price.",
		Settings: defaults,
		Optional: true,
		New:      New,
	})
}

// The parameters and their values.
const (
	period = "period"
	seed   = "seed"
	first  = "first"
	sma    = "sma"
)

// New makes the projection.
func New(env pipeline.Env) (pipeline.Projection, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	periods := slices.Compact(slices.Sorted(slices.Values(settings.Periods)))
	if len(periods) == 0 || len(periods) > maxPeriods {
		return nil, fmt.Errorf("periods: %d of them, not within 1 and %d", len(periods), maxPeriods)
	}
	if periods[0] < 1 || periods[len(periods)-1] > MaxPeriod {
		return nil, fmt.Errorf("periods: %v is not within 1 and %d", settings.Periods, MaxPeriod)
	}
	names := make([]string, len(periods))
	for i, n := range periods {
		names[i] = strconv.Itoa(n)
	}
	return projections.NewSeries(projections.Series[state]{
		Name: Name, Version: 2, Configuration: fmt.Sprintf("periods=%v", periods),
		Doc: "The exponential moving average at each price, by event time: 2/(period+1) of the way from the one before towards the price.",
		Parameters: []projections.Parameter{
			{Name: period, Doc: "The period, in prices.", Default: names[0], Choices: names},
			{Name: seed, Doc: "What the average begins with: first, the first price, as pandas' ewm(span, adjust=False); or sma, the mean of the first prices of a period, " +
				"with no point before, as TA-Lib's EMA.", Default: first, Choices: []string{first, sma}, Convention: true},
		},
		Columns: []projections.Column{{Name: "value", Doc: "The average.", Type: projections.DecimalColumn}},
		Step: func(before state, p projections.SeriesPrice) (state, error) {
			return before.step(p.Price, periods), nil
		},
		Point: func(at state, _ projections.SeriesPrice, parameters map[string]string) []any {
			i := slices.Index(names, parameters[period])
			switch {
			case parameters[seed] == first:
				return []any{at.First[i]}
			case at.Prices < periods[i]:
				return nil
			}
			return []any{at.Mean[i]}
		},
	})
}

// state is what a step begins with.
type state struct {
	// Prices is how many there are, up to the longest period.
	Prices int `json:"prices"`
	// First and Mean are the averages of the periods, in their order, that began with
	// the first price and with the mean of the first prices; those of Mean are 0 before.
	First []schema.Decimal `json:"first"`
	Mean  []schema.Decimal `json:"mean"`
	// Sum is that of the prices, in units, while there are fewer than the longest period.
	Sum *big.Int `json:"sum,omitempty"`
}

// step moves the averages towards a price.
func (s state) step(price schema.Decimal, periods []int) state {
	longest := periods[len(periods)-1]
	after := state{Prices: min(s.Prices+1, longest), First: make([]schema.Decimal, len(periods)), Mean: make([]schema.Decimal, len(periods))}
	var sum *big.Int
	if s.Prices < longest {
		if sum = price.Units(); s.Sum != nil {
			sum.Add(sum, s.Sum)
		}
		if after.Prices < longest {
			after.Sum = sum
		}
	}
	for i, n := range periods {
		if after.First[i] = price; s.Prices > 0 {
			after.First[i] = move(s.First[i], price, n)
		}
		switch {
		case s.Prices >= n:
			after.Mean[i] = move(s.Mean[i], price, n)
		case after.Prices == n:
			after.Mean[i] = schema.RoundUnits(sum, big.NewInt(int64(n)))
		}
	}
	return after
}

// move is the average of a period, moved towards a price.
func move(average, price schema.Decimal, n int) schema.Decimal {
	return price.Times(2).Add(average.Times(n - 1)).Quo(n + 1)
}
