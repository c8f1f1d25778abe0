package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

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
			takes := func(t schema.EventType) bool { return slices.Contains(stage.Takes, t) }
			if !passed[i] && slices.ContainsFunc(types, takes) {
				passed[i], grown = true, true
				types = append(types, stage.Gives...)
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
// outbox, and all that they make of it. Others may go on writing meanwhile. No
// stages at all means all that ever ran on this database. look, if not nil, is
// told at each look how many records the stages are still behind, with those in
// the outbox.
//
// One round waits until the outbox as it was is in the log, and then until the
// log as it was then is applied. What a stage gives is in the outbox when its
// position moves, so a round brings every event one stage further; and no event
// has more stages before it than there are.
func CatchUp(ctx context.Context, db store.Querier, broker Broker, stages []StageSpec, look func(behind int64)) error {
	reads, err := readsOf(ctx, db, stages)
	if err != nil {
		return err
	}
	if look == nil {
		look = func(int64) {}
	}
	for range len(reads) {
		chains, err := store.Chains(ctx, db)
		if err != nil {
			return err
		}
		waiting := backlog{chains}
		if err := poll(ctx, look, func() (int64, error) { return waiting.unsent(ctx, db) }); err != nil {
			return err
		}
		ends, err := endsOf(ctx, broker, reads)
		if err != nil {
			return err
		}
		if err := poll(ctx, look, func() (int64, error) { return unapplied(ctx, db, reads, ends) }); err != nil {
			return err
		}
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
			return is.Epoch == was.Epoch && is.Part == was.Part && is.Outbox == was.Outbox && is.Last < was.Last
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
			case is.Outbox == was.Outbox:
				n += max(0, was.Last-is.Sent)
			default: // it has another name since, and other numbers
				n += is.Last - is.Sent
			}
		}
	}
	return n, nil
}

func endsOf(ctx context.Context, broker Broker, reads map[string][]schema.Topic) (map[schema.Topic][]OffsetRange, error) {
	ends := map[schema.Topic][]OffsetRange{}
	for _, topics := range reads {
		for _, topic := range topics {
			if _, asked := ends[topic]; asked {
				continue
			}
			var err error
			if ends[topic], err = broker.Offsets(ctx, topic); err != nil {
				return nil, fmt.Errorf("asking for the ends of %s: %w", topic, err)
			}
		}
	}
	return ends, nil
}

// unapplied counts the records before ends that stages have not applied. A stage
// without a position has applied nothing.
func unapplied(ctx context.Context, db store.Querier, reads map[string][]schema.Topic, ends map[schema.Topic][]OffsetRange) (int64, error) {
	positions, err := store.Positions(ctx, db, "")
	if err != nil {
		return 0, err
	}
	type place struct {
		stage string
		TopicPartition
	}
	at := make(map[place]store.Position, len(positions))
	for _, p := range positions {
		at[place{p.Stage, positionAt(p)}] = p
	}
	var n int64
	for stage, topics := range reads {
		for _, topic := range topics {
			for partition, r := range ends[topic] {
				p := at[place{stage, TopicPartition{topic, int32(partition)}}]
				behind := max(0, r.End-max(p.Next, r.Oldest))
				if behind > 0 && p.Halted != "" {
					return 0, fmt.Errorf("%s on %s/%d: %w: %s", stage, topic, partition, ErrHalted, p.Halted)
				}
				n += behind
			}
		}
	}
	return n, nil
}
