package demo_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/demo"
	"github.com/pricemill/pricemill/handlers/provider/simulated"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a demo, what it appended, and what it is told.
type world struct {
	pipeline.Emitter
	real   schema.Provider
	from   time.Time // when real begins
	fails  error
	quotes []schema.QuoteFetched
	log    bytes.Buffer
	demo   *demo.Demo
}

func newWorld(t *testing.T) *world {
	t.Helper()
	provider, err := simulated.New(simulated.Config{})
	require.NoError(t, err)
	w := &world{Emitter: pipelinetest.New(t).Emitter()}
	w.demo = demo.New(demo.Config{Provider: simulated.Name, Streamer: provider, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Real: func(context.Context, store.Querier) (schema.Provider, error) {
			if time.Now().Before(w.from) {
				return "", nil
			}
			return w.real, nil
		}})
	return w
}

func (w *world) Append(_ context.Context, events []schema.Event) error {
	if w.fails != nil {
		return w.fails
	}
	for _, event := range events {
		w.quotes = append(w.quotes, event.Payload.(schema.QuoteFetched))
	}
	return nil
}

// run runs the demo for a while, in a test's own time.
func (w *world) run(d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return w.demo.Run(ctx, w)
}

func TestTheDemoStreamsAndEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		require.NoError(t, w.run(5*time.Second))
		assert.Greater(t, len(w.quotes), 40, "several a second")
		seen := map[schema.Symbol]bool{}
		for _, quote := range w.quotes {
			assert.Equal(t, simulated.Name, quote.Provider)
			assert.Contains(t, string(quote.RawResponse), `"simulated":true`)
			seen[quote.Symbol] = true
		}
		assert.Len(t, seen, len(demo.Symbols()))

		require.NoError(t, w.run(2*demo.Length), "it runs until it is told to stop")
		assert.Contains(t, w.log.String(), "the demo is over")
		// Two trades a second of each symbol, and the last may fall on the end.
		most := 2 * int(demo.Length/time.Second) * len(demo.Symbols())
		assert.InDelta(t, most, len(w.quotes), float64(most)/100)
		count := len(w.quotes)
		require.NoError(t, w.run(demo.Length))
		assert.Len(t, w.quotes, count, "it does not begin again")
		assert.Equal(t, 1, strings.Count(w.log.String(), "the demo is over"))
	})
}

func TestTheDemoGivesWayToRealPrices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.real = "coinbase"
		require.NoError(t, w.run(time.Minute))
		assert.Empty(t, w.quotes, "it does not begin")
		assert.Contains(t, w.log.String(), "no demo")
		assert.Contains(t, w.log.String(), "coinbase")
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		require.NoError(t, w.run(time.Minute))
		count := len(w.quotes)
		assert.Positive(t, count)
		w.real = "coinbase"
		require.NoError(t, w.run(time.Minute))
		assert.Len(t, w.quotes, count, "it ends")
		w.real = ""
		require.NoError(t, w.run(time.Minute))
		assert.Len(t, w.quotes, count, "and does not begin again")
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.real, w.from = "coinbase", time.Now().Add(10*time.Second)
		require.NoError(t, w.run(time.Minute))
		last := w.quotes[len(w.quotes)-1].ReceivedAt
		assert.Less(t, last.Sub(w.quotes[0].ReceivedAt.Time), 12*time.Second, "within a second")
	})
}

// A log that takes nothing is an error, which the runtime logs. The hour is not prolonged.
func TestTheDemoFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails = errors.New("the log is full")
		require.ErrorIs(t, w.run(time.Minute), w.fails)
		w.fails = nil
		require.NoError(t, w.run(time.Minute))
		assert.Positive(t, len(w.quotes))
	})
}
