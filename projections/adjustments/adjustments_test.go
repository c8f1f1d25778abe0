package adjustments_test

import (
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func moduleOf(t require.TestingT, name string) pipeline.Projection {
	all := pipeline.Projections()
	p, err := all[slices.IndexFunc(all, func(m pipeline.ProjectionModule) bool { return m.Name == name })].New(pipeline.Env{})
	require.NoError(t, err)
	return p
}

func TestProjection(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, projectiontest.Suite{New: func() (pipeline.Projection, error) { return moduleOf(t, adjustments.Name), nil }, Draw: draw})
}

func day(n int) schema.Time { return schema.NewTime(time.Date(2024, 1, n, 0, 0, 0, 0, time.UTC)) }

func terms(n int, kind schema.AdjustmentKind, value string) schema.AdjustmentTerms {
	v, per, err := schema.ParseAdjustment(kind, value)
	if err != nil {
		panic(err)
	}
	return schema.AdjustmentTerms{EffectiveAt: day(n), Kind: kind, Value: v, Per: per}
}

func recorded(symbol schema.Symbol, a schema.AdjustmentTerms) schema.Payload {
	return schema.AdjustmentRecorded{AdjustmentID: schema.AdjustmentID("p", symbol, a), Symbol: symbol, Source: "p", AdjustmentTerms: a, Reason: "r", RecordedAt: day(1)}
}

func retracted(symbol schema.Symbol, a schema.AdjustmentTerms) schema.Payload {
	return schema.AdjustmentRetracted{AdjustmentID: schema.AdjustmentID("p", symbol, a), Symbol: symbol, Source: "p", Reason: "r", RetractedAt: day(1)}
}

// draw draws adjustments of two symbols, of which some are retracted and recorded again.
func draw(t *rapid.T) []schema.Payload {
	payloads := make([]schema.Payload, rapid.IntRange(1, 30).Draw(t, "events"))
	for i := range payloads {
		symbol := rapid.SampledFrom([]schema.Symbol{"A", "B"}).Draw(t, "symbol")
		a := rapid.SampledFrom([]schema.AdjustmentTerms{terms(3, schema.SplitAdjustment, "4:1"), terms(3, schema.DividendAdjustment, "0.5"),
			terms(5, schema.SplitAdjustment, "2:3"), terms(4, schema.DividendAdjustment, "1.25"), terms(6, schema.FactorAdjustment, "0.9")}).Draw(t, "terms")
		if payloads[i] = recorded(symbol, a); rapid.Bool().Draw(t, "retract") {
			payloads[i] = retracted(symbol, a)
		}
	}
	return payloads
}

// rig has the tables of prices and of adjustments, under their plain names.
type rig struct {
	*pipelinetest.Rig
	reader adjustments.Reader
	number int
}

// after folds events and returns what read does then.
func (r *rig) after(t pipelinetest.TB, events []schema.Payload, read func()) {
	r.number++
	for _, name := range []string{processedprices.Name, adjustments.Name} {
		p := moduleOf(t, name)
		g := pipeline.Generation{Projection: name, Number: r.number, Active: true}
		pipelinetest.CreateTables(t, r.DB, p, g)
		defer pipelinetest.DropTables(t, r.DB, p, g)
		stage := r.Start(t, pipelinetest.FoldStage(p, g))
		defer stage.Close(t)
		var of []schema.Payload
		for _, e := range events {
			if (e.Topic() == schema.PriceEvents) == (name == processedprices.Name) {
				of = append(of, e)
			}
		}
		if len(of) > 0 {
			require.NoError(t, stage.Deliver(r.AppendAll(t, of...)...))
		}
	}
	read()
}

func price(n int, text string) schema.Payload {
	return schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal(text), Timestamp: day(n), ReceivedAt: day(n), Size: schema.MustDecimal("10")}
}

// closes are prices of five days. The third begins with a dividend of 2 and the fourth with a
// split of four for one.
func closes() []schema.Payload {
	return []schema.Payload{price(1, "100"), price(2, "104"), price(3, "102"), price(4, "26"), price(5, "27")}
}

