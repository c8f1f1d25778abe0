package engine

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// oneByOne is a broker that hands out each record on its own.
type oneByOne struct{ *logtest.Memory }

func (b oneByOne) Read(ctx context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error {
	for ; from < to; from++ {
		if err := b.Memory.Read(ctx, tp, from, from+1, f); err != nil {
			return err
		}
	}
	return nil
}

// setPosition changes the position of the rig's stage at a partition by SQL.
func (r *Rig) setPosition(partition int32, set string) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(r.T.Context(), `UPDATE positions SET `+set+` WHERE part = $1`, partition)
		return err
	}))
}

func everyPosition(store.Position) bool { return true }

// What a resolution loses follows from the first record of the chain after the position:
// not from records of others before it, nor from later ones.
func TestAResolutionGoesByTheNextRecordOfTheChain(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Append(1, 0, nil)
	r.Append(1, 3, nil)
	r.Append(1, 5, nil)
	r.assign()
	r.setPosition(1, `halted = 'by hand'`)
	resolutions, err := operator.PlanResolutions(t.Context(), r.DB, logtest.Unreadable{Memory: r.Broker}, r.topics(), halt.Skip, everyPosition)
	require.ErrorIs(t, err, logtest.ErrUnreadable)
	require.Empty(t, resolutions)
	resolutions, err = operator.PlanResolutions(t.Context(), r.DB, oneByOne{r.Broker}, r.topics(), halt.Skip, everyPosition)
	require.NoError(t, err)
	assert.Equal(t, int64(2), lostOne(t, resolutions).Lost)
	assert.Equal(t, "2 records that are missing from the log before offset 1", resolutions[0].Loses)
	require.NoError(t, operator.ApplyResolutions(t.Context(), r.DB, resolutions))
	r.Consume()
	assert.Len(t, r.effects(), 2)
	assert.Contains(t, r.position(1).Halted, "goes from number 3 of outbox-1 to 5 of outbox-1")
}

func TestAResolutionThatFailsIsNotAmongTheOthers(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.assign()
	r.setPosition(1, `halted = 'by hand', topic = 'of-another-binary'`)
	r.setPosition(2, `halted = 'by hand'`)
	resolutions, err := r.resolutions(halt.Skip)
	require.ErrorContains(t, err, "test on of-another-binary/1: no event of this binary is on topic of-another-binary")
	resolution := lostOne(t, resolutions)
	assert.Equal(t, int32(2), resolution.Partition)
	assert.Equal(t, "by hand", resolution.Halted)
	require.NoError(t, operator.ApplyResolutions(t.Context(), r.DB, resolutions))
	assert.Empty(t, r.position(2).Halted)
}

// The log may lose its end while a stage is halted for another reason, before any
// process notes where it ended.
func TestSkipAnEndThatIsLostUnnoticed(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 8)
	r.Relay()
	r.Consume()
	r.setPosition(1, `halted = 'by hand'`)
	r.Broker.Log[at(1)] = r.Broker.Log[at(1)][:5]
	require.Nil(t, r.position(1).LogEnded)
	resolution := lostOne(t, r.Resolve(halt.Skip))
	assert.Contains(t, resolution.Loses, "whatever others had written after offset 7")
	assert.Equal(t, int64(5), r.position(1).Next)
}

// What a stage has applied was in the topic that is gone, although the relay could not
// note it: it is not carried over to the new one.
func TestWhatWasAppliedOfATopicThatIsGoneIsNotSentAgain(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 8)
	r.Relay()
	r.Consume()
	r.unsend(1, 6)
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: "topic-9", Partitions: Partitions}
	r.Broker.Log = map[pipeline.TopicPartition][]pipeline.Record{}
	assert.NotContains(t, r.assign(), at(1))
	r.Resolve(halt.Skip)
	r.Relay()
	r.Emit(1, 2)
	r.Relay()
	r.Consume()
	assert.Len(t, r.effects(), 8+2)
	assert.Empty(t, r.letters())
}

// Records without a number that lie before a stray one are applied, not skipped
// with it.
func TestSkipPassesOverNothingBeforeAStrayRecord(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 4)
	r.Relay()
	r.Consume()
	r.setPosition(1, `halted = 'by hand'`)
	r.Append(1, 0, nil)
	r.forge(1, 10_000)
	r.Emit(1, 5)
	r.Relay()
	resolution := lostOne(t, r.Resolve(halt.Skip))
	assert.Zero(t, resolution.Lost)
	assert.Equal(t, "nothing", resolution.Loses)
	r.Consume()
	assert.Len(t, r.effects(), 4+1)
	assert.Contains(t, r.position(1).Halted, "number 10000")
	_, err := r.resolutions(halt.Resume)
	require.ErrorIs(t, err, operator.ErrNotResolved, "this database did not write it")
	resolution = lostOne(t, r.Resolve(halt.Skip))
	assert.Equal(t, int64(1), resolution.Lost)
	assert.Contains(t, resolution.Loses, "1 records from offset 5 on, which are out of order")
	r.Consume()
	assert.Len(t, r.effects(), 4+1+5)
	assert.Empty(t, r.position(1).Halted)
}
