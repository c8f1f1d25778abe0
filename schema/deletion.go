package schema

import (
	"encoding/json"
	"errors"
	"strings"
)

// DataDeleted says that the data of a provider, or of one symbol of it, were deleted from the
// log and from all tables. It holds none of them.
type DataDeleted struct {
	DeletionID string   `json:"deletion_id"`
	Provider   Provider `json:"provider"`
	// Symbol is empty where all of the provider's data were deleted.
	Symbol Symbol `json:"symbol,omitempty"`
	// Reason says why, for people, and RequestedBy who asked for it.
	Reason      string `json:"reason"`
	RequestedBy string `json:"requested_by"`
	// Records is how many records of the log were replaced, and Rows how many rows of
	// tables were deleted.
	Records   int64 `json:"records" schema:"needed"`
	Rows      int64 `json:"rows" schema:"needed"`
	BeganAt   Time  `json:"began_at"`
	DeletedAt Time  `json:"deleted_at"`
	// Topics are those on Kafka that were written again, by this deletion or an earlier one.
	Topics []TopicLineage `json:"topics,omitempty"`
}

// TopicLineage says of a topic from which id the ids of events follow that stages derive from its
// records: it has another one since it was written again.
type TopicLineage struct {
	Name    Topic  `json:"name"`
	TopicID string `json:"topic_id"`
	Lineage string `json:"lineage"`
}

// EventType implements Payload.
func (DataDeleted) EventType() EventType { return "data.deleted.v1" }

// Topic implements Payload.
func (DataDeleted) Topic() Topic { return PollingJobs }

// Key is the deletion's id.
func (d DataDeleted) Key() string { return d.DeletionID }

// OccurredAt implements Payload.
func (d DataDeleted) OccurredAt() Time { return d.DeletedAt }

// Validate implements Payload.
func (d DataDeleted) Validate() error {
	errs := []error{requiredID("deletion_id", d.DeletionID), d.Provider.Validate(), required("reason", d.Reason), validReason(d.Reason),
		requiredID("requested_by", d.RequestedBy), requiredTime("began_at", d.BeganAt), requiredTime("deleted_at", d.DeletedAt)}
	if d.Symbol != "" {
		errs = append(errs, d.Symbol.Validate())
	}
	if d.Records < 0 || d.Rows < 0 {
		errs = append(errs, errors.New("records, rows: negative"))
	}
	for _, t := range d.Topics {
		errs = append(errs, requiredID("topics: name", string(t.Name)), requiredID("topics: topic_id", t.TopicID), requiredID("topics: lineage", t.Lineage))
	}
	return errors.Join(errs...)
}

// RecordDeleted is the event of a record whose data were deleted: it has the place in the
// log, so offsets and numbers stay as they are, and no stage does anything with it. It may be
// on every topic, and so belongs to none.
type RecordDeleted struct {
	// DeletionID is that of the DataDeleted.
	DeletionID string `json:"deletion_id"`
	DeletedAt  Time   `json:"deleted_at"`
}

const recordDeleted EventType = "log.record.deleted.v1"

// EventType implements Payload.
func (RecordDeleted) EventType() EventType { return recordDeleted }

// Topic is empty: it is that of the record that was deleted.
func (RecordDeleted) Topic() Topic { return "" }

// Key is the deletion's id. The record itself has no key.
func (r RecordDeleted) Key() string { return r.DeletionID }

// OccurredAt implements Payload.
func (r RecordDeleted) OccurredAt() Time { return r.DeletedAt }

// Validate implements Payload.
func (r RecordDeleted) Validate() error {
	return errors.Join(requiredID("deletion_id", r.DeletionID), requiredTime("deleted_at", r.DeletedAt))
}

// IsRecordDeleted reports whether a record with these headers is a RecordDeleted.
func IsRecordDeleted(headers []Header) bool {
	for _, h := range headers {
		if h.Key == headerType {
			return string(h.Value) == string(recordDeleted)
		}
	}
	return false
}

