package engine

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// TestChecksOfALateStage: a stage that a record has waited for too long is a warning, with
// how long; one that is busy, that no reader depends on, or whose record is young is not.
func TestChecksOfALateStage(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 0}
	now := time.Now()
	stand := func(movedAt time.Time) {
		t.Helper()
		require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec(t.Context(), `DELETE FROM positions`); err != nil {
				return err
			}
			return tx.CreatePositions(t.Context(), []store.Position{{Stage: "test", Topic: string(tp.Topic), Part: tp.Partition,
				TopicID: TestTopicID, MovedAt: schema.NewTime(movedAt)}})
		}))
	}
	send := func(n int, at time.Time) {
		records := make([]log.OutgoingRecord, n)
		for i := range records {
			records[i] = log.OutgoingRecord{Timestamp: at, Value: []byte("{}")}
		}
		require.NoError(t, r.Broker.Send(t.Context(), []log.PartitionBatch{{TopicPartition: tp, Records: records}})[0])
	}
	late := func(own ownStages) string {
		t.Helper()
		runtime, err := New(Config{Store: r.DB, Broker: r.Broker, Topics: r.Stage.topics, Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		checks := runtime.checkLateness(t.Context(), own)
		var texts []string
		for _, c := range checks {
			assert.Equal(t, CheckWarning, c.State)
			texts = append(texts, c.Name+": "+c.Detail)
		}
		return strings.Join(texts, "\n")
	}
	stand(now.Add(-2 * time.Hour))
	assert.Empty(t, late(ownStages{}), "it has applied everything")
	send(3, now.Add(-time.Hour))
	want := "lag of stage test: 3 records of price-events/0 wait, the first of them for 1h0m"
	assert.Contains(t, late(ownStages{}), want)
	assert.Contains(t, late(ownStages{known: true, serving: []string{"test"}}), want)
	assert.Empty(t, late(ownStages{known: true, serving: []string{"another"}}))
	stand(now)
	assert.Empty(t, late(ownStages{}), "it moves, and little waits")
	send(manyRecords, now)
	assert.Contains(t, late(ownStages{}), "lag of stage test: 1003 records", "it moves, and is an hour behind")

	young := NewRig(t, &Recorder{})
	r = young
	stand(now.Add(-2 * time.Hour))
	send(3, now)
	assert.Empty(t, late(ownStages{}), "nothing has waited for long")
}