// TestFactorsByHand. The factor of the dividend is 1 − 2/104 = 102/104 = 51/52, since the last
// close before the 3rd is 104; that of the split is 1/4. So
//
//	1st: 100 × 51/52 × 1/4 = 5100/208 = 24.519230769230769230|769… → …231 (half-even, 18 digits)
//	2nd: 104 × 51/52 × 1/4 = 25.5
//	3rd: 102 × 1/4         = 25.5, on its ex-date, so the return of the dividend's day is 0
//	4th: 26, 5th: 27
//
// A size of 10 before the split is 10 ÷ 1/4 = 40; a dividend leaves sizes alone.
func TestFactorsByHand(t *testing.T) {
	t.Parallel()
	r := &rig{Rig: pipelinetest.New(t)}
	r.reader.DB = r.DB
	events := append(closes(), recorded("A", terms(4, schema.SplitAdjustment, "4:1")), recorded("A", terms(3, schema.DividendAdjustment, "2")))
	r.after(t, events, func() {
		f, err := r.reader.Factors(t.Context(), "p", "A")
		require.NoError(t, err)
		prices, err := processedprices.Reader{DB: r.DB}.Prices(t.Context(), processedprices.Query{Provider: "p", Symbol: "A", Behind: projections.Newest, Limit: 9, Adjust: f.Price})
		require.NoError(t, err)
		var got []string
		for _, p := range prices {
			got = append(got, p.Price.String())
		}
		assert.Equal(t, []string{"27", "26", "25.5", "25.5", "24.519230769230769231"}, got)
		ten := schema.MustDecimal("10")
		assert.Equal(t, []string{"40", "40", "40", "10"}, []string{f.Size(ten, day(1)).String(), f.Size(ten, day(2)).String(), f.Size(ten, day(3)).String(), f.Size(ten, day(4)).String()})
		at, found := f.Within(day(2), day(4))
		assert.True(t, found)
		assert.Equal(t, day(3), at)
		_, found = f.Within(day(3), day(4))
		assert.False(t, found, "an interval that ends when the new prices begin has none of them")
		other, err := r.reader.Factors(t.Context(), "p", "B")
		require.NoError(t, err)
		assert.Equal(t, "100", other.Price(schema.MustDecimal("100"), day(1)).String(), "of another symbol")
	})
}

// TestFactorsOfCases: a corrected close changes the factor; a dividend before all prices has
// none; a reverse split of 1 for 3 is exact; and one that is not below the close is an error.
func TestFactorsOfCases(t *testing.T) {
	t.Parallel()
	r := &rig{Rig: pipelinetest.New(t)}
	r.reader.DB = r.DB
	for name, test := range map[string]struct {
		events []schema.Payload
		want   string // of 100 on the first day, or the error
	}{
		"nothing":                                    {nil, "100"},
		"reverse split":                              {[]schema.Payload{recorded("A", terms(2, schema.SplitAdjustment, "1:3"))}, "300"},
		"3 for 2, three times a third":               {[]schema.Payload{recorded("A", terms(2, schema.SplitAdjustment, "3:2")), recorded("A", terms(3, schema.SplitAdjustment, "2:3"))}, "100"},
		"a factor":                                   {[]schema.Payload{recorded("A", terms(2, schema.FactorAdjustment, "0.25"))}, "25"},
		"effective with the price":                   {[]schema.Payload{recorded("A", terms(1, schema.FactorAdjustment, "0.25"))}, "100"},
		"a dividend before every price":              {[]schema.Payload{recorded("A", terms(1, schema.DividendAdjustment, "1000"))}, "100"},
		"recorded twice":                             {[]schema.Payload{recorded("A", terms(2, schema.FactorAdjustment, "0.25")), recorded("A", terms(2, schema.FactorAdjustment, "0.25"))}, "25"},
		"a dividend of the whole price":              {[]schema.Payload{recorded("A", terms(2, schema.DividendAdjustment, "100"))}, "is not below the last price before it, 100"},
		"factors beyond any price":                   {[]schema.Payload{recorded("A", terms(2, schema.FactorAdjustment, "999999999999999999")), recorded("A", terms(3, schema.FactorAdjustment, "999999999999999999"))}, "multiply to more than 10^18"},
		"dividends of one day add up":                {[]schema.Payload{recorded("A", terms(3, schema.DividendAdjustment, "2")), recorded("A", terms(3, schema.DividendAdjustment, "4"))}, "94.230769230769230769"},                                                         // × 98/104
		"a dividend and a split of one day":          {[]schema.Payload{recorded("A", terms(3, schema.SplitAdjustment, "4:1")), recorded("A", terms(3, schema.DividendAdjustment, "4"))}, "24.038461538461538462"},                                                          // × 100/104 ÷ 4
		"a dividend after a split, no price between": {[]schema.Payload{recorded("A", terms(7, schema.SplitAdjustment, "3:1")), recorded("A", terms(8, schema.DividendAdjustment, "0.9"))}, "30"},                                                                           // × 1/3 × 8.1/9
		"two dividends after one price":              {[]schema.Payload{recorded("A", terms(8, schema.DividendAdjustment, "5")), recorded("A", terms(7, schema.DividendAdjustment, "2"))}, "74.074074074074074074"},                                                         // × 20/27
		"two, with a split between":                  {[]schema.Payload{recorded("A", terms(9, schema.DividendAdjustment, "3")), recorded("A", terms(8, schema.SplitAdjustment, "3:1")), recorded("A", terms(7, schema.DividendAdjustment, "9"))}, "11.111111111111111111"}, // (27 − 9) / 3 − 3 = 3 of 27
		"dividends of the whole price":               {[]schema.Payload{recorded("A", terms(3, schema.DividendAdjustment, "100")), recorded("A", terms(3, schema.DividendAdjustment, "4"))}, "the last price before it, 104, of which the adjustments since leave"},
		"a dividend beyond what a split leaves":      {[]schema.Payload{recorded("A", terms(7, schema.SplitAdjustment, "3:1")), recorded("A", terms(8, schema.DividendAdjustment, "9"))}, "the last price before it, 27, of which the adjustments since leave 9"},
		"retracted and recorded once more":           {[]schema.Payload{recorded("A", terms(2, schema.FactorAdjustment, "0.25")), retracted("A", terms(2, schema.FactorAdjustment, "0.25")), recorded("A", terms(2, schema.FactorAdjustment, "0.25"))}, "25"},
	} {
		r.after(t, append(closes(), test.events...), func() {
			f, err := r.reader.Factors(t.Context(), "p", "A")
			if err != nil {
				var refused *adjustments.FactorError
				require.ErrorAs(t, err, &refused, name)
				assert.Contains(t, refused.Reason, test.want, name)
				return
			}
			assert.Equal(t, test.want, f.Price(schema.MustDecimal("100"), day(1)).String(), name)
		})
	}
	// The close before the dividend was 108: 1 − 2/108 = 53/54.
	fixed := append(closes(), recorded("A", terms(3, schema.DividendAdjustment, "2")))
	fixed[1] = price(2, "108")
	r.after(t, fixed, func() {
		f, err := r.reader.Factors(t.Context(), "p", "A")
		require.NoError(t, err)
		assert.Equal(t, "53", f.Price(schema.MustDecimal("54"), day(1)).String())
	})
}

