package schema

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of ids, in bytes. Events that follow from an event carry its ids on, so
// one without a bound could make an event that is too large to be published, long
// after it was taken.
const (
	// MaxID bounds every id: of an event, a request, a row, a stream.
	MaxID = 255
	// MaxJobID bounds that of a polling job: the ids of its requests begin with
	// it. See JobRequestID.
	MaxJobID = 200
	// maxTraceparent is twice what version 00 of the W3C's trace context needs.
	maxTraceparent = 110
)

// ErrText is wrapped where a text cannot be an id.
var ErrText = errors.New("not a text of printable characters")

// checkID reports a text that not every engine could keep, index and show: one
// with a control character, such as NUL, that is not UTF-8, or too long.
func checkID(text string, most int) error {
	if len(text) > most {
		return fmt.Errorf("%w: %d bytes, more than %d", ErrText, len(text), most)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return fmt.Errorf("%w: %q", ErrText, shorten(text))
	}
	return nil
}

// validID is for an id that may be missing.
func validID(field, id string) error { return validIDOf(field, id, MaxID) }

func validIDOf(field, id string, most int) error {
	if err := checkID(id, most); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

// requiredID is for an id that must be there.
func requiredID(field, id string) error { return requiredIDOf(field, id, MaxID) }

func requiredIDOf(field, id string, most int) error {
	if id == "" {
		return fmt.Errorf("%s: required", field)
	}
	return validIDOf(field, id, most)
}

// traceparent is a trace context as it may be carried on; one that no tracer wrote
// is as good as none.
func traceparent(text []byte) string {
	if len(text) > maxTraceparent {
		return ""
	}
	for _, c := range text {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return string(text)
}
