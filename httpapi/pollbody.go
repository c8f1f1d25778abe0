package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/pricemill/pricemill/schema"
)

// pollBody is a valid body of POST poll. Only whether there is such a provider
// is still open.
type pollBody struct {
	symbols  []schema.Symbol // as they were sent
	interval int             // seconds
	provider string          // empty for the default
}

// readPollBody takes the body for JSON whatever its type says: the check of the
// origin, not the type, keeps other sites' pages from posting.
func (a *API) readPollBody(r *http.Request) (pollBody, error) {
	data, err := readBody(r)
	if err != nil {
		return pollBody{}, err
	}
	return decodePollBody(data, int64(a.config.MinInterval/time.Second))
}

// readBody returns a body that is text and not too large.
func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > MaxBody {
		return nil, &http.MaxBytesError{Limit: MaxBody}
	}
	data, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, err
	case err != nil, !utf8.Valid(data): // cut short, or not text: both are the client's
		return nil, newError(codeBadRequest, "There was an error parsing the body")
	}
	return data, nil
}

// decodePollBody reads a body and reports all of its faults. It keeps the raw
// JSON of each value, so that a fault shows it as it was sent.
func decodePollBody(data []byte, minInterval int64) (pollBody, error) {
	d, err := newBodyDecoder(data)
	if err != nil {
		return pollBody{}, err
	}
	body := pollBody{symbols: d.symbols(schema.MaxJobSymbols), interval: d.interval(minInterval), provider: d.provider()}
	return body, d.faults.orNil()
}

// newBodyDecoder takes data for a JSON object.
func newBodyDecoder(data []byte) (*bodyDecoder, error) {
	if len(data) == 0 {
		return nil, faults{inBody(nil).missing()}
	}
	value, err := decodeJSON(data)
	if err != nil {
		return nil, err
	}
	switch {
	case string(value) == "null":
		return nil, faults{inBody(nil).missing()}
	case value[0] != '{':
		return nil, faults{inBody(value).notObject()}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(value, &fields); err != nil {
		return nil, fmt.Errorf("reading the fields of a checked JSON object: %w", err)
	}
	return &bodyDecoder{object: value, fields: fields}, nil
}

// byteOrderMark may stand before a JSON text, and does where some editors and PowerShell
// wrote it; a reader may ignore it (RFC 8259, section 8.1).
const byteOrderMark = "\ufeff"

// decodeJSON returns the one value that data holds, without space around it.
func decodeJSON(data []byte) (json.RawMessage, error) {
	data = bytes.TrimPrefix(data, []byte(byteOrderMark))
	var value json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&value); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			// Offset counts the bytes read, the wrong one included.
			return nil, jsonFault(int(syntax.Offset)-1, syntax.Error())
		}
		return nil, jsonFault(len(data), "unexpected end of JSON input")
	}
	rest := data[decoder.InputOffset():]
	if extra := bytes.TrimLeft(rest, " \t\r\n"); len(extra) > 0 {
		return nil, jsonFault(len(data)-len(extra), "Extra data")
	}
	return bytes.TrimSpace(value), nil
}

func jsonFault(position int, reason string) error {
	at := place{[]any{"body", max(0, position)}, struct{}{}}
	return faults{at.faultWith("json_invalid", "JSON decode error", map[string]any{"error": reason})}
}

// bodyDecoder reads the fields of a body and collects what is wrong with them.
type bodyDecoder struct {
	object json.RawMessage
	fields map[string]json.RawMessage
	at     []any // where in the body the object is; nil for the body itself
	faults faults
}

// place is where a value is in the body: at is its way from the object.
func (d *bodyDecoder) place(input any, at ...any) place {
	return inBody(input, append(slices.Clip(d.at), at...)...)
}

func (d *bodyDecoder) add(f fault) { d.faults = append(d.faults, f) }

// field returns a required field; its absence is a fault, whose input is the
// object that lacks it.
func (d *bodyDecoder) field(name string) (json.RawMessage, place, bool) {
	raw, given := d.fields[name]
	if !given {
		d.add(d.place(d.object, name).missing())
	}
	return raw, d.place(raw, name), given
}

func (d *bodyDecoder) symbols(most int) []schema.Symbol {
	raw, at, given := d.field("symbols")
	if !given {
		return nil
	}
	var items []json.RawMessage
	if raw[0] != '[' || json.Unmarshal(raw, &items) != nil {
		d.add(at.notList())
		return nil
	}
	// A list that is too long is not looked into.
	if len(items) > most {
		d.add(at.longList(most, len(items)))
		return nil
	}
	if len(items) == 0 {
		d.add(at.shortList(1, 0))
		return nil
	}
	var symbols []schema.Symbol
	for i, item := range items {
		symbol, f := readSymbolItem(item, d.place(item, "symbols", i))
		if f != nil {
			d.add(*f)
			continue
		}
		symbols = append(symbols, symbol)
	}
	return symbols
}

func readSymbolItem(item json.RawMessage, at place) (schema.Symbol, *fault) {
	text, isString := readString(item)
	if !isString {
		f := at.notString()
		return "", &f
	}
	return readSymbol(text, at)
}

func readString(raw json.RawMessage) (text string, ok bool) {
	if raw[0] != '"' {
		return "", false
	}
	err := json.Unmarshal(raw, &text)
	return text, err == nil
}

func (d *bodyDecoder) interval(low int64) int {
	raw, at, given := d.field("interval")
	if !given {
		return 0
	}
	value, f := readInt(raw, at)
	if f == nil {
		f = checkBounds(value, low, schema.MaxPollingInterval, at)
	}
	if f != nil {
		d.add(*f)
		return 0
	}
	return int(value)
}

// readInt is as lax as the original: numbers and text without a fraction are
// integers, and so are true and false.
func readInt(raw json.RawMessage, at place) (int64, *fault) {
	var f fault
	switch c := raw[0]; {
	case c == 't':
		return 1, nil
	case c == 'f':
		return 0, nil
	case c == '"':
		text, _ := readString(raw)
		if value, ok := parseInt(text); ok {
			return value, nil
		}
		f = at.notIntText()
	case c == '-' || c >= '0' && c <= '9':
		return readNumber(string(raw), at)
	default:
		f = at.notInt()
	}
	return 0, &f
}

func readNumber(text string, at place) (int64, *fault) {
	if value, ok := parseInt(text); ok {
		return value, nil
	}
	var f fault
	number, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil: // the grammar is JSON's, so it is out of range
		f = at.notFinite()
	case number != math.Trunc(number):
		f = at.fractional()
	case math.Abs(number) >= math.MaxInt64:
		f = at.tooManyDigits()
	default:
		return int64(number), nil
	}
	return 0, &f
}

func (d *bodyDecoder) provider() string {
	raw, given := d.fields["provider"]
	if !given || string(raw) == "null" {
		return ""
	}
	text, isString := readString(raw)
	if !isString {
		d.add(d.place(raw, "provider").notString())
	}
	return text
}
