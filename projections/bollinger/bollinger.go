// Package bollinger is the read model of Bollinger bands.
//
// The bands of a (provider, symbol) are those of J. Bollinger, "Bollinger on
// Bollinger Bands" (McGraw-Hill, 2001): the middle is the simple moving average of
// the last N prices by event time, the upper and the lower band lie K standard
// deviations above and below it.
//
// Two conventions are parameters. The deviation is √(Σ(p−m)²/(N−ddof)): ddof is 0, the
// default, for that of the whole population, as Bollinger and TA-Lib's BBANDS have it, or
// 1 for that of a sample, as pandas' rolling(N).std() has it. The first N−1 prices have
// the bands of those there are with warm_up=partial, the default, as pandas with
// min_periods=1, or none with warm_up=full, as TA-Lib and as pandas without. One price
// has no deviation of a sample, and so no bands.
//
// All of it is integer arithmetic in units of 10^-18, so that every machine gets
// the same digits: with S = Σp and Q = Σp², the middle is S/N and the deviation
// √((N·Q − S²)/(N·(N−ddof))), each rounded half-even to 18 fractional digits, the root
// from the exact radicand. K times the rounded deviation is again rounded half-even, and
// added to the rounded middle.
package bollinger

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "bollinger"

// MaxPeriod is the longest period, in prices.
const MaxPeriod = 1000

// Settings of the projection.
type Settings struct {
	Period     int    `mapstructure:"period" doc:"how many prices the bands are made of, 1 to 1000"`
	Deviations string `mapstructure:"deviations" doc:"how many standard deviations lie between the middle and a band, above 0 and at most 100"`
}

var defaults = Settings{Period: 20, Deviations: "2"}

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name:     Name,
		Doc:      "The Bollinger bands of each symbol at each price.",
		Settings: defaults,
		Optional: true,
		New:      New,
	})
}

// New makes the projection.
func New(env pipeline.Env) (pipeline.Projection, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	if settings.Period < 1 || settings.Period > MaxPeriod {
		return nil, fmt.Errorf("period: %d is not within 1 and %d", settings.Period, MaxPeriod)
	}
	deviations, err := schema.ParseDecimal(settings.Deviations)
	if err != nil || deviations.Sign() <= 0 || deviations.Cmp(schema.MustDecimal("100")) > 0 {
		return nil, fmt.Errorf("deviations: %q is not a number above 0 and at most 100", settings.Deviations)
	}
	decimal := func(name, doc string) projections.Column {
		return projections.Column{Name: name, Doc: doc, Type: projections.DecimalColumn}
	}
	length := strconv.Itoa(settings.Period)
	return projections.NewSeries(projections.Series[window]{
		Name: Name, Version: 3, Configuration: fmt.Sprintf("period=%d deviations=%s", settings.Period, deviations),
		Doc: fmt.Sprintf("Bollinger bands: the mean of the last %d prices by event time, and %s standard deviations above and below it.", settings.Period, deviations),
		Parameters: []projections.Parameter{
			// One period is kept. Who asks for another learns which, and does not get this one's bands.
			{Name: period, Doc: "The period, in prices.", Default: length, Choices: []string{length}},
			{Name: ddof, Doc: "What is taken from the number of prices in the divisor of the variance: 0, for the deviation of the population, as TA-Lib's BBANDS; " +
				"or 1, for that of a sample, as pandas' std.", Default: "0", Choices: []string{"0", "1"}, Convention: true},
			{Name: warmUp, Doc: "What the first prices have, of which there are fewer than a period: partial, the bands of those there are, as pandas with min_periods=1; " +
				"or full, no point, as TA-Lib.", Default: partial, Choices: []string{partial, full}, Convention: true},
		},
		Columns: []projections.Column{
			decimal("lower", "The lower band."), decimal("middle", "The mean."), decimal("upper", "The upper band."),
			decimal("deviation", "The standard deviation of the prices."),
		},
		Step: func(before window, p projections.SeriesPrice) (window, error) {
			return before.add(p.Price, settings.Period), nil
		},
		Point: func(at window, _ projections.SeriesPrice, parameters map[string]string) []any {
			n, free := len(at.prices), len(at.prices)
			if parameters[ddof] == "1" {
				free--
			}
			if free == 0 || parameters[warmUp] == full && n < settings.Period {
				return nil
			}
			middle, deviation := at.mean(), at.deviation(free)
			width := schema.RoundUnits(new(big.Int).Mul(deviation.Units(), deviations.Units()), unit)
			return []any{middle.Sub(width), middle, middle.Add(width), deviation}
		},
	})
}

