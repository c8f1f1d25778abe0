package projectiontest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/internal/failtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/pipelinetest/shrink"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) {
	// The failures below are meant: nothing to be kept or made smaller. The texts that are
	// compared follow from the seed.
	for name, value := range map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "0s", "rapid.seed": "19"} {
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// counting is a fold that counts prices by symbol, in one of several wrong ways.
type counting struct {
	apply func(c *counting, ctx context.Context, tx *pipeline.Tx, table string, in []pipeline.Record) error
	// names and ddl are TableNames and Tables; nil for the right ones.
	names []string
	ddl   func(g pipeline.Generation) []string

	mu   sync.Mutex
	seen map[schema.Symbol]int
}

func (*counting) Name() string { return "counting" }
func (*counting) Version() int { return 1 }
func (*counting) Consumes() []schema.EventType {
	return []schema.EventType{schema.PriceObserved{}.EventType()}
}

func (c *counting) TableNames() []string {
	if c.names != nil {
		return c.names
	}
	return []string{"counts"}
}

func createCounts(name string) string {
	return "CREATE TABLE IF NOT EXISTS " + name + " (symbol {text} PRIMARY KEY, n {int} NOT NULL, seen {text})"
}

func (c *counting) Tables(g pipeline.Generation) []string {
	if c.ddl != nil {
		return c.ddl(g)
	}
	return []string{createCounts(g.Table("counts"))}
}

func (c *counting) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	return c.apply(c, ctx, tx, g.Table("counts"), in)
}

func symbolOf(r pipeline.Record) schema.Symbol { return r.Event.Payload.(schema.PriceObserved).Symbol }

// add is the right way: what is there and what comes.
func add(ctx context.Context, tx *pipeline.Tx, table string, in []pipeline.Record, seen string) error {
	for _, r := range in {
		_, err := tx.Exec(ctx, `INSERT INTO `+table+` (symbol, n, seen) VALUES ($1, 1, $2)
			ON CONFLICT (symbol) DO UPDATE SET n = `+table+`.n + 1`, symbolOf(r), seen)
		if err != nil {
			return err
		}
	}
	return nil
}

func plain(_ *counting, ctx context.Context, tx *pipeline.Tx, table string, in []pipeline.Record) error {
	return add(ctx, tx, table, in, "")
}

func nothing(*counting, context.Context, *pipeline.Tx, string, []pipeline.Record) error { return nil }

// perBatch forgets what is there.
func perBatch(_ *counting, ctx context.Context, tx *pipeline.Tx, table string, in []pipeline.Record) error {
	if _, err := tx.Exec(ctx, `DELETE FROM `+table); err != nil {
		return err
	}
	return add(ctx, tx, table, in, "")
}

// panics at a price of a symbol that it has seen.
func panics(_ *counting, ctx context.Context, tx *pipeline.Tx, table string, in []pipeline.Record) error {
	if err := add(ctx, tx, table, in, ""); err != nil {
		return err
	}
	var most int
	if err := tx.Get(ctx, &most, `SELECT MAX(n) FROM `+table); err != nil {
		return err
	}
	if most > 1 {
		panic("oh")
	}
	return nil
}

// outside keeps its counts in the process, where no rollback reaches them and
// which no restart brings back.
func outside(c *counting, ctx context.Context, tx *pipeline.Tx, table string, in []pipeline.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[schema.Symbol]int{}
	}
	rows := store.Rows{Table: table, Columns: []string{"symbol", "n"}, Clause: "ON CONFLICT (symbol) DO UPDATE SET n = excluded.n"}
	for _, r := range in {
		c.seen[symbolOf(r)]++
	}
	for symbol, n := range c.seen {
		rows.Add(symbol, n)
	}
	return tx.Insert(ctx, rows)
}

// dated writes the day on which it folds.
func dated(_ *counting, ctx context.Context, tx *pipeline.Tx, table string, in []pipeline.Record) error {
	return add(ctx, tx, table, in, time.Now().Format(time.DateOnly))
}

