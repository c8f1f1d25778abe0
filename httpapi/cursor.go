package httpapi

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
)

const (
	// cursorVersion is the first byte of a cursor. Another form gets another
	// one, and what clients still have is refused.
	cursorVersion = 1
	// cursorSum is how many bytes of a checksum follow.
	cursorSum = 8
	// maxCursor is the longest cursor that is looked into, in bytes.
	maxCursor = 512
)

// listing names what a list route lists: the route and the parameters that
// decide which rows there are and in which order. A cursor of one listing is
// refused by every other.
type listing []string

// cursor is the text that stands for a place in the list: version, checksum,
// and the place as JSON. The checksum is over the listing too. It has no key:
// anyone who computes it again gets to a place that the list could be read up to
// anyway.
func (l listing) cursor(place ...string) string {
	// Text that is not UTF-8 is replaced, and refused when it comes back.
	text, _ := json.Marshal(place) // never fails for strings
	hash := sha256.New()
	_ = json.NewEncoder(hash).Encode([]any{cursorVersion, l, place}) // likewise
	packed := append([]byte{cursorVersion}, hash.Sum(nil)[:cursorSum]...)
	return base64.RawURLEncoding.EncodeToString(append(packed, text...))
}

// place reads what cursor wrote for this listing, and nothing else.
func (l listing) place(cursor string, least, most int) (place []string, ok bool) {
	if len(cursor) > maxCursor {
		return nil, false
	}
	packed, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(packed) < 1+cursorSum {
		return nil, false
	}
	err = json.Unmarshal(packed[1+cursorSum:], &place)
	if err != nil || len(place) < least || len(place) > most || slices.ContainsFunc(place, func(s string) bool { return !isText(s) }) {
		return nil, false
	}
	return place, l.cursor(place...) == cursor
}

// isText reports whether every database takes s as text.
func isText(s string) bool {
	return strings.ToValidUTF8(s, "") == s && !strings.Contains(s, "\x00")
}
