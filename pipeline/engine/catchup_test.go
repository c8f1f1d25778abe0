package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// chained is a stage that gives an unchanged quote for each price, which another
// stage takes.
var chained = handlerFunc(func(_ context.Context, _ *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	var events []schema.Event
	for i := range in {
		p := in[i].Event.Payload.(schema.PriceObserved)
		events = append(events, in[i].Derive(schema.QuoteUnchanged{Quote: schema.Quote{Provider: p.Source, Symbol: p.Symbol},
			RawResponseID: "1", Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: p.ReceivedAt}))
	}
	return events, nil
})

// CatchUp continues only as the stages do: each move is made where it looks, and
// nothing is left when it returns.
func TestCatchUpFollowsAnEventThroughItsStages(t *testing.T) {
	t.Parallel()
	r := NewRig(t, chained)
	r.Append(1, 0, nil)
	r.Append(1, 0, nil)
	r.assign()
	const second = "second"
	takesUnchanged := StageSpec{Name: second, Consumes: []schema.EventType{schema.QuoteUnchanged{}.EventType()}}
	relay := outbox.NewRelay(r.DB, r.Broker, r.Stage.topics, "owner", r.Stage.log)
	moveSecond := func() {
		outcomes, err := r.Broker.Offsets(t.Context(), schema.QuoteOutcomes)
		require.NoError(t, err)
		require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
			if err := tx.CreatePositions(t.Context(), []store.Position{{Stage: second, Topic: string(schema.QuoteOutcomes),
				Part: 1, TopicID: "topic-2", MovedAt: schema.NewTime(time.Unix(1, 0))}}); err != nil {
				return err
			}
			positions, err := tx.LockPositions(t.Context(), second)
			if err != nil {
				return err
			}
			return tx.MovePositions(t.Context(), schema.NewTime(time.Unix(1, 0)), []store.Move{{From: positions[0], Next: outcomes[1].End}})
		}))
	}
	moves := []func(){
		func() { require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...)) },
		func() { require.NoError(t, relay.Drain(t.Context())) },
		moveSecond,
	}
	var seen []int64
	require.NoError(t, CatchUp(t.Context(), r.DB, r.Broker, []StageSpec{r.Stage.spec, takesUnchanged}, func(behind int64) {
		seen = append(seen, behind)
		if behind > 0 {
			require.NotEmpty(t, moves, "it waits for something that never comes")
			moves[0]()
			moves = moves[1:]
		}
	}))
	assert.Empty(t, moves, "it returned before everything was applied")
	assert.Equal(t, int64(2), seen[1], "two prices, as soon as nothing is in the outbox")
	require.NoError(t, CatchUp(t.Context(), r.DB, r.Broker, nil, nil), "all that ever ran")
}

// What waits for a topic that is created again meanwhile is waited for where it
// went.
func TestCatchUpFollowsWhatIsCarriedOver(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 2)
	recreated := false
	require.NoError(t, CatchUp(t.Context(), r.DB, r.Broker, []StageSpec{r.Stage.spec}, func(behind int64) {
		switch {
		case behind == 0:
		case !recreated:
			recreated = true
			r.assign() // the stage knows the topic that is gone
			r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: "topic-9", Partitions: Partitions}
			r.assign()
			r.Resolve(halt.Skip)
			// As the relay does before it sends anything.
			pending, err := r.DB.Pending(t.Context())
			require.NoError(t, err)
			require.Len(t, pending, 1)
			topic, _ := r.topics().Topic(schema.PriceEvents)
			require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
				return tx.CarryOver(t.Context(), pending[0], topic, func(key []byte) int32 { return ByLastDigit(key, Partitions) })
			}))
		default:
			require.Equal(t, int64(2), behind)
			r.Relay()
			r.Consume()
		}
	}))
	assert.True(t, recreated)
	assert.Len(t, r.effects(), 2)
}

func TestCatchUpEnds(t *testing.T) {
	t.Parallel()
	r := NewRig(t, chained)
	require.NoError(t, CatchUp(t.Context(), r.DB, r.Broker, []StageSpec{r.Stage.spec}, nil), "an empty log")
	r.Append(1, 0, nil)
	ctx, cancel := context.WithCancel(t.Context())
	err := CatchUp(ctx, r.DB, r.Broker, []StageSpec{r.Stage.spec}, func(behind int64) {
		if behind > 0 {
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled, "a stage that never ran is behind")
	r.assign()
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		p := r.position(1)
		p.Halted = "on fire"
		return tx.HaltPosition(t.Context(), p)
	}))
	err = CatchUp(t.Context(), r.DB, r.Broker, []StageSpec{r.Stage.spec}, nil)
	require.ErrorIs(t, err, ErrHalted)
	assert.ErrorContains(t, err, "test on price-events/1: the stage has halted: on fire")
}