// plainTable ignores the generation it is given.
func plainTable(_ *counting, ctx context.Context, tx *pipeline.Tx, _ string, in []pipeline.Record) error {
	return add(ctx, tx, "counts", in, "")
}

func suite(make func() *counting) Suite {
	return Suite{New: func() (pipeline.Projection, error) { return make(), nil }, Draw: Prices}
}

func of(apply func(*counting, context.Context, *pipeline.Tx, string, []pipeline.Record) error) Suite {
	return suite(func() *counting { return &counting{apply: apply} })
}

func TestARightProjectionPasses(t *testing.T) {
	t.Parallel()
	Run(t, of(plain))
}

func TestWrongProjectionsAreFound(t *testing.T) {
	t.Parallel()
	batches := func(s Suite) func(tb, *pipelinetest.Rig) { return s.batches }
	replay := func(s Suite) func(tb, *pipelinetest.Rig) {
		return func(t tb, rig *pipelinetest.Rig) { s.replay(t, rig) }
	}
	generations := func(s Suite) func(tb, *pipelinetest.Rig) {
		return func(t tb, rig *pipelinetest.Rig) { s.generations(t, rig) }
	}
	for name, test := range map[string]struct {
		check func(tb, *pipelinetest.Rig)
		want  string
	}{
		"a fold that depends on the batches":           {batches(of(perBatch)), "the rows depend on the batches"},
		"a fold that depends on them, in a replay":     {replay(of(perBatch)), "a replay gives other rows"},
		"a fold that writes nothing":                   {replay(of(nothing)), "no log that was drawn gave a row"},
		"state outside the transaction":                {batches(of(outside)), "the rows depend on the batches, on a rollback or on a restart"},
		"a fold that writes another generation's rows": {generations(of(plainTable)), "a second generation changes the rows of the first"},
		"a table that two generations share": {generations(suite(func() *counting {
			return &counting{apply: plain, names: []string{"counts"}, ddl: func(pipeline.Generation) []string { return []string{createCounts("counts")} }}
		})), "the second generation lacks a table of its own"},
		"a table that is not listed": {generations(suite(func() *counting {
			return &counting{apply: plain, ddl: func(g pipeline.Generation) []string {
				return []string{createCounts(g.Table("counts")), createCounts(g.Table("more"))}
			}}
		})), "Tables makes tables that TableNames does not list"},
		"a table that is not made": {generations(suite(func() *counting {
			return &counting{apply: plain, names: []string{"counts", "more"}}
		})), "TableNames lists a table that Tables does not make"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			assert.Contains(t, failtest.Of(t, func(t *failtest.T) { test.check(t, rig) }), test.want)
		})
	}
}

// TestWhatAPersonReads: the smallest log on which a fold is wrong, and the rows, and no more.
func TestWhatAPersonReads(t *testing.T) {
	t.Parallel()
	arrivals := Suite{New: newArrival}
	arrivals.complete()
	for name, test := range map[string]struct {
		check func(*failtest.T, *pipelinetest.Rig)
		want  string
	}{
		"batches": {func(t *failtest.T, rig *pipelinetest.Rig) { of(perBatch).batches(t, rig) }, `the rows depend on the batches, on a rollback or on a restart
the smallest log that shows it, of 2 events:
  1  p/A  price 1 at 2025-01-01T00:00:00Z
  2  p/A  price 1 at 2025-01-01T00:00:01Z
delivered as:
  1 2
wanted, one record at a time:
- counts: symbol='A' n=1 seen=''
got:
+ counts: symbol='A' n=2 seen=''
`},
		"a rollback": {func(t *failtest.T, rig *pipelinetest.Rig) { of(outside).batches(t, rig) }, `the rows depend on the batches, on a rollback or on a restart
the smallest log that shows it, of 1 event:
  1  p/A  price 1 at 2025-01-01T00:00:00Z
delivered as:
  1, rolled back 1 time and tried again
wanted, one record at a time:
- counts: symbol='A' n=1 seen=NULL
got:
+ counts: symbol='A' n=2 seen=NULL
`},
		"a panic": {func(t *failtest.T, rig *pipelinetest.Rig) { of(panics).replay(t, rig) }, `a replay gives other rows than the live run
the smallest log that shows it, of 2 events:
  1  p/A  price 1 at 2025-01-01T00:00:00Z
  2  p/A  price 1 at 2025-01-01T00:00:01Z
delivered as:
  one batch
it fails: records became dead letters`},
		"the order": {func(t *failtest.T, _ *pipelinetest.Rig) { arrivals.order(t) }, `the points depend on the order in which prices come: newest first
the smallest log that shows it, of 2 events:
  1  p/A  price 1 at 2025-01-01T00:00:00Z
  2  p/A  price 1 at 2025-01-01T00:00:01Z
delivered as:
  2 1
wanted, oldest first:
- p/A at 2025-01-01T00:00:00Z, sequence 0: n=0
- p/A at 2025-01-01T00:00:01Z, sequence 0: n=1
got:
+ p/A at 2025-01-01T00:00:00Z, sequence 0: n=1
+ p/A at 2025-01-01T00:00:01Z, sequence 0: n=0
`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			text := failtest.Of(t, func(t *failtest.T) { test.check(t, rig) })
			assert.True(t, strings.HasPrefix(text, test.want), text)
			assert.NotContains(t, text, "[rapid]")
		})
	}
}

