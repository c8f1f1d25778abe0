package httpapi_test

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
)

var aList = []string{"/api/v1/prices/history", "finnhub", "AAPL"}

func TestCursorsReadBackTheSame(t *testing.T) {
	t.Parallel()
	for _, place := range [][]string{{"2025-06-15T14:30:00Z", "-9223372036854775808"}, {"", ""}, {`"\u2028<>&`, "日本"}} {
		cursor := httpapi.Cursor(aList, place...)
		if got, ok := httpapi.Place(aList, cursor, 2); !ok || !slices.Equal(got, place) {
			t.Errorf("%q became %q (%v)", place, got, ok)
		}
		for _, other := range [][]string{nil, aList[:2], {"/api/v1/prices/history", "finnhub", "MSFT"}, {"/api/v1/prices/historyfinnhub", "AAPL"}} {
			if _, ok := httpapi.Place(other, cursor, 2); ok {
				t.Errorf("a cursor of %q is one of %q", aList, other)
			}
		}
		if _, ok := httpapi.Place(aList, cursor, 1); ok {
			t.Error("a place with two parts is one with one")
		}
	}
}

// Every byte of a cursor counts.
func TestChangedCursorsAreRefused(t *testing.T) {
	t.Parallel()
	cursor := httpapi.Cursor(aList, "2025-06-15T14:30:00Z", "42")
	packed, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		t.Fatal(err)
	}
	for i := range packed {
		for _, change := range []byte{1, 2, 4, 8, 16, 32, 64, 128} {
			changed := slices.Clone(packed)
			changed[i] ^= change
			if _, ok := httpapi.Place(aList, base64.RawURLEncoding.EncodeToString(changed), 2); ok {
				t.Errorf("byte %d with bits %08b changed is accepted", i, change)
			}
		}
	}
	for _, bad := range []string{"", cursor + "A", cursor[:len(cursor)-1], cursor + "=", "\n" + cursor, " " + cursor, "!",
		httpapi.Cursor(aList, "\x00", "1"), httpapi.Cursor(aList, "\xff", "1"), httpapi.Cursor(aList, strings.Repeat("A", 600), "1")} {
		if _, ok := httpapi.Place(aList, bad, 2); ok {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// FuzzCursor: whatever the text, what is accepted is exactly what was written.
func FuzzCursor(f *testing.F) {
	for _, seed := range []string{"", "AQ", httpapi.Cursor(aList, "2025-06-15T14:30:00Z", "42"), httpapi.Cursor(aList, "", ""),
		httpapi.Cursor(aList, "one"), httpapi.Cursor(nil, "a", "b"), httpapi.Cursor(aList, "a", "b") + "="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		place, ok := httpapi.Place(aList, text, 2)
		if !ok {
			return
		}
		if again := httpapi.Cursor(aList, place...); len(place) != 2 || again != text {
			t.Errorf("%q is read as %q, which is written %q", text, place, again)
		}
	})
}
