package engine

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// newFill is a fill of a second stage of the rig, with the same handler.
func (r *Rig) newFill(progress func(int)) *Fill {
	spec := r.Stage.spec
	spec.Name = store.Scratch + "test"
	return NewFill(FillConfig{Store: r.DB, Broker: r.Broker, Topics: r.topics(), Stage: spec, Log: slog.New(slog.DiscardHandler), Progress: progress})
}

// ends are targets at the ends of the log, or n records before.
func (r *Rig) ends(before int64) map[pipeline.TopicPartition]int64 {
	targets := map[pipeline.TopicPartition]int64{}
	for p := range int32(Partitions) {
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: p}
		targets[tp] = max(0, r.Broker.Held(tp).End-before)
	}
	return targets
}

// filled are the offsets of the fill's positions, by partition.
func (r *Rig) filled() []int64 {
	r.T.Helper()
	positions, err := store.Positions(r.T.Context(), r.DB, store.Scratch+"test")
	require.NoError(r.T, err)
	offsets := make([]int64, len(positions))
	for i, p := range positions {
		offsets[i] = p.Next
	}
	return offsets
}

func TestAFillGoesToItsTargets(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	for p := range int32(Partitions) {
		r.fill(p, 10)
		r.Append(p, 10, nil) // a repeat
		r.Append(p, 11, func(record *pipeline.Record) { record.Value = []byte("no price") })
	}
	read := make(chan int, 100)
	f := r.newFill(func(n int) { read <- n })
	require.NoError(t, f.To(t.Context(), r.ends(8)))
	assert.Equal(t, []int64{4, 4, 4, 4}, r.filled())
	assert.Len(t, r.effects(), 4*Partitions)
	require.NoError(t, f.To(t.Context(), r.ends(8)), "it is there")
	require.NoError(t, f.To(t.Context(), r.ends(0)))
	assert.Len(t, r.effects(), 10*Partitions)
	assert.Equal(t, []int64{12, 12, 12, 12}, r.filled())
	var letters int
	require.NoError(t, r.DB.Get(t.Context(), &letters, `SELECT COUNT(*) FROM dead_letters WHERE stage = $1`, store.Scratch+"test"))
	assert.Equal(t, Partitions, letters)
	assert.Empty(t, r.letters(), "which are none of the service's")
	all, err := store.Positions(t.Context(), r.DB, "")
	require.NoError(t, err)
	assert.Empty(t, all, "nor are its positions")
	close(read)
	total := 0
	for n := range read {
		total += n
	}
	assert.Equal(t, 12*Partitions, total)

	require.ErrorIs(t, f.To(t.Context(), r.ends(1)), ErrPast)
	targets := r.ends(0)
	targets[pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 2}]++
	require.ErrorIs(t, f.To(t.Context(), targets), ErrBeyond)
}

func TestAFillGoesOnBehindBreaks(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	for _, seq := range []int64{1, 2, 5, 6} {
		r.Append(1, seq, nil)
	}
	r.Broker.Oldest[pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 3}] = 2
	r.fill(3, 5)
	f := r.newFill(nil)
	require.NoError(t, f.To(t.Context(), r.ends(0)))
	assert.Len(t, r.effects(), 4+3, "the head that is gone is no break: there is no one who had it")
	require.Len(t, f.Breaks(), 1)
	assert.Equal(t, int64(2), f.Breaks()[0].Lost)
	assert.Contains(t, f.Breaks()[0].Halted, "the log lost 2 records before offset 2")
}

// A break that needs a person stops the fill.
func TestAFillHalts(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 3)
	f := r.newFill(nil)
	info := r.Broker.Infos[schema.PriceEvents]
	info.Partitions++
	r.Broker.Infos[schema.PriceEvents] = info
	err := f.To(t.Context(), r.ends(0))
	require.ErrorIs(t, err, ErrHalted)
	require.ErrorContains(t, err, "the topic has 5 partitions, and had 4")
}

func TestAFillGivesUp(t *testing.T) {
	t.Parallel()
	failing := errors.New("not today")
	r := NewRig(t, &Recorder{before: func([]pipeline.Record) error { return failing }})
	r.fill(1, 3)
	f := r.newFill(nil)
	f.stage.patience = 50 * time.Millisecond
	require.ErrorIs(t, f.To(t.Context(), r.ends(0)), failing)

	f.stage.patience = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, f.To(ctx, r.ends(0)), context.DeadlineExceeded)
}

