// Package ema is the read model of exponential moving averages.
//
// The average of period N begins with the first price of a (provider, symbol)
// and then moves by α = 2/(N+1) of the way towards each further one, as S. Hunter
// has it in "The Exponentially Weighted Moving Average", Journal of Quality
// Technology 18 (1986), and as charts show it: e ← e + α·(p − e). Each step is
// computed as (2·p + (N−1)·e) / (N+1), exactly but for the division, which is
// rounded half-even to 18 fractional digits; the rounded average is what the next
// step begins with.
//
// Steps are taken in the order of the log. A price whose event time is before
// that of a price that was there already takes none: in an average that forgets,
// its weight is less than that of any that came behind it, and to put it in its
// place would compute again every average since. So the averages are those of the
// prices that were the newest when they came, and no point ever changes.
package ema

import (
	"fmt"
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

// Settings of the projection.
type Settings struct {
	Periods []int `mapstructure:"periods" doc:"periods kept, in prices, 1 to 1000, at most 64 of them"`
}

var defaults = Settings{Periods: []int{12, 26}}

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name:     Name,
		Doc:      "The exponential moving averages of each symbol after each price.",
		Settings: defaults,
		Optional: true,
		New:      New,
	})
}

// state is what a step begins with.
type state struct {
	// Averages are those of the periods, in their order; none before the first
	// price.
	Averages []schema.Decimal `json:"averages"`
	Newest   schema.Time      `json:"newest"`
	// Late counts the prices that took no step.
	Late int64 `json:"late"`
}

// New makes the projection.
func New(env pipeline.Env) (pipeline.Projection, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	periods := slices.Compact(slices.Sorted(slices.Values(settings.Periods)))
	if len(periods) == 0 || len(periods) > pipeline.MaxRowIndex+1 {
		return nil, fmt.Errorf("periods: %d of them, not within 1 and %d", len(periods), pipeline.MaxRowIndex+1)
	}
	if periods[0] < 1 || periods[len(periods)-1] > MaxPeriod {
		return nil, fmt.Errorf("periods: %v is not within 1 and %d", settings.Periods, MaxPeriod)
	}
	names := make([]string, len(periods))
	for i, n := range periods {
		names[i] = strconv.Itoa(n)
	}
	return projections.NewSeries(projections.Series[state]{
		Name: Name, Version: 1, Configuration: fmt.Sprintf("periods=%v", periods),
		Doc:       "The exponential moving average after each price, by 2/(period+1) of the way towards it; a price that comes behind a newer one is left out.",
		Parameter: &projections.Parameter{Name: "period", Doc: "The period, in prices.", Default: names[0], Choices: names},
		Columns:   []projections.Column{{Name: "value", Doc: "The average.", Type: projections.DecimalColumn}},
		Step: func(before state, p projections.SeriesPrice) (state, []projections.SeriesPoint, error) {
			after, moved := step(before, p.Price, p.Timestamp, periods)
			if !moved {
				return after, nil, nil
			}
			points := make([]projections.SeriesPoint, len(periods))
			for i, e := range after.Averages {
				points[i] = projections.SeriesPoint{Parameter: names[i], Timestamp: p.Timestamp, Values: []any{e}}
			}
			return after, points, nil
		},
	})
}

// step moves the averages towards a price, unless it is late.
func step(before state, price schema.Decimal, at schema.Time, periods []int) (after state, moved bool) {
	if len(before.Averages) == 0 {
		return state{Averages: slices.Repeat([]schema.Decimal{price}, len(periods)), Newest: at}, true
	}
	if at.Before(before.Newest.Time) {
		before.Late++
		return before, false
	}
	after = state{Averages: make([]schema.Decimal, len(periods)), Newest: at, Late: before.Late}
	for i, n := range periods {
		after.Averages[i] = price.Times(2).Add(before.Averages[i].Times(n - 1)).Quo(n + 1)
	}
	return after, true
}
