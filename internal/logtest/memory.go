package logtest

import (
	"context"
	"errors"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// Memory is a log in memory, for tests that feed a stage or a relay by hand. Its fields
// may be changed between two uses.
type Memory struct {
	Infos map[schema.Topic]log.TopicInfo
	Log   map[pipeline.TopicPartition][]pipeline.Record
	// Oldest is the first offset that a partition still has.
	Oldest map[pipeline.TopicPartition]int64
}

var _ log.Broker = (*Memory)(nil)

// NewMemory returns an empty log of these topics.
func NewMemory(topics map[schema.Topic]log.TopicInfo) *Memory {
	return &Memory{Infos: topics, Log: map[pipeline.TopicPartition][]pipeline.Record{}, Oldest: map[pipeline.TopicPartition]int64{}}
}

// EnsureTopics implements log.Broker.
func (m *Memory) EnsureTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	return m.Topics(ctx, topics)
}

// Topics implements log.Broker.
func (m *Memory) Topics(context.Context, []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	return m.Infos, nil
}

// LimitedRetention implements log.Broker.
func (m *Memory) LimitedRetention(context.Context, []schema.Topic) (map[schema.Topic]string, error) {
	return nil, nil
}

// Offsets implements log.Broker.
func (m *Memory) Offsets(_ context.Context, topic schema.Topic) ([]log.OffsetRange, error) {
	ranges := make([]log.OffsetRange, m.Infos[topic].Partitions)
	for p := range ranges {
		ranges[p] = m.Held(pipeline.TopicPartition{Topic: topic, Partition: int32(p)})
	}
	return ranges, nil
}

// Held is the range of one partition.
func (m *Memory) Held(tp pipeline.TopicPartition) log.OffsetRange {
	return log.OffsetRange{Oldest: m.Oldest[tp], End: int64(len(m.Log[tp]))}
}

// Send implements log.Broker.
func (m *Memory) Send(_ context.Context, batches []log.PartitionBatch) []error {
	for _, batch := range batches {
		tp := batch.TopicPartition
		for _, r := range batch.Records {
			m.Log[tp] = append(m.Log[tp], pipeline.Record{TopicPartition: tp, TopicID: m.Infos[tp.Topic].ID,
				Offset: int64(len(m.Log[tp])), Timestamp: r.Timestamp, Key: r.Key, Headers: slices.Clone(r.Headers), Value: r.Value})
		}
	}
	return make([]error, len(batches))
}

// Subscriber implements log.Broker.
func (m *Memory) Subscriber(log.SubscriberConfig) (message.Subscriber, error) {
	panic("a log in memory delivers nothing by itself")
}

// Read implements log.Broker.
func (m *Memory) Read(_ context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error {
	return f(m.Log[tp][from:to])
}

// ErrUnreadable is what Unreadable says.
var ErrUnreadable = errors.New("unreadable")

// Unreadable is a log whose records cannot be read.
type Unreadable struct{ *Memory }

// Read implements log.Broker.
func (Unreadable) Read(context.Context, pipeline.TopicPartition, int64, int64, func([]pipeline.Record) error) error {
	return ErrUnreadable
}
