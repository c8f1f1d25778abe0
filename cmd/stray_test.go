package cmd_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// Another program writes a record with the name of one of the service's chains, and a
// number far above the last one given, while quotes come in. The command that /readyz
// names loses that record and nothing else.
func TestARecordOfAnotherProgram(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	p.feed(oneEach(0, 10))
	broker := connect(t, p.env)
	at := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 1}
	var forged log.OutgoingRecord
	require.NoError(t, broker.Read(t.Context(), at, 9, 10, func(records []pipeline.Record) error {
		forged = log.OutgoingRecord{Timestamp: records[0].Timestamp, Key: records[0].Key, Value: records[0].Value}
		for _, h := range records[0].Headers {
			switch h.Key {
			case "ce_id":
				h.Value = []byte("forged")
			case "ce_outboxseq":
				h.Value = []byte("1000000")
			}
			forged.Headers = append(forged.Headers, h)
		}
		return nil
	}))
	for _, err := range broker.Send(t.Context(), []log.PartitionBatch{{TopicPartition: at, Records: []log.OutgoingRecord{forged}}}) {
		require.NoError(t, err)
	}
	p.halts("never gave a number above 10", "price-events 1")
	feed(t, p.env, oneEach(10, 10))
	for stage, lost := range p.resolveWith("skip") {
		assert.Equal(t, int64(1), lost, stage)
	}
	p.feed(oneEach(20, 10))
	expect(t, p.env, 30*partitionsInTests, 30*partitionsInTests)
	v, status := verify(t, p.env)
	assert.Zero(t, status)
	assert.Equal(t, int64(1), v.finding(t, "log").Counts["stray records"])
	assert.True(t, strings.Contains(strings.Join(v.finding(t, "log").Limits, "\n"), "out of order"))
}
