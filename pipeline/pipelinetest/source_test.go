package pipelinetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/failtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const sourceName = "counter"

// counter is a source of three events, each in a call of its own.
type counter struct {
	// run replaces Run, where it is to be wrong.
	run func(c *counter, ctx context.Context, emit pipeline.Emitter) error
	// id and payload are those of event n.
	id      func(n int) string
	payload func(n int) schema.Payload
}

func init() {
	pipeline.RegisterSource(pipeline.SourceModule{Name: sourceName, Doc: "Counts.", Optional: true,
		Produces: []schema.EventType{schema.PriceObserved{}.EventType()},
		New:      func(pipeline.Env) (pipeline.Runner, error) { return &counter{}, nil }})
}

func (*counter) Tables() []string {
	return []string{`CREATE TABLE IF NOT EXISTS counters (name {text} PRIMARY KEY, n {int} NOT NULL)`}
}

const counted = 3

func (c *counter) event(n int) schema.Event {
	e := schema.Event{ID: fmt.Sprint("counter/", n), Source: "pricemill/counter", Payload: pricedAt(n)}
	if c.id != nil {
		e.ID = c.id(n)
	}
	if c.payload != nil {
		e.Payload = c.payload(n)
	}
	return e
}

func pricedAt(n int) schema.Payload {
	at := schema.NewTime(time.Unix(int64(n), 0))
	return schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal("1"), Timestamp: at, ReceivedAt: at}
}

func (c *counter) Run(ctx context.Context, emit pipeline.Emitter) error {
	if c.run != nil {
		return c.run(c, ctx, emit)
	}
	return c.count(ctx, emit, c.step)
}

// count does a step for each event that is not yet counted.
func (c *counter) count(ctx context.Context, emit pipeline.Emitter, step func(context.Context, pipeline.Emitter, int) error) error {
	var n int
	err := emit.Get(ctx, &n, `SELECT n FROM counters WHERE name = $1`, sourceName)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	for ; n < counted; n++ {
		if err := step(ctx, emit, n); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// step counts and emits in one transaction.
func (c *counter) step(ctx context.Context, emit pipeline.Emitter, n int) error {
	_, err := emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		return []schema.Event{c.event(n)}, advance(ctx, tx, n)
	})
	return err
}

func advance(ctx context.Context, tx *pipeline.Tx, n int) error {
	_, err := tx.Exec(ctx, `INSERT INTO counters (name, n) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET n = excluded.n`, sourceName, n+1)
	return err
}

// early counts in a transaction of its own, before it emits.
func (c *counter) early(ctx context.Context, emit pipeline.Emitter, n int) error {
	_, err := emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) { return nil, advance(ctx, tx, n) })
	if err != nil {
		return err
	}
	return emit.Append(ctx, []schema.Event{c.event(n)})
}

func sourceSuite(c counter) SourceSuite {
	return SourceSuite{Name: sourceName, Events: counted, New: func() (pipeline.Runner, error) { return &c, nil }}
}

func TestARightSourcePasses(t *testing.T) {
	t.Parallel()
	RunSource(t, sourceSuite(counter{}))
	t.Run("that appends", func(t *testing.T) {
		t.Parallel()
		RunSource(t, sourceSuite(counter{run: func(c *counter, ctx context.Context, emit pipeline.Emitter) error {
			return c.count(ctx, emit, func(ctx context.Context, emit pipeline.Emitter, n int) error {
				return emit.Append(ctx, []schema.Event{c.event(n)}) // again from the first, with the same ids
			})
		}}))
	})
}

func TestWrongSourcesAreFound(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	events := func(c counter) func(*failtest.T, *testing.T) {
		return func(ft *failtest.T, t *testing.T) { sourceSuite(c).events(ft, New(t), New(t)) }
	}
	// An event that never comes is one that is missing after any time.
	hasty := func(c counter) SourceSuite {
		s := sourceSuite(c)
		s.Limit = time.Second
		return s
	}
	early := counter{run: func(c *counter, ctx context.Context, emit pipeline.Emitter) error { return c.count(ctx, emit, c.early) }}
	for name, test := range map[string]struct {
		check func(*failtest.T, *testing.T)
		want  string
	}{
		"random ids": {events(counter{id: func(int) string { return fmt.Sprint(rand.Int64()) }}), "must follow from the world"},
		"an undeclared event": {events(counter{payload: func(n int) schema.Payload {
			return schema.QuoteUnchanged{Quote: schema.Quote{Provider: "p", Symbol: "A"}, RawResponseID: "1", Price: schema.MustDecimal("1"),
				Timestamp: schema.NewTime(time.Unix(1, 0)), ReceivedAt: schema.NewTime(time.Unix(1, 0))}
		}}), "list its type in Produces"},
		"an invalid event": {events(counter{payload: func(int) schema.Payload { return schema.PriceObserved{Symbol: "A"} }}), "Run returned before its context was done"},
		"one that returns": {events(counter{run: func(*counter, context.Context, pipeline.Emitter) error { return nil }}), "Run returned before its context was done"},
		"one that returns the end of its context": {events(counter{run: func(c *counter, ctx context.Context, emit pipeline.Emitter) error {
			return errors.Join(c.count(ctx, emit, c.step), ctx.Err())
		}}), "want nil"},
		"one id for two events": {func(ft *failtest.T, t *testing.T) {
			hasty(counter{id: func(n int) string { return fmt.Sprint(max(n, 1)) }}).run(ft, New(t), none, 0)
		}, "2 of 3 events came"},
		"one that does not stop": {func(ft *failtest.T, t *testing.T) {
			hasty(counter{run: func(c *counter, ctx context.Context, emit pipeline.Emitter) error {
				for n := range counted {
					if err := c.step(ctx, emit, n); err != nil {
						return err
					}
				}
				<-release
				return nil
			}}).events(ft, New(t), New(t))
		}, "Run did not return when its context was done"},
		"an event that is lost": {func(ft *failtest.T, t *testing.T) {
			hasty(early).interrupted(ft, refused, func() *Rig { return New(t) })
		}, "an event was lost"},
		"an id that comes with other content": {func(ft *failtest.T, t *testing.T) {
			n := 0
			sourceSuite(counter{payload: func(int) schema.Payload { n++; return pricedAt(n) },
				run: func(c *counter, ctx context.Context, emit pipeline.Emitter) error {
					return c.count(ctx, emit, func(ctx context.Context, emit pipeline.Emitter, n int) error {
						return emit.Append(ctx, []schema.Event{c.event(n)})
					})
				}}).run(ft, New(t), answerLost, 0)
		}, "an id came again with other content"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Contains(t, failtest.Of(t, func(ft *failtest.T) { test.check(ft, t) }), test.want)
		})
	}
}

func TestASourceSuiteNeedsItsFields(t *testing.T) {
	t.Parallel()
	good := sourceSuite(counter{})
	require.NoError(t, good.validate())
	for field, spoil := range map[string]func(*SourceSuite){
		"Name": func(s *SourceSuite) { s.Name = "nothing" }, "New": func(s *SourceSuite) { s.New = nil }, "Events": func(s *SourceSuite) { s.Events = 0 },
	} {
		bad := good
		spoil(&bad)
		assert.ErrorContains(t, bad.validate(), "pipelinetest: SourceSuite."+field)
	}
}
