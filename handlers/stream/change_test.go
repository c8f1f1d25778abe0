package stream_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/stream"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// market is a provider that sends a trade of each symbol every second, numbered by the
// seconds. Its connections keep their symbols.
type market struct {
	pipeline.Provider
	mu    sync.Mutex
	asked [][]schema.Symbol // of each connection, or change
}

func (m *market) ask(symbols []schema.Symbol) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, symbols)
}

func (m *market) all() [][]schema.Symbol {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.asked)
}

func (m *market) Stream(ctx context.Context, symbols []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	return m.send(ctx, symbols, nil, f)
}

func (m *market) send(ctx context.Context, symbols []schema.Symbol, changes <-chan []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	m.ask(symbols)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case symbols = <-changes:
			m.ask(symbols)
			continue
		case <-ticker.C:
		}
		for _, symbol := range symbols {
			message := trade(time.Now().Unix())
			message.ID, message.Symbol = string(symbol)+message.ID, symbol
			if err := f(message); err != nil {
				return err
			}
		}
	}
}

// changingMarket is a market whose connections change their symbols.
type changingMarket struct{ market }

func (m *changingMarket) StreamChanging(ctx context.Context, symbols []schema.Symbol, changes <-chan []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	return m.send(ctx, symbols, changes, f)
}

func changed(id string, symbols ...schema.Symbol) schema.StreamChanged {
	return schema.StreamChanged{StreamID: id, Symbols: symbols, ChangedAt: schema.NewTime(time.Now())}
}

// The symbols of a stream change: on the same connection where the provider can do that,
// and with a new one otherwise. A symbol that comes back after a minute has no gap.
func TestTheSymbolsOfAStreamChange(t *testing.T) {
	t.Parallel()
	keeps, reconnects := &changingMarket{}, &market{}
	for name, test := range map[string]struct {
		provider   pipeline.Provider
		asked      func() [][]schema.Symbol
		reconnects int64
	}{
		"on its connection": {keeps, keeps.all, 0},
		"by a new one":      {reconnects, reconnects.all, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rig := pipelinetest.New(t)
				runner := newHandler(t, test.provider, nil)
				command(t, rig, runner, changed("s", "Z"), started("s", "p"))
				defer process(t, rig.Emitter(), runner)()
				settle(5500 * time.Millisecond)
				command(t, rig, runner, changed("s", "X"), changed("s", "A", "B"))
				settle(5 * time.Second)
				command(t, rig, runner, changed("s", "B"))
				settle(time.Minute)
				command(t, rig, runner, changed("s", "B", "A"))
				settle(5 * time.Second)
				shown := get(t, rig, "s")
				assert.Equal(t, []schema.Symbol{"B", "A"}, shown.Symbols)
				assert.Equal(t, stream.Active, shown.Status)
				assert.Empty(t, shown.LastError)
				assert.Equal(t, test.reconnects, shown.Reconnects)
				assert.Equal(t, [][]schema.Symbol{{"A"}, {"A", "B"}, {"B"}, {"B", "A"}}, test.asked())
				if test.reconnects == 0 {
					assert.Zero(t, shown.Missed, "nothing of what was streamed is missing, and the rest was not asked for")
				}
				count := map[schema.Symbol]int{}
				for _, r := range rig.Sent() {
					count[r.Event.Payload.(schema.QuoteFetched).Symbol]++
				}
				assert.InDelta(t, 15, count["A"], 3)
				assert.InDelta(t, 70, count["B"], 3)
				assert.Len(t, count, 2)
			})
		})
	}
}

// The next owner of a stream begins with the symbols that it has by then, and counts no gap
// for one that it did not have.
func TestTheNextOwnerHasTheChangedSymbols(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		provider := &changingMarket{}
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		stop := process(t, rig.Emitter(), runner)
		settle(3 * time.Second)
		stop()
		command(t, rig, runner, changed("s", "B"))
		stop = process(t, rig.Emitter(), runner)
		settle(3 * time.Second)
		stop()
		command(t, rig, runner, changed("s", "A"))
		defer process(t, rig.Emitter(), runner)()
		settle(3 * time.Second)
		assert.Equal(t, [][]schema.Symbol{{"A"}, {"B"}, {"A"}}, provider.all())
		assert.Zero(t, get(t, rig, "s").Gaps)
	})
}

// A message of a symbol that the connection was never asked for is a fault; one that was
// taken away a moment ago is none.
func TestAMessageOfASymbolThatWasTakenAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		provider := &stubborn{}
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		defer process(t, rig.Emitter(), runner)()
		settle(2500 * time.Millisecond)
		command(t, rig, runner, changed("s", "B"))
		settle(3 * time.Second)
		shown := get(t, rig, "s")
		require.Empty(t, shown.LastError)
		assert.Zero(t, shown.Reconnects)
		assert.EqualValues(t, 5, shown.Messages)
	})
}

// stubborn sends A, whatever it is asked for.
type stubborn struct{ market }

func (s *stubborn) StreamChanging(ctx context.Context, _ []schema.Symbol, _ <-chan []schema.Symbol, f func(pipeline.StreamMessage) error) error {
	return s.send(ctx, []schema.Symbol{"A"}, nil, f)
}
