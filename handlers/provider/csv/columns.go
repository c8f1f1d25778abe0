package csv

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// Names under which a column is found where no option names it, in lower case.
var (
	priceNames  = []string{"price", "close", "last"}
	timeNames   = []string{"time", "timestamp", "datetime", "date"}
	symbolNames = []string{"symbol", "ticker"}
)

// findColumns looks the columns up. The first line is the header, or a row.
func (l *layout) findColumns(count int, first []string) error {
	f := &finder{layout: l, count: min(count, len(l.header))}
	if l.headers == 0 && l.names != nil && len(l.names) < count {
		f.count = len(l.names)
	}
	for option, name := range map[string]string{OptionSize: "size", OptionID: "id"} {
		if slices.Contains(l.names, name) && !l.options.given(option) && !l.wide {
			l.options[option] = name // who names a column so means it
		}
	}
	l.sizeAt, l.idAt, l.symbolAt, l.dateAt = f.optional(OptionSize), f.optional(OptionID), -1, f.optional(OptionDate)
	l.timeAt, l.openAt = f.time(), -1
	if lower(f.name(l.timeAt)) == "close_time" {
		l.openAt = slices.IndexFunc(l.header, func(name string) bool { return lower(name) == "open_time" })
	}
	if l.wide {
		f.wide()
	} else {
		if l.symbol == "" {
			l.symbolAt = f.column(OptionSymbol, symbolNames)
		}
		at := f.column(OptionPrice, priceNames)
		l.prices = []priceColumn{{at: at, name: f.name(at)}}
		if f.err == nil {
			l.prices[0].bar = l.findBars(l.header, at, func(at int) bool { return at < f.count })
		}
	}
	if f.err != nil {
		return fmt.Errorf("%w%s", f.err, l.hint(first))
	}
	return nil
}

// hint says what may be wrong where a column was not found.
func (l *layout) hint(first []string) string {
	if l.headers == 0 {
		return fmt.Sprintf("; --%s names the columns of a file without a header", OptionColumns)
	}
	if p := ofRows([][]string{first}); p != nil {
		return fmt.Sprintf("; the first line looks like a row of --%s %s, which reads it", OptionPreset, p.name)
	}
	switch {
	case looksLikeRow(first):
		return fmt.Sprintf("; the first line looks like a row: --%s reads a file without a header, and --%s names its columns", OptionNoHeader, OptionColumns)
	case len(first) == 1:
		return fmt.Sprintf("; if the header comes later, --%s says how many lines come before it", OptionSkip)
	}
	return ""
}

// finder looks columns up, and keeps the first fault.
type finder struct {
	*layout
	count int // of columns
	err   error
}

func (f *finder) fail(err error) int {
	if f.err == nil {
		f.err = err
	}
	return -1
}

func (f *finder) name(at int) string {
	if at < 0 || at >= len(f.header) {
		return ""
	}
	return f.header[at]
}

func (f *finder) absent(option, name string) int {
	advice := ""
	if option == OptionSymbol {
		advice = fmt.Sprintf("; --%s NAME is for a file of one symbol", OptionName)
	}
	return f.fail(wrong(option, "there is no column %.40q; there are %.300s%s", name, `"`+strings.Join(f.header, `", "`)+`"`, advice))
}

// column finds the column of an option: by the name that was given, or the names
// of a preset, or else by common ones.
func (f *finder) column(option string, common []string) int {
	switch {
	case f.set[option]:
		return f.ofPreset(option)
	case f.options.given(option):
		return f.named(option, f.options.text(option))
	}
	if exact := slices.Index(f.header, common[0]); exact >= 0 {
		return f.named(option, common[0])
	}
	for _, name := range common {
		var found []int
		for i, other := range f.header {
			if strings.EqualFold(strings.TrimSpace(other), name) {
				found = append(found, i)
			}
		}
		if len(found) > 1 {
			return f.fail(wrong(option, "two columns are named %.40q", f.header[found[0]]))
		}
		if len(found) == 1 {
			if !strings.EqualFold(name, common[0]) {
				f.notes = append(f.notes, fmt.Sprintf("column %q is taken; --%s names another", f.header[found[0]], option))
			}
			return found[0]
		}
	}
	return f.absent(option, common[0])
}

