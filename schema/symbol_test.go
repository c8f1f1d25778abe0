package schema_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

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
		"", " ", "\n", "A\nB", "A\x00", "AAPL;DROP", "AAPL'", `A"`, "A,B", "A?B", "A%20B", "<A>", "-A", ":A", "A|B", "А", "ΑB", "A（B", "币\u3000元",
		"ÄPFEL", "ſPY", "ıBM", "BTC\u00a0USD", "\xff", "A🎈", strings.Repeat("X", schema.MaxSymbolLength+1),
	} {
		got, err := schema.ParseSymbol(text)
		assert.ErrorIs(t, err, schema.ErrSymbol, text)
		assert.Empty(t, got)
	}
}

// Symbols as providers of every kind write them.
func TestParseExactSymbol(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"BCpC", "CL1!", "$SPX", "/ES", "./ESZ24", "@ES#C", "币安人生USDT", "AAPL*", "HSIc1", "005930.삼성", "トヨタ",
		"O:SPXW240119C04800000-20240119-AMEX", "0x2260FAC5E5542a773Aa44fBCfeDf7C193bc2C599", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"} {
		got, err := schema.ParseExactSymbol(" " + text)
		require.NoError(t, err, text)
		assert.Equal(t, schema.Symbol(text), got)
	}
	assert.Equal(t, schema.Symbol("BCPC"), schema.Symbol("BCpC").Fold())
	_, err := schema.ParseExactSymbol("aapl?")
	assert.ErrorIs(t, err, schema.ErrSymbol)
}

// Two spellings of one symbol would be two keys, so events carry one only.
func TestSymbolValidateMindsSpace(t *testing.T) {
	t.Parallel()
	for _, s := range []schema.Symbol{"AAPL ", " AAPL", "AAPL\n"} {
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

// TestNamesAreThoseOfThePatterns: Validate takes what these patterns match, which
// say it at one glance, and nothing else.
func TestNamesAreThoseOfThePatterns(t *testing.T) {
	t.Parallel()
	symbol := regexp.MustCompile(`^[A-Za-z0-9.^=_&$/@#ぁ-ヿ㐀-鿿가-힣]([A-Za-z0-9 .:/=^&+_@#!$*ぁ-ヿ㐀-鿿가-힣-]*[A-Za-z0-9.:/=^&+_@#!$*ぁ-ヿ㐀-鿿가-힣-])?$`)
	provider := regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	// Mostly of the characters that are near the borders of what is allowed.
	text := rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9 .:/=^&+_@#!$*ぁヿ㐀鿿가힣币-]{0,66}`), rapid.StringMatching(`[a-z][a-z0-9_-]{0,33}`),
		rapid.StringMatching(`[@A-Z\[/09:\x60az{ .^=_&+#!$*぀ぁヿ㄀㏿㐀鿿ꀀ꯿가힣힤-]{0,4}`), rapid.StringN(0, 4, -1))
	rapid.Check(t, func(t *rapid.T) {
		s := text.Draw(t, "name")
		require.Equal(t, utf8.RuneCountInString(s) <= schema.MaxSymbolLength && symbol.MatchString(s), schema.Symbol(s).Validate() == nil)
		require.Equal(t, provider.MatchString(s), schema.Provider(s).Validate() == nil)
	})
}