// The checks that do not draw have logs with long runs as well.
func TestExamplesHaveLongRuns(t *testing.T) {
	t.Parallel()
	s := Suite{Longest: 300}
	s.complete()
	long := 0
	for i := range examples {
		if n := len(s.example(i)); n > 300 {
			long++
		}
	}
	assert.GreaterOrEqual(t, long, 2)
}

// rsi is an index of the last period changes, with the mistake to be found in index,
// which is called once there are enough prices.
func rsi(period int, index func(changes []schema.Decimal) any) Suite {
	return Suite{New: func() (pipeline.Projection, error) {
		return projections.NewSeries(projections.Series[[]schema.Decimal]{
			Name: "rsi", Version: 1, Doc: "An index.", Columns: []projections.Column{{Name: "value", Doc: "The index.", Type: projections.DecimalColumn}},
			Step: func(before []schema.Decimal, p projections.SeriesPrice) ([]schema.Decimal, error) {
				after := append(slices.Clone(before), p.Price)
				return after[max(0, len(after)-period-1):], nil
			},
			Point: func(at []schema.Decimal, _ projections.SeriesPrice, _ map[string]string) []any {
				if len(at) <= period {
					return nil
				}
				return []any{index(at[1:])}
			},
		})
	}}
}

func last(changes []schema.Decimal) any { return changes[len(changes)-1] }

func TestARightIndicatorPasses(t *testing.T) {
	t.Parallel()
	Run(t, rsi(14, last))
}

func TestWrongIndicatorsAreFound(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		suite Suite
		want  string
	}{
		"one that panics at its first point": {rsi(14, func([]schema.Decimal) any { panic("index out of range") }), "panic: index out of range"},
		"a float in a decimal column":        {rsi(14, func([]schema.Decimal) any { return 0.5 }), "column value is given a float64"},
		"one that gives none":                {rsi(1000, last), "no log that was drawn gave a point"},
		"a text in a decimal column":         {rsi(14, func([]schema.Decimal) any { return "much" }), "column value is given a string"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.suite
			s.complete()
			assert.Contains(t, failtest.Of(t, func(t *failtest.T) { s.points(t) }), test.want)
		})
	}
	// It reads points of its own.
	good, err := rsi(14, last).New()
	if err != nil {
		t.Fatal(err)
	}
	doc := good.(projections.Indicator).Indicator()
	at := func(second int64, values ...any) projections.Point {
		return projections.Point{Place: projections.Place{Timestamp: schema.NewTime(time.Unix(second, 0)), ID: second}, Values: values}
	}
	one := schema.MustDecimal("1")
	for want, points := range map[string][]projections.Point{
		"":                     {at(2, one), at(1, one)},
		"not newest first":     {at(1, one), at(2, one)},
		"a value for each":     {at(1)},
		"not nullable":         {at(1, nil)},
		"is of type decimal":   {at(1, 0.5)},
		"points are not newes": {at(1, one), at(1, one)},
	} {
		assert.Contains(t, failtest.Of(t, func(t *failtest.T) { checkPoints(t, doc, points) }), want)
	}
	assert.Empty(t, failtest.Of(t, func(t *failtest.T) { checkPoints(t, doc, []projections.Point{at(2, one), at(1, one)}) }))
}

