package schema

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Instrument is what is known of an instrument besides its prices. An empty field is not
// known.
type Instrument struct {
	// Currency is that of the prices, as ISO 4217 or the provider has it: USD, USDT, or GBp
	// for pence.
	Currency string `json:"currency,omitempty"`
	// Venue is where it is traded, as the provider names it.
	Venue string `json:"venue,omitempty"`
	// Class is what it is, in lower case: equity, fx, crypto.
	Class string `json:"class,omitempty"`
	// TickSize is the least step between two prices; zero where it is not known.
	TickSize Decimal `json:"tick_size,omitzero"`
	// Hours is HoursAlways, or empty.
	Hours string `json:"hours,omitempty"`
	// Timezone is that of the venue, as the IANA database has it.
	Timezone string `json:"timezone,omitempty"`
	// Session is the session of trading that was told last.
	Session *Session `json:"session,omitempty"`
}

// HoursAlways says that an instrument is traded at all times.
const HoursAlways = "always"

// Session is a period in which an instrument is traded.
type Session struct {
	Begin Time `json:"begin"`
	End   Time `json:"end"`
}

// MarketState says whether an instrument is traded at some moment.
type MarketState string

// The states of a market.
const (
	MarketOpen    MarketState = "open"
	MarketClosed  MarketState = "closed"
	MarketUnknown MarketState = "unknown"
)

// untilNextSession is how long after the begin of a session no other one begins: a day, of
// which a change of clocks may take an hour.
const untilNextSession = 23 * time.Hour

// Market says whether the instrument is traded at a moment, as far as its hours tell. After
// a session it is closed for as long as no other one can have begun; later, it is not known.
func (i Instrument) Market(at Time) MarketState {
	switch s := i.Session; {
	case i.Hours == HoursAlways:
		return MarketOpen
	case s == nil:
		return MarketUnknown
	case !at.Time.Before(s.Begin.Time) && at.Time.Before(s.End.Time):
		return MarketOpen
	case at.Time.Before(s.Begin.Add(untilNextSession).Time) && at.Time.After(s.Begin.Add(-untilNextSession).Time):
		return MarketClosed
	}
	return MarketUnknown
}

// IsZero reports whether nothing is known.
func (i Instrument) IsZero() bool { return i == Instrument{} }

// Or is the instrument, with what is not known of it taken from another description.
func (i Instrument) Or(other Instrument) Instrument {
	i.Currency = cmp.Or(i.Currency, other.Currency)
	i.Venue = cmp.Or(i.Venue, other.Venue)
	i.Class = cmp.Or(i.Class, other.Class)
	i.Timezone = cmp.Or(i.Timezone, other.Timezone)
	if i.TickSize.IsZero() {
		i.TickSize = other.TickSize
	}
	if i.Hours == "" && i.Session == nil {
		i.Hours, i.Session = other.Hours, other.Session
	}
	return i
}

var (
	currencyPattern = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{2,9}$`)
	classPattern    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	hoursPattern    = regexp.MustCompile(`^` + HoursAlways + `$`)
	zonePattern     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+/-]{0,63}$`)
)

// maxVenue bounds the name of a venue, in bytes.
const maxVenue = 64

// maxSession bounds a session.
const maxSession = 8 * 24 * time.Hour

// Validate reports all fields that hold what they cannot.
func (i Instrument) Validate() error {
	var errs []error
	for _, f := range i.fields() {
		if f.fault != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.name, f.fault))
		}
	}
	return errors.Join(errs...)
}

// Checked is the instrument without the fields that hold what they cannot: for what a service
// tells.
func (i Instrument) Checked() Instrument {
	for _, f := range i.fields() {
		if f.fault != nil {
			f.empty()
		}
	}
	return i
}

// instrumentField is a field with its fault, nil for none, and what empties it.
type instrumentField struct {
	name  string
	fault error
	empty func()
}

func (i *Instrument) fields() []instrumentField {
	matches := func(text string, pattern *regexp.Regexp, want string) error {
		if text == "" || pattern.MatchString(text) {
			return nil
		}
		return fmt.Errorf("%q: want %s", shorten(text), want)
	}
	return []instrumentField{
		{"currency", matches(i.Currency, currencyPattern, "3 to 10 letters and digits, such as USD"), func() { i.Currency = "" }},
		{"venue", checkID(i.Venue, maxVenue), func() { i.Venue = "" }},
		{"class", matches(i.Class, classPattern, "lower-case letters, digits and hyphens, such as equity"), func() { i.Class = "" }},
		{"tick_size", notNegative(i.TickSize), func() { i.TickSize = Decimal{} }},
		{"hours", matches(i.Hours, hoursPattern, HoursAlways), func() { i.Hours = "" }},
		{"timezone", matches(i.Timezone, zonePattern, "a name such as America/New_York"), func() { i.Timezone = "" }},
		{"session", i.Session.validate(), func() { i.Session = nil }},
	}
}

func notNegative(d Decimal) error {
	if d.Sign() < 0 {
		return fmt.Errorf("%s is negative", d)
	}
	return nil
}

func (s *Session) validate() error {
	if s == nil {
		return nil
	}
	if err := errors.Join(s.Begin.Validate(), s.End.Validate()); err != nil {
		return err
	}
	if length := s.End.Sub(s.Begin.Time); length <= 0 || length > maxSession {
		return fmt.Errorf("%v long", length)
	}
	return nil
}
