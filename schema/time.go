package schema

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// Time is an instant in UTC with microseconds, the finest resolution that
// every engine keeps. Anything finer is cut where the instant enters, so that
// an order by time is the same in memory and in SQL.
type Time struct{ time.Time }

// sqlTime is how a time is written everywhere: its order as text is that of time.
const sqlTime = "2006-01-02T15:04:05.000000Z"

// Years that every engine keeps, and that events may hold. One of fewer than four
// digits is a slip of two-digit years rather than the price of a Roman coin.
const minYear, maxYear = 1000, 9999

// maxTime is the last instant there is.
var maxTime = NewTime(time.Date(maxYear, time.December, 31, 23, 59, 59, 999_999_000, time.UTC))

// NewTime cuts t to microseconds and moves it to UTC.
func NewTime(t time.Time) Time { return Time{t.UTC().Truncate(time.Microsecond)} }

// ParseTime reads RFC 3339.
func ParseTime(s string) (Time, error) {
	var t Time
	err := t.UnmarshalText([]byte(s))
	return t, err
}

// Compare is -1, 0 or +1 as t is before, at or after u.
func (t Time) Compare(u Time) int { return t.Time.Compare(u.Time) }

// After reports whether t is after u.
func (t Time) After(u Time) bool { return t.Time.After(u.Time) }

// Add returns t + d.
func (t Time) Add(d time.Duration) Time { return NewTime(t.Time.Add(d)) }

// Validate reports an instant that no event carries: none at all, or one outside
// the years that every engine keeps.
func (t Time) Validate() error {
	if t.IsZero() {
		return errors.New("required")
	}
	if year := t.Year(); year < minYear || year > maxYear {
		return fmt.Errorf("year %d is not within %d and %d", year, minYear, maxYear)
	}
	return nil
}

// Where the years begin that have a text, in seconds since 1970.
var (
	yearZero     = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	yearAfterMax = time.Date(maxYear+1, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
)

// MarshalText writes RFC 3339 with exactly six fractional digits, so that the order of
// texts is that of the times. A year that it cannot write is an error.
func (t Time) MarshalText() ([]byte, error) { return t.AppendText(nil) }

// AppendText appends what MarshalText writes.
func (t Time) AppendText(b []byte) ([]byte, error) {
	if seconds := t.Unix(); seconds < yearZero || seconds >= yearAfterMax {
		return nil, fmt.Errorf("writing a time of the year %d: not within 0 and %d", t.UTC().Year(), maxYear)
	}
	return t.appendText(b), nil
}

// MarshalJSON writes the text of MarshalText as a string.
func (t Time) MarshalJSON() ([]byte, error) {
	b, err := t.AppendText([]byte{'"'})
	return append(b, '"'), err
}

// Text is the text of MarshalText, of a valid time.
func (t Time) Text() string { return string(t.appendText(make([]byte, 0, len(sqlTime)))) }

func (t Time) appendJSON(b []byte) []byte { return append(t.appendText(append(b, '"')), '"') }

func (t Time) appendText(b []byte) []byte {
	at := len(b)
	b = append(b, "0000-00-00T00:00:00.000000Z"...)
	text := b[at:]
	u := t.UTC()
	year, month, day := u.Date()
	hour, minute, second := u.Clock()
	micros := uint(u.Nanosecond()) / 1000
	putPair(text, 0, uint(year)/100)
	putPair(text, 2, uint(year))
	putPair(text, 5, uint(month))
	putPair(text, 8, uint(day))
	putPair(text, 11, uint(hour))
	putPair(text, 14, uint(minute))
	putPair(text, 17, uint(second))
	putPair(text, 20, micros/10_000)
	putPair(text, 22, micros/100)
	putPair(text, 24, micros)
	return b
}

// putPair writes the last two digits of n.
func putPair(text []byte, at int, n uint) {
	n %= 100
	text[at], text[at+1] = byte('0'+n/10), byte('0'+n%10)
}

// UnmarshalJSON reads an RFC 3339 string.
func (t *Time) UnmarshalJSON(data []byte) error {
	if len(data) < 2 || data[0] != '"' || data[len(data)-1] != '"' {
		return fmt.Errorf("reading time %q: not a string", shorten(string(data)))
	}
	return t.UnmarshalText(data[1 : len(data)-1])
}

// UnmarshalText reads RFC 3339. The standard library also takes hours of one digit
// and a comma for the point, which no other reader of our events need accept.
func (t *Time) UnmarshalText(text []byte) error {
	var parsed time.Time
	if err := parsed.UnmarshalText(text); err != nil || text[len("2006-01-02T15")] != ':' || text[len("2006-01-02T15:04:05")] == ',' {
		// Without the cause: it repeats the text, however long.
		return fmt.Errorf("reading time %q: not RFC 3339", shorten(string(text)))
	}
	*t = NewTime(parsed)
	return nil
}

// Value implements driver.Valuer: RFC 3339 with exactly six fractional digits.
func (t Time) Value() (driver.Value, error) { return t.Text(), nil }

// Scan implements sql.Scanner.
func (t *Time) Scan(src any) error {
	switch v := src.(type) {
	case time.Time:
		*t = NewTime(v)
		return nil
	case string:
		return t.UnmarshalText([]byte(v))
	case []byte:
		return t.UnmarshalText(v)
	}
	return fmt.Errorf("reading a time from a column of type %T", src)
}
