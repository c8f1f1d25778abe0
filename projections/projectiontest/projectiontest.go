// Package projectiontest holds projections to the duties of theirs, in one line:
//
//	func TestProjection(t *testing.T) {
//		projectiontest.Run(t, projectiontest.Suite{New: func() (pipeline.Projection, error) { return ema.New(pipeline.Env{}) }})
//	}
//
// It runs the fold under a real stage on a real database, with logs, batches,
// rollbacks and restarts that it draws at random, and compares the tables.
package projectiontest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/pipelinetest/shrink"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Suite is what is held to its duties.
type Suite struct {
	// New makes the projection as a process does when it starts. It is called
	// often, and what it returns must share nothing.
	New func() (pipeline.Projection, error)
	// Draw draws the events of a log. Default: Prices with a Longest of its own, and
	// corrections of them as of Corrected.
	Draw func(*rapid.T) []schema.Payload
	// Longest is for an indicator that gives its first point after more than 50
	// prices of a symbol: about twice that many. It is the length of the longest run
	// of prices of one symbol that the default of Draw draws. Default: 100.
	Longest int
}

// longest is the default of Suite.Longest: charts rarely know a longer period.
const longest = 100

// Run checks, each as a subtest:
//
//   - batches: the rows are the same however the log is cut into batches, in
//     whatever order those of several partitions come, when batches are rolled
//     back and tried again, when the session begins again and when the process is
//     another one from the middle on;
//   - replay: another generation that is built from the whole log at once has the
//     rows of the one that followed it, and there are any;
//   - clock: a log that is folded again years later gives the same rows;
//   - poison: what cannot be decoded becomes dead letters, and the rest of the log
//     gives the rows that it gives without;
//   - generations: two of them do not touch each other, and TableNames lists all
//     that Tables makes, so that one that is dropped leaves nothing;
//   - points, of an indicator: the logs that were drawn gave points, for each value
//     of a parameter that has Choices, with values of the types of their columns,
//     newest first. Where no log gave any, the other checks said nothing, and so
//     this one fails;
//   - order, of an indicator: the points are the same whether prices come oldest first,
//     newest first or shuffled. Of two prices of one event time, the one with the
//     lower sequence is the earlier.
func Run(t *testing.T, s Suite) {
	t.Helper()
	require.NotNil(t, s.New, "projectiontest: Suite.New is required: it makes the projection")
	s.complete()
	t.Run("batches", func(t *testing.T) { t.Parallel(); s.batches(t, pipelinetest.New(t)) })
	t.Run("replay", func(t *testing.T) { t.Parallel(); s.replay(t, pipelinetest.New(t)) })
	t.Run("clock", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { s.clock(t, pipelinetest.New(t)) })
	})
	t.Run("poison", func(t *testing.T) { t.Parallel(); s.poison(t, pipelinetest.New(t)) })
	t.Run("generations", func(t *testing.T) { t.Parallel(); s.generations(t, pipelinetest.New(t)) })
	if _, ok := s.make(t).(projections.Indicator); ok {
		t.Run("points", func(t *testing.T) { t.Parallel(); s.points(t) })
		t.Run("order", func(t *testing.T) { t.Parallel(); s.order(t) })
	}
}

// complete gives defaults to what is not set.
func (s *Suite) complete() {
	if s.Longest == 0 {
		s.Longest = longest
	}
	if s.Draw == nil {
		s.Draw = func(t *rapid.T) []schema.Payload { return Corrected(t, prices(t, s.Longest)) }
	}
}

// Prices draws a log of prices: of a few symbols and providers, some late, some at
// one time, some with a size. One log in ten or so ends with a run of 100 prices of one
// symbol, most of them in the order of time.
func Prices(t *rapid.T) []schema.Payload { return prices(t, longest) }

func prices(t *rapid.T, longest int) []schema.Payload {
	// Small numbers are drawn more often. Of the examples, two have a 3.
	long := rapid.IntRange(0, 7).Draw(t, "3 for a long run") == 3
	payloads := some(t)
	if long {
		payloads = append(payloads, run(t, longest)...)
	}
	return payloads
}

