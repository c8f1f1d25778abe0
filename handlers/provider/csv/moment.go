package csv

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// readAny reads a time that can be meant in only one way.
func readAny(text string) (moment, error) {
	if m, ok, err := readNumber(text); ok || err != nil {
		return m, err
	}
	if m, ok := readISO(text); ok {
		return m, nil
	}
	for _, layout := range namedMonths {
		if t, err := time.ParseInLocation(layout, text, time.UTC); err == nil {
			return moment{wall: t}, nil
		}
	}
	if parts := strings.FieldsFunc(text, func(r rune) bool { return r == '/' || r == '-' }); len(parts) >= 3 && len(parts[0]) <= 2 && allDigits(parts[0]+parts[1]) {
		return moment{}, fmt.Errorf("reading time %.40q: the first number may be the day or the month; say --%s 02/01/2006 (day first) or 01/02/2006, written as here",
			text, OptionFormat)
	}
	return moment{}, fmt.Errorf(`reading time %.40q: not of a kind that is found by itself; say --%s, such as "2 Jan 2006 15:04" for 31 Dec 2024 23:59`,
		text, OptionFormat)
}

// namedMonths are layouts in which the month has a name.
var namedMonths = func() (layouts []string) {
	for _, date := range []string{"Jan 2, 2006", "Jan 2 2006", "January 2, 2006", "2 Jan 2006", "2-Jan-2006", "2 January 2006", "2-Jan-06"} {
		for _, clock := range []string{"", " 15:04", " 15:04:05", " 3:04 PM", " 3:04:05 PM"} {
			layouts = append(layouts, date+clock)
		}
	}
	return layouts
}()

// unit counts from 1970.
type unit struct {
	option, name string
	perSecond    int64
}

var units = []unit{{"unix", "seconds", 1}, {"unix_ms", "milliseconds", 1e3}, {"unix_us", "microseconds", 1e6}, {"unix_ns", "nanoseconds", 1e9}}

func unitNamed(option string) (unit, bool) {
	for _, u := range units {
		if u.option == option {
			return u, true
		}
	}
	return unit{}, false
}

// Seconds within which a number is plausibly a time: 1980 to 2100. The units are so
// far apart that no number is plausible in two of them.
const plausibleFrom, plausibleTo = 315_532_800, 4_102_444_800

// unitOf finds the unit in which a number is plausible.
func unitOf(whole int64) (unit, bool) {
	for _, u := range units {
		if whole/u.perSecond >= plausibleFrom && whole/u.perSecond < plausibleTo {
			return u, true
		}
	}
	return unit{}, false
}

// lastSecond is that of the year 9999; the time package counts in a circle.
const lastSecond = 253_402_300_799

// read reads a number of the unit, with its fraction.
func (u unit) read(text string) (moment, error) {
	bad := func(advice string) (moment, error) {
		return moment{}, fmt.Errorf("reading time %.40q: not in %s since 1970%s", text, u.name, advice)
	}
	var t time.Time
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		second, rest := n/u.perSecond, n%u.perSecond
		if second > lastSecond || second < -lastSecond {
			if other, plausible := unitOf(n); plausible {
				return bad(fmt.Sprintf("; in %s it would be a time: --%s %s", other.name, OptionFormat, other.option))
			}
			return bad("")
		}
		t = time.Unix(second, rest*(int64(time.Second)/u.perSecond))
	} else {
		d, err := schema.ParseDecimal(padPoint(text))
		if err != nil {
			return bad("")
		}
		nanos := new(big.Int).Mul(d.Units(), big.NewInt(int64(time.Second)/u.perSecond))
		nanos.Div(nanos, big.NewInt(1_000_000_000_000_000_000)) // rounds down, before 1970 too
		second, rest := new(big.Int).DivMod(nanos, big.NewInt(int64(time.Second)), new(big.Int))
		if !second.IsInt64() || second.Int64() > lastSecond || second.Int64() < -lastSecond {
			return bad("")
		}
		t = time.Unix(second.Int64(), rest.Int64())
	}
	return moment{wall: t.UTC(), exact: true}, nil
}

// padPoint is 5.0 for "5.".
func padPoint(text string) string {
	if strings.HasSuffix(text, ".") {
		return text + "0"
	}
	return text
}

// readNumber reads 20240131, 20240131235959 and numbers since 1970. ok is false for
// what is no number.
func readNumber(text string) (m moment, ok bool, err error) {
	whole, _, _ := strings.Cut(text, ".")
	if strings.ContainsAny(text, "eE") { // 1.7e+09
		d, err := schema.ParseDecimal(text)
		if err != nil {
			return moment{}, false, nil
		}
		text = d.String()
		whole, _, _ = strings.Cut(text, ".")
	}
	digits := strings.TrimPrefix(text, "-")
	before, after, _ := strings.Cut(digits, ".")
	if before == "" || !allDigits(before) || !allDigits(after) {
		return moment{}, false, nil
	}
	for _, layout := range []string{"20060102", "20060102150405", "200601021504"} {
		if len(text) != len(layout) {
			continue
		}
		if t, err := time.ParseInLocation(layout, text, time.UTC); err == nil && t.Year() >= 1800 && t.Year() < 2200 {
			return moment{wall: t}, true, nil
		}
	}
	n, parseErr := strconv.ParseInt(whole, 10, 64)
	if u, plausible := unitOf(n); parseErr == nil && plausible {
		m, err = u.read(text)
		m.unit = u.name
		return m, true, err
	}
	return moment{}, false, fmt.Errorf("reading time %.40q: a number that is no plausible time in any unit; say --%s unix (seconds since 1970), unix_ms, unix_us or unix_ns",
		text, OptionFormat)
}

