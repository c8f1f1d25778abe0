package schema_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
)

func instants() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		const first, last = -62135596800, 253402300799 - 86400 // years 1 to 9999, in any zone
		zone := time.FixedZone("", rapid.IntRange(-14*60, 14*60).Draw(t, "zone")*60)
		return time.Unix(rapid.Int64Range(first+86400, last).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).In(zone)
	})
}

func mustTime(t require.TestingT, s string) schema.Time {
	parsed, err := schema.ParseTime(s)
	require.NoError(t, err)
	return parsed
}

func TestTimeIsUTCInMicroseconds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		exact := instants().Draw(t, "t")
		cut := schema.NewTime(exact)
		require.Equal(t, time.UTC, cut.Location())
		require.Zero(t, cut.Nanosecond()%1000)
		lost := exact.Sub(cut.Time)
		require.True(t, 0 <= lost && lost < time.Microsecond, "lost %v", lost)
	})
}

// Every way in gives the same instant, comparable with ==.
func TestTimeRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		exact := instants().Draw(t, "t")
		want := schema.NewTime(exact)
		encoded, err := json.Marshal(want)
		require.NoError(t, err)
		value, err := want.Value()
		require.NoError(t, err)
		ways := map[string]func(*schema.Time) error{
			"json":        func(u *schema.Time) error { return json.Unmarshal(encoded, u) },
			"finer json":  func(u *schema.Time) error { return json.Unmarshal([]byte(`"`+exact.Format(time.RFC3339Nano)+`"`), u) },
			"text":        func(u *schema.Time) error { return u.UnmarshalText([]byte(exact.Format(time.RFC3339Nano))) },
			"sql text":    func(u *schema.Time) error { return u.Scan(value) },
			"sql bytes":   func(u *schema.Time) error { return u.Scan([]byte(value.(string))) },
			"sql instant": func(u *schema.Time) error { return u.Scan(exact) },
		}
		for name, read := range ways {
			var got schema.Time
			require.NoError(t, read(&got), name)
			require.True(t, want == got, "%s: want %v, got %v", name, want, got)
		}
	})
}

func TestTimeTextOrderIsTimeOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := schema.NewTime(instants().Draw(t, "a"))
		b := a.Add(time.Duration(rapid.Int64Range(-2_000_000, 2_000_000).Draw(t, "µs")) * time.Microsecond)
		x, err := a.Value()
		require.NoError(t, err)
		y, err := b.Value()
		require.NoError(t, err)
		require.Equal(t, a.Compare(b) < 0, x.(string) < y.(string))
		require.Equal(t, a.Compare(b) > 0, a.After(b))
		require.Len(t, x, len("2006-01-02T15:04:05.000000Z"))
	})
}

func TestParseTimeRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "now", "2025-06-15", "2025-06-15T14:30:00", "2025-06-15 14:30:00Z", "2025-06-15T4:30:00Z",
		"2025-06-15T14:30:00,5Z", "2025-02-29T00:00:00Z", "2025-06-15T24:00:00Z", "2025-06-15T14:30:00+25:00",
		"12025-06-15T14:30:00Z", " 2025-06-15T14:30:00Z", "1750000000",
	} {
		_, err := schema.ParseTime(text)
		assert.Error(t, err, text)
	}
}

func TestTimeScanRefuses(t *testing.T) {
	t.Parallel()
	for _, src := range []any{nil, int64(1750000000), 1.5, "yesterday", []byte("x")} {
		var got schema.Time
		assert.Error(t, got.Scan(src), "%v", src)
		assert.True(t, got.IsZero())
	}
	var got schema.Time
	assert.Error(t, json.Unmarshal([]byte(`1750000000`), &got))
}

func TestTimeErrorsAreShortText(t *testing.T) {
	t.Parallel()
	long := `"` + strings.Repeat("é", 1000) + `"`
	for _, bad := range []string{long, long[1 : len(long)-1]} {
		var got schema.Time
		err := got.UnmarshalJSON([]byte(bad))
		require.Error(t, err)
		assert.True(t, utf8.ValidString(err.Error()))
		assert.Less(t, len(err.Error()), 300)
	}
}

// TestTimeTextIsThatOfTheLibrary: in each year that has a text, and none beyond.
func TestTimeTextIsThatOfTheLibrary(t *testing.T) {
	t.Parallel()
	const layout = "2006-01-02T15:04:05.000000Z"
	first, last := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
	times := []time.Time{first, last}
	for range 20_000 {
		times = append(times, time.UnixMicro(first.UnixMicro()+rand.Int64N(last.UnixMicro()-first.UnixMicro())))
	}
	for _, at := range times {
		text, err := schema.NewTime(at).MarshalText()
		require.NoError(t, err)
		require.Equal(t, at.UTC().Format(layout), string(text))
	}
	for _, at := range []time.Time{first.Add(-time.Microsecond), last.Add(time.Microsecond)} {
		_, err := schema.NewTime(at).MarshalText()
		require.Error(t, err)
	}
}
