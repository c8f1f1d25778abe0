package pipeline

import (
	"context"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/schema"
)

// rigBroker is a log in memory. Its fields may be changed between two uses.
type rigBroker struct {
	infos map[schema.Topic]TopicInfo
	log   map[TopicPartition][]Record
	// oldest is the first offset that a partition still has.
	oldest map[TopicPartition]int64
}

var _ Broker = (*rigBroker)(nil)

func newRigBroker() *rigBroker {
	return &rigBroker{infos: map[schema.Topic]TopicInfo{schema.PriceEvents: {testTopicID, partitions}, schema.QuoteOutcomes: {"topic-2", partitions}},
		log: map[TopicPartition][]Record{}, oldest: map[TopicPartition]int64{}}
}

func (b *rigBroker) EnsureTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]TopicInfo, error) {
	return b.Topics(ctx, topics)
}

func (b *rigBroker) Topics(context.Context, []schema.Topic) (map[schema.Topic]TopicInfo, error) {
	return b.infos, nil
}

func (b *rigBroker) LimitedRetention(context.Context, []schema.Topic) (map[schema.Topic]string, error) {
	return nil, nil
}

func (b *rigBroker) Offsets(_ context.Context, topic schema.Topic) ([]OffsetRange, error) {
	ranges := make([]OffsetRange, b.infos[topic].Partitions)
	for p := range ranges {
		ranges[p] = b.held(TopicPartition{topic, int32(p)})
	}
	return ranges, nil
}

func (b *rigBroker) held(tp TopicPartition) OffsetRange {
	return OffsetRange{b.oldest[tp], int64(len(b.log[tp]))}
}

// Send appends, as the relay's broker would.
func (b *rigBroker) Send(_ context.Context, batches []PartitionBatch) []error {
	for _, batch := range batches {
		tp := batch.TopicPartition
		for _, r := range batch.Records {
			b.log[tp] = append(b.log[tp], Record{TopicPartition: tp, TopicID: b.infos[tp.Topic].ID,
				Offset: int64(len(b.log[tp])), Timestamp: r.Timestamp, Key: r.Key, Headers: slices.Clone(r.Headers), Value: r.Value})
		}
	}
	return make([]error, len(batches))
}

func (b *rigBroker) Subscriber(SubscriberConfig) (message.Subscriber, error) {
	panic("a rig's stage is fed by hand")
}

func (b *rigBroker) Read(_ context.Context, tp TopicPartition, from, to int64, f func([]Record) error) error {
	return f(b.log[tp][from:to])
}
