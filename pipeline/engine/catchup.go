package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// ErrHalted is wrapped where a stage has halted before what is waited for.
var ErrHalted = errors.New("the stage has halted")

// catchUpPoll is how often CatchUp looks. The stages may run in other processes,
// which give no signal.
const catchUpPoll = 20 * time.Millisecond

// Downstream are the stages that an event of type t passes, itself or as what
// follows from it.
func Downstream(stages []StageSpec, t schema.EventType) []StageSpec {
	types := []schema.EventType{t}
	passed := make([]bool, len(stages))
	for grown := true; grown; {
		grown = false
		for i, stage := range stages {
			consumes := func(t schema.EventType) bool { return slices.Contains(stage.Consumes, t) }
			if !passed[i] && slices.ContainsFunc(types, consumes) {
				passed[i], grown = true, true
				types = append(types, stage.Produces...)
			}
		}
	}
	var found []StageSpec
	for i, stage := range stages {
		if passed[i] {
			found = append(found, stage)
		}
	}
	return found
}

// CatchUp returns once the stages have applied what is now in the log and the
// outbox, and all that they make of it. Others may continue writing meanwhile. No
// stages at all means all that ever ran on this database. look, if not nil, is
// told at each look how many records the stages are still behind, with those in
// the outbox.
//
// One round waits until the outbox as it was is in the log, and then until the
// log as it was then is applied. What a stage gives is in the outbox when its
// position moves, so a round brings every event one stage further; and no event
// has more stages before it than there are.
//
// It fails with ErrHalted where one of the stages has halted, on whatever partition,
// or stands after the end of the log.
func CatchUp(ctx context.Context, db store.Querier, broker log.Broker, stages []StageSpec, look func(behind int64)) error {
	return CatchUpChanging(ctx, db, broker, func(context.Context) ([]StageSpec, error) { return stages, nil }, look)
}

