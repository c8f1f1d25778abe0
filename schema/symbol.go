package schema

import (
	"errors"
	"fmt"
	"strings"
)

// Symbol names an instrument as its provider does, in upper case: AAPL,
// BTC-USD, BINANCE:BTCUSDT, ^GSPC.
type Symbol string

// Provider names a market data service: simulated, finnhub.
type Provider string

// MaxSymbolLength is in bytes; symbols are ASCII.
const MaxSymbolLength = 32

// maxProviderLength is in bytes; names are ASCII.
const maxProviderLength = 32

// Failures to read a name.
var (
	ErrSymbol   = errors.New("invalid symbol")
	ErrProvider = errors.New("invalid provider name")
)

// Characters of names besides upper-case letters and digits, or, of providers,
// lower-case ones. A loop over them takes a tenth of a regular expression's time,
// and each event is checked at each stage on its way.
const (
	symbolFirst  = ".^=_&"
	symbolLast   = ".:/=^&+_@#-"
	symbolMiddle = symbolLast + " "
	providerRest = "_-"
)

// ParseSymbol trims and upper-cases s and checks it. Only ASCII letters change
// their case: Unicode would make an S of ſ, and so another instrument of a typo.
func ParseSymbol(s string) (Symbol, error) {
	symbol := Symbol(strings.Map(upperASCII, strings.TrimSpace(s)))
	if err := symbol.Validate(); err != nil {
		return "", err
	}
	return symbol, nil
}

func upperASCII(r rune) rune {
	if 'a' <= r && r <= 'z' {
		return r - ('a' - 'A')
	}
	return r
}

// Validate reports a symbol that is empty, too long, or holds what no
// provider's symbol holds. Lower case is an error here: two spellings of one
// symbol would be two keys.
func (s Symbol) Validate() error {
	if len(s) > MaxSymbolLength {
		return fmt.Errorf("%w: longer than %d characters", ErrSymbol, MaxSymbolLength)
	}
	for i := range len(s) {
		others := symbolMiddle
		switch i {
		case 0:
			others = symbolFirst
		case len(s) - 1:
			others = symbolLast
		}
		if c := s[i]; (c < 'A' || c > 'Z') && !isDigit(c) && strings.IndexByte(others, c) < 0 {
			return fmt.Errorf("%w %q", ErrSymbol, string(s))
		}
	}
	if s == "" {
		return fmt.Errorf("%w %q", ErrSymbol, string(s))
	}
	return nil
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

// MarketKey is the record key of every market topic: provider/symbol. One key
// lies on one partition number on all of them.
func MarketKey(provider Provider, symbol Symbol) string {
	return string(provider) + "/" + string(symbol)
}
