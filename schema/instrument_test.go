package schema

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A market is closed after a session until another one can have begun: then nothing is known
// until the provider tells of another session.
func TestMarket(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 5, 14, 30, 0, 0, time.UTC)
	end := begin.Add(6*time.Hour + 30*time.Minute)
	day := Instrument{Session: &Session{NewTime(begin), NewTime(end)}}
	for at, want := range map[time.Time]MarketState{
		begin.Add(-48 * time.Hour):            MarketUnknown,
		begin.Add(-time.Hour):                 MarketClosed,
		begin.Add(-time.Microsecond):          MarketClosed,
		begin:                                 MarketOpen,
		end.Add(-time.Microsecond):            MarketOpen,
		end:                                   MarketClosed,
		begin.Add(23*time.Hour - time.Second): MarketClosed,
		begin.Add(23 * time.Hour):             MarketUnknown,
		begin.Add(24 * time.Hour):             MarketUnknown,
	} {
		assert.Equal(t, want, day.Market(NewTime(at)), at)
	}
	assert.Equal(t, MarketOpen, Instrument{Hours: HoursAlways}.Market(NewTime(begin)))
	assert.Equal(t, MarketUnknown, Instrument{Currency: "USD"}.Market(NewTime(begin)))
}

func TestInstrumentOr(t *testing.T) {
	t.Parallel()
	session := &Session{NewTime(time.Unix(0, 0)), NewTime(time.Unix(1, 0))}
	all := Instrument{"USD", "NMS", "equity", MustDecimal("0.01"), HoursAlways, "America/New_York", nil}
	assert.Equal(t, all, Instrument{}.Or(all))
	assert.Equal(t, all, all.Or(Instrument{"EUR", "X", "fx", MustDecimal("1"), "", "Europe/Berlin", session}))
	assert.Equal(t, Instrument{Session: session}, Instrument{Session: session}.Or(Instrument{Hours: HoursAlways}), "hours are of one source")
}

// What a service tells and cannot be is left out, and the rest is kept.
func TestInstrumentChecked(t *testing.T) {
	t.Parallel()
	good := Instrument{"GBp", "LSE", "equity", MustDecimal("0.5"), HoursAlways, "Europe/London", nil}
	require.NoError(t, good.Validate())
	assert.Equal(t, good, good.Checked())
	bad := Instrument{"$", strings.Repeat("x", 65), "EQUITY", MustDecimal("-1"), "never", "a b", &Session{NewTime(time.Unix(1, 0)), NewTime(time.Unix(1, 0))}}
	err := bad.Validate()
	for _, field := range []string{"currency: ", "venue: ", "class: ", "tick_size: ", "hours: ", "timezone: ", "session: "} {
		require.ErrorContains(t, err, field)
	}
	assert.Equal(t, Instrument{}, bad.Checked())
	half := good
	half.Class = "a b"
	want := good
	want.Class = ""
	assert.Equal(t, want, half.Checked())
	assert.Equal(t, "a b", half.Class, "what it was made of is as it was")
}