// named finds a column by its name, letter for letter, or by its number.
func (f *finder) named(option, name string) int {
	at := slices.Index(f.header, name)
	switch n, err := strconv.Atoi(name); {
	case at >= 0 && slices.Contains(f.header[at+1:], name):
		return f.fail(wrong(option, "two columns are named %.40q", name))
	case at < 0 && err == nil && n >= 1 && n <= f.count:
		return n - 1
	case at < 0:
		return f.absent(option, name)
	case at >= f.count:
		return f.fail(wrong(option, "column %d is not in the first row, which has %d", at+1, f.count))
	}
	return at
}

// ofPreset finds a column by the names that a preset has for it.
func (f *finder) ofPreset(option string) int {
	names, optional := strings.CutPrefix(f.options.text(option), "?")
	for name := range strings.SplitSeq(names, "|") {
		for i, other := range f.header[:f.count] {
			if strings.EqualFold(strings.TrimSpace(other), name) {
				return i
			}
		}
	}
	if optional {
		if option == OptionSymbol {
			return f.fail(wrong(OptionName, "the file does not say of which symbol its prices are: --%s NAME does", OptionName))
		}
		return -1
	}
	first, _, _ := strings.Cut(names, "|")
	return f.absent(option, first)
}

// optional finds a column that only an option or a preset names.
func (f *finder) optional(option string) int {
	if !f.options.given(option) {
		return -1
	}
	return f.column(option, []string{""})
}

// time finds the column of times; where there is one of dates and one of the time
// of day, both.
func (f *finder) time() int {
	if f.set[OptionTime] {
		at := f.ofPreset(OptionTime)
		if at == f.dateAt || at < 0 && f.dateAt >= 0 { // only dates
			at, f.dateAt = f.dateAt, -1
		}
		return at
	}
	if name := f.options.text(OptionTime); f.options.given(OptionTime) && f.dateAt < 0 && !slices.Contains(f.header, name) {
		if date, clock, two := strings.Cut(name, ","); two { // Date,Time
			f.dateAt = f.named(OptionTime, strings.TrimSpace(date))
			return f.named(OptionTime, strings.TrimSpace(clock))
		}
	}
	if f.dateAt < 0 && !f.options.given(OptionTime) && !f.options.given(OptionDate) {
		fold := func(name string) int {
			return slices.IndexFunc(f.header, func(other string) bool { return strings.EqualFold(strings.TrimSpace(other), name) })
		}
		if date, at := fold("date"), fold("time"); date >= 0 && at >= 0 && date < f.count && at < f.count {
			f.dateAt = date
			f.notes = append(f.notes, fmt.Sprintf("columns %q and %q are taken together as the time; --%s names one", f.header[date], f.header[at], OptionTime))
			return at
		}
	}
	return f.column(OptionTime, timeNames)
}

// wide takes each other column as prices of a symbol.
func (f *finder) wide() {
	for _, option := range []string{OptionSymbol, OptionPrice, OptionSize, OptionID} {
		if f.options.given(option) {
			f.fail(wrong(option, "a file with a column a symbol has none"))
		}
	}
	for i, name := range f.header[:f.count] {
		if i == f.timeAt || i == f.dateAt || strings.TrimSpace(name) == "" {
			continue
		}
		symbol, err := schema.ParseExactSymbol(name)
		if f.symbol != "" {
			symbol, err = f.symbol, nil
		}
		if err != nil {
			f.fail(wrong(OptionWide, "column %d: %w", i+1, err))
		}
		if slices.ContainsFunc(f.prices, func(p priceColumn) bool { return p.symbol == symbol }) {
			f.fail(wrong(OptionWide, "two columns are of %s", symbol))
		}
		f.prices = append(f.prices, priceColumn{i, name, symbol, nil})
	}
	if len(f.prices) == 0 {
		f.fail(wrong(OptionWide, "there is no column but that of times"))
	}
}
