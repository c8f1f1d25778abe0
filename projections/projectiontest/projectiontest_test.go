package projectiontest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failtest"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) {
	// The failures below are meant: nothing to be kept or made smaller.
	for name, value := range map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "0s"} {
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
func (*counting) Takes() []schema.EventType {
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

// perBatch forgets what is there.
func perBatch(_ *counting, ctx context.Context, tx *pipeline.Tx, table string, in []pipeline.Record) error {
	if _, err := tx.Exec(ctx, `DELETE FROM `+table); err != nil {
		return err
	}
	return add(ctx, tx, table, in, "")
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
