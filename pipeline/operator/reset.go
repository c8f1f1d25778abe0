package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Target is where a position is put.
type Target struct {
	name   string
	offset int64 // where name is empty
}

// Targets at the bounds of the log.
var (
	ToStart = Target{name: "start"}
	ToEnd   = Target{name: "end"}
)

// ToOffset puts a position before the record at an offset.
func ToOffset(offset int64) Target { return Target{offset: offset} }

// ParseTarget reads start, end, or an offset.
func ParseTarget(text string) (Target, error) {
	for _, t := range []Target{ToStart, ToEnd} {
		if text == t.name {
			return t, nil
		}
	}
	offset, err := strconv.ParseInt(text, 10, 64)
	if err != nil || offset < 0 {
		return Target{}, fmt.Errorf("%q is neither start nor end nor an offset", text)
	}
	return ToOffset(offset), nil
}

// ErrReset is wrapped where a position cannot be put where it was asked to be.
var ErrReset = errors.New("the position cannot be put there")

// Resets works out what it means to put the positions that wanted says yes to at
// a target, halted or not, and changes nothing. Records are left out, or, at
// ToStart, all taken again: that is for folds alone, whose tables Reset empties,
// since a handler would give its events a second time. Of records that are taken
// again the dead letters go.
func Resets(ctx context.Context, db *store.Store, broker log.Broker, topics Topics, wanted func(store.Position) bool, to Target) ([]Resolution, error) {
	positions, err := store.Positions(ctx, db, "")
	if err != nil {
		return nil, err
	}
	var resets []Resolution
	for _, p := range positions {
		if !wanted(p) {
			continue
		}
		tp := log.PartitionOf(p)
		topic, known := topics.Topic(tp.Topic)
		if !known {
			return nil, fmt.Errorf("%w: no event of this binary is on topic %s", ErrReset, tp.Topic)
		}
		ranges, err := broker.Offsets(ctx, tp.Topic)
		if err != nil {
			return nil, err
		}
		if int(p.Part) >= len(ranges) {
			return nil, fmt.Errorf("%w: topic %s has %d partitions", ErrReset, tp.Topic, len(ranges))
		}
		reset, err := to.reset(p, topic, ranges[p.Part])
		if err != nil {
			return nil, fmt.Errorf("%s on %s: %w", p.Stage, tp, err)
		}
		resets = append(resets, reset)
	}
	return resets, nil
}

func (t Target) reset(p store.Position, topic store.Topic, held log.OffsetRange) (Resolution, error) {
	l := Resolution{Stage: p.Stage, Topic: schema.Topic(p.Topic), Partition: p.Part, Halted: p.Halted, from: p, to: p}
	l.to.TopicID = topic.ID
	l.resumeAt(p.Reached.In(chain.AnyNext))
	if t == ToStart {
		l.to.Next = held.Oldest
		l.Loses = "nothing: all records are taken again"
		l.resumeAt(chain.Link{})
		if held.Oldest > 0 {
			l.resumeAt(chain.Link{}.In(chain.AnyNext))
			l.Lost = held.Oldest
			l.Loses = fmt.Sprintf("the results of the records before offset %d, which the log no longer has", held.Oldest)
		}
		return l, nil
	}
	l.to.Next = t.offset
	if t == ToEnd {
		l.to.Next = held.End
	}
	if l.to.Next < held.Oldest || l.to.Next > held.End {
		return Resolution{}, fmt.Errorf("%w: the log holds offsets %d to %d", ErrReset, held.Oldest, held.End-1)
	}
	if p.TopicID != topic.ID {
		p.Next = held.Oldest // of a topic that is gone
	}
	if l.to.Next < p.Next {
		return Resolution{}, fmt.Errorf("%w: it is at %d already, and what follows from the records before would be there twice", ErrReset, p.Next)
	}
	l.Lost = l.to.Next - p.Next
	l.Loses = fmt.Sprintf("%d records: offsets %d to %d, which are left out", l.Lost, p.Next, l.to.Next-1)
	if l.Lost == 0 {
		l.Loses = "nothing"
	}
	return l, nil
}

// Reset carries resets out, all or none, with what else has to happen in the
// same transaction. A position that has passed its target meanwhile is an error.
func Reset(ctx context.Context, db *store.Store, resets []Resolution, also func(tx *store.Tx) error) error {
	return db.Write(ctx, func(tx *store.Tx) error {
		held := map[string][]store.Position{}
		for _, l := range resets {
			if _, locked := held[l.Stage]; locked {
				continue
			}
			var err error
			if held[l.Stage], err = tx.LockPositions(ctx, l.Stage); err != nil {
				return err
			}
		}
		// After the locks: no one adds rows any more.
		if also != nil {
			if err := also(tx); err != nil {
				return err
			}
		}
		for _, l := range resets {
			i := slices.IndexFunc(held[l.Stage], func(p store.Position) bool { return p.Topic == string(l.Topic) && p.Part == l.Partition })
			if i < 0 || also == nil && held[l.Stage][i].TopicID == l.to.TopicID && held[l.Stage][i].Next > l.to.Next {
				return fmt.Errorf("resetting %s on %s/%d: %w", l.Stage, l.Topic, l.Partition, store.ErrMoved)
			}
			to := l.to
			to.Halted, to.LogEnded, to.MovedAt = "", nil, schema.NewTime(time.Now())
			if err := tx.SetPosition(ctx, held[l.Stage][i], to); err != nil {
				return err
			}
			if err := tx.ForgetDeadLetters(ctx, to); err != nil {
				return err
			}
		}
		return nil
	})
}
