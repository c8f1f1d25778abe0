package simulated_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/provider/simulated"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// errEnough ends a stream that a test has seen enough of.
var errEnough = errors.New("enough")

// stream returns the first messages of a stream; each is handled for as long as pause
// says.
func stream(t *testing.T, cfg simulated.Config, count int, pause func(n int) time.Duration, symbols ...schema.Symbol) []pipeline.StreamMessage {
	t.Helper()
	cfg.Clock = time.Now
	var got []pipeline.StreamMessage
	err := newProvider(t, cfg).Stream(t.Context(), symbols, func(m pipeline.StreamMessage) error {
		if got = append(got, m); len(got) == count {
			return errEnough
		}
		<-time.After(pause(len(got)))
		return nil
	})
	require.ErrorIs(t, err, errEnough)
	return got
}

func never(int) time.Duration { return 0 }

// Trades come in the order of their times and when they happen, one of each symbol in
// every period, with sizes and prices that move.
func TestStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		got := stream(t, simulated.Config{}, 200, never, "ACME", "GLOBEX")
		assert.InDelta(t, 50, time.Since(began).Seconds(), 1, "two trades a second and symbol")
		last := map[schema.Symbol]int64{}
		ids, prices, sizes := map[string]bool{}, map[string]bool{}, map[string]bool{}
		var before schema.Time
		for _, m := range got {
			quote := fetched(m.Symbol, m.RawResponse)
			trades, err := newProvider(t, simulated.Config{}).Normalize(quote)
			require.NoError(t, err)
			require.Len(t, trades, 1)
			assert.True(t, trades[0].Time.After(before), "in the order of time")
			assert.Equal(t, m.ReceivedAt, trades[0].Time, "at once")
			assert.Equal(t, schema.Sequence(m.Sequence), trades[0].Sequence)
			assert.Positive(t, trades[0].Size.Sign())
			if last[m.Symbol] > 0 {
				assert.Equal(t, last[m.Symbol]+1, m.Sequence, "no gap")
			}
			assert.Contains(t, string(m.RawResponse), `"simulated":true`)
			before, last[m.Symbol], ids[m.ID] = trades[0].Time, m.Sequence, true
			prices[string(m.Symbol)+trades[0].Price.String()], sizes[trades[0].Size.String()] = true, true
		}
		assert.Len(t, ids, 200)
		assert.Greater(t, len(prices), 60, "prices move")
		assert.Greater(t, len(sizes), 10, "sizes differ")
		assert.Len(t, last, 2)
	})
}

// What another process, or the same one again, streams of the same time is the same.
func TestStreamsOfTheSameTimeAreTheSame(t *testing.T) {
	t.Parallel()
	var one, two, other []pipeline.StreamMessage
	synctest.Test(t, func(t *testing.T) { one = stream(t, simulated.Config{Seed: 1}, 20, never, "ACME") })
	synctest.Test(t, func(t *testing.T) { two = stream(t, simulated.Config{Seed: 1}, 20, never, "ACME") })
	synctest.Test(t, func(t *testing.T) { other = stream(t, simulated.Config{Seed: 2}, 20, never, "ACME") })
	assert.Equal(t, one, two)
	for i := range one {
		assert.NotEqual(t, one[i].ID, other[i].ID, "another seed, another market")
	}
}

// A receiver that is slow misses trades and can count them, and then has the newest.
func TestASlowReceiverMissesTrades(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got := stream(t, simulated.Config{}, 3, func(n int) time.Duration { return time.Duration(n/2) * time.Minute }, "ACME")
		assert.Equal(t, got[0].Sequence+1, got[1].Sequence)
		assert.InDelta(t, 120, got[2].Sequence-got[1].Sequence, 1)
		trades, err := newProvider(t, simulated.Config{}).Normalize(fetched("ACME", got[2].RawResponse))
		require.NoError(t, err)
		assert.Equal(t, got[2].ReceivedAt, trades[0].Time, "no old trade")
	})
}

func TestStreamsEndAndMisbehave(t *testing.T) {
	t.Parallel()
	faults, err := simulated.ParseFaults("FAIL=fail,HANG=hang,TRASH=garbage,SLOW=late:3s")
	require.NoError(t, err)
	for symbol, code := range map[schema.Symbol]schema.Code{"FAIL": schema.CodeUnavailable, "HANG": schema.CodeTimeout, "ACME": schema.CodeTimeout} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := newProvider(t, simulated.Config{Faults: faults, Clock: time.Now}).Stream(ctx, []schema.Symbol{symbol},
				func(pipeline.StreamMessage) error { return nil })
			assertCode(t, code, err)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		got := stream(t, simulated.Config{Faults: faults}, 1, never, "TRASH")
		_, err := newProvider(t, simulated.Config{}).Normalize(fetched("TRASH", got[0].RawResponse))
		assertCode(t, schema.CodeBadResponse, err)
	})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		stream(t, simulated.Config{Faults: faults}, 1, never, "SLOW")
		assert.GreaterOrEqual(t, time.Since(began), 3*time.Second)
	})
	_, err = simulated.New(simulated.Config{TradeEvery: time.Minute})
	assert.ErrorContains(t, err, "trade every")
}

// Symbols are added to a connection and taken from it, and no trade of one that stays is
// missed.
func TestTheSymbolsOfAConnectionChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		changes := make(chan []schema.Symbol, 1)
		last, count := map[schema.Symbol]int64{}, map[schema.Symbol]int{}
		total := 0
		err := newProvider(t, simulated.Config{Clock: time.Now}).StreamChanging(t.Context(), []schema.Symbol{"ACME"}, changes, func(m pipeline.StreamMessage) error {
			if total++; total == 10 {
				changes <- []schema.Symbol{"GLOBEX", "ACME"}
			}
			if count["GLOBEX"] == 10 && len(last) == 2 {
				changes <- []schema.Symbol{"GLOBEX"}
				delete(last, "ACME")
			}
			if before := last[m.Symbol]; before > 0 {
				assert.Equal(t, before+1, m.Sequence, "%s", m.Symbol)
			}
			last[m.Symbol] = m.Sequence
			if count[m.Symbol]++; count["GLOBEX"] == 30 {
				return errEnough
			}
			return nil
		})
		require.ErrorIs(t, err, errEnough)
		assert.InDelta(t, 20, count["ACME"], 2, "none once it was taken away")
	})
}
