package engine

import (
	"testing"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Only a position that lies after the end of its own log is halted by it.
func TestWhatLiesBeyondTheLog(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.assign()
	topics := r.topics()
	set := func(change string) {
		require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE positions SET next_offset = 0, halted = '', log_ended = NULL`)
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), `UPDATE positions SET `+change)
			return err
		}))
	}
	halted := func() string {
		require.NoError(t, topics.HaltBeyond(t.Context()))
		return r.position(3).Halted
	}
	r.fill(3, 2)
	set(`next_offset = 2 WHERE part = 3`)
	assert.Empty(t, halted(), "it is at the end")
	set(`next_offset = 3, halted = 'by hand' WHERE part = 3`)
	assert.Equal(t, "by hand", halted())
	now, err := r.DB.RegisterTopic(t.Context(), string(schema.PriceEvents), TestTopicID, Partitions)
	require.NoError(t, err)
	assert.Equal(t, r.Epoch(schema.PriceEvents), now.Epoch, "the topic begins no other epoch for what is halted already")
	set(`next_offset = 3 WHERE part = 3`)
	assert.NotEmpty(t, halted())
	assert.NotNil(t, r.position(3).LogEnded)
	set(`next_offset = 3 WHERE part = 3`)
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: TestTopicID, Partitions: 3}
	assert.Empty(t, halted(), "there is no such partition any more: assigning halts it")
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: TestTopicID, Partitions: Partitions}
	set(`next_offset = 3, topic_id = 'another' WHERE part = 3`)
	assert.Empty(t, halted(), "it is of another incarnation")
}

// Every position beyond the end of its log is halted, on all partitions
// and topics.
func TestAllThatLiesBeyondTheLog(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.assign()
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE positions SET next_offset = 1`)
		require.NoError(t, err)
		return tx.CreatePositions(t.Context(), []store.Position{{Stage: "test", Topic: string(schema.QuoteOutcomes),
			TopicID: "topic-2", Next: 1, MovedAt: schema.NewTime(time.Unix(1, 0))}})
	}))
	require.NoError(t, r.Stage.topics.HaltBeyond(t.Context()))
	positions, err := store.Positions(t.Context(), r.DB, "test")
	require.NoError(t, err)
	require.Len(t, positions, Partitions+1)
	for _, p := range positions {
		assert.NotEmpty(t, p.Halted, "%s/%d", p.Topic, p.Part)
	}
}

// A halt whose reason has gone is resolved at no loss, by either action.
func TestResolveAHaltWhoseReasonHasGone(t *testing.T) {
	t.Parallel()
	for _, action := range []halt.Action{halt.Resume, halt.Skip} {
		r := NewRig(t, &Recorder{})
		r.Emit(1, 2)
		r.Relay()
		r.Consume()
		halt := func(part int32) {
			require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE positions SET halted = 'by hand' WHERE part = $1`, part)
				return err
			}))
		}
		halt(2) // at its end
		resolution := lostOne(t, r.Resolve(action))
		assert.Equal(t, "nothing", resolution.Loses, action)
		assert.Zero(t, resolution.Lost, action)
		r.Emit(1, 2)
		r.Relay()
		halt(1) // before a record that follows
		resolution = lostOne(t, r.Resolve(action))
		assert.Equal(t, "nothing", resolution.Loses, action)
		assert.Zero(t, resolution.Lost, action)
		r.Consume()
		assert.Len(t, r.effects(), 4, action)
	}
}

func TestResolveWhatTheBinaryOrTheTopicLacks(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.assign()
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE positions SET halted = 'by hand' WHERE part = 3`)
		return err
	}))
	topics := r.topics()
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: TestTopicID, Partitions: 3}
	all := func(store.Position) bool { return true }
	_, err := operator.PlanResolutions(t.Context(), r.DB, r.Broker, topics, halt.Skip, all)
	assert.ErrorContains(t, err, "the topic has 3 partitions now")
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE positions SET topic = 'of-another-binary' WHERE part = 3`)
		return err
	}))
	_, err = operator.PlanResolutions(t.Context(), r.DB, r.Broker, topics, halt.Skip, all)
	assert.ErrorContains(t, err, "no event of this binary is on topic of-another-binary")
}

// A topic that was created again, and has lost its head since, continues with what it
// has.
func TestSkipATopicThatWasCreatedAgainAndLostItsHead(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 2)
	r.Relay()
	r.Consume()
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: "topic-9", Partitions: Partitions}
	r.Broker.Log = map[pipeline.TopicPartition][]pipeline.Record{}
	r.assign()
	r.Emit(1, 3)
	r.Relay()
	r.Broker.Oldest[at(1)] = 1
	r.Resolve(halt.Skip)
	assert.Equal(t, int64(1), r.position(1).Next)
	r.Consume()
	assert.Empty(t, r.position(1).Halted)
	assert.Len(t, r.effects(), 2+2)
}
