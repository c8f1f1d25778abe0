package pipeline

import (
	"cmp"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/pipeline/internal/state"
	"github.com/pricemill/pricemill/pipeline/rowid"
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

	// State is the engine's; plugins leave it alone.
	State state.Record
}

// Decode reads the event of a record that is in an incarnation of its topic. The
// pipeline does it before any plugin sees the record; where the event cannot be read,
// its State says why.
func (r *Record) Decode(topic store.Topic) {
	r.Locate(topic)
	r.Event, r.State.Fault = schema.DecodeEvent(r.Headers, r.Value)
}

// Locate notes the incarnation of its topic, on which the ids of rows and of derived
// events depend. Decode does so as well.
func (r *Record) Locate(topic store.Topic) {
	r.State.Epoch, r.State.Renewed, r.State.Lineage = topic.Epoch, topic.Renewed, topic.Lineage()
}

// Derive makes the event that follows from this record: its id is a function
// of stage, topic, partition, offset and the number of events derived before
// it, so that a second run over the same record gives the same event.
func (r *Record) Derive(p schema.Payload) schema.Event {
	id := DerivedID(r.State.Stage, r, r.State.Renewed, r.State.Derived)
	r.State.Derived++
	return schema.Event{ID: id, Source: SourcePrefix + r.State.Stage, Traceparent: r.Event.Traceparent, Payload: p}
}

// SourcePrefix begins the source of an event that a stage gave.
const SourcePrefix = "pricemill/"

// DerivedID is the id of the event with number n, from 0, among those that a
// stage derives from a record. Where the log has lost its end, offsets are given
// out a second time, to other records: how often that was tells them apart.
func DerivedID(stage string, r *Record, renewed, n int) string {
	topic := cmp.Or(r.State.Lineage, r.TopicID)
	if renewed > 0 {
		topic += "/" + strconv.Itoa(renewed)
	}
	return schema.DeriveID(stage, topic, strconv.Itoa(int(r.Partition)), strconv.FormatInt(r.Offset, 10), strconv.Itoa(n))
}

// RowID is the id of the row with number index among those that follow from
// this record, from 0 to rowid.MaxIndex. Within a partition, later records have higher ids.
func (r *Record) RowID(index int) (int64, error) {
	return rowid.Of(r.State.Epoch, r.Partition, r.Offset, index)
}

// Token names a place in the chain of a partition: where an event that was emitted will
// be in the log.
type Token struct {
	TopicPartition
	// Seq is the number in the partition's chain, from 1.
	Seq int64
}
