package csv

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// Names of the columns of bars, in lower case, in the files of all services.
var (
	openNames     = []string{"open", "<open>", "otwarcie", "eröffn."}
	highNames     = []string{"high", "<high>", "najwyzszy", "hoch"}
	lowNames      = []string{"low", "<low>", "najnizszy", "tief"}
	closeNames    = []string{"close", "<close>", "zamkniecie", "close*", "close/last", "price", "zuletzt"}
	volumeNames   = []string{"volume", "<vol>", "wolumen", "volume_(btc)"}
	adjustedNames = []string{"adj close", "adj close**"}
)

// barColumns are the columns of a bar but its close, the last two -1 where absent.
type barColumns struct{ open, high, low, volume, adjusted int }

// findBars finds the columns of bars where the prices are closes. It looks at columns
// that belongs takes, which are those of one symbol.
func (l *layout) findBars(names []string, closeAt int, belongs func(at int) bool) *barColumns {
	first := func(is func(name string) bool) int {
		for at, name := range names {
			if belongs(at) && is(lower(name)) {
				return at
			}
		}
		return -1
	}
	among := func(wanted []string) int {
		return first(func(name string) bool { return slices.Contains(wanted, name) })
	}
	if l.options.text(OptionBars) == "none" || !slices.Contains(closeNames, lower(names[closeAt])) {
		return nil
	}
	b := &barColumns{among(openNames), among(highNames), among(lowNames), l.sizeAt, among(adjustedNames)}
	if b.open < 0 || b.high < 0 || b.low < 0 {
		return nil
	}
	if b.volume < 0 {
		b.volume = among(volumeNames)
	}
	if b.volume < 0 { // CryptoDataDownload names it after the currency that is traded, which comes first
		b.volume = first(func(name string) bool { return strings.HasPrefix(name, "volume ") })
	}
	return b
}