// Someone who moves the positions of a fill ends it.
func TestAFillIsAlone(t *testing.T) {
	t.Parallel()
	r := NewRig(t, nil)
	first := true
	r.Stage.spec.Handler = &Recorder{before: func([]pipeline.Record) error {
		if !first {
			return nil
		}
		first = false
		return errors.New("meanwhile the position goes back")
	}}
	r.fill(1, 20)
	f := r.newFill(nil)
	require.NoError(t, f.To(t.Context(), r.ends(18)))
	handler := &Recorder{before: func([]pipeline.Record) error { return nil }}
	handler.before = func([]pipeline.Record) error {
		handler.before = nil
		r.Exec(`UPDATE positions SET next_offset = 0 WHERE part = 1`)
		return nil
	}
	f.stage.spec.Handler = &deferred{handler}
	require.ErrorContains(t, f.To(t.Context(), r.ends(0)), "someone else moves its positions")
}

// deferred calls a handler's before outside of the transaction, which SQLite has
// one of.
type deferred struct{ *Recorder }

func (d *deferred) Prepare(_ context.Context, in []pipeline.Record) error {
	if d.before == nil {
		return nil
	}
	return d.before(in)
}

func TestAPaceFollowsWhatTransactionsTake(t *testing.T) {
	t.Parallel()
	p := pace{turn: 10 * time.Millisecond, size: fillFirst}
	for range 20 { // 20 µs a record
		p.note(p.size, time.Duration(p.size)*20*time.Microsecond)
	}
	assert.Equal(t, 500, p.size)
	assert.Equal(t, 500, p.next(false))
	assert.Equal(t, 2000, p.next(true), "five times as many, and no more than a batch has")
	p.note(500, time.Second/5)
	assert.Equal(t, 25, p.size)
	assert.Equal(t, 125, p.next(true))
	p.note(25, 0)
	assert.Equal(t, 50, p.size, "no more than twice as many")
	p.note(1, time.Hour)
	assert.Equal(t, fillLeast, p.size)
	for range 20 {
		p.note(p.size, 0)
	}
	assert.Equal(t, fillBatch, p.size)
	whole := pace{size: fillBatch}
	assert.Equal(t, fillBatch, whole.next(true), "where writers do not wait for each other")
}

// A strict fill stops before what a stage would skip, and names it.
func TestAStrictFillNamesPoison(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handler *Recorder
		damage  func(*pipeline.Record)
	}{
		"a record that is no event":    {&Recorder{}, func(r *pipeline.Record) { r.Value = []byte("no price") }},
		"a record that is refused":     {&Recorder{before: func(in []pipeline.Record) error { return refuse(in, 3) }}, nil},
		"a record that is no event, 2": {&Recorder{before: func([]pipeline.Record) error { return nil }}, func(r *pipeline.Record) { r.Headers = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRig(t, test.handler)
			r.fill(1, 3)
			r.Append(1, 4, test.damage)
			r.fill(2, 3)
			f := r.newFill(nil)
			f.stage.strict = true
			err := f.To(t.Context(), r.ends(0))
			require.ErrorIs(t, err, ErrPoison)
			require.ErrorContains(t, err, "at offset 3 of price-events/1")
			var letters int
			require.NoError(t, r.DB.Get(t.Context(), &letters, `SELECT COUNT(*) FROM dead_letters`))
			assert.Zero(t, letters)
			f = r.newFill(nil)
			require.NoError(t, f.To(t.Context(), r.ends(0)), "otherwise it is a dead letter")
			assert.Equal(t, []int64{0, 4, 3, 0}, r.filled())
		})
	}
}

// refuse refuses a batch that holds the record at an offset.
func refuse(in []pipeline.Record, offset int64) error {
	for i := range in {
		if in[i].Offset == offset {
			return pipeline.Permanent(errors.New("not this one"))
		}
	}
	return nil
}

func TestAFillKeepsToItsLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &Fill{cfg: FillConfig{Limit: rate.NewLimiter(100, 100)}}
		began := time.Now()
		for range 11 {
			require.NoError(t, f.wait(t.Context(), 100))
		}
		assert.Equal(t, 10*time.Second, time.Since(began).Round(time.Millisecond))
		require.NoError(t, f.wait(t.Context(), 250), "more than it lets through at once")
	})
}

// A service writes a little when it has nothing to do: that is no reason to rest.
func TestOthersAreBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var o others
		assert.False(t, o.busy(1000), "whatever was before")
		time.Sleep(othersWindow)
		assert.False(t, o.busy(1002), "at rest")
		time.Sleep(othersWindow / 2)
		assert.False(t, o.busy(1050), "not known yet")
		time.Sleep(othersWindow / 2)
		assert.True(t, o.busy(1060))
		assert.True(t, o.busy(1060), "anyone who asks")
		time.Sleep(othersWindow)
		assert.False(t, o.busy(1060))
	})
}
