package simulated_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/provider/providertest"
	"github.com/pricemill/pricemill/handlers/provider/simulated"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func clock() time.Time { return time.Date(2025, 6, 15, 14, 30, 0, 123456789, time.UTC) }

func newProvider(t testing.TB, cfg simulated.Config) *simulated.Provider {
	t.Helper()
	if cfg.Clock == nil {
		cfg.Clock = clock
	}
	p, err := simulated.New(cfg)
	require.NoError(t, err)
	return p
}

func fetched(symbol schema.Symbol, raw schema.RawResponse) schema.QuoteFetched {
	return schema.QuoteFetched{
		Quote: schema.Quote{Provider: simulated.Name, Symbol: symbol}, RawResponse: raw, ReceivedAt: schema.NewTime(clock()),
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	providertest.Run(t, providertest.Suite{
		Name: simulated.Name, Symbol: "AAPL", Unknown: "NOPE", Hanging: "HANG",
		New: func(t testing.TB) pipeline.Provider {
			faults, err := simulated.ParseFaults("NOPE=unknown,HANG=hang")
			require.NoError(t, err)
			return newProvider(t, simulated.Config{Faults: faults})
		},
	})
}

// These prices are in logs and in screenshots of documents: a change of the walk
// is a change of every market.
func TestQuoteIsStable(t *testing.T) {
	t.Parallel()
	for symbol, want := range map[schema.Symbol]string{
		"AAPL":         `{"simulated":true,"provider":"simulated","symbol":"AAPL","price":"314.53","time":"2025-06-15T14:30:00.123456Z"}`,
		"BTC-USD":      `{"simulated":true,"provider":"simulated","symbol":"BTC-USD","price":"666.36","time":"2025-06-15T14:30:00.123456Z"}`,
		"IC MARKETS:1": `{"simulated":true,"provider":"simulated","symbol":"IC MARKETS:1","price":"14.25","time":"2025-06-15T14:30:00.123456Z"}`,
	} {
		raw, err := newProvider(t, simulated.Config{Seed: 1}).Quote(t.Context(), symbol)
		require.NoError(t, err)
		assert.Equal(t, want, string(raw))
	}
}

func TestQuoteRefusesWhatIsNoSymbol(t *testing.T) {
	t.Parallel()
	_, err := newProvider(t, simulated.Config{}).Quote(t.Context(), "no symbol?")
	assertCode(t, schema.CodeUnknownSymbol, err)
	assert.ErrorIs(t, err, schema.ErrSymbol)
}

func TestFaults(t *testing.T) {
	t.Parallel()
	faults, err := simulated.ParseFaults("FAIL=fail,SLOW=late:200ms,NOPE=unknown,TRASH=garbage,ZERO=zero,HUGE=too_large:1s")
	require.NoError(t, err)
	for symbol, want := range map[schema.Symbol]struct {
		quote, normalize schema.Code
		took             time.Duration
	}{
		"AAPL":  {},
		"SLOW":  {took: 200 * time.Millisecond},
		"FAIL":  {quote: schema.CodeUnavailable},
		"HUGE":  {quote: schema.CodeTooLarge, took: time.Second},
		"NOPE":  {normalize: schema.CodeUnknownSymbol},
		"TRASH": {normalize: schema.CodeBadResponse},
		"ZERO":  {normalize: schema.CodeBadPrice},
	} {
		t.Run(string(symbol), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const latency = 30 * time.Millisecond
				p := newProvider(t, simulated.Config{Faults: faults, Latency: latency})
				began := time.Now()
				raw, err := p.Quote(t.Context(), symbol)
				assert.Equal(t, latency+want.took, time.Since(began))
				if want.quote != "" {
					assertCode(t, want.quote, err)
					return
				}
				require.NoError(t, err)
				prices, err := p.Normalize(fetched(symbol, raw))
				if want.normalize != "" {
					assertCode(t, want.normalize, err)
					return
				}
				require.NoError(t, err)
				assert.Len(t, prices, 1)
			})
		})
	}
}

// A bubble of synctest ends only when all its goroutines have.
func TestHangEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"X=hang", "X=hang:1h", "X=late:1h"} {
		faults, err := simulated.ParseFaults(text)
		require.NoError(t, err)
		synctest.Test(t, func(t *testing.T) {
			p := newProvider(t, simulated.Config{Faults: faults})
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			began := time.Now()
			_, err := p.Quote(ctx, "X")
			assertCode(t, schema.CodeTimeout, err)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Equal(t, 5*time.Second, time.Since(began))
		})
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[schema.Symbol]simulated.Fault{
		"":       {},
		"  ":     {},
		"A=fail": {"A": {Kind: simulated.Fail}},
		" eurusd=x = late : 200ms , IC MARKETS:1=hang": {
			"EURUSD=X": {Kind: simulated.Late, Delay: 200 * time.Millisecond}, "IC MARKETS:1": {Kind: simulated.Hang},
		},
		"A=zero:1s,B=garbage,C=unknown,D=too_large": {
			"A": {Kind: simulated.Zero, Delay: time.Second}, "B": {Kind: simulated.Garbage},
			"C": {Kind: simulated.Unknown}, "D": {Kind: simulated.TooLarge},
		},
	} {
		got, err := simulated.ParseFaults(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
	}
}

func TestParseFaultsReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := simulated.ParseFaults("A=fial,B,=hang,C=late,D=late:soon,E=fail:-1s,F=fail,F=hang,")
	require.Error(t, err)
	for _, part := range []string{`"A=fial"`, `"B"`, `"=hang"`, `"C=late"`, `"D=late:soon"`, `"E=fail:-1s"`, `"F=hang"`, `""`} {
		assert.ErrorContains(t, err, part)
	}
	assert.NotContains(t, err.Error(), `"F=fail"`)
}

func TestNewReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := simulated.New(simulated.Config{
		Slot: -time.Second, TickSize: schema.MustDecimal("2"), Latency: -1,
		Faults: map[schema.Symbol]simulated.Fault{"lower": {Kind: "odd"}},
	})
	for _, part := range []string{"slot", "tick size", "latency", "lower", "odd"} {
		assert.ErrorContains(t, err, part)
	}
	for _, tick := range []string{"-0.01", "1.01", "0.000000001"} {
		_, err := simulated.New(simulated.Config{TickSize: schema.MustDecimal(tick)})
		assert.ErrorContains(t, err, "tick size", tick)
	}
}

// The map stays the caller's: changing it later changes no provider.
func TestNewCopiesFaults(t *testing.T) {
	t.Parallel()
	faults := map[schema.Symbol]simulated.Fault{"A": {Kind: simulated.Fail}}
	p := newProvider(t, simulated.Config{Faults: faults})
	clear(faults)
	_, err := p.Quote(t.Context(), "A")
	assertCode(t, schema.CodeUnavailable, err)
}

func assertCode(t testing.TB, want schema.Code, err error) {
	t.Helper()
	var quoteErr *pipeline.QuoteError
	if assert.True(t, errors.As(err, &quoteErr), "%v is no *pipeline.QuoteError", err) {
		assert.Equal(t, want, quoteErr.Code, "%v", err)
	}
}

func priceAt(t testing.TB, cfg simulated.Config, symbol schema.Symbol, at time.Time) schema.Decimal {
	t.Helper()
	cfg.Clock = func() time.Time { return at }
	raw, err := newProvider(t, cfg).Quote(t.Context(), symbol)
	require.NoError(t, err)
	var a struct{ Price schema.Decimal }
	require.NoError(t, json.Unmarshal(raw, &a))
	return a.Price
}