func lower(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

// span is the length of bars. The zero value is none.
type span struct {
	length time.Duration
	days   int
	months int
}

// usual are the lengths that bars have, where the step between rows is to tell.
var usual = []time.Duration{time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 3 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 20 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 8 * time.Hour, 12 * time.Hour}

// spanUnits are the units of a length; of two that a text ends with, the first.
var spanUnits = []struct {
	name string
	span
}{{"mo", span{months: 1}}, {"s", span{length: time.Second}}, {"m", span{length: time.Minute}}, {"h", span{length: time.Hour}},
	{"d", span{days: 1}}, {"w", span{days: 7}}, {"y", span{months: 12}}}

// parseSpan reads a length, as 5m.
func parseSpan(text string) (span, error) {
	for _, unit := range spanUnits {
		number, fits := strings.CutSuffix(text, unit.name)
		if n, err := strconv.Atoi(number); fits && err == nil && n >= 1 && n <= 1000 {
			return span{unit.length * time.Duration(n), unit.days * n, unit.months * n}, nil
		}
	}
	return span{}, wrong(OptionBars, "%.20q is none of auto, none, and a length such as 1m, 4h, 1d, 1w, 1mo", text)
}

func (s span) String() string {
	for i := len(spanUnits) - 1; i >= 0; i-- {
		n, unit := 0, spanUnits[i]
		switch {
		case s.months > 0 && unit.months > 0 && s.months%unit.months == 0:
			n = s.months / unit.months
		case s.days > 0 && unit.days > 0 && s.days%unit.days == 0:
			n = s.days / unit.days
		case s.length > 0 && unit.length > 0 && s.length%unit.length == 0:
			n = int(s.length / unit.length)
		}
		if n > 0 {
			return strconv.Itoa(n) + unit.name
		}
	}
	return "none"
}

// end is the last microsecond of the bar that begins at an instant. Days are those of
// the zone.
func (s span) end(begin time.Time, zone *time.Location) time.Time {
	if zone == nil {
		zone = time.UTC
	}
	return begin.In(zone).AddDate(0, s.months, s.days).Add(s.length - time.Microsecond).UTC()
}

// spanOf is the length of bars that begin in steps; the zero value where the steps do
// not tell. Days may be missing, as weekends are, and be an hour shorter or longer where
// clocks change; shorter bars need each step to be a multiple of the shortest.
func spanOf(steps []time.Duration) span {
	if len(steps) == 0 {
		return span{}
	}
	const day = 24 * time.Hour
	least := slices.Min(steps)
	if least < day-time.Hour {
		if !slices.Contains(usual, least) || slices.ContainsFunc(steps, func(step time.Duration) bool { return step%least != 0 }) {
			return span{}
		}
		return span{length: least}
	}
	if slices.ContainsFunc(steps, func(step time.Duration) bool { return (step - step.Round(day)).Abs() > time.Hour }) {
		return span{}
	}
	switch days := least.Round(day) / day; {
	case days < 7:
		return span{days: 1}
	case days == 7:
		return span{days: 7}
	case days >= 28 && days <= 31:
		return span{months: 1}
	case days >= 89 && days <= 92:
		return span{months: 3}
	case days == 365 || days == 366:
		return span{months: 12}
	}
	return span{}
}

// chooseSpan decides how long bars are, and takes closes as prices where that is not
// known.
func (l *layout) chooseSpan(found span) error {
	if !slices.ContainsFunc(l.prices, func(p priceColumn) bool { return p.bar != nil }) {
		return nil
	}
	if l.openAt >= 0 {
		return nil // the file says when each ends
	}
	if text := l.options.text(OptionBars); text != "auto" {
		var err error
		l.span, err = parseSpan(text)
		return err
	}
	if l.span = found; l.span != (span{}) {
		l.notes = append(l.notes, fmt.Sprintf("rows are taken as bars of %s, as the times between them say; --%s says otherwise, and --%s none takes closes as prices", l.span, OptionBars, OptionBars))
		return nil
	}
	for i := range l.prices {
		l.prices[i].bar = nil
	}
	l.notes = append(l.notes, fmt.Sprintf("closes are taken as prices, since the times of the rows do not tell how long the bars are; --%s says it, as --%s 1h", OptionBars, OptionBars))
	return nil
}

// bar reads the rest of a bar of which the close is read. None is nil: a row without an
// open, a high or a low, for which some files write 0, has a close alone.
func (r *rowReader) bar(q *quoted, columns *barColumns, fields []string) (rounded bool, column string, err error) {
	bar := &schema.Bar{Close: q.price}
	for _, part := range []struct {
		at    int
		value *schema.Decimal
	}{{columns.open, &bar.Open}, {columns.high, &bar.High}, {columns.low, &bar.Low}} {
		text := cell(fields, part.at)
		if text == "" || r.isMissing(text) {
			return rounded, "", nil
		}
		value, more, err := r.numbers.number(text)
		if err != nil {
			return rounded, r.header[part.at], err
		}
		if value.Sign() <= 0 && !r.numbers.signed {
			r.note("a row without an open, a high and a low is taken as a price, its close")
			return rounded, "", nil
		}
		*part.value, rounded = value, rounded || more
	}
	if bar.High.Cmp(bar.Low) < 0 {
		return rounded, r.header[columns.high], fmt.Errorf("high %s is below the low %s", bar.High, bar.Low)
	}
	for _, part := range []struct {
		at    int
		value **schema.Decimal
		read  func(string) (schema.Decimal, bool, error)
	}{{columns.volume, &bar.Volume, r.numbers.size}, {columns.adjusted, &bar.AdjustedClose, r.numbers.number}} {
		text := cell(fields, part.at)
		if text == "" || r.isMissing(text) {
			continue
		}
		value, more, err := part.read(text)
		if err != nil { // the prices are right all the same
			r.note(fmt.Sprintf("column %q is left out where it holds no number", r.header[part.at]))
			continue
		}
		*part.value, rounded = &value, rounded || more
	}
	if column, err = r.stampBar(q, bar, fields); err == nil {
		q.bar, q.sequence = bar, 0
	}
	return rounded, column, err
}

// stampBar gives a bar its span: that between two columns, or from the time of the row.
func (r *rowReader) stampBar(q *quoted, bar *schema.Bar, fields []string) (column string, err error) {
	if r.openAt < 0 {
		bar.OpenTime = q.time
		q.exact = r.span.end(q.exact, r.clock.zone)
		q.time = schema.NewTime(q.exact)
		return r.header[r.timeAt], q.time.Validate()
	}
	column = r.header[r.openAt]
	written, err := r.clock.read(cell(fields, r.openAt))
	if err != nil {
		return column, err
	}
	at, _, err := r.clock.at(q.symbol, written)
	if err != nil {
		return column, err
	}
	if bar.OpenTime = schema.NewTime(at); !bar.OpenTime.Before(q.time.Time) {
		return column, fmt.Errorf("the bar begins at %s, which is not before its end, %s", bar.OpenTime, q.time)
	}
	return column, bar.OpenTime.Validate()
}
