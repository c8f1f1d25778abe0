package log

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// TopicInfo is what the cluster says of a topic.
type TopicInfo struct {
	ID         string
	Partitions int32
}

// OffsetRange is what a partition holds: offsets from Oldest up to but not
// including End.
type OffsetRange struct{ Oldest, End int64 }

// Claim is a partition that a consumer session was given.
type Claim struct {
	pipeline.TopicPartition
	TopicInfo
	OffsetRange
}

// Assignor decides where each partition of a session starts. A stage is one.
type Assignor interface {
	// Assign runs once at the start of each session, before its first record,
	// and never while a batch of an earlier session of the same subscriber is
	// in flight. It returns the next offset of each claim that is to be
	// consumed; a claim that is missing from the answer is not consumed. The
	// answer lies within each claim's range. An error ends the session; the
	// subscriber tries again after a pause.
	//
	// restart ends the session, at any time and from any goroutine: all
	// partitions are then assigned again. After the session it does nothing.
	Assign(ctx context.Context, claims []Claim, restart func()) (map[pipeline.TopicPartition]int64, error)
}

// SubscriberConfig describes one consumer group.
type SubscriberConfig struct {
	// Group is the name of the consumer group. Required.
	Group string
	// Assignor keeps the positions. Nil: the group's committed offsets do.
	Assignor Assignor
	// Report, if not nil, is told why consuming fails, at each attempt, and nil once
	// it works again. A *PartitionError is of one partition, while the others continue.
	Report func(error)
	// BatchSize is the most records a message carries. 0 means 2,000 with Kafka, and
	// 1,000 with the table log. With 1, a message is a record: its payload and metadata
	// are the record's.
	BatchSize int
	// Lanes is how many batches may be in flight, each of its own partitions.
	// 0 means one for two processors: stages work side by side, and the log and the
	// database at the same time. More lanes are smaller batches of more cost each.
	Lanes int
	// Linger is how long an incomplete batch waits for more. 0 means 2 ms.
	Linger time.Duration
}

// PartitionError says why the records of one partition do not come.
type PartitionError struct {
	pipeline.TopicPartition
	Err error
}

// Error implements error.
func (e *PartitionError) Error() string {
	return fmt.Sprintf("consuming %s: %v", e.TopicPartition, e.Err)
}

// Unwrap returns the cause.
func (e *PartitionError) Unwrap() error { return e.Err }

// OutgoingRecord is a record to be appended to a partition.
type OutgoingRecord struct {
	Key     []byte
	Headers []schema.Header
	Value   []byte
	// Timestamp is what the log says of when the record was written, to the
	// millisecond. The zero time, which all but copies have, means now.
	Timestamp time.Time
}

// Size is what the record counts for in the limits of a batch.
func (r OutgoingRecord) Size() int {
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value)
	}
	return size
}

// PartitionBatch is records for one partition, which are appended together and
// in order, or not at all.
type PartitionBatch struct {
	pipeline.TopicPartition
	Records []OutgoingRecord
}

// Broker is the log. It is safe for concurrent use.
type Broker interface {
	// EnsureTopics creates the topics that do not exist and describes all of
	// them. It never changes a topic that exists.
	EnsureTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]TopicInfo, error)
	// Topics describes those of the topics that exist, and creates none.
	Topics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]TopicInfo, error)
	// LimitedRetention returns those of the topics that do not keep all their
	// records forever, each with the settings that say so, for people. That is
	// its operator's choice, and what is gone cannot be replayed.
	LimitedRetention(ctx context.Context, topics []schema.Topic) (map[schema.Topic]string, error)
	// Offsets returns the range of each partition of a topic.
	Offsets(ctx context.Context, topic schema.Topic) ([]OffsetRange, error)
	// Send appends each batch, acknowledged by all replicas in sync, and
	// returns one error (or nil) for each. After an error the records may be
	// in the log or not: the caller sends them again, before any later ones of
	// the partition.
	Send(ctx context.Context, batches []PartitionBatch) []error
	// Subscriber joins a consumer group. The topic given to its Subscribe may
	// be several, joined by commas: they then share the lanes.
	Subscriber(cfg SubscriberConfig) (message.Subscriber, error)
	// Read calls f with the records of a partition from offset from up to but
	// not including to, in order, in slices of any size, and without a group.
	// Events are not decoded. It returns the error of f, if any.
	Read(ctx context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error
}

// ErrDamaged is wrapped where a log does not read as it was written: bytes changed, or
// records are missing.
var ErrDamaged = errors.New("the log is damaged")

// ErrStandby is what a subscriber reports while another process consumes the log.
var ErrStandby = errors.New("standing by: another process consumes the log; this one takes over when that one ends")

// TransactionalLog is a Broker whose log is in the pipeline's database: what a
// transaction publishes is in the log when the transaction commits. There is no outbox to
// relay. Each record has the next number of its partition, and its offset is that number
// less one.
type TransactionalLog interface {
	Broker
	// AppendTx appends rows, in their order, and fills in their numbers.
	AppendTx(ctx context.Context, tx *store.Tx, rows []store.OutboxRow) error
}

// MaxEventBytes bounds an event with its headers and key. Kafka refuses
// messages above 1 MiB by default; the difference is the frame around it.
const MaxEventBytes = 1_000_000

// BatchRecords and BatchBytes bound what is sent to a partition at once.
const (
	BatchRecords = 2000
	BatchBytes   = 900_000
)
