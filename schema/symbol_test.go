package schema_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pricemill/pricemill/schema"
)

func TestParseSymbol(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]schema.Symbol{
		"AAPL": "AAPL", "aapl": "AAPL", "  msft\t": "MSFT", "BTC-USD": "BTC-USD", "BINANCE:BTCUSDT": "BINANCE:BTCUSDT",
		"IC MARKETS:1": "IC MARKETS:1", "ic markets:1": "IC MARKETS:1", "^GSPC": "^GSPC", "BRK.B": "BRK.B",
		"EURUSD=X": "EURUSD=X", "BTC/USD": "BTC/USD", "M&M": "M&M", "0700.HK": "0700.HK", "A": "A",
		strings.Repeat("X", schema.MaxSymbolLength): schema.Symbol(strings.Repeat("X", schema.MaxSymbolLength)),
	} {
		got, err := schema.ParseSymbol(text)
		assert.NoError(t, err, text)
		assert.Equal(t, want, got, text)
		assert.NoError(t, want.Validate())
	}
}

func TestParseSymbolRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", " ", "\n", "A\nB", "A\x00", "AAPL;DROP", "AAPL'", `A"`, "A,B", "A?B", "A%20B", "<A>", "-A", "/A", ":A",
		"ÄPFEL", "ſPY", "ıBM", "BTC\u00a0USD", "\xff", "A🎈", strings.Repeat("X", schema.MaxSymbolLength+1),
	} {
		got, err := schema.ParseSymbol(text)
		assert.ErrorIs(t, err, schema.ErrSymbol, text)
		assert.Empty(t, got)
	}
}

// Two spellings of one symbol would be two keys, so events carry one only.
func TestSymbolValidateMindsCaseAndSpace(t *testing.T) {
	t.Parallel()
	for _, s := range []schema.Symbol{"aapl", "AAPL ", " AAPL", "AAPL\n"} {
		assert.ErrorIs(t, s.Validate(), schema.ErrSymbol, s)
	}
}

func TestProviderValidate(t *testing.T) {
	t.Parallel()
	for _, p := range []schema.Provider{"simulated", "finnhub", "yahoo_finance", "x", "a1-b"} {
		assert.NoError(t, p.Validate(), p)
	}
	for _, p := range []schema.Provider{"", "Finnhub", "1st", "a/b", "a b", "a\n", schema.Provider(strings.Repeat("a", 33))} {
		assert.ErrorIs(t, p.Validate(), schema.ErrProvider, p)
	}
}

func TestMarketKey(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "finnhub/BTC/USD", schema.MarketKey("finnhub", "BTC/USD"))
}