// Where the log is not the one that a position speaks of, nothing seems to be behind:
// that must not pass for having caught up.
func TestCatchUpFailsWhereAStageCannotGoOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(r *Rig)
		says string
	}{
		"it halted, and no record is behind": {func(r *Rig) {
			require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
				p := r.position(2)
				p.Halted = "on fire"
				return tx.HaltPosition(r.T.Context(), p)
			}))
		}, "test on price-events/2: the stage has halted: on fire"},
		"it stands after the end of the log": {func(r *Rig) {
			r.Broker.Log[at(1)] = r.Broker.Log[at(1)][:1]
		}, "test on price-events/1: the stage has halted: the log ends at offset 1, and the stage has applied up to 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRig(t, &Recorder{})
			r.Emit(1, 3)
			r.Relay()
			r.Consume()
			r.Relay()
			require.NoError(t, CatchUp(t.Context(), r.DB, r.Broker, []StageSpec{r.Stage.spec}, nil))
			c.do(r)
			err := CatchUp(t.Context(), r.DB, r.Broker, []StageSpec{r.Stage.spec}, nil)
			require.ErrorIs(t, err, ErrHalted)
			assert.ErrorContains(t, err, c.says)
		})
	}
}

// A position in a topic that is gone says nothing about the one that took its place.
func TestCatchUpKnowsTopicsApart(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Emit(1, 3)
	r.Relay()
	r.Consume()
	r.Relay()
	r.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: "topic-9", Partitions: Partitions}
	r.Broker.Log[at(1)] = nil
	for range 2 {
		r.Append(1, 0, nil)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := CatchUp(ctx, r.DB, r.Broker, []StageSpec{r.Stage.spec}, func(behind int64) {
		if behind > 0 {
			assert.Equal(t, int64(2), behind)
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
}

// The stages may be others from one look to the next: what serves is waited for, and
// what served before is not.
func TestCatchUpFollowsStagesThatChange(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Append(1, 0, nil)
	stale := StageSpec{Name: "stale", Consumes: r.Stage.spec.Consumes}
	now := []StageSpec{stale}
	var seen []int64
	require.NoError(t, CatchUpChanging(t.Context(), r.DB, r.Broker, func(context.Context) ([]StageSpec, error) { return now, nil },
		func(behind int64) {
			seen = append(seen, behind)
			switch len(seen) {
			case 2: // the outbox first
				require.Equal(t, int64(1), behind, "the one that is stale")
				now = []StageSpec{r.Stage.spec}
			case 3:
				require.Equal(t, int64(1), behind, "the one that serves by now")
				r.Consume()
			}
		}))
	assert.Equal(t, int64(0), seen[len(seen)-1])
	assert.Len(t, r.effects(), 1)
	asked := errors.New("the database is down")
	err := CatchUpChanging(t.Context(), r.DB, r.Broker, func(context.Context) ([]StageSpec, error) { return nil, asked }, nil)
	require.ErrorIs(t, err, asked)
}

func TestDownstream(t *testing.T) {
	t.Parallel()
	stages := []StageSpec{
		{Name: "last", Consumes: []schema.EventType{"c"}},
		{Name: "before", Consumes: []schema.EventType{"0"}, Produces: []schema.EventType{"a"}},
		{Name: "first", Consumes: []schema.EventType{"x", "a"}, Produces: []schema.EventType{"b"}},
		{Name: "next to", Consumes: []schema.EventType{"y"}, Produces: []schema.EventType{"c"}},
		{Name: "second", Consumes: []schema.EventType{"b"}, Produces: []schema.EventType{"c", "a"}},
	}
	for from, want := range map[schema.EventType][]string{
		"a": {"last", "first", "second"}, "c": {"last"}, "0": {"last", "before", "first", "second"}, "no one's": nil,
	} {
		var names []string
		for _, stage := range Downstream(stages, from) {
			names = append(names, stage.Name)
		}
		assert.Equal(t, want, names, from)
	}
}
