package schema

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// flatField is a field of a struct whose JSON is a string or a number.
type flatField struct {
	name  string
	index []int // for reflect.Value.FieldByIndex
	// text says that it is a Go string; else its type reads its JSON itself.
	text bool
}

// flatFields lists the fields of a struct for decodeFlat; none for a struct that it
// cannot fill.
func flatFields(t reflect.Type) []flatField {
	var fields []flatField
	seen := map[string]bool{}
	for _, field := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		pointer := reflect.PointerTo(field.Type)
		reads := pointer.Implements(reflect.TypeFor[json.Unmarshaler]())
		switch {
		case field.Anonymous && name == "" && field.Type.Kind() == reflect.Struct && !reads:
			continue // its fields follow
		case !field.IsExported() || name == "" || name == "-" || seen[name] || strings.Contains(options, "string"):
			return nil
		case !reads && (field.Type.Kind() != reflect.String || pointer.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())):
			return nil
		}
		seen[name] = true
		fields = append(fields, flatField{name, field.Index, !reads})
	}
	return fields
}

// decodeFlat reads the JSON that Event.Encode writes for most payloads, an object of
// strings and numbers under known keys, into a struct. With encoding/json an event takes
// more than twice as long to decode (BenchmarkDecode), and each stage on the way of a
// price decodes it again. It reports false for anything else, faults included, and may
// then have filled some fields: encoding/json and checkKeys decide about those, and are
// the ones that say what is wrong. Where it reports true, they would have filled in the
// same (FuzzDecodeFlat). The object must be valid UTF-8.
func decodeFlat(object []byte, fields []flatField, target reflect.Value) bool {
	if len(fields) == 0 || len(fields) > 64 {
		return false
	}
	known := fielderOf(target.Addr().Interface())
	s := flatScanner{text: object}
	if !s.take('{') {
		return false
	}
	var seen uint64
	for {
		key, escaped, ok := s.str()
		if !ok || escaped || !s.take(':') {
			return false
		}
		at := -1
		for i := range fields {
			if string(key[1:len(key)-1]) == fields[i].name {
				at = i
				break
			}
		}
		if at < 0 || seen&(1<<at) != 0 {
			return false
		}
		seen |= 1 << at
		if !fields[at].read(&s, target, known) {
			return false
		}
		switch {
		case s.take(','):
		case s.take('}'):
			s.space()
			return s.at == len(s.text)
		default:
			return false
		}
	}
}

// fielder is a struct that gives pointers to its fields by their JSON names: of those
// that every price goes through, for which reflection takes longer than all else.
type fielder interface {
	field(name string) any
}

// fielderOf is v, where it is one, and nil for any other. An interface would not tell a
// struct that embeds one.
func fielderOf(v any) fielder {
	switch v := v.(type) {
	case *QuoteFetched:
		return v
	case *QuoteStored:
		return v
	case *PriceObserved:
		return v
	}
	return nil
}

func (q *Quote) field(name string) any {
	switch name {
	case "provider":
		return &q.Provider
	case "symbol":
		return &q.Symbol
	case "request_id":
		return &q.RequestID
	}
	return nil
}

func (q *QuoteFetched) field(name string) any {
	switch name {
	case "raw_response":
		return &q.RawResponse
	case "received_at":
		return &q.ReceivedAt
	case "definition":
		return &q.Definition
	}
	return q.Quote.field(name)
}

func (q *QuoteStored) field(name string) any {
	if name == "raw_response_id" {
		return &q.RawResponseID
	}
	return q.QuoteFetched.field(name)
}

func (p *PriceObserved) field(name string) any {
	switch name {
	case "symbol":
		return &p.Symbol
	case "price":
		return &p.Price
	case "size":
		return &p.Size
	case "timestamp":
		return &p.Timestamp
	case "sequence":
		return &p.Sequence
	case "source":
		return &p.Source
	case "raw_response_id":
		return &p.RawResponseID
	case "received_at":
		return &p.ReceivedAt
	case "request_id":
		return &p.RequestID
	}
	return nil
}

