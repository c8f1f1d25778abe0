package schema

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Symbol names an instrument as its provider does: AAPL, BTC-USD, BINANCE:BTCUSDT,
// ^GSPC, CL1!, 币安人生USDT. Symbols that differ in case are different symbols;
// where a provider does not mind case, all of its symbols are in upper case.
type Symbol string

// Provider names a market data service: simulated, finnhub.
type Provider string

// MaxSymbolLength is in characters: enough for an option and for the address of a
// token.
const MaxSymbolLength = 64

// maxProviderLength is in bytes; names are ASCII.
const maxProviderLength = 32

// Failures to read a name.
var (
	ErrSymbol   = errors.New("invalid symbol")
	ErrProvider = errors.New("invalid provider name")
)

// Characters of symbols besides letters and digits of ASCII, and of providers besides
// lower-case letters and digits. A loop over them takes a tenth of a regular
// expression's time, and each event is checked at each stage on its way.
const (
	symbolFirst  = ".^=_&$/@#"
	symbolLast   = ".:/=^&+_@#!$*-"
	symbolMiddle = symbolLast + " "
	providerRest = "_-"
)

// ParseSymbol trims and upper-cases s and checks it, for a provider that does not
// mind case. Only ASCII letters change their case: Unicode would make an S of ſ,
// and so another instrument of a typo.
func ParseSymbol(s string) (Symbol, error) {
	symbol, err := ParseExactSymbol(s)
	return symbol.Fold(), err
}

// ParseExactSymbol trims s and checks it, and leaves its case as it is.
func ParseExactSymbol(s string) (Symbol, error) {
	symbol := Symbol(strings.TrimSpace(s))
	if err := symbol.Validate(); err != nil {
		return "", err
	}
	return symbol, nil
}

// Fold is the symbol in upper case.
func (s Symbol) Fold() Symbol { return Symbol(strings.Map(upperASCII, string(s))) }

func upperASCII(r rune) rune {
	if 'a' <= r && r <= 'z' {
		return r - ('a' - 'A')
	}
	return r
}

// Validate reports a symbol that is empty, too long, or holds what no
// provider's symbol holds.
func (s Symbol) Validate() error {
	if len(s) > MaxSymbolLength && utf8.RuneCountInString(string(s)) > MaxSymbolLength {
		return fmt.Errorf("%w: longer than %d characters", ErrSymbol, MaxSymbolLength)
	}
	for i, c := range string(s) {
		others := symbolMiddle
		switch i {
		case 0:
			others = symbolFirst
		case len(s) - utf8.RuneLen(c):
			others = symbolLast
		}
		if !isLetter(c) && (c < '0' || c > '9') && (c >= utf8.RuneSelf || strings.IndexByte(others, byte(c)) < 0) {
			return fmt.Errorf("%w %q", ErrSymbol, shorten(string(s)))
		}
	}
	if s == "" {
		return fmt.Errorf("%w %q", ErrSymbol, string(s))
	}
	return nil
}

// isLetter: of ASCII, or of Chinese, Japanese and Korean. Letters that look like
// those of ASCII are none: they would make another instrument of a typo.
func isLetter(c rune) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' ||
		c >= 'ぁ' && (c <= 'ヿ' || '㐀' <= c && c <= '鿿' || '가' <= c && c <= '힣')
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// Validate reports a name that no provider can have.
func (p Provider) Validate() error {
	valid := len(p) > 0 && len(p) <= maxProviderLength
	for i := range len(p) {
		c := p[i]
		valid = valid && ('a' <= c && c <= 'z' || i > 0 && (isDigit(c) || strings.IndexByte(providerRest, c) >= 0))
	}
	if !valid {
		return fmt.Errorf("%w %q", ErrProvider, shorten(string(p)))
	}
	return nil
}

// SymbolOfKey is the symbol in a MarketKey. Of a key without a provider it is the key.
func SymbolOfKey(key string) string {
	_, symbol, found := strings.Cut(key, "/")
	if !found {
		return key
	}
	return symbol
}

// MarketKey is the record key of every market topic: provider/symbol. One key
// is on one partition number on all of them.
func MarketKey(provider Provider, symbol Symbol) string {
	return string(provider) + "/" + string(symbol)
}

// What a client names in the place of a provider to ask for an instrument across providers.
// No provider may have these names.
const (
	// ViewAny is the first member of the instrument that has a price.
	ViewAny Provider = "any"
	// ViewMedian is the median of the members.
	ViewMedian Provider = "median"
	// ViewFreshest is the member with the newest event time.
	ViewFreshest Provider = "freshest"
)

// IsView reports whether a name stands for a view across providers.
func (p Provider) IsView() bool { return p == ViewAny || p == ViewMedian || p == ViewFreshest }
