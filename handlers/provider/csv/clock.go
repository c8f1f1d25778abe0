package csv

import (
	"fmt"
	"strings"
	"time"

	_ "time/tzdata" // zones are the same on every machine

	"github.com/pricemill/pricemill/schema"
)

// moment is a time as a file writes it.
type moment struct {
	// wall is the time that is written, as if it were of UTC; where exact it is
	// an instant.
	wall  time.Time
	exact bool
	// zone is the abbreviation that is written; empty: none.
	zone string
	// unit is that of a number since 1970, where it was found by itself.
	unit string
}

// clock reads times.
type clock struct {
	read func(string) (moment, error)
	zone *time.Location // nil: UTC
	// By symbol: what decides between the two hours when clocks go back.
	tracks map[schema.Symbol]*track
}

func newClock(format, zoneName string) (clock, error) {
	location, err := zone(zoneName)
	if err != nil {
		return clock{}, err
	}
	c := clock{zone: location, tracks: map[schema.Symbol]*track{}}
	c.read, err = momentReader(format, location != nil)
	return c, err
}

// at is the instant of a row of a symbol. The note, where there is one, says what
// was assumed.
func (c *clock) at(symbol schema.Symbol, m moment) (at time.Time, note string, err error) {
	if m.exact || m.zone == "" && c.zone == nil {
		return m.wall, "", nil
	}
	if c.zone == nil {
		return time.Time{}, "", fmt.Errorf("%s does not tell an offset: several zones use it, and only UTC and GMT are read by themselves; "+
			"add --%s, such as --%s America/New_York", m.zone, OptionZone, OptionZone)
	}
	instants := instantsOf(m.wall, c.zone)
	if m.zone != "" {
		for _, instant := range instants {
			if name, _ := instant.Zone(); name == m.zone {
				return instant.UTC(), "", nil
			}
		}
		return time.Time{}, "", fmt.Errorf("%s does not tell an offset: %s does not have it at %s", m.zone, c.zone, m.wall.Format(time.DateTime))
	}
	switch len(instants) {
	case 0:
		return time.Time{}, "", fmt.Errorf("%s does not occur in %s: clocks go forward then", m.wall.Format(time.DateTime), c.zone)
	case 1:
		c.track(symbol).pass(m.wall)
		return instants[0].UTC(), "", nil
	}
	chosen, changed := c.track(symbol).choose(m.wall)
	at = instants[chosen].UTC()
	if changed {
		note = fmt.Sprintf("%s occurs twice in %s, where clocks go back: by the order of the file, %s is taken as its %s, %s, from here on",
			m.wall.Format(time.DateTime), c.zone, symbol, [2]string{"first", "second"}[chosen], at.Format(time.RFC3339))
	}
	return at, note, nil
}

func (c *clock) track(symbol schema.Symbol) *track {
	t := c.tracks[symbol]
	if t == nil {
		t = &track{}
		c.tracks[symbol] = t
	}
	return t
}

// instantsOf are the instants at which clocks of a zone show a time: one, none when
// clocks go forward, two when they go back, in their order.
func instantsOf(wall time.Time, zone *time.Location) []time.Time {
	var found []time.Time
	for _, around := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		_, offset := wall.Add(around).In(zone).Zone()
		instant := wall.Add(-time.Duration(offset) * time.Second).In(zone)
		if _, is := instant.Zone(); is != offset || len(found) > 0 && found[0].Equal(instant) {
			continue
		}
		found = append(found, instant)
	}
	return found
}

// track is what rows of one symbol showed so far.
type track struct {
	wall    time.Time // of the last row
	falling bool      // newest first
	ties    bool      // several rows of one time, as of trades
	inside  bool      // an hour that occurs twice
	later   bool      // the second one in the order of the file
}

// pass takes note of a time that occurs once.
func (t *track) pass(wall time.Time) {
	switch {
	case t.wall.IsZero() || t.inside:
	case wall.Equal(t.wall):
		t.ties = true
	default:
		t.falling = wall.Before(t.wall)
	}
	t.wall, t.inside = wall, false
}