// CatchUpChanging is CatchUp of stages that may change in the meantime: stages is
// asked at each look.
func CatchUpChanging(ctx context.Context, db store.Querier, broker log.Broker,
	stages func(context.Context) ([]StageSpec, error), look func(behind int64)) error {
	c := catchUp{db: db, broker: broker, stages: stages}
	if err := c.look(ctx); err != nil {
		return err
	}
	if look == nil {
		look = func(int64) {}
	}
	for round := 0; round < len(c.reads); round++ {
		chains, err := store.Chains(ctx, db)
		if err != nil {
			return err
		}
		waiting := backlog{chains}
		if err := poll(ctx, look, func() (int64, error) { return waiting.unsent(ctx, db) }); err != nil {
			return err
		}
		if err := c.beginRound(ctx); err != nil {
			return err
		}
		if err := poll(ctx, look, func() (int64, error) { return c.unapplied(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// catchUp is one run of CatchUp.
type catchUp struct {
	db     store.Querier
	broker log.Broker
	stages func(context.Context) ([]StageSpec, error)
	// reads are the topics of each stage, as of the last look.
	reads map[string][]schema.Topic
	// ends are what topics held when the round began, or when a stage came that
	// reads them.
	ends map[schema.Topic]topicEnds
}

// topicEnds is what a topic holds.
type topicEnds struct {
	id     string
	ranges []log.OffsetRange
}

// look asks which stages there are.
func (c *catchUp) look(ctx context.Context) error {
	stages, err := c.stages(ctx)
	if err != nil {
		return err
	}
	c.reads, err = readsOf(ctx, c.db, stages)
	return err
}

// beginRound notes the ends of the log. A position that was beyond them before is in
// a log that has lost its end: nothing after it would be missed.
func (c *catchUp) beginRound(ctx context.Context) error {
	positions, err := store.Positions(ctx, c.db, "")
	if err != nil {
		return err
	}
	c.ends = map[schema.Topic]topicEnds{}
	if err := c.noteEnds(ctx); err != nil {
		return err
	}
	for _, p := range positions {
		at := log.PartitionOf(p)
		held, ends := slices.Contains(c.reads[p.Stage], at.Topic), c.ends[at.Topic]
		if !held || p.TopicID != ends.id || int(p.Part) >= len(ends.ranges) {
			continue
		}
		if end := ends.ranges[p.Part].End; p.Next > end {
			return fmt.Errorf("%s on %s: %w: the log ends at offset %d, and the stage has applied up to %d", p.Stage, at, ErrHalted, end, p.Next)
		}
	}
	return nil
}

// noteEnds asks for the ends of the topics of which they are not noted.
func (c *catchUp) noteEnds(ctx context.Context) error {
	var missing []schema.Topic
	for _, topics := range c.reads {
		for _, topic := range topics {
			if _, noted := c.ends[topic]; !noted && !slices.Contains(missing, topic) {
				missing = append(missing, topic)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	infos, err := c.broker.Topics(ctx, missing)
	if err != nil {
		return fmt.Errorf("looking at the topics: %w", err)
	}
	for _, topic := range missing {
		ranges, err := c.broker.Offsets(ctx, topic)
		if err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", topic, err)
		}
		c.ends[topic] = topicEnds{infos[topic].ID, ranges}
	}
	return nil
}

// AwaitSent waits until what was in the outbox when chains were read is in the
// log, but no longer than wait, and returns how many events are not.
func AwaitSent(ctx context.Context, db store.Querier, chains []store.Chain, wait time.Duration) (waiting int64, err error) {
	was := backlog{chains}
	for deadline := time.Now().Add(wait); ; {
		waiting, err := was.unsent(ctx, db)
		if err != nil || waiting == 0 || time.Now().After(deadline) {
			return waiting, err
		}
		select {
		case <-ctx.Done():
			return waiting, ctx.Err()
		case <-time.After(catchUpPoll):
		}
	}
}

// poll looks until nothing is behind any more.
func poll(ctx context.Context, look func(int64), behind func() (int64, error)) error {
	for {
		n, err := behind()
		if err != nil {
			return err
		}
		look(n)
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d records to be applied: %w", n, ctx.Err())
		case <-time.After(catchUpPoll):
		}
	}
}

// readsOf are the topics of each stage.
func readsOf(ctx context.Context, db store.Querier, stages []StageSpec) (map[string][]schema.Topic, error) {
	reads := map[string][]schema.Topic{}
	for _, stage := range stages {
		reads[stage.Name] = stage.Topics()
	}
	if len(stages) > 0 {
		return reads, nil
	}
	positions, err := store.Positions(ctx, db, "")
	for _, p := range positions {
		if topic := schema.Topic(p.Topic); !slices.Contains(reads[p.Stage], topic) {
			reads[p.Stage] = append(reads[p.Stage], topic)
		}
	}
	return reads, err
}

// carriedOver reports whether events that waited for a topic wait for another
// incarnation of it by now: their chain is closed, at an earlier number.
func carriedOver(before, now []store.Chain) bool {
	return slices.ContainsFunc(before, func(was store.Chain) bool {
		return slices.ContainsFunc(now, func(is store.Chain) bool {
			return is.Epoch == was.Epoch && is.Part == was.Part && is.Timeline == was.Timeline && is.Last < was.Last
		})
	})
}

// backlog is what was in the outbox when these chains were read.
type backlog struct{ chains []store.Chain }

// unsent counts what is not in the log yet.
func (b *backlog) unsent(ctx context.Context, db store.Querier) (int64, error) {
	now, err := store.Chains(ctx, db)
	if err != nil {
		return 0, err
	}
	if carriedOver(b.chains, now) {
		b.chains = now // with all that is there
	}
	var n int64
	for _, was := range b.chains {
		for _, is := range now {
			switch {
			case is.Epoch != was.Epoch || is.Part != was.Part:
			case is.Timeline == was.Timeline:
				n += max(0, was.Last-is.Sent)
			default: // it has another name since, and other numbers
				n += is.Last - is.Sent
			}
		}
	}
	return n, nil
}

// unapplied counts the records before ends that stages have not applied. A stage
// without a position, or with one in a topic that is gone, has applied nothing.
func (c *catchUp) unapplied(ctx context.Context) (int64, error) {
	if err := errors.Join(c.look(ctx), c.noteEnds(ctx)); err != nil {
		return 0, err
	}
	positions, err := store.Positions(ctx, c.db, "")
	if err != nil {
		return 0, err
	}
	type place struct {
		stage string
		pipeline.TopicPartition
	}
	at := make(map[place]store.Position, len(positions))
	for _, p := range positions {
		at[place{p.Stage, log.PartitionOf(p)}] = p
	}
	var n int64
	for stage, topics := range c.reads {
		for _, topic := range topics {
			for partition, r := range c.ends[topic].ranges {
				p := at[place{stage, pipeline.TopicPartition{Topic: topic, Partition: int32(partition)}}]
				if p.Halted != "" {
					return 0, fmt.Errorf("%s on %s/%d: %w: %s", stage, topic, partition, ErrHalted, p.Halted)
				}
				if p.TopicID != c.ends[topic].id {
					p.Next = 0
				}
				n += max(0, r.End-max(p.Next, r.Oldest))
			}
		}
	}
	return n, nil
}
