// Package bollinger is the read model of Bollinger bands.
//
// The bands of a (provider, symbol) are those of J. Bollinger, "Bollinger on
// Bollinger Bands" (McGraw-Hill, 2001): the middle is the simple moving average of
// the last N prices, the upper and the lower band lie K standard deviations above
// and below it, where the deviation is that of the whole population,
// √(Σ(p−m)²/N). As with moving averages, the last prices are those by event time,
// ties by log order, and of those there are while there are fewer.
//
// All of it is integer arithmetic in units of 10^-18, so that every machine gets
// the same digits: with S = Σp and Q = Σp², the middle is S/N and the deviation
// √(N·Q − S²)/N, each rounded half-even to 18 fractional digits, the root from the
// exact radicand. K times the rounded deviation is again rounded half-even, and
// added to the rounded middle.
package bollinger

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
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
		Doc:      "The Bollinger bands of each symbol after each price.",
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
	period := strconv.Itoa(settings.Period)
	return projections.NewSeries(projections.Series[window]{
		Name: Name, Version: 2, Configuration: fmt.Sprintf("period=%d deviations=%s", settings.Period, deviations),
		Doc: fmt.Sprintf("Bollinger bands: the mean of the last %d prices by event time, and %s standard deviations above and below it.", settings.Period, deviations),
		// One period is kept. Who asks for another learns which, and does not get this one's bands.
		Parameter: &projections.Parameter{Name: "period", Doc: "The period, in prices.", Default: period, Choices: []string{period}},
		Columns: []projections.Column{
			decimal("lower", "The lower band."), decimal("middle", "The mean."), decimal("upper", "The upper band."),
			decimal("deviation", "The standard deviation of the prices, that of the population."),
		},
		Step: func(before window, p projections.SeriesPrice) (window, []projections.SeriesPoint, error) {
			after := before.add(entry{p.Timestamp, p.ID, p.Price}, settings.Period)
			middle, deviation := after.mean(), after.deviation()
			width := schema.RoundUnits(new(big.Int).Mul(deviation.Units(), deviations.Units()), unit)
			return after, []projections.SeriesPoint{{Parameter: period, Timestamp: after.newest(),
				Values: []any{middle.Sub(width), middle, middle.Add(width), deviation}}}, nil
		},
	})
}

// unit is 1 in units of the last place.
var unit = schema.MustDecimal("1").Units()

// entry is one price in a window.
type entry struct {
	Time  schema.Time    `json:"t"`
	ID    int64          `json:"i"`
	Price schema.Decimal `json:"p"`
}

func (e entry) compare(f entry) int {
	return cmp.Or(e.Time.Compare(f.Time), cmp.Compare(e.ID, f.ID))
}

// window is the last prices, oldest first, with their sum and that of their
// squares in units. It is immutable.
type window struct {
	entries      []entry
	sum, squares *big.Int
}

// add is the window with one more price, without what is too old by then.
func (w window) add(e entry, size int) window {
	at, _ := slices.BinarySearchFunc(w.entries, e, entry.compare)
	if at == 0 && len(w.entries) == size {
		return w // older than all of a full window
	}
	next := window{slices.Insert(slices.Clone(w.entries), at, e), new(big.Int), new(big.Int)}
	if w.sum != nil {
		next.sum.Set(w.sum)
		next.squares.Set(w.squares)
	}
	p := e.Price.Units()
	next.sum.Add(next.sum, p)
	next.squares.Add(next.squares, p.Mul(p, p))
	if len(next.entries) > size {
		p := next.entries[0].Price.Units()
		next.sum.Sub(next.sum, p)
		next.squares.Sub(next.squares, p.Mul(p, p))
		next.entries = next.entries[1:]
	}
	return next
}

func (w window) newest() schema.Time { return w.entries[len(w.entries)-1].Time }

func (w window) count() *big.Int { return big.NewInt(int64(len(w.entries))) }

func (w window) mean() schema.Decimal { return schema.RoundUnits(w.sum, w.count()) }

// deviation is √(N·Q − S²)/N, rounded half-even. The root of the radicand is
// rounded down to a whole number r; r/N rounded down is then the true quotient
// rounded down, and whether the true one is beyond the middle to the next is
// decided by its square.
func (w window) deviation() schema.Decimal {
	n := w.count()
	radicand := new(big.Int).Mul(n, w.squares)
	radicand.Sub(radicand, new(big.Int).Mul(w.sum, w.sum))
	q := new(big.Int).Sqrt(radicand)
	q.Quo(q, n)
	// √radicand/N against q + 1/2: 4·radicand against ((2q+1)·N)².
	middle := new(big.Int).Lsh(q, 1)
	middle.Add(middle, big.NewInt(1))
	middle.Mul(middle, n)
	middle.Mul(middle, middle)
	switch radicand.Lsh(radicand, 2).Cmp(middle) {
	case 1:
		q.Add(q, big.NewInt(1))
	case 0:
		q.Add(q, new(big.Int).SetUint64(uint64(q.Bit(0))))
	}
	return schema.RoundUnits(q, big.NewInt(1))
}

// MarshalJSON writes the prices; the sums follow from them.
func (w window) MarshalJSON() ([]byte, error) { return json.Marshal(w.entries) }

// UnmarshalJSON implements json.Unmarshaler.
func (w *window) UnmarshalJSON(text []byte) error {
	var entries []entry
	if err := json.Unmarshal(text, &entries); err != nil {
		return fmt.Errorf("reading a window: %w", err)
	}
	*w = window{}
	for _, e := range entries {
		*w = w.add(e, len(entries))
	}
	return nil
}