// choose says as which of two a time that occurs twice is taken, 0 for the first,
// and whether that begins here. The clocks were put back where the times of the
// file are. So they were where one time follows upon itself, unless times do so
// elsewhere, as those of trades.
func (t *track) choose(wall time.Time) (chosen int, changed bool) {
	const another = 3 * time.Hour // the last such hour was that of another year
	fresh := !t.inside || wall.Sub(t.wall).Abs() > another
	switch {
	case fresh:
		if !t.inside && !t.wall.IsZero() && !wall.Equal(t.wall) {
			t.falling = wall.Before(t.wall)
		}
		t.inside, t.later, changed = true, false, true
	case !t.later && (wall.Equal(t.wall) && !t.ties || !wall.Equal(t.wall) && wall.Before(t.wall) != t.falling):
		t.later, changed = true, true
	}
	t.wall = wall
	if t.later != t.falling {
		return 1, changed
	}
	return 0, changed
}

// momentReader is the meaning of OptionFormat. zoned says that times without a zone
// have one.
func momentReader(format string, zoned bool) (func(string) (moment, error), error) {
	switch format {
	case "auto":
		return readAny, nil
	case "rfc3339":
		return func(text string) (moment, error) { return readRFC3339(text, zoned) }, nil
	case "year.month":
		return readYearMonth, nil
	}
	if unit, known := unitNamed(format); known {
		return unit.read, nil
	}
	// A layout that writes two times alike reads none.
	early := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	late := time.Date(2022, 11, 30, 19, 48, 57, 0, time.UTC)
	if early.Format(format) == late.Format(format) {
		return nil, wrong(OptionFormat, `%q is none of auto, rfc3339, unix, unix_ms, unix_us, unix_ns, year.month, `+
			`and holds nothing of Go's reference time, "Mon Jan 2 15:04:05 2006 MST"`, format)
	}
	return layoutReader(format), nil
}

// readRFC3339 also reads what lacks no more than a zone, where zoned.
func readRFC3339(text string, zoned bool) (moment, error) {
	_, err := schema.ParseTime(text) // which is stricter than the library
	if err == nil {
		t, err := time.Parse(time.RFC3339Nano, text)
		return moment{wall: t.UTC(), exact: true}, err
	}
	if m, ok := readISO(text); ok && zoned && !m.exact && m.zone == "" {
		return m, nil
	}
	return moment{}, err
}

// layoutReader reads times by a layout of the time package. That one gives
// abbreviations of zones the offset of this machine's zone, or none.
func layoutReader(layout string) func(string) (moment, error) {
	offset := strings.Contains(layout, "-07") || strings.Contains(layout, "Z07")
	abbreviated := strings.Contains(layout, "MST") && !offset
	others := []string{strings.Replace(layout, "MST", "Z07:00", 1), strings.Replace(layout, "MST", "-07", 1)}
	return func(text string) (moment, error) {
		t, err := time.ParseInLocation(layout, text, time.UTC)
		if err == nil && !abbreviated {
			return moment{wall: t.UTC(), exact: offset}, nil
		}
		if err == nil {
			name, offset := t.Zone()
			if abbreviationIsExact(name) { // GMT+2 is known to the library, which leaves the time as it is
				return moment{wall: t.UTC().Add(-time.Duration(offset) * time.Second), exact: true}, nil
			}
			if name[0] != '+' && name[0] != '-' {
				return moment{wall: t.UTC(), zone: name}, nil
			}
		}
		if abbreviated { // Z, or the offset of a zone that has no abbreviation
			for _, other := range others {
				if t, err := time.ParseInLocation(other, text, time.UTC); err == nil {
					return moment{wall: t.UTC(), exact: true}, nil
				}
			}
		}
		return moment{}, fmt.Errorf("reading time %.40q: not like %q", text, layout)
	}
}

// abbreviationIsExact reports whether a zone is UTC, or says how far from it.
func abbreviationIsExact(name string) bool {
	return name == "UTC" || name == "GMT" || name == "Z" || len(name) > 3 && strings.HasPrefix(name, "GMT")
}
