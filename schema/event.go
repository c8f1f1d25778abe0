package schema

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// EventType is the name of an event in the past tense, with its version.
type EventType string

// Payload is the data of one type of event. A payload is a plain struct; its
// methods have value receivers.
type Payload interface {
	EventType() EventType
	// Topic is where events of this type are published.
	Topic() Topic
	// Key is the record key: it decides the partition, and thereby which
	// events keep their order among each other.
	Key() string
	// OccurredAt says when the fact came about, by the observer's
	// clock.
	OccurredAt() Time
	// Validate reports every payload that must not be published or applied.
	Validate() error
}

// Failures to decode a record. Each makes the record a dead letter.
var (
	ErrEnvelope    = errors.New("invalid event envelope")
	ErrUnknownType = errors.New("unknown event type")
	ErrPayload     = errors.New("invalid event payload")
)

// registry maps each event type to the struct that decodes it. It is filled
// from init functions, so that importing a plugin makes its events known.
var registry = struct {
	sync.RWMutex
	types map[EventType]registered
	// anywhere are those that belong to no topic.
	anywhere map[EventType]registered
	topics   []Topic
}{types: map[EventType]registered{}, anywhere: map[EventType]registered{}}

type registered struct {
	reflect.Type
	fields []string    // the keys of its JSON form
	flat   []flatField // see decodeFlat
	needed []neededField
}

// Register makes events of P's type decodable and its topic known. It is meant
// for init and panics where two structs claim one type.
func Register[P Payload]() {
	var zero P
	registry.Lock()
	defer registry.Unlock()
	name := zero.EventType()
	if other, taken := registry.types[name]; taken {
		panic(fmt.Sprintf("schema: event type %s registered twice: %v and %T", name, other.Type, zero))
	}
	registry.types[name] = registrationOf[P]()
	if !slices.Contains(registry.topics, zero.Topic()) {
		registry.topics = append(registry.topics, zero.Topic())
	}
}

func registrationOf[P Payload]() registered {
	typ := reflect.TypeFor[P]()
	return registered{typ, jsonFields(typ), flatFields(typ), neededFields(typ)}
}

// registerAnywhere makes events of P's type decodable on every topic. No component consumes
// or produces them, so EventTypes does not list the type.
func registerAnywhere[P Payload]() {
	var zero P
	registry.Lock()
	defer registry.Unlock()
	registry.anywhere[zero.EventType()] = registrationOf[P]()
}

// Topics lists the topics of all registered events: those of the chain in the
// order of the data's way, then those of plugins.
func Topics() []Topic {
	registry.RLock()
	defer registry.RUnlock()
	return slices.Clone(registry.topics)
}

// TopicOf is the topic of events of type t.
func TopicOf(t EventType) (Topic, bool) {
	registry.RLock()
	defer registry.RUnlock()
	typ, known := registry.types[t]
	if !known {
		return "", false
	}
	return reflect.Zero(typ.Type).Interface().(Payload).Topic(), true
}

