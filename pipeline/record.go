package pipeline

import (
	"cmp"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// TopicPartition names one partition of one topic.
type TopicPartition struct {
	Topic     schema.Topic
	Partition int32
}

func (tp TopicPartition) String() string {
	return string(tp.Topic) + "/" + strconv.Itoa(int(tp.Partition))
}

// Record is one record of the log. Handlers must not change it, except for
// Prepared, and must not keep its slices after they return.
type Record struct {
	TopicPartition
	// TopicID is the cluster's UUID of the topic: a topic that was deleted
	// and created again has another one.
	TopicID string
	Offset  int64
	// Timestamp is the log's clock. It says when the record was written, not
	// when its event came about. It is zero where a dead letter is retried.
	Timestamp time.Time
	Key       []byte
	Headers   []schema.Header
	Value     []byte

	// Event is decoded before Prepare. A record that cannot be decoded is a
	// dead letter, so a handler never sees one.
	Event schema.Event

	// Prepared is whatever Prepare leaves here for Handle.
	Prepared any

	stage    string // whose stage this is, for the ids of derived events
	derived  int    // events derived so far
	epoch    int64  // the topic's epoch, for row ids
	renewed  int    // how often the log of the topic lost its end
	lineage  string // see store.Topic.Lineage; empty where it is TopicID
	unwanted bool   // the handler does not take this type of event
	fault    error  // why the record must become a dead letter
}

// Decode reads the event of a record that lies in an incarnation of its topic. The
// pipeline does it before any plugin sees the record; where the event cannot be read,
// FaultOf says why.
func (r *Record) Decode(topic store.Topic) {
	r.Locate(topic)
	r.Event, r.fault = schema.DecodeEvent(r.Headers, r.Value)
}

// Locate notes the incarnation of its topic, on which the ids of rows and of derived
// events depend. Decode does so as well.
func (r *Record) Locate(topic store.Topic) {
	r.epoch, r.renewed, r.lineage = topic.Epoch, topic.Renewed, topic.Lineage()
}

// Derive makes the event that follows from this record: its id is a function
// of stage, topic, partition, offset and the number of events derived before
// it, so that a second run over the same record gives the same event.
func (r *Record) Derive(p schema.Payload) schema.Event {
	id := DerivedID(r.stage, r, r.renewed, r.derived)
	r.derived++
	return schema.Event{ID: id, Source: SourcePrefix + r.stage, Traceparent: r.Event.Traceparent, Payload: p}
}

// SourcePrefix begins the source of an event that a stage gave.
const SourcePrefix = "pricemill/"

// DerivedID is the id of the event with number n, from 0, among those that a
// stage derives from a record. Where the log has lost its end, offsets are given
// out a second time, to other records: how often that was tells them apart.
func DerivedID(stage string, r *Record, renewed, n int) string {
	topic := cmp.Or(r.lineage, r.TopicID)
	if renewed > 0 {
		topic += "/" + strconv.Itoa(renewed)
	}
	return schema.DeriveID(stage, topic, strconv.Itoa(int(r.Partition)), strconv.FormatInt(r.Offset, 10), strconv.Itoa(n))
}

// RowID is the id of the row with number index among those that follow from
// this record. See the function RowID.
func (r *Record) RowID(index int) (int64, error) {
	return RowID(r.epoch, r.Partition, r.Offset, index)
}
