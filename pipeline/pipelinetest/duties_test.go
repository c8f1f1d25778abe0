package pipelinetest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/internal/failtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// on is a handler that makes an event of each record, as its function says.
type on func(at int, in []pipeline.Record) (schema.Event, error)

const dutiesName = "duties"

func init() {
	// The failures below are meant: nothing to be kept or made smaller. The texts that are
	// compared follow from the seed.
	for name, value := range map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "0s", "rapid.seed": "19"} {
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	pipeline.RegisterHandler(pipeline.HandlerModule{Name: dutiesName, Doc: "Is held to its duties.", Optional: true,
		Consumes: []schema.EventType{schema.PriceObserved{}.EventType()}, Produces: []schema.EventType{schema.QuoteUnchanged{}.EventType()},
		New: func(pipeline.Env) (pipeline.Handler, error) { return on(nil), nil }})
}

func (f on) Handle(_ context.Context, _ *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	var out []schema.Event
	for i := range in {
		event, err := f(i, in)
		if err != nil {
			return nil, err
		}
		if event.Payload != nil {
			out = append(out, event)
		}
	}
	return out, nil
}

// again is the event that a record should give, with something of the handler's.
func again(r *pipeline.Record, price int, at time.Time) (schema.Event, error) {
	p := r.Event.Payload.(schema.PriceObserved)
	return r.Derive(schema.QuoteUnchanged{Quote: schema.Quote{Provider: p.Source, Symbol: p.Symbol}, RawResponseID: "1",
		Price: schema.MustDecimal(fmt.Sprint(1 + price)), Timestamp: p.Timestamp, ReceivedAt: schema.NewTime(at)}), nil
}

func suiteOf(f func() on) HandlerSuite {
	return HandlerSuite{Name: dutiesName, New: func() (pipeline.Handler, error) { return f(), nil }, Draw: func(t *rapid.T) []schema.Payload {
		payloads := make([]schema.Payload, rapid.IntRange(1, 20).Draw(t, "prices"))
		for i := range payloads {
			at := schema.NewTime(time.Unix(int64(i), 0))
			payloads[i] = schema.PriceObserved{Symbol: rapid.SampledFrom([]schema.Symbol{"A", "B", "C"}).Draw(t, "symbol"), Source: "p",
				Price: schema.MustDecimal("1"), Timestamp: at, ReceivedAt: at, RawResponseID: "1"}
		}
		return payloads
	}}
}

var epoch = time.Unix(0, 0)

func TestARightHandlerPasses(t *testing.T) {
	t.Parallel()
	RunHandler(t, suiteOf(func() on {
		return func(at int, in []pipeline.Record) (schema.Event, error) { return again(&in[at], 0, epoch) }
	}))
}

func TestWrongHandlersAreFound(t *testing.T) {
	t.Parallel()
	perBatch := func() on {
		return func(at int, in []pipeline.Record) (schema.Event, error) { return again(&in[at], len(in), epoch) }
	}
	outside := func() on {
		seen := 0
		return func(at int, in []pipeline.Record) (schema.Event, error) { seen++; return again(&in[at], seen, epoch) }
	}
	shy := func() on { // of records after a gap
		return func(at int, in []pipeline.Record) (schema.Event, error) {
			gap := at > 0 && in[at].TopicPartition == in[at-1].TopicPartition && in[at].Offset != in[at-1].Offset+1
			return again(&in[at], map[bool]int{true: 1}[gap], epoch)
		}
	}
	silent := func() on {
		return func(int, []pipeline.Record) (schema.Event, error) { return schema.Event{}, nil }
	}
	clocked := func() on {
		return func(at int, in []pipeline.Record) (schema.Event, error) { return again(&in[at], 0, time.Now()) }
	}
	for name, test := range map[string]struct {
		check func(*failtest.T, *Rig, *Rig)
		want  string
	}{
		"what depends on the batches":              {func(t *failtest.T, a, b *Rig) { suiteOf(perBatch).batches(t, a, b) }, "depends on the batches"},
		"what depends on them, in a replay":        {func(t *failtest.T, a, b *Rig) { suiteOf(perBatch).replay(t, a, b) }, "a replay makes something else"},
		"a handler that makes nothing":             {func(t *failtest.T, a, b *Rig) { suiteOf(silent).replay(t, a, b) }, "the handler made nothing of any log"},
		"state outside the transaction":            {func(t *failtest.T, a, b *Rig) { suiteOf(outside).batches(t, a, b) }, "on a rollback or on a restart"},
		"what depends on the neighbours of poison": {func(t *failtest.T, a, b *Rig) { suiteOf(shy).poison(t, a, b) }, "poison between the records changes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := New(t), New(t)
			assert.Contains(t, failtest.Of(t, func(t *failtest.T) { test.check(t, a, b) }), test.want)
		})
	}
	t.Run("a clock", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			a, b := New(t), New(t)
			assert.Contains(t, failtest.Of(t, func(t *failtest.T) { suiteOf(clocked).clock(t, a, b) }), "the handler reads a clock")
		})
	})
}

// TestWhatAPersonReads: the smallest log on which a handler is wrong, its events, and no more.
func TestWhatAPersonReads(t *testing.T) {
	t.Parallel()
	a, b := New(t), New(t)
	perBatch := suiteOf(func() on {
		return func(at int, in []pipeline.Record) (schema.Event, error) { return again(&in[at], len(in), epoch) }
	})
	text := failtest.Of(t, func(t *failtest.T) { perBatch.batches(t, a, b) })
	assert.Regexp(t, `^what is made depends on the batches, on a rollback or on a restart
the smallest log that shows it, of 2 events:
  1  p/A  price 1 at 2025-01-01T00:00:00Z
  2  p/A  price 1 at 2025-01-01T00:00:01Z
delivered as:
  1 2
wanted, one record at a time:
- market.quote.unchanged.v1 .*"price":2,.* \(id .*\)
- market.quote.unchanged.v1 .*"price":2,.* \(id .*\)
got:
\+ market.quote.unchanged.v1 .*"price":3,.* \(id .*\)
\+ market.quote.unchanged.v1 .*"price":3,.* \(id .*\)
`, text)
	assert.NotContains(t, text, "[rapid]")
}

func TestAHandlerSuiteNeedsItsFields(t *testing.T) {
	t.Parallel()
	good := suiteOf(func() on { return nil })
	assert.NoError(t, good.validate())
	for field, spoil := range map[string]func(*HandlerSuite){
		"Name": func(s *HandlerSuite) { s.Name = "nothing" }, "New": func(s *HandlerSuite) { s.New = nil }, "Draw": func(s *HandlerSuite) { s.Draw = nil },
	} {
		bad := good
		spoil(&bad)
		assert.ErrorContains(t, bad.validate(), "pipelinetest: HandlerSuite."+field)
	}
}