// Without a run that is long enough, the other checks would see no point either.
func TestALongerPeriodNeedsALongerRun(t *testing.T) {
	t.Parallel()
	s := rsi(150, last)
	s.Longest = 300
	s.complete()
	assert.Empty(t, failtest.Of(t, func(t *failtest.T) { s.points(t) }))
}

func TestAClockInTheFoldIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		assert.Contains(t, failtest.Of(t, func(t *failtest.T) { of(dated).clock(t, rig) }), "the fold reads a clock")
	})
}

// A record that a fold refuses for its neighbour's poison is found as well.
func TestAFoldThatPoisonStopsIsFound(t *testing.T) {
	t.Parallel()
	var last int64
	consecutive := func(_ *counting, ctx context.Context, tx *pipeline.Tx, table string, in []pipeline.Record) error {
		last = 0
		for i, r := range in {
			if i > 0 && r.TopicPartition == in[i-1].TopicPartition && r.Offset != last+1 {
				return nil // gives up silently
			}
			last = r.Offset
		}
		return add(ctx, tx, table, in, "")
	}
	rig := pipelinetest.New(t)
	assert.Contains(t, failtest.Of(t, func(t *failtest.T) { of(consecutive).poison(t, rig) }), "poison between the records changes the rows")
}

// arrival is an indicator that numbers the prices of a symbol as they come.
type arrival struct{ *counting }

func newArrival() (pipeline.Projection, error) {
	return arrival{&counting{names: []string{"arrivals"}, ddl: func(g pipeline.Generation) []string {
		return []string{"CREATE TABLE " + g.Table("arrivals") + ` (id {int} PRIMARY KEY, symbol {text} NOT NULL, provider {text} NOT NULL,
			timestamp {time} NOT NULL, n {int} NOT NULL)`}
	}}}, nil
}

func (arrival) Indicator() projections.IndicatorDoc {
	return projections.IndicatorDoc{Doc: "Numbers.", Columns: []projections.Column{{Name: "n", Doc: "The number.", Type: projections.IntColumn}}}
}

func (a arrival) Points(ctx context.Context, db store.Querier, q projections.IndicatorQuery) ([]projections.Point, error) {
	return projections.ReadPoints(ctx, db, "arrivals", a.Indicator(), q)
}

func (arrival) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	for _, r := range in {
		p := r.Event.Payload.(schema.PriceObserved)
		id, err := r.RowID(0)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO `+g.Table("arrivals")+` SELECT $1, $2, $3, $4, COUNT(*) FROM `+g.Table("arrivals")+` WHERE symbol = $2 AND provider = $3`,
			id, p.Symbol, p.Source, p.Timestamp)
		if err != nil {
			return err
		}
	}
	return nil
}

func TestAnIndicatorInTheOrderOfTheLogIsFound(t *testing.T) {
	t.Parallel()
	s := Suite{New: newArrival}
	s.complete()
	assert.Contains(t, failtest.Of(t, func(t *failtest.T) { s.order(t) }), "depend on the order in which prices come")
}

// Of prices of one time and one sequence, the log decides which is earlier: they say nothing
// of the order in which prices come.
func TestPricesOfOnePlaceHaveNoOrder(t *testing.T) {
	t.Parallel()
	price := func(second int64, sequence schema.Sequence) schema.Payload {
		return schema.PriceObserved{Symbol: "A", Source: "p", Timestamp: schema.NewTime(time.Unix(second, 0)), Sequence: sequence}
	}
	assert.Equal(t, []int{2, 0, 1}, byTime(shrink.New([]schema.Payload{price(2, 1), price(2, 2), price(1, 3)})))
	assert.Nil(t, byTime(shrink.New([]schema.Payload{price(2, 1), price(1, 0), price(2, 1)})))
}
