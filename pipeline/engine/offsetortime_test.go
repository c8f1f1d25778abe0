package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testNow is when the tests read texts.
var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestParseBound(t *testing.T) {
	t.Parallel()
	epoch := time.Unix(0, 0).UTC()
	for text, want := range map[string]OffsetOrTime{
		"0":                              {},
		"1200":                           {Offset: 1200},
		"9223372036854775807":            {Offset: 1<<63 - 1},
		"2026-03-01T09:30:00Z":           {Moment: time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)},
		"2026-03-01T09:30:00.25+02:00":   {Moment: time.Date(2026, 3, 1, 7, 30, 0, 250e6, time.UTC)},
		"90m":                            {Moment: time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)},
		"0s":                             {Moment: testNow},
		"1h30m":                          {Moment: time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)},
		"1960-01-01T00:00:00Z":           {Moment: epoch},
		"0001-01-01T00:00:00Z":           {Moment: epoch},
		"2562047h":                       {Moment: epoch},
		"9999-12-31T23:59:59.999999999Z": {Moment: time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)},
	} {
		got, err := ParseOffsetOrTime(text, testNow)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "-1", "+1", "-5m", "9223372036854775808", "1 ", "0x10", "1e3", "yesterday", "2026-03-01", "2026-03-01 09:30:00",
		"2026-03-01T09:30:00", "2026-02-30T00:00:00Z", "7d", "99999999h"} {
		got, err := ParseOffsetOrTime(text, testNow)
		require.ErrorIs(t, err, ErrOffsetOrTime, text)
		assert.Contains(t, err.Error(), strings.TrimSpace(text))
		assert.Equal(t, OffsetOrTime{}, got)
	}
}

func TestBoundsAreInOrder(t *testing.T) {
	t.Parallel()
	one, two := OffsetOrTime{Offset: 1}, OffsetOrTime{Offset: 2}
	early, late := OffsetOrTime{Moment: testNow}, OffsetOrTime{Moment: testNow.Add(1)}
	assert.True(t, one.Before(two))
	assert.True(t, early.Before(late))
	for _, pair := range [][2]OffsetOrTime{{two, one}, {one, one}, {late, early}, {early, early}, {one, early}, {early, two}} {
		assert.False(t, pair[0].Before(pair[1]), "%v", pair)
	}
}

// Whatever is given is an offset, a moment that the log can have, or
// refused; and what is printed of it is the same place at any time.
func FuzzBound(f *testing.F) {
	for _, seed := range []string{"", "0", "1200", "-1", "9223372036854775807", "9223372036854775808", "90m", "-5m", "1h1m1.5s", "0s", "2562047h47m",
		"2026-03-01T09:30:00Z", "2026-03-01T09:30:00.123456789-23:59", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-29T00:00:00Z", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		place, err := ParseOffsetOrTime(text, testNow)
		if err != nil {
			require.ErrorIs(t, err, ErrOffsetOrTime)
			require.Equal(t, OffsetOrTime{}, place)
			return
		}
		require.GreaterOrEqual(t, place.Offset, int64(0))
		if place.IsMoment() {
			require.Zero(t, place.Offset)
			require.GreaterOrEqual(t, place.Moment.UnixMilli(), int64(0))
		}
		again, err := ParseOffsetOrTime(place.String(), testNow.Add(time.Hour))
		require.NoError(t, err)
		require.Equal(t, place, again)
		require.False(t, place.Before(again))
	})
}