// The parameters and their values.
const (
	period  = "period"
	ddof    = "ddof"
	warmUp  = "warm_up"
	partial = "partial"
	full    = "full"
)

// unit is 1 in units of the last place.
var unit = schema.MustDecimal("1").Units()

// window is the last prices, oldest first, with their sum and that of their
// squares in units. It is immutable.
type window struct {
	prices       []schema.Decimal
	sum, squares *big.Int
}

// add is the window with one more price, without the oldest where it is full.
func (w window) add(price schema.Decimal, size int) window {
	next := window{make([]schema.Decimal, 0, min(len(w.prices)+1, size)), new(big.Int), new(big.Int)}
	old := w.prices
	if w.sum != nil {
		next.sum.Set(w.sum)
		next.squares.Set(w.squares)
	}
	if len(old) == size {
		p := old[0].Units()
		next.sum.Sub(next.sum, p)
		next.squares.Sub(next.squares, p.Mul(p, p))
		old = old[1:]
	}
	next.prices = append(append(next.prices, old...), price)
	p := price.Units()
	next.sum.Add(next.sum, p)
	next.squares.Add(next.squares, p.Mul(p, p))
	return next
}

func (w window) count() *big.Int { return big.NewInt(int64(len(w.prices))) }

func (w window) mean() schema.Decimal { return schema.RoundUnits(w.sum, w.count()) }

// deviation is √((N·Q − S²)/(N·free)), rounded half-even. The root of the quotient
// rounded down is the true root q rounded down, and whether the true one is beyond
// the middle to the next is decided by its square.
func (w window) deviation(free int) schema.Decimal {
	n := w.count()
	radicand := new(big.Int).Mul(n, w.squares)
	radicand.Sub(radicand, new(big.Int).Mul(w.sum, w.sum))
	divisor := n.Mul(n, big.NewInt(int64(free)))
	q := new(big.Int).Quo(radicand, divisor)
	q.Sqrt(q)
	// radicand/divisor against (q + 1/2)²: 4·radicand against (2q+1)²·divisor.
	middle := new(big.Int).Lsh(q, 1)
	middle.Add(middle, big.NewInt(1))
	middle.Mul(middle, middle)
	middle.Mul(middle, divisor)
	switch radicand.Lsh(radicand, 2).Cmp(middle) {
	case 1:
		q.Add(q, big.NewInt(1))
	case 0:
		q.Add(q, new(big.Int).SetUint64(uint64(q.Bit(0))))
	}
	return schema.RoundUnits(q, big.NewInt(1))
}

// MarshalJSON writes the prices; the sums follow from them.
func (w window) MarshalJSON() ([]byte, error) { return json.Marshal(w.prices) }

// UnmarshalJSON implements json.Unmarshaler.
func (w *window) UnmarshalJSON(text []byte) error {
	var prices []schema.Decimal
	if err := json.Unmarshal(text, &prices); err != nil {
		return fmt.Errorf("reading a window: %w", err)
	}
	*w = window{prices, new(big.Int), new(big.Int)}
	for _, price := range prices {
		p := price.Units()
		w.sum.Add(w.sum, p)
		w.squares.Add(w.squares, p.Mul(p, p))
	}
	return nil
}
