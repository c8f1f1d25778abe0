package engine

import (
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Outcomes is what the log has of the events that the stage gave on a partition.
func (r *Rig) Outcomes(partition int32) []pipeline.Record {
	return r.Broker.Log[pipeline.TopicPartition{Topic: schema.QuoteOutcomes, Partition: partition}]
}

// newMemory is a log that has the topics of a rig.
func newMemory() *logtest.Memory {
	return logtest.NewMemory(map[schema.Topic]log.TopicInfo{
		schema.PriceEvents: {ID: TestTopicID, Partitions: Partitions}, schema.QuoteOutcomes: {ID: "topic-2", Partitions: Partitions}})
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
	r.Stage.topics = r.topics()
	r.Stage.outbox = outbox.NewWriter(r.Stage.topics)
}

// Spec is that of the stage.
func (r *Rig) Spec() StageSpec { return r.Stage.spec }

// AuditHolds audits what a rig has done, fails the test where something does not hold,
// and returns what was counted, by finding. The tests of pipeline_test set it: audit
// imports this package, so tests within it cannot import audit.
var AuditHolds func(r *Rig) map[string]map[string]int64