// run draws n prices of one symbol, of which every seventh is late. A price takes few
// draws here: a log is made smaller where it fails.
func run(t *rapid.T, n int) []schema.Payload {
	payloads := make([]schema.Payload, n)
	first, step := rapid.IntRange(1, 1_000_000).Draw(t, "first price"), rapid.IntRange(1, 1000).Draw(t, "step")
	for i := range payloads {
		second := int64(1_750_000_000 + 60*i)
		if i%7 == 6 {
			second -= 90
		}
		at := schema.NewTime(time.Unix(second, 0))
		cents := first + (i*i*step+i)%997
		payloads[i] = schema.PriceObserved{Symbol: "A", Source: "p", Timestamp: at, ReceivedAt: at.Add(time.Second),
			Price: schema.MustDecimal(fmt.Sprintf("%d.%02d", cents/100, cents%100)), Size: schema.MustDecimal(strconv.Itoa(1 + i%5))}
	}
	return payloads
}

func some(t *rapid.T) []schema.Payload {
	payloads := make([]schema.Payload, rapid.IntRange(1, 40).Draw(t, "prices"))
	begin := rapid.SampledFrom([]int64{-3600, 0, 1_750_000_000}).Draw(t, "begin") // 1969, 1970, 2025
	spread := rapid.SampledFrom([]int{10, 400, 200_000}).Draw(t, "spread")        // seconds
	for i := range payloads {
		at := schema.NewTime(time.Unix(begin+int64(rapid.IntRange(0, spread).Draw(t, "second")), 0))
		p := schema.PriceObserved{
			Symbol: rapid.SampledFrom([]schema.Symbol{"A", "B", "^GSPC"}).Draw(t, "symbol"),
			Source: rapid.SampledFrom([]schema.Provider{"p", "q"}).Draw(t, "provider"),
			Price:  decimals().Draw(t, "price"), Timestamp: at, ReceivedAt: at.Add(time.Second),
			Sequence: rapid.SampledFrom([]schema.Sequence{0, 0, 1, 2, -1}).Draw(t, "sequence")}
		if rapid.Bool().Draw(t, "trade") {
			p.Size = decimals().Draw(t, "size")
		}
		payloads[i] = p
	}
	return payloads
}

// PricesAndBars draws a log of prices, of which some are the closes of bars. The bars of a
// log that is long enough overlap, repeat and contradict each other.
func PricesAndBars(t *rapid.T) []schema.Payload {
	payloads := Prices(t)
	for i, payload := range payloads {
		if rapid.IntRange(0, 2).Draw(t, "a bar") > 0 {
			payloads[i] = barOf(t, payload.(schema.PriceObserved))
		}
	}
	return payloads
}

// barOf draws a bar that a price is the close of. Most begin at a multiple of their length.
func barOf(t *rapid.T, p schema.PriceObserved) schema.BarObserved {
	length := rapid.SampledFrom([]int64{60, 3600, 300, 86400, 10, 1800, 2 * 86400}).Draw(t, "length")
	begin := p.Timestamp.Unix() - ((p.Timestamp.Unix()%length)+length)%length + rapid.SampledFrom([]int64{0, 0, 0, 20}).Draw(t, "shift")
	short := rapid.SampledFrom([]time.Duration{time.Microsecond, time.Millisecond, 0}).Draw(t, "before the next")
	b := schema.BarObserved{Symbol: p.Symbol, Source: p.Source, Price: p.Price, ReceivedAt: p.ReceivedAt,
		Timestamp: schema.NewTime(time.Unix(begin+length, 0).Add(-short)),
		Bar: schema.Bar{OpenTime: schema.NewTime(time.Unix(begin, 0)), Open: decimals().Draw(t, "open"), Close: p.Price,
			High: decimals().Draw(t, "high"), Low: decimals().Draw(t, "low")}}
	if b.High.Cmp(b.Low) < 0 {
		b.High, b.Low = b.Low, b.High
	}
	if rapid.IntRange(0, 3).Draw(t, "with a volume") > 0 {
		volume := decimals().Draw(t, "volume")
		b.Volume = &volume
	}
	return b
}