// EventTypes lists all registered types in alphabetical order.
func EventTypes() []EventType {
	registry.RLock()
	defer registry.RUnlock()
	names := make([]EventType, 0, len(registry.types))
	for name := range registry.types {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Event is one CloudEvents 1.0 event.
type Event struct {
	// ID identifies the fact: publishing it twice gives the same ID twice. At most
	// MaxID bytes of printable text.
	ID string
	// Source is the stage or component that published it.
	Source string
	// Traceparent is the W3C trace context, empty for none. One that cannot be one
	// is dropped when the event is decoded.
	Traceparent string
	Payload     Payload
}

// Header is one header of a Kafka record.
type Header struct {
	Key   string
	Value []byte
}

// Names of the headers; see "Kafka Protocol Binding for CloudEvents 1.0",
// section 3.2, binary content mode.
const (
	headerID          = "ce_id"
	headerSource      = "ce_source"
	headerSpecVersion = "ce_specversion"
	headerType        = "ce_type"
	headerTime        = "ce_time"
	headerSubject     = "ce_subject"
	headerContentType = "content-type"
	headerTraceparent = "traceparent"
	specVersion       = "1.0"
	jsonContent       = "application/json"
	structuredContent = "application/cloudevents"
)

// Values that all events share; nothing changes the value of a header.
var specVersionValue, jsonContentValue = []byte(specVersion), []byte(jsonContent)

// Encode writes the event in binary mode: the value is the payload as JSON,
// every attribute is a header.
func (e Event) Encode() ([]Header, []byte, error) {
	if e.ID == "" || e.Source == "" || e.Payload == nil {
		return nil, nil, fmt.Errorf("encoding an event: %w: id, source and payload are required", ErrEnvelope)
	}
	if err := checkID(e.ID, MaxID); err != nil {
		return nil, nil, fmt.Errorf("encoding an event: %w: id: %w", ErrEnvelope, err)
	}
	if err := e.Payload.Validate(); err != nil {
		return nil, nil, fmt.Errorf("encoding %s: %w: %w", e.Payload.EventType(), ErrPayload, err)
	}
	value, err := encodePayload(e.Payload)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding %s: %w: %w", e.Payload.EventType(), ErrPayload, err)
	}
	// The values of the headers share one array. With room for the trace context, and
	// for what the pipeline adds.
	b := make([]byte, 0, 192)
	last := func() []byte { // what was appended since it was called before
		value := b[:len(b):len(b)]
		b = b[len(b):]
		return value
	}
	headers := make([]Header, 0, 11)
	b = append(b, e.ID...)
	headers = append(headers, Header{headerID, last()})
	b = append(b, e.Source...)
	headers = append(headers, Header{headerSource, last()}, Header{headerSpecVersion, specVersionValue})
	b = append(b, e.Payload.EventType()...)
	headers = append(headers, Header{headerType, last()})
	if b, err = e.Payload.OccurredAt().AppendText(b); err != nil {
		return nil, nil, fmt.Errorf("encoding the time of %s: %w: %w", e.Payload.EventType(), ErrPayload, err)
	}
	headers = append(headers, Header{headerTime, last()})
	b = append(b, e.Payload.Key()...)
	headers = append(headers, Header{headerSubject, last()}, Header{headerContentType, jsonContentValue})
	if e.Traceparent != "" {
		headers = append(headers, Header{headerTraceparent, []byte(e.Traceparent)})
	}
	return headers, value, nil
}

// encodePayload writes the JSON of a payload: of those that every price goes through by
// hand, since encoding/json takes most of the time of Event.Encode (BenchmarkEncode), and
// byte for byte what it would write (TestPayloadsAppendAsEncodingJSON).
func encodePayload(p Payload) ([]byte, error) {
	const usual = 256
	switch p := p.(type) { // by type: an interface would not tell a struct that embeds one of these
	case QuoteFetched:
		return p.appendJSON(make([]byte, 0, usual+len(p.RawResponse))), nil
	case QuoteStored:
		return p.appendJSON(make([]byte, 0, usual+len(p.RawResponse))), nil
	case PriceObserved:
		return p.appendJSON(make([]byte, 0, usual)), nil
	}
	return json.Marshal(p)
}

// EventID is the id of an event in binary mode, as its headers have it; empty
// where they have none.
func EventID(headers []Header) string {
	for _, h := range headers {
		if h.Key == headerID {
			return string(h.Value)
		}
	}
	return ""
}

// DecodeEvent reads an event from a record, in binary mode or, where the
// content type starts with application/cloudevents, in structured mode.
func DecodeEvent(headers []Header, value []byte) (Event, error) {
	if !utf8.Valid(value) {
		return Event{}, fmt.Errorf("decoding an event: %w: not valid UTF-8", ErrPayload)
	}
	var a attributes
	for _, h := range headers {
		a.set(h.Key, h.Value)
	}
	if isStructured(a.contentType) {
		var err error
		if value, err = a.readStructured(value); err != nil {
			return Event{}, err
		}
	}
	if string(a.specVersion) != specVersion {
		return Event{}, fmt.Errorf("decoding an event: %w: specversion is %q, not %q",
			ErrEnvelope, shorten(string(a.specVersion)), specVersion)
	}
	if len(a.id) == 0 || len(a.source) == 0 || len(a.typ) == 0 {
		return Event{}, fmt.Errorf("decoding an event: %w: id, source and type are required", ErrEnvelope)
	}
	id := string(a.id)
	if err := checkID(id, MaxID); err != nil {
		return Event{}, fmt.Errorf("decoding an event: %w: id: %w", ErrEnvelope, err)
	}
	payload, err := decodePayload(a.typ, value)
	if err != nil {
		return Event{}, err
	}
	return Event{ID: id, Source: string(a.source), Traceparent: traceparent(a.traceparent), Payload: payload}, nil
}

// DecodePayload reads the payload of an event of a type, with all checks of
// DecodeEvent.
func DecodePayload(name EventType, value []byte) (Payload, error) {
	if !utf8.Valid(value) {
		return nil, fmt.Errorf("decoding %s: %w: not valid UTF-8", name, ErrPayload)
	}
	return decodePayload([]byte(name), value)
}

func decodePayload(name, value []byte) (Payload, error) {
	registry.RLock()
	typ, known := registry.types[EventType(name)]
	if !known {
		typ, known = registry.anywhere[EventType(name)]
	}
	registry.RUnlock()
	if !known {
		return nil, fmt.Errorf("decoding an event: %w %q", ErrUnknownType, shorten(string(name)))
	}
	target := reflect.New(typ.Type)
	if !decodeFlat(value, typ.flat, target.Elem()) {
		target.Elem().SetZero()
		if err := json.Unmarshal(value, target.Interface()); err != nil {
			return nil, fmt.Errorf("decoding %s: %w: %w", name, ErrPayload, err)
		}
		if err := checkKeys(value, typ.fields); err != nil {
			return nil, fmt.Errorf("decoding %s: %w: %w", name, ErrPayload, err)
		}
	}
	payload := target.Elem().Interface().(Payload)
	if err := errors.Join(payload.Validate(), checkNeeded(value, typ.needed, target.Elem())); err != nil {
		return nil, fmt.Errorf("decoding %s: %w: %w", name, ErrPayload, err)
	}
	return payload, nil
}

// attributes are the raw attributes of an event while it is being decoded.
type attributes struct {
	id, source, specVersion, typ, contentType, traceparent []byte
}

func (a *attributes) set(key string, value []byte) {
	switch key {
	case headerID:
		a.id = value
	case headerSource:
		a.source = value
	case headerSpecVersion:
		a.specVersion = value
	case headerType:
		a.typ = value
	case headerContentType:
		a.contentType = value
	case headerTraceparent:
		a.traceparent = value
	}
}

// isStructured tells a content type of structured mode; media types have no case.
func isStructured(contentType []byte) bool {
	n := len(structuredContent)
	return len(contentType) >= n && strings.EqualFold(string(contentType[:n]), structuredContent)
}

// envelope is an event in structured mode.
type envelope struct {
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	SpecVersion string          `json:"specversion"`
	Traceparent string          `json:"traceparent"`
	Data        json.RawMessage `json:"data"`
	DataBase64  []byte          `json:"data_base64"`
}

// readStructured takes the attributes from the JSON envelope and returns the data.
func (a *attributes) readStructured(value []byte) ([]byte, error) {
	var e envelope
	err := json.Unmarshal(value, &e)
	if err == nil {
		err = checkKeys(value, jsonFields(reflect.TypeFor[envelope]()))
	}
	if err == nil && e.Data != nil && e.DataBase64 != nil {
		err = errors.New("data and data_base64 exclude each other")
	}
	if err != nil {
		return nil, fmt.Errorf("decoding a structured event: %w: %w", ErrEnvelope, err)
	}
	a.id, a.source, a.typ, a.specVersion = []byte(e.ID), []byte(e.Source), []byte(e.Type), []byte(e.SpecVersion)
	if e.Traceparent != "" { // else the record's own header stands
		a.traceparent = []byte(e.Traceparent)
	}
	if e.DataBase64 == nil {
		return e.Data, nil
	}
	if !utf8.Valid(e.DataBase64) {
		return nil, fmt.Errorf("decoding a structured event: %w: data_base64 is not valid UTF-8", ErrPayload)
	}
	return e.DataBase64, nil
}

// DeriveID gives the same UUID (version 8, RFC 9562 section 5.8) for the same
// parts, and another for any others.
func DeriveID(parts ...string) string {
	text := make([]byte, 0, 128)
	for _, part := range parts {
		// The length in front keeps ("ab","c") apart from ("a","bc").
		text = append(strconv.AppendInt(text, int64(len(part)), 10), ':')
		text = append(text, part...)
	}
	sum := sha256.Sum256(text)
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	var id [36]byte
	hex.Encode(id[0:8], sum[0:4])
	hex.Encode(id[9:13], sum[4:6])
	hex.Encode(id[14:18], sum[6:8])
	hex.Encode(id[19:23], sum[8:10])
	hex.Encode(id[24:36], sum[10:16])
	id[8], id[13], id[18], id[23] = '-', '-', '-', '-'
	return string(id[:])
}
