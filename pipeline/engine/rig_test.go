package engine

import (
	"context"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// RigBroker is a log in memory. Its fields may be changed between two uses.
type RigBroker struct {
	Infos map[schema.Topic]log.TopicInfo
	Log   map[pipeline.TopicPartition][]pipeline.Record
	// oldest is the first offset that a partition still has.
	Oldest map[pipeline.TopicPartition]int64
}

var _ log.Broker = (*RigBroker)(nil)

func newRigBroker() *RigBroker {
	return &RigBroker{Infos: map[schema.Topic]log.TopicInfo{schema.PriceEvents: {ID: TestTopicID, Partitions: Partitions}, schema.QuoteOutcomes: {ID: "topic-2", Partitions: Partitions}},
		Log: map[pipeline.TopicPartition][]pipeline.Record{}, Oldest: map[pipeline.TopicPartition]int64{}}
}

func (b *RigBroker) EnsureTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	return b.Topics(ctx, topics)
}

func (b *RigBroker) Topics(context.Context, []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	return b.Infos, nil
}

func (b *RigBroker) LimitedRetention(context.Context, []schema.Topic) (map[schema.Topic]string, error) {
	return nil, nil
}

func (b *RigBroker) Offsets(_ context.Context, topic schema.Topic) ([]log.OffsetRange, error) {
	ranges := make([]log.OffsetRange, b.Infos[topic].Partitions)
	for p := range ranges {
		ranges[p] = b.held(pipeline.TopicPartition{Topic: topic, Partition: int32(p)})
	}
	return ranges, nil
}

func (b *RigBroker) held(tp pipeline.TopicPartition) log.OffsetRange {
	return log.OffsetRange{Oldest: b.Oldest[tp], End: int64(len(b.Log[tp]))}
}

// Send appends, as the relay's broker would.
func (b *RigBroker) Send(_ context.Context, batches []log.PartitionBatch) []error {
	for _, batch := range batches {
		tp := batch.TopicPartition
		for _, r := range batch.Records {
			b.Log[tp] = append(b.Log[tp], pipeline.Record{TopicPartition: tp, TopicID: b.Infos[tp.Topic].ID,
				Offset: int64(len(b.Log[tp])), Timestamp: r.Timestamp, Key: r.Key, Headers: slices.Clone(r.Headers), Value: r.Value})
		}
	}
	return make([]error, len(batches))
}

func (b *RigBroker) Subscriber(log.SubscriberConfig) (message.Subscriber, error) {
	panic("a rig's stage is fed by hand")
}

func (b *RigBroker) Read(_ context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error {
	return f(b.Log[tp][from:to])
}

// Outcomes is what the log has of the events that the stage gave on a partition.
func (r *Rig) Outcomes(partition int32) []pipeline.Record {
	return r.Broker.Log[pipeline.TopicPartition{Topic: schema.QuoteOutcomes, Partition: partition}]
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
		return tx.AddDeadLetters(r.T.Context(), deadLetters("test", PriceNo("S", 1).Timestamp, []pipeline.Record{record}))
	}))
}

// Recreate empties price-events and gives it another id.
func (r *Rig) Recreate(id string) {
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: id, Partitions: Partitions}
	for p := range int32(Partitions) {
		delete(r.Broker.Log, pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: p})
	}
	r.Stage.outbox.topology = r.topology()
}

// Spec is that of the stage.
func (r *Rig) Spec() StageSpec { return r.Stage.spec }

// AuditHolds audits what a rig has done, fails the test where something does not hold,
// and returns what was counted, by finding. The tests of pipeline_test set it: audit
// imports this package, so tests within it cannot import audit.
var AuditHolds func(r *Rig) map[string]map[string]int64
