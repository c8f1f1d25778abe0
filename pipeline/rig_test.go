package pipeline

import (
	"context"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// RigBroker is a log in memory. Its fields may be changed between two uses.
type RigBroker struct {
	Infos map[schema.Topic]TopicInfo
	Log   map[TopicPartition][]Record
	// oldest is the first offset that a partition still has.
	Oldest map[TopicPartition]int64
}

var _ Broker = (*RigBroker)(nil)

func newRigBroker() *RigBroker {
	return &RigBroker{Infos: map[schema.Topic]TopicInfo{schema.PriceEvents: {TestTopicID, Partitions}, schema.QuoteOutcomes: {"topic-2", Partitions}},
		Log: map[TopicPartition][]Record{}, Oldest: map[TopicPartition]int64{}}
}

func (b *RigBroker) EnsureTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]TopicInfo, error) {
	return b.Topics(ctx, topics)
}

func (b *RigBroker) Topics(context.Context, []schema.Topic) (map[schema.Topic]TopicInfo, error) {
	return b.Infos, nil
}

func (b *RigBroker) LimitedRetention(context.Context, []schema.Topic) (map[schema.Topic]string, error) {
	return nil, nil
}

func (b *RigBroker) Offsets(_ context.Context, topic schema.Topic) ([]OffsetRange, error) {
	ranges := make([]OffsetRange, b.Infos[topic].Partitions)
	for p := range ranges {
		ranges[p] = b.held(TopicPartition{topic, int32(p)})
	}
	return ranges, nil
}

func (b *RigBroker) held(tp TopicPartition) OffsetRange {
	return OffsetRange{b.Oldest[tp], int64(len(b.Log[tp]))}
}

// Send appends, as the relay's broker would.
func (b *RigBroker) Send(_ context.Context, batches []PartitionBatch) []error {
	for _, batch := range batches {
		tp := batch.TopicPartition
		for _, r := range batch.Records {
			b.Log[tp] = append(b.Log[tp], Record{TopicPartition: tp, TopicID: b.Infos[tp.Topic].ID,
				Offset: int64(len(b.Log[tp])), Timestamp: r.Timestamp, Key: r.Key, Headers: slices.Clone(r.Headers), Value: r.Value})
		}
	}
	return make([]error, len(batches))
}

func (b *RigBroker) Subscriber(SubscriberConfig) (message.Subscriber, error) {
	panic("a rig's stage is fed by hand")
}

func (b *RigBroker) Read(_ context.Context, tp TopicPartition, from, to int64, f func([]Record) error) error {
	return f(b.Log[tp][from:to])
}

// Outcomes is what the log has of the events that the stage gave on a partition.
func (r *Rig) Outcomes(partition int32) []Record {
	return r.Broker.Log[TopicPartition{schema.QuoteOutcomes, partition}]
}

// Exec runs one statement on the tables.
func (r *Rig) Exec(query string, args ...any) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		n, err := tx.Exec(r.T.Context(), query, args...)
		assert.Equal(r.T, int64(1), n, "rows of %q", query)
		return err
	}))
}

// Logged has the chain of a partition say that n events more, or fewer, are in
// the log.
func (r *Rig) Logged(topic schema.Topic, partition int32, n int64) {
	r.T.Helper()
	r.Exec(`UPDATE chains SET last = last + $1, sent = sent + $1 WHERE epoch = $2 AND part = $3`, n, r.Epoch(topic), partition)
}

// Bury makes a dead letter of a record.
func (r *Rig) Bury(partition int32, offset int64) {
	r.T.Helper()
	record := r.LogOf(partition)[offset]
	record.State.Fault = assert.AnError
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		return tx.AddDeadLetters(r.T.Context(), deadLetters("test", PriceNo("S", 1).Timestamp, []Record{record}))
	}))
}

// Recreate empties price-events and gives it another id.
func (r *Rig) Recreate(id string) {
	r.Broker.Infos[schema.PriceEvents] = TopicInfo{id, Partitions}
	for p := range int32(Partitions) {
		delete(r.Broker.Log, TopicPartition{schema.PriceEvents, p})
	}
	r.Stage.outbox.topology = r.topology()
}

// Spec is that of the stage.
func (r *Rig) Spec() StageSpec { return r.Stage.spec }

// AuditHolds audits what a rig has done, fails the test where something does not hold,
// and returns what was counted, by finding. The tests of pipeline_test set it: audit
// imports this package, so tests within it cannot import audit.
var AuditHolds func(r *Rig) map[string]map[string]int64