// read takes the value of the field from the text. known is target, where it is one.
func (f *flatField) read(s *flatScanner, target reflect.Value, known fielder) bool {
	s.space()
	quoted := s.at < len(s.text) && s.text[s.at] == '"'
	var value []byte
	var escaped, ok bool
	if quoted {
		value, escaped, ok = s.str()
	} else {
		value, ok = s.number()
	}
	if !ok {
		return false
	}
	if known != nil && quoted && !escaped {
		switch field := known.field(f.name).(type) {
		case *string:
			*field = string(value[1 : len(value)-1])
			return true
		case *Symbol:
			*field = Symbol(value[1 : len(value)-1])
			return true
		case *Provider:
			*field = Provider(value[1 : len(value)-1])
			return true
		case *Time:
			return field.UnmarshalText(value[1:len(value)-1]) == nil
		}
	} else if known != nil {
		switch field := known.field(f.name).(type) {
		case *RawResponse:
			return quoted && field.unescape(value)
		case *Decimal:
			return !quoted && field.UnmarshalJSON(value) == nil
		}
	}
	field := target.FieldByIndex(f.index)
	switch {
	case f.text && quoted && !escaped:
		field.SetString(string(value[1 : len(value)-1]))
		return true
	case f.text || escaped && field.Type() != rawResponseType: // which reads strings by encoding/json
		return json.Unmarshal(value, field.Addr().Interface()) == nil
	}
	return field.Addr().Interface().(json.Unmarshaler).UnmarshalJSON(value) == nil
}

var rawResponseType = reflect.TypeFor[RawResponse]()

// unescape reads a JSON string with its quotes. What has other escapes than the short
// ones is for encoding/json.
func (r *RawResponse) unescape(quoted []byte) bool {
	text := make([]byte, 0, len(quoted)-2)
	for rest := quoted[1 : len(quoted)-1]; ; {
		at := bytes.IndexByte(rest, '\\')
		if at < 0 {
			*r = append(text, rest...)
			return true
		}
		c := shortEscapes[rest[at+1]]
		if c == 0 {
			return r.UnmarshalJSON(quoted) == nil
		}
		text = append(append(text, rest[:at]...), c)
		rest = rest[at+2:]
	}
}

// shortEscapes are what stands for a backslash and a letter.
var shortEscapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// flatScanner reads tokens of JSON (RFC 8259).
type flatScanner struct {
	text []byte
	at   int
}

func (s *flatScanner) space() {
	for s.at < len(s.text) && (s.text[s.at] == ' ' || s.text[s.at] == '\t' || s.text[s.at] == '\n' || s.text[s.at] == '\r') {
		s.at++
	}
}

// take skips a character, if it comes next.
func (s *flatScanner) take(c byte) bool {
	s.space()
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

// str takes a string with its quotes. What a backslash introduces is not looked at.
func (s *flatScanner) str() (token []byte, escaped, ok bool) {
	s.space()
	if s.at >= len(s.text) || s.text[s.at] != '"' {
		return nil, false, false
	}
	for i := s.at + 1; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			token, s.at = s.text[s.at:i+1], i+1
			return token, escaped, true
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return nil, false, false
		}
	}
	return nil, false, false
}

// number takes a number.
func (s *flatScanner) number() (token []byte, ok bool) {
	i := s.at
	digits := func() bool {
		from := i
		for i < len(s.text) && s.text[i] >= '0' && s.text[i] <= '9' {
			i++
		}
		return i > from
	}
	next := func(oneOf string) bool {
		if i < len(s.text) && strings.IndexByte(oneOf, s.text[i]) >= 0 {
			i++
			return true
		}
		return false
	}
	next("-")
	if !next("0") && !digits() {
		return nil, false
	}
	if next(".") && !digits() {
		return nil, false
	}
	if next("eE") {
		next("+-")
		if !digits() {
			return nil, false
		}
	}
	token, s.at = s.text[s.at:i], i
	return token, true
}
