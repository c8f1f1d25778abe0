package schema

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Symbol names an instrument as its provider does, in upper case: AAPL,
// BTC-USD, BINANCE:BTCUSDT, ^GSPC.
type Symbol string

// Provider names a market data service: simulated, finnhub.
type Provider string

// MaxSymbolLength is in bytes; symbols are ASCII.
const MaxSymbolLength = 32

// Failures to read a name.
var (
	ErrSymbol   = errors.New("invalid symbol")
	ErrProvider = errors.New("invalid provider name")
)

var (
	symbolPattern   = regexp.MustCompile(`^[A-Z0-9.^=_&]([A-Z0-9 .:/=^&+_@#-]*[A-Z0-9.:/=^&+_@#-])?$`)
	providerPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
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
	if !symbolPattern.MatchString(string(s)) {
		return fmt.Errorf("%w %q", ErrSymbol, string(s))
	}
	return nil
}

// Validate reports a name that no provider can have.
func (p Provider) Validate() error {
	if !providerPattern.MatchString(string(p)) {
		return fmt.Errorf("%w %q", ErrProvider, shorten(string(p)))
	}
	return nil
}

// MarketKey is the record key of every market topic: provider/symbol. One key
// lies on one partition number on all of them.
func MarketKey(provider Provider, symbol Symbol) string {
	return string(provider) + "/" + string(symbol)
}