// scanner takes a text apart.
type scanner struct{ text string }

// digits takes a number of least to most digits.
func (s *scanner) digits(least, most int) (n int, ok bool) {
	i := 0
	for i < len(s.text) && i < most && '0' <= s.text[i] && s.text[i] <= '9' {
		n = n*10 + int(s.text[i]-'0')
		i++
	}
	s.text = s.text[i:]
	return n, i >= least
}

// one takes one of the characters.
func (s *scanner) one(of string) (c byte, ok bool) {
	if s.text == "" || strings.IndexByte(of, s.text[0]) < 0 {
		return 0, false
	}
	c, s.text = s.text[0], s.text[1:]
	return c, true
}

// readISO reads a date, year first with -, / or . between, or day first with points,
// as only languages write it that put the day first; then a time of day, and a zone.
func readISO(text string) (moment, bool) {
	s := &scanner{text}
	year, month, day, ok := s.date()
	if !ok {
		return moment{}, false
	}
	var hour, minute, second, nanos int
	if _, timed := s.one("TtD "); timed {
		s.text = strings.TrimLeft(s.text, " ")
		if hour, minute, second, nanos, ok = s.clock(); !ok {
			return moment{}, false
		}
	} else if s.text != "" {
		return moment{}, false
	}
	m := moment{wall: time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)}
	if hour > 23 || minute > 59 || second > 59 || m.wall.Day() != day || int(m.wall.Month()) != month {
		return moment{}, false // there is no such day
	}
	return s.zone(m)
}

func (s *scanner) date() (year, month, day int, ok bool) {
	before := s.text
	if year, ok = s.digits(4, 4); ok {
		mark, marked := s.one("-/.")
		month, ok = s.digits(1, 2)
		if !marked || !ok {
			if s.text = before; len(s.text) < 8 { // 20240131 153000
				return 0, 0, 0, false
			}
			year, _ = s.digits(4, 4)
			month, ok = s.digits(2, 2)
			day, marked = s.digits(2, 2)
			return year, month, day, ok && marked
		}
		if _, again := s.one(string(mark)); !again {
			return 0, 0, 0, false
		}
		day, ok = s.digits(1, 2)
		return year, month, day, ok
	}
	s.text = before
	day, first := s.digits(1, 2)
	_, point := s.one(".")
	month, second := s.digits(1, 2)
	_, pointAgain := s.one(".")
	year, ok = s.digits(4, 4)
	return year, month, day, ok && first && point && second && pointAgain
}

func (s *scanner) clock() (hour, minute, second, nanos int, ok bool) {
	if i := strings.IndexAny(s.text, ": "); i < 0 || s.text[i] == ' ' { // 153000
		hour, ok = s.digits(2, 2)
		var whole bool
		minute, whole = s.digits(2, 2)
		second, _ = s.digits(2, 2)
		return hour, minute, second, 0, ok && whole
	}
	hour, ok = s.digits(1, 2)
	_, colon := s.one(":")
	minute, whole := s.digits(2, 2)
	if !ok || !colon || !whole {
		return 0, 0, 0, 0, false
	}
	if _, more := s.one(":"); !more {
		return hour, minute, 0, 0, true
	}
	second, ok = s.digits(2, 2)
	if _, point := s.one(".,"); point && ok {
		nanos, ok = s.fraction()
	}
	return hour, minute, second, nanos, ok
}

// fraction takes the digits after a point, of which nine are kept.
func (s *scanner) fraction() (nanos int, ok bool) {
	count := 0
	for ; s.text != "" && '0' <= s.text[0] && s.text[0] <= '9'; s.text = s.text[1:] {
		if count < 9 {
			nanos = nanos*10 + int(s.text[0]-'0')
		}
		count++
	}
	for i := count; i < 9; i++ {
		nanos *= 10
	}
	return nanos, count > 0
}

// zone takes the rest.
func (s *scanner) zone(m moment) (moment, bool) {
	rest := strings.TrimSpace(s.text)
	switch {
	case rest == "":
		return m, true
	case strings.EqualFold(rest, "z") || rest == "UTC" || rest == "GMT":
		m.exact = true
		return m, true
	case rest[0] == '+' || rest[0] == '-':
		z := &scanner{rest[1:]}
		hours, ok := z.digits(2, 2)
		_, _ = z.one(":")
		minutes := 0
		if z.text != "" {
			var whole bool
			minutes, whole = z.digits(2, 2)
			ok = ok && whole
		}
		if !ok || z.text != "" || hours > 23 || minutes > 59 {
			return moment{}, false
		}
		offset := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
		if rest[0] == '-' {
			offset = -offset
		}
		return moment{wall: m.wall.Add(-offset), exact: true}, true
	}
	for i := range len(rest) {
		if rest[i] < 'A' || rest[i] > 'Z' {
			return moment{}, false
		}
	}
	m.zone = rest
	return m, len(rest) >= 3 && len(rest) <= 5
}

// readYearMonth reads 1871.01, and 1871.1, which is October: it is 1871.10 without
// its last zero, as spreadsheets write it.
func readYearMonth(text string) (moment, error) {
	s := &scanner{text}
	year, ok := s.digits(4, 4)
	_, point := s.one(".")
	month, whole := 0, len(s.text) == 1 || len(s.text) == 2
	if whole {
		ones := len(s.text) == 1
		month, _ = s.digits(1, 2)
		if ones {
			month *= 10
		}
	}
	if !ok || !point || !whole || s.text != "" || month < 1 || month > 12 {
		return moment{}, fmt.Errorf("reading time %.40q: not a year and a month such as 1871.01", text)
	}
	return moment{wall: time.Date(year, time.Month(month), 1, 0, 0, 0, 0, time.UTC)}, nil
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
