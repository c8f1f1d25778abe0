package declared

import (
	"fmt"
	"regexp"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// instrument is what a definition says of its instruments besides prices.
type instrument struct {
	// Currency is one, or jq from the symbol to it.
	Currency string `yaml:"currency"`
	Venue    string `yaml:"venue"`
	Class    string `yaml:"class"`
	TickSize string `yaml:"tick_size"`
	Hours    string `yaml:"hours"`
}

// constantCurrency is a currency that no program of jq is.
var constantCurrency = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{2,9}$`)

// described is the section, read and compiled.
type described struct {
	about    schema.Instrument
	currency program // no code: that of about
}

func (d *Definition) parseInstrument(fault func(string, error)) {
	section := d.file.Instrument
	if section == nil {
		return
	}
	d.described.about = schema.Instrument{Venue: section.Venue, Class: section.Class, Hours: section.Hours}
	if constantCurrency.MatchString(section.Currency) {
		d.described.about.Currency = section.Currency
	} else {
		var err error
		d.described.currency, err = compile(section.Currency, symbolVariable)
		fault("instrument: currency", err)
	}
	if section.TickSize != "" {
		size, err := schema.ParseDecimal(section.TickSize)
		if err == nil && size.Sign() <= 0 {
			err = fmt.Errorf("%s is not above zero", size)
		}
		fault("instrument: tick_size", err)
		d.described.about.TickSize = size
	}
	fault("instrument", d.described.about.Validate())
}

var _ pipeline.Describer = (*provider)(nil)

// DescribeSymbol implements pipeline.Describer. A currency that the program does not find is
// not known.
func (d *Definition) DescribeSymbol(symbol schema.Symbol) schema.Instrument {
	about := d.described.about
	if d.described.currency.code == nil {
		return about
	}
	value, err := d.described.currency.run(string(symbol), string(symbol))
	if err != nil {
		return about
	}
	if text, isText := value.(string); isText {
		about.Currency = text
	}
	return about.Checked()
}