// Subject is whose data a record holds.
type Subject struct {
	Provider Provider
	Symbol   Symbol
}

// Holds reports whether data of other are data of s, which has no symbol where it stands for
// all of them.
func (s Subject) Holds(other Subject) bool {
	return s.Provider == other.Provider && (s.Symbol == "" || s.Symbol == other.Symbol)
}

// String is provider/symbol, or the provider.
func (s Subject) String() string {
	if s.Symbol == "" {
		return string(s.Provider)
	}
	return MarketKey(s.Provider, s.Symbol)
}

// SubjectsOf says whose data a record holds: one that is an event of a market, of its own or
// of a plugin's, is of one subject; one that cannot be read is of all that its key, its
// subject and its value name, without a symbol where they name none that is valid. None are those that hold no data of a provider, such as commands.
// unread says that the record cannot be read.
func SubjectsOf(topic Topic, key []byte, headers []Header, value []byte) (subjects []Subject, unread bool) {
	event, err := DecodeEvent(headers, value)
	if err == nil {
		switch event.Payload.(type) {
		case RecordDeleted, DataDeleted:
			return nil, false
		}
	}
	if topic == PollingJobs && !isAdjustment(event.Payload) {
		return nil, err != nil // what users have asked for
	}
	add := func(s Subject, ok bool) {
		if ok {
			subjects = append(subjects, s)
		}
	}
	if err == nil {
		add(SubjectOfKey(event.Payload.Key()))
		if len(subjects) == 0 {
			add(subjectOfValue(value))
		}
		return subjects, false
	}
	add(SubjectOfKey(string(key)))
	for _, h := range headers {
		if h.Key == headerSubject {
			add(SubjectOfKey(string(h.Value)))
		}
	}
	add(subjectOfValue(value))
	if len(subjects) == 0 { // perhaps its symbol is what cannot be read
		add(providerNamed(key, value))
	}
	return subjects, true
}

// isAdjustment reports whether an event is about an adjustment, which says something of the
// prices of a provider.
func isAdjustment(payload Payload) bool {
	switch payload.(type) {
	case AdjustmentRecorded, AdjustmentRetracted:
		return true
	}
	return false
}

// SubjectOfKey reads what MarketKey writes; false for a key of another form.
func SubjectOfKey(key string) (Subject, bool) {
	provider, symbol, found := strings.Cut(key, "/")
	s := Subject{Provider(provider), Symbol(symbol)}
	return s, found && s.Provider.Validate() == nil && s.Symbol.Validate() == nil
}

// subjectOfValue reads the fields by which events name their provider and symbol.
func subjectOfValue(value []byte) (Subject, bool) {
	s := named(value)
	return s, s.Provider.Validate() == nil && s.Symbol.Validate() == nil
}

// named are those fields, whatever they hold.
func named(value []byte) Subject {
	var fields struct {
		Provider Provider `json:"provider"`
		Source   Provider `json:"source"`
		Symbol   Symbol   `json:"symbol"`
	}
	var other *json.UnmarshalTypeError // the other fields are read all the same
	if err := json.Unmarshal(value, &fields); err != nil && !errors.As(err, &other) {
		return Subject{}
	}
	if fields.Provider == "" {
		fields.Provider = fields.Source
	}
	return Subject{fields.Provider, fields.Symbol}
}

// providerNamed is the provider that a key or a value names, with no symbol.
func providerNamed(key, value []byte) (Subject, bool) {
	name, _, found := strings.Cut(string(key), "/")
	if provider := Provider(name); found && provider.Validate() == nil {
		return Subject{Provider: provider}, true
	}
	provider := named(value).Provider
	return Subject{Provider: provider}, provider.Validate() == nil
}

func init() {
	Register[DataDeleted]()
	registerAnywhere[RecordDeleted]()
}