// decimals gives 1 to 18 significant digits, with the point anywhere.
func decimals() *rapid.Generator[schema.Decimal] {
	return rapid.Custom(func(t *rapid.T) schema.Decimal {
		digits := rapid.StringMatching(`[1-9][0-9]{0,17}`).Draw(t, "digits")
		point := rapid.IntRange(0, len(digits)).Draw(t, "point")
		whole, fraction := digits[:point], digits[point:]
		if whole == "" {
			whole = "0"
		}
		if fraction != "" {
			fraction = "." + fraction
		}
		return schema.MustDecimal(whole + fraction)
	})
}

// tb is what the checks need of a test: *testing.T, *rapid.T.
type tb interface {
	pipelinetest.TB
	rapid.TB
}

func (s Suite) make(t pipelinetest.TB) pipeline.Projection {
	t.Helper()
	p, err := s.New()
	require.NoError(t, err)
	return p
}

// generations counts those that were built: each has tables of its own.
var generations atomic.Int64

// build makes a generation with a stage of its own, folds the records of a case into it,
// and returns its rows. The tables are gone afterwards.
func (s Suite) build(t pipelinetest.TB, rig *pipelinetest.Rig, c shrink.Case, records []pipeline.Record) ([]string, error) {
	t.Helper()
	p := s.make(t)
	g := pipeline.Generation{Projection: p.Name(), Number: int(generations.Add(1))}
	pipelinetest.CreateTables(t, rig.DB, p, g)
	defer pipelinetest.DropTables(t, rig.DB, p, g)
	err := s.fold(t, rig, g, c, records)
	return dump(t, rig.DB, p, g), err
}

// fold folds the records of a case into a generation, which may read the list of prices.
func (s Suite) fold(t pipelinetest.TB, rig *pipelinetest.Rig, g pipeline.Generation, c shrink.Case, records []pipeline.Record) error {
	t.Helper()
	list := NewPriceList(t, rig)
	defer list.Drop()
	listed := slices.Clone(records)
	for i, e := range c.Events {
		if e.Spoilt { // for all who read it
			listed[i].Value = []byte("{")
		}
	}
	require.NoError(t, list.Deliver(listed))
	return shrink.Deliver(c, slices.Clone(records), func() *pipelinetest.Stage { return rig.Start(t, pipelinetest.FoldStage(s.make(t), g)) },
		func(stage *pipelinetest.Stage) { stage.Close(t) })
}

// compare folds a case as wanted says, and as it is; wait comes in between.
func (s Suite) compare(t pipelinetest.TB, rig *pipelinetest.Rig, wanted func(shrink.Case) shrink.Case, wait time.Duration) func(shrink.Case) shrink.Result {
	return func(c shrink.Case) shrink.Result {
		records := rig.Append(t, Events(c.Payloads()...)...)
		if !c.InOrder(records) {
			return shrink.Result{}
		}
		want, err := s.build(t, rig, wanted(c), records)
		time.Sleep(wait)
		got, errOfSecond := s.build(t, rig, c, records)
		return shrink.Result{Want: want, Got: got, Err: cmp.Or(err, errOfSecond)}
	}
}

// oneByOne says where the right rows come from.
const oneByOne = "one record at a time"

func (s Suite) batches(t tb, rig *pipelinetest.Rig) {
	shrink.Check(t, func(t *rapid.T) shrink.Case {
		payloads := s.Draw(t)
		return shrink.Draw(t, payloads, rig.Append(t, Events(payloads...)...))
	}, "the rows depend on the batches, on a rollback or on a restart", oneByOne, s.compare(t, rig, shrink.Case.OneByOne, 0))
}

func (s Suite) replay(t pipelinetest.TB, rig *pipelinetest.Rig) {
	rows := 0
	for i := range examples {
		result := shrink.Require(t, shrink.New(s.example(i)), "a replay gives other rows than the live run", "live, "+oneByOne,
			s.compare(t, rig, shrink.Case.OneByOne, 0))
		rows += len(result.Want)
	}
	require.NotZero(t, rows, "no log that was drawn gave a row, so no check has seen any: let Suite.Draw draw what gives rows")
}

