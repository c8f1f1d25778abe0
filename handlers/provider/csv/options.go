package csv

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Names of the options of a file; Options says what each means.
const (
	OptionPreset    = "preset"
	OptionName      = "symbol"
	OptionSymbol    = "symbol-column"
	OptionPrice     = "price-column"
	OptionTime      = "time-column"
	OptionDate      = "date-column"
	OptionSize      = "size-column"
	OptionID        = "id-column"
	OptionWide      = "wide"
	OptionColumns   = "columns"
	OptionNoHeader  = "no-header"
	OptionSkip      = "skip-lines"
	OptionDelimiter = "delimiter"
	OptionFormat    = "time-format"
	OptionZone      = "time-zone"
	OptionDecimal   = "decimal"
	OptionThousands = "thousands"
	OptionCurrency  = "currency"
	OptionMissing   = "missing"
	OptionBars      = "bars"
	OptionNegative  = "allow-negative"
	OptionExact     = "exact"
)

// Option describes an option of a file.
type Option struct {
	Name    string
	Default string
	Doc     string // in one line
	// Switch says that its values are true and false.
	Switch bool
}

// Options are those of a file, in the order in which they are best read.
func Options() []Option {
	return []Option{
		{Name: OptionPreset, Doc: "whose file it is, which sets the options below; none to look for none (found by itself from the first line where that is certain)"},
		{Name: OptionName, Doc: "symbol of all rows, where no column has it"},
		{Name: OptionSymbol, Default: "symbol", Doc: "column of symbols: its name in the header, or its number from 1, as for all columns"},
		{Name: OptionPrice, Default: "price", Doc: "column of prices (close or last where there is no price)"},
		{Name: OptionTime, Default: "time", Doc: "column of times, or two, as Date,Time (timestamp, datetime or date where there is no time)"},
		{Name: OptionDate, Doc: "column of dates, where the time column has only the time of day"},
		{Name: OptionSize, Doc: "column of how much was traded"},
		{Name: OptionID, Doc: "column of ids of trades, by which equal rows are told apart, also between files"},
		{Name: OptionWide, Switch: true, Doc: "a column a symbol: each column but that of times holds prices of the symbol that it is named after"},
		{Name: OptionColumns, Doc: "names of the columns in their order, such as time,price,size,id, instead of those of the header; or what each is, as time=1,price=Close"},
		{Name: OptionNoHeader, Switch: true, Doc: "the first line is a row"},
		{Name: OptionSkip, Default: "0", Doc: "number of lines before the header"},
		{Name: OptionDelimiter, Doc: "character between columns, or tab or space (found by itself: comma, semicolon, tab or |)"},
		{Name: OptionFormat, Default: "auto", Doc: "auto (ISO 8601, names of months, or a number since 1970 whose unit is plain from its size), rfc3339, " +
			"unix, unix_ms, unix_us, unix_ns (all with fractions), year.month, or Go's reference time, " +
			`"Mon Jan 2 15:04:05 2006 MST", written as the file writes times`},
		{Name: OptionZone, Doc: "zone of times without one, such as America/New_York, and of abbreviations such as EST (UTC)"},
		{Name: OptionDecimal, Default: ".", Doc: "decimal mark"},
		{Name: OptionThousands, Doc: "character between groups of digits, or space"},
		{Name: OptionCurrency, Doc: "sign of a currency before or after numbers, such as $"},
		{Name: OptionMissing, Doc: `what is written where there is no price, such as "NaN,null": such rows are skipped`},
		{Name: OptionBars, Default: "auto", Doc: "length of the bars of a file with open, high, low and close, such as 1m, 4h, 1d, 1w, 1mo (found by itself from the times of the rows), " +
			"or none to take closes as prices"},
		{Name: OptionNegative, Switch: true, Doc: "take prices of zero and below"},
		{Name: OptionExact, Switch: true, Doc: "refuse numbers of more than 18 digits after the point instead of rounding them half-even"},
	}
}

// options are those that a file was given, and those of its preset.
type options map[string]string

func readOptions(given map[string]string) (options, error) {
	known := map[string]bool{}
	for _, o := range Options() {
		known[o.Name] = true
	}
	for name := range given {
		if !known[name] {
			return nil, fmt.Errorf("%w: files of %s take no option %q: they take %q",
				pipeline.ErrOption, Name, name, slices.Sorted(maps.Keys(known)))
		}
	}
	o := options{}
	maps.Copy(o, given)
	return o, o.assignColumns()
}

