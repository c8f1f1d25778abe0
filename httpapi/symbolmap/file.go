package symbolmap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// Providers are those that members may name.
type Providers struct {
	Known   []schema.Provider
	Aliases map[string]schema.Provider
	// Simulated are those that make their prices up: an instrument has only members of such,
	// or none.
	Simulated []schema.Provider
	// CaseSensitive are those whose symbols are taken as they are written.
	CaseSensitive []schema.Provider
}

// file is the form of a file.
type file struct {
	Instruments []entry `yaml:"instruments"`
}

type entry struct {
	Name     string   `yaml:"name"`
	Currency string   `yaml:"currency"`
	Class    string   `yaml:"class"`
	Members  []string `yaml:"members"`
}

var (
	currencyPattern = regexp.MustCompile(`^[A-Z][A-Z0-9]{2,9}$`)
	classPattern    = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
)

// Read reads a file. Its error names everything that is wrong.
func Read(data []byte, p Providers) (*Map, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("larger than %d bytes", MaxFile)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	var f file
	if err := decoder.Decode(&f); err != nil && !errors.Is(err, io.EOF) { // an empty file has no instruments
		return nil, errors.New(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "in type symbolmap.", "in "))
	}
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	if len(f.Instruments) > MaxInstruments {
		return nil, fmt.Errorf("%d instruments: at most %d are allowed", len(f.Instruments), MaxInstruments)
	}
	var errs []error
	instruments := make([]Instrument, len(f.Instruments))
	for i, e := range f.Instruments {
		var err error
		if instruments[i], err = e.instrument(p); err != nil {
			errs = append(errs, fmt.Errorf("instrument %d (%s): %w", i+1, shorten(e.Name), err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return New(instruments)
}

func (e entry) instrument(p Providers) (Instrument, error) {
	var errs []error
	name, err := schema.ParseSymbol(e.Name)
	if err != nil {
		errs = append(errs, fmt.Errorf("name: %w", err))
	}
	if e.Currency != "" && !currencyPattern.MatchString(e.Currency) {
		errs = append(errs, fmt.Errorf("currency: %q is not like USD or USDT", shorten(e.Currency)))
	}
	if e.Class != "" && !classPattern.MatchString(e.Class) {
		errs = append(errs, fmt.Errorf("class: %q is not like equity or crypto", shorten(e.Class)))
	}
	if len(e.Members) > MaxMembers {
		return Instrument{}, errors.Join(append(errs, fmt.Errorf("members: %d of them, and at most %d are allowed", len(e.Members), MaxMembers))...)
	}
	instrument := Instrument{Name: name, Currency: e.Currency, Class: e.Class}
	simulated := 0
	for _, text := range e.Members {
		member, err := p.member(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("member %q: %w", shorten(text), err))
			continue
		}
		if slices.Contains(p.Simulated, member.Provider) {
			simulated++
		}
		instrument.Members = append(instrument.Members, member)
	}
	if simulated > 0 && simulated < len(instrument.Members) {
		errs = append(errs, errors.New("members: simulated prices are made up, and are no prices of what other providers have"))
	}
	return instrument, errors.Join(errs...)
}

// member reads provider:symbol; the symbol may have colons itself.
func (p Providers) member(text string) (Member, error) {
	name, written, found := strings.Cut(text, ":")
	if !found {
		return Member{}, errors.New("want provider:symbol, such as yahoo:AAPL")
	}
	provider := schema.Provider(name)
	if target, isAlias := p.Aliases[name]; isAlias {
		provider = target
	}
	if !slices.Contains(p.Known, provider) {
		known := slices.Collect(maps.Keys(p.Aliases))
		for _, one := range p.Known {
			known = append(known, string(one))
		}
		slices.Sort(known)
		return Member{}, fmt.Errorf("there is no provider %q; %s", shorten(name), names.Hint(name, known))
	}
	symbol, err := schema.ParseExactSymbol(written)
	if err != nil {
		return Member{}, err
	}
	if !slices.Contains(p.CaseSensitive, provider) {
		symbol = symbol.Fold()
	}
	return Member{provider, symbol}, nil
}

// shorten bounds what of a file is in an error.
func shorten(text string) string {
	const most = 40
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
