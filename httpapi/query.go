package httpapi

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// symbolPattern is what schema.ParseExactSymbol accepts after trimming, for people
// who got it wrong. A test holds the two together.
const symbolPattern = `^[A-Za-z0-9.^=_&$/@#ぁ-ヿ㐀-鿿가-힣]([A-Za-z0-9 .:/=^&+_@#!$*ぁ-ヿ㐀-鿿가-힣-]*[A-Za-z0-9.:/=^&+_@#!$*ぁ-ヿ㐀-鿿가-힣-])?$`

// query reads the parameters of one request and collects what is wrong with
// them.
type query struct {
	values url.Values
	faults faults
}

// get takes the last of several values, as the original does.
func (q *query) get(name string) (value string, given bool) {
	values := q.values[name]
	if len(values) == 0 {
		return "", false
	}
	return values[len(values)-1], true
}

func (q *query) symbol() schema.Symbol {
	text, given := q.get("symbol")
	if !given {
		q.faults = append(q.faults, place{[]any{"query", "symbol"}, nil}.missing())
		return ""
	}
	symbol, err := schema.ParseExactSymbol(text)
	if err == nil {
		return symbol
	}
	symbol, fault := readSymbol(text, inQuery("symbol", text))
	if fault != nil {
		q.faults = append(q.faults, *fault)
	}
	return symbol
}

// integer reads a whole number within bounds.
func (q *query) integer(name string, absent, low, high int64) int64 {
	text, given := q.get(name)
	if !given {
		return absent
	}
	at := inQuery(name, text)
	value, ok := parseInt(text)
	if !ok {
		q.faults = append(q.faults, at.notIntText())
		return absent
	}
	if fault := checkBounds(value, low, high, at); fault != nil {
		q.faults = append(q.faults, *fault)
	}
	return value
}

func (q *query) window(absent int) int {
	return int(q.integer("window", int64(absent), 1, MaxWindow))
}

// seconds reads a duration of whole seconds, from none to high.
func (q *query) seconds(name string, absent, high time.Duration) time.Duration {
	if _, given := q.get(name); !given {
		return absent
	}
	return time.Duration(q.integer(name, 0, 0, int64(high/time.Second))) * time.Second
}

// choice reports whether the value is yes rather than no; no is the default.
func (q *query) choice(name, yes, no string) bool {
	text, given := q.get(name)
	if given && text != yes && text != no {
		q.faults = append(q.faults, inQuery(name, text).notOneOf("'"+yes+"' or '"+no+"'"))
	}
	return text == yes
}

// readSymbol trims a symbol and says what is wrong with it. Its provider decides
// about its case: see Config.symbol.
func readSymbol(text string, at place) (schema.Symbol, *fault) {
	var f fault
	switch length := utf8.RuneCountInString(strings.TrimSpace(text)); {
	case length == 0:
		f = at.shortString(1)
	case length > schema.MaxSymbolLength:
		f = at.longString(schema.MaxSymbolLength)
	default:
		symbol, err := schema.ParseExactSymbol(text)
		if err == nil {
			return symbol, nil
		}
		f = at.mismatch(symbolPattern)
	}
	return "", &f
}

func checkBounds(value, low, high int64, at place) *fault {
	var f fault
	switch {
	case value < low:
		f = at.below(low)
	case value > high:
		f = at.above(high)
	default:
		return nil
	}
	return &f
}

// tooManyDigits is the number of digits that surely fit an int64; hugeInt
// stands for every number that has more, being beyond any bound.
const (
	tooManyDigits = 18
	hugeInt       = int64(1) << 62
)

// parseInt reads an integer from text as the original does: surrounding space,
// a sign, an underscore between digits and zeros after a point are allowed.
func parseInt(text string) (value int64, ok bool) {
	text = strings.TrimSpace(text)
	digits := strings.TrimPrefix(text, "-")
	negative := digits != text
	if !negative {
		digits = strings.TrimPrefix(text, "+")
	}
	whole, fraction, pointed := strings.Cut(digits, ".")
	if pointed && (fraction == "" || strings.Trim(fraction, "0") != "") {
		return 0, false
	}
	if whole == "" || strings.HasPrefix(whole, "_") || strings.HasSuffix(whole, "_") || strings.Contains(whole, "__") {
		return 0, false
	}
	whole = strings.TrimLeft(strings.ReplaceAll(whole, "_", ""), "0")
	for i := range len(whole) {
		if whole[i] < '0' || whole[i] > '9' {
			return 0, false
		}
		if i < tooManyDigits {
			value = value*10 + int64(whole[i]-'0')
		}
	}
	if len(whole) > tooManyDigits {
		value = hugeInt
	}
	if negative {
		value = -value
	}
	return value, true
}

// provider resolves the provider that a request names; none, or an empty name,
// is the default.
func (c Config) provider(name string) (schema.Provider, error) {
	if name == "" {
		return c.DefaultProvider, nil
	}
	if target, isAlias := c.ProviderAliases[name]; isAlias {
		return target, nil
	}
	if slices.Contains(c.Providers, schema.Provider(name)) {
		return schema.Provider(name), nil
	}
	if schema.Provider(name).IsView() {
		return "", newError(codeBadRequest, "provider=%s is for GET latest and GET moving-average alone", name)
	}
	known := slices.Collect(maps.Keys(c.ProviderAliases))
	for _, provider := range c.Providers {
		known = append(known, string(provider))
	}
	slices.Sort(known)
	return "", newError(codeBadRequest, "Unknown provider %q; %s", abbreviate(name), names.Hint(name, known))
}

// providerThatCan resolves the provider that a command names, which is to be among able, those
// that can do what is asked of it.
func (c Config) providerThatCan(do, name string, able []schema.Provider) (schema.Provider, error) {
	provider, err := c.provider(name)
	if err != nil {
		return "", err
	}
	if slices.Contains(able, provider) {
		return provider, nil
	}
	others := "none can"
	if len(able) > 0 {
		names := make([]string, len(able))
		for i, other := range able {
			names[i] = string(other)
		}
		slices.Sort(names)
		others = "those that can are " + strings.Join(names, ", ")
	}
	return "", newError(codeBadRequest, "Provider %q cannot %s; %s", provider, do, others)
}

// asNamed is a provider by the name that a client gave it, which clients compare with what
// they are answered; empty where it gave none.
func asNamed(provider schema.Provider, named string) schema.Provider {
	if named == "" {
		return provider
	}
	return schema.Provider(named)
}

// abbreviate keeps what a client sent from filling an answer.
func abbreviate(text string) string { return abbreviateTo(text, 64) }

func abbreviateTo(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// symbol is a symbol as a provider knows it.
func (c Config) symbol(provider schema.Provider, written schema.Symbol) schema.Symbol {
	if slices.Contains(c.CaseSensitive, provider) {
		return written
	}
	return written.Fold()
}

// symbols are those that a provider knows, each once, in the order in which they
// were written.
func (c Config) symbols(provider schema.Provider, written []schema.Symbol) []schema.Symbol {
	folds := !slices.Contains(c.CaseSensitive, provider)
	symbols, seen := make([]schema.Symbol, 0, len(written)), make(map[schema.Symbol]bool, len(written))
	for _, s := range written {
		if folds {
			s = s.Fold()
		}
		if !seen[s] {
			seen[s] = true
			symbols = append(symbols, s)
		}
	}
	return symbols
}