// TestTheOrderOfAdjustmentsDoesNotMatter: whatever order splits and dividends come in, before or
// after the prices, the factors are those of rationals; and one that is retracted leaves what
// there is without it.
func TestTheOrderOfAdjustmentsDoesNotMatter(t *testing.T) {
	t.Parallel()
	r := &rig{Rig: pipelinetest.New(t)}
	r.reader.DB = r.DB
	rapid.Check(t, func(t *rapid.T) {
		all := []schema.AdjustmentTerms{terms(2, schema.SplitAdjustment, "3:2"), terms(3, schema.DividendAdjustment, "2"), terms(4, schema.SplitAdjustment, "4:1"),
			terms(4, schema.DividendAdjustment, "0.37"), terms(5, schema.FactorAdjustment, "0.97")}
		kept := rapid.SliceOfNDistinct(rapid.IntRange(0, len(all)-1), 0, len(all), rapid.ID[int]).Draw(t, "kept")
		undone := rapid.IntRange(0, len(all)-1).Draw(t, "undone")
		kept = slices.DeleteFunc(kept, func(i int) bool { return i == undone })
		read := func(events []schema.Payload) (lines []string) {
			r.after(t, events, func() {
				f, err := r.reader.Factors(t.Context(), "p", "A")
				require.NoError(t, err)
				for n := 1; n <= 5; n++ {
					lines = append(lines, projectiontest.Rat(f.Price(schema.MustDecimal("99.99"), day(n))).RatString()+" "+projectiontest.Rat(f.Size(schema.MustDecimal("7"), day(n))).RatString())
				}
			})
			return lines
		}
		events := closes()
		for _, i := range kept {
			events = append(events, recorded("A", all[i]))
		}
		shuffled := rapid.Permutation(events).Draw(t, "order")
		first := rapid.IntRange(0, len(shuffled)).Draw(t, "recorded")
		with := slices.Insert(slices.Clone(shuffled), first, recorded("A", all[undone]))
		with = slices.Insert(with, rapid.IntRange(first+1, len(with)).Draw(t, "retracted"), retracted("A", all[undone]))
		// The dividends follow a close of 104, and one of 102.
		factors := []*big.Rat{big.NewRat(2, 3), big.NewRat(102, 104), big.NewRat(1, 4), big.NewRat(10163, 10200), big.NewRat(97, 100)}
		var want []string
		for n := 1; n <= 5; n++ {
			price, size := big.NewRat(9999, 100), big.NewRat(7, 1)
			for _, i := range kept {
				if !all[i].EffectiveAt.After(day(n)) {
					continue
				}
				if price.Mul(price, factors[i]); all[i].Kind == schema.SplitAdjustment {
					size.Quo(size, factors[i])
				}
			}
			want = append(want, projectiontest.HalfEven(price).RatString()+" "+projectiontest.HalfEven(size).RatString())
		}
		require.Equal(t, want, read(with))
	})
}