// examples are so many logs for the checks that do not draw.
const examples = 10

// example is a log that is the same in each run.
func (s Suite) example(number int) []schema.Payload { return rapid.Custom(s.Draw).Example(number) }

// years is how long the clock check waits, in a bubble where waiting takes no
// time: any part of a date is another one afterwards.
const years = (3*365+100)*24*time.Hour + 13*time.Hour + 17*time.Minute + 19*time.Second + 123457*time.Microsecond

func (s Suite) clock(t pipelinetest.TB, rig *pipelinetest.Rig) {
	for i := range examples {
		shrink.Require(t, shrink.New(s.example(i)), "the rows depend on when the log is folded: the fold reads a clock", "years before",
			s.compare(t, rig, func(c shrink.Case) shrink.Case { return c }, years))
	}
}

func (s Suite) poison(t pipelinetest.TB, rig *pipelinetest.Rig) {
	for i := range examples {
		shrink.Require(t, shrink.New(s.example(i)).Spoil(), "poison between the records changes the rows", "without it, "+oneByOne,
			s.compare(t, rig, shrink.Case.OneByOne, 0))
	}
}

func (s Suite) generations(t pipelinetest.TB, rig *pipelinetest.Rig) {
	p := s.make(t)
	before := tables(t, rig.DB)
	first := pipeline.Generation{Projection: p.Name(), Number: 1, Active: true}
	second := pipeline.Generation{Projection: p.Name(), Number: 2}
	for _, g := range []pipeline.Generation{first, second} {
		pipelinetest.CreateTables(t, rig.DB, p, g)
	}
	for _, name := range p.TableNames() {
		require.Contains(t, tables(t, rig.DB), first.Table(name), "TableNames lists a table that Tables does not make")
		require.Contains(t, tables(t, rig.DB), second.Table(name), "the second generation lacks a table of its own")
	}
	require.Len(t, tables(t, rig.DB), len(before)+2*len(p.TableNames()), "Tables makes tables that TableNames does not list, or that two generations share")

	c := shrink.New(s.example(0))
	log := rig.Append(t, Events(c.Payloads()...)...)
	require.NoError(t, s.fold(t, rig, first, c, log))
	want := dump(t, rig.DB, p, first)
	for _, r := range dump(t, rig.DB, p, second) {
		require.Fail(t, "a generation writes into another one's tables", r)
	}
	require.NoError(t, s.fold(t, rig, second, c, log))
	require.Equal(t, want, dump(t, rig.DB, p, first), "a second generation changes the rows of the first")
	pipelinetest.DropTables(t, rig.DB, p, second)
	require.Equal(t, want, dump(t, rig.DB, p, first), "dropping a generation changes the rows of another")
	pipelinetest.DropTables(t, rig.DB, p, first)
	require.Equal(t, before, tables(t, rig.DB), "a generation that was dropped left something behind")
}

// tables are the tables and indexes of a SQLite database, by name.
func tables(t pipelinetest.TB, db store.Querier) []string {
	t.Helper()
	var names []string
	require.NoError(t, db.Select(context.Background(), &names, `SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name`))
	return names
}

// dump is all rows of a generation as text, table by table, in no particular order
// of the database's.
func dump(t pipelinetest.TB, db store.Querier, p pipeline.Projection, g pipeline.Generation) []string {
	t.Helper()
	var all []string
	for _, name := range p.TableNames() {
		var columns []string
		require.NoError(t, db.Select(context.Background(), &columns, fmt.Sprintf(`SELECT name FROM pragma_table_info('%s')`, g.Table(name))))
		require.NotEmpty(t, columns, "there is no table %s", g.Table(name))
		fields := make([]string, len(columns))
		for i, c := range columns {
			fields[i] = fmt.Sprintf(`'%s=' || quote("%s")`, c, c)
		}
		var rows []string
		require.NoError(t, db.Select(context.Background(), &rows,
			`SELECT `+strings.Join(fields, ` || ' ' || `)+` AS line FROM "`+g.Table(name)+`" ORDER BY line`))
		for _, row := range rows {
			all = append(all, name+": "+row)
		}
	}
	return all
}
