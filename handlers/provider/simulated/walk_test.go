package simulated_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/handlers/provider/simulated"
	"github.com/pricemill/pricemill/schema"
)

func TestPriceIsAFunctionOfSeedSymbolAndSlot(t *testing.T) {
	t.Parallel()
	slotStart := clock().Truncate(time.Second)
	price := func(seed uint64, symbol schema.Symbol, at time.Time) string {
		return priceAt(t, simulated.Config{Seed: seed}, symbol, at).String()
	}
	want := price(1, "AAPL", slotStart)
	assert.Equal(t, want, price(1, "AAPL", slotStart.Add(time.Second-time.Microsecond)), "the same slot")
	assert.NotEqual(t, want, price(1, "MSFT", slotStart), "another symbol")
	assert.NotEqual(t, want, price(2, "AAPL", slotStart), "another seed")

	moved := map[string]bool{}
	for i := range 100 {
		moved[price(1, "AAPL", slotStart.Add(time.Duration(i)*time.Second))] = true
	}
	assert.Greater(t, len(moved), 20, "the price hardly moves")
}

// Whatever the configuration and the time, a price is a positive multiple of
// the tick size.
func TestPriceIsAMultipleOfTheTickSize(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		tick := rapid.SampledFrom([]string{"1", "0.5", "0.25", "0.05", "0.01", "0.0003", "0.00000001"}).Draw(rt, "tick")
		cfg := simulated.Config{
			Seed:     rapid.Uint64().Draw(rt, "seed"),
			Slot:     time.Duration(rapid.Int64Range(1, 1e9).Draw(rt, "µs")) * time.Microsecond,
			TickSize: schema.MustDecimal(tick),
		}
		symbol := schema.Symbol(rapid.StringMatching(`[A-Z]{1,6}`).Draw(rt, "symbol"))
		at := time.Unix(rapid.Int64Range(-2_208_988_800, 253_402_300_799).Draw(rt, "s"), 0)
		price := priceAt(t, cfg, symbol, at)
		require.Positive(rt, price.Sign())
		require.Positive(rt, schema.MustDecimal("1300").Cmp(price))
		p, _ := new(big.Rat).SetString(price.String())
		q, _ := new(big.Rat).SetString(tick)
		require.True(rt, p.Quo(p, q).IsInt(), "%s is no multiple of %s", price, tick)
	})
}

// Steps between slots are small against the price, before 1970 too, so that it
// looks like a market and not like noise.
func TestPriceMovesInSmallSteps(t *testing.T) {
	t.Parallel()
	for _, start := range []time.Time{clock(), time.Date(1969, 12, 31, 23, 59, 0, 0, time.UTC)} {
		last := schema.Decimal{}
		for i := range 120 {
			price := priceAt(t, simulated.Config{Seed: 7}, "AAPL", start.Add(time.Duration(i)*time.Second))
			if i > 0 {
				step := price.Sub(last)
				if step.Sign() < 0 {
					step = last.Sub(price)
				}
				limit := last.Quo(100)
				require.Negative(t, step.Cmp(limit), "from %s to %s", last, price)
			}
			last = price
		}
	}
}