// assignColumns takes time=1,price=Close for the columns of their options.
func (o options) assignColumns() error {
	names := o[OptionColumns]
	if !strings.Contains(names, "=") {
		return nil
	}
	roles := map[string]string{"symbol": OptionSymbol, "price": OptionPrice, "time": OptionTime, "date": OptionDate, "size": OptionSize, "id": OptionID}
	for item := range strings.SplitSeq(names, ",") {
		role, column, assigned := strings.Cut(strings.TrimSpace(item), "=")
		if option := roles[role]; assigned && option != "" {
			o[option] = column
			continue
		}
		return wrong(OptionColumns, "%.60q is not one of symbol, price, time, date, size and id, and the column that it is, as in time=1,price=Close", item)
	}
	delete(o, OptionColumns)
	return nil
}

// wrong is a fault of an option.
func wrong(option, format string, args ...any) error {
	return fmt.Errorf("%w: --%s: "+format, append([]any{pipeline.ErrOption, option}, args...)...)
}

// given reports whether an option was given, by its file or its preset.
func (o options) given(name string) bool { _, is := o[name]; return is }

// text is an option's value or its default.
func (o options) text(name string) string {
	if value, given := o[name]; given {
		return value
	}
	for _, known := range Options() {
		if known.Name == name {
			return known.Default
		}
	}
	return ""
}

func (o options) is(name string) bool { return o[name] == "true" }

// settings are options that were checked, and that do not depend on the file.
type settings struct {
	symbol    schema.Symbol // of all rows; empty: a column
	names     []string      // of columns, instead of a header; nil: the header's
	delimiter rune
	clock     clock
	numbers   numbers
	missing   []string
}

func (o options) settings() (s settings, err error) {
	if name := o.text(OptionName); name != "" {
		if s.symbol, err = schema.ParseExactSymbol(name); err != nil {
			return s, wrong(OptionName, "%w", err)
		}
	}
	if names := o.text(OptionColumns); names != "" {
		for name := range strings.SplitSeq(names, ",") {
			s.names = append(s.names, strings.TrimSpace(name))
		}
	}
	if s.delimiter, err = o.character(OptionDelimiter, ','); err != nil {
		return s, err
	}
	if s.clock, err = newClock(o.text(OptionFormat), o.text(OptionZone)); err != nil {
		return s, err
	}
	decimal, err := o.character(OptionDecimal, '.')
	if err != nil {
		return s, err
	}
	thousands, err := o.character(OptionThousands, 0)
	if err != nil {
		return s, err
	}
	s.numbers = numbers{decimal: string(decimal), currency: strings.TrimSpace(o.text(OptionCurrency)), exact: o.is(OptionExact), signed: o.is(OptionNegative)}
	if thousands != 0 {
		s.numbers.thousands = string(thousands)
	}
	if decimal == thousands {
		return s, wrong(OptionThousands, "it is the decimal mark")
	}
	for _, mark := range []rune{decimal, thousands} {
		if strings.ContainsRune("0123456789+-eE\"\r\n", mark) {
			return s, wrong(OptionDecimal, "%q is part of a number", mark)
		}
	}
	if missing := o.text(OptionMissing); missing != "" {
		s.missing = strings.Split(missing, ",")
	}
	return s, nil
}

// character reads an option that is one character, or the name of one.
func (o options) character(option string, absent rune) (rune, error) {
	text := o.text(option)
	switch text {
	case "":
		return absent, nil
	case "tab", `\t`:
		return '\t', nil
	case "space":
		return ' ', nil
	}
	r, size := utf8.DecodeRuneInString(text)
	if size != len(text) || r == utf8.RuneError || option == OptionDelimiter && strings.ContainsRune("\"\r\n", r) || r == 0 {
		return 0, wrong(option, "%.20q is not one character, tab or space", text)
	}
	return r, nil
}

// skip is how many lines come before the header.
func (o options) skip() (int, error) {
	n, err := strconv.Atoi(o.text(OptionSkip))
	if err != nil || n < 0 || n > 1000 {
		return 0, wrong(OptionSkip, "%.20q is no number from 0 to 1000", o.text(OptionSkip))
	}
	return n, nil
}

// zone finds a zone by its name, whatever the zone of this machine.
func zone(name string) (*time.Location, error) {
	if name == "" {
		return nil, nil
	}
	if strings.EqualFold(name, "local") {
		return nil, wrong(OptionZone, "the zone of this machine is not one of the file; name it, such as Europe/Berlin")
	}
	location, err := time.LoadLocation(name)
	if err != nil {
		return nil, wrong(OptionZone, "there is no zone %.40q; zones are named as in America/New_York, Europe/Berlin, Asia/Tokyo, UTC", name)
	}
	return location, nil
}
