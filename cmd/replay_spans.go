package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// bounds are --from and --to. Nil, to is the end of the log.
type bounds struct {
	from engine.OffsetOrTime
	to   *engine.OffsetOrTime
}

// errRecreated says that a topic changed while it was looked at.
var errRecreated = errors.New("it was created again meanwhile: try again")

// toEnd is what --to says for the end of the log.
const toEnd = "-1"

// bounds reads the flags.
func (r replaying) bounds(now time.Time) (bounds, error) {
	from, err := engine.ParseOffsetOrTime(dated(r.from), now)
	if err != nil {
		return bounds{}, fmt.Errorf("%w: --from: %w", errUsage, err)
	}
	if r.to == toEnd {
		return bounds{from: from}, nil
	}
	to, err := engine.ParseOffsetOrTime(dated(r.to), now)
	if err != nil {
		return bounds{}, fmt.Errorf("%w: --to: %w", errUsage, err)
	}
	if to.Before(from) {
		return bounds{}, fmt.Errorf("%w: --to %s lies before --from %s", errUsage, r.to, r.from)
	}
	return bounds{from, &to}, nil
}

// outsideError says that none of the partitions has what was asked for.
type outsideError struct {
	flag  string
	bound engine.OffsetOrTime
	held  []holding
}

// holding is what a partition holds.
type holding struct {
	pipeline.TopicPartition
	log.OffsetRange
}

func (h holding) String() string {
	switch {
	case h.Oldest < h.End:
		return fmt.Sprintf("%s holds %d to %d", h.TopicPartition, h.Oldest, h.End-1)
	case h.End > 0:
		return fmt.Sprintf("%s holds nothing any more, and continues at %d", h.TopicPartition, h.End)
	}
	return fmt.Sprintf("%s holds nothing yet", h.TopicPartition)
}

func (e *outsideError) Error() string {
	texts := make([]string, len(e.held))
	for i, h := range e.held {
		texts[i] = h.String()
	}
	return fmt.Sprintf("%s: %s %s lies outside of the log: %s", errUsage, e.flag, e.bound, strings.Join(texts, ", "))
}

// Unwrap makes it an error of usage.
func (e *outsideError) Unwrap() error { return errUsage }

// spans finds what of each partition lies within the bounds, and logs where that is
// less than was asked for.
func (r replaying) spans(ctx context.Context, broker eventLog, within bounds, ranges []log.OffsetRange,
	log *slog.Logger) ([]engine.Span, error) {
	var held []holding
	for p, inLog := range ranges {
		if r.partition < 0 || r.partition == int32(p) {
			held = append(held, holding{pipeline.TopicPartition{Topic: r.topic, Partition: int32(p)}, inLog})
		}
	}
	if err := within.outside(held); err != nil {
		return nil, err
	}
	firsts, err := places(ctx, broker, r.topic, &within.from, ranges)
	if err != nil {
		return nil, err
	}
	ends, err := places(ctx, broker, r.topic, within.to, ranges)
	if err != nil {
		return nil, err
	}
	var spans []engine.Span
	for _, h := range held {
		within.sayWhatIsMissing(h, firsts[h.Partition], log)
		first := min(max(firsts[h.Partition], h.Oldest), h.End)
		end := min(ends[h.Partition], h.End)
		if first < end {
			spans = append(spans, engine.Span{TopicPartition: h.TopicPartition, From: first, To: end})
		}
	}
	if asked := within.to != nil || within.from != (engine.OffsetOrTime{}); len(spans) == 0 && asked {
		log.Warn("no record lies within the bounds", "topic", r.topic, "from", within.from.String(), "to", within.end())
	}
	return spans, nil
}

// end is --to, for people.
func (b bounds) end() string {
	if b.to == nil {
		return "the end"
	}
	return b.to.String()
}

// places is where a bound is on each partition.
func places(ctx context.Context, broker eventLog, topic schema.Topic, at *engine.OffsetOrTime, ranges []log.OffsetRange) ([]int64, error) {
	if at != nil && at.IsMoment() {
		offsets, err := broker.OffsetsAt(ctx, topic, at.Moment)
		if err == nil && len(offsets) < len(ranges) {
			err = fmt.Errorf("topic %s: %w", topic, errRecreated)
		}
		return offsets, err
	}
	offsets := make([]int64, len(ranges))
	for p, held := range ranges {
		if offsets[p] = held.End; at != nil {
			offsets[p] = at.Offset
		}
	}
	return offsets, nil
}

// outside is an *outsideError where an offset is on no partition: as the first
// one after its end, as the last one before what it still has.
func (b bounds) outside(held []holding) error {
	begins, ends := false, b.to == nil || b.to.IsMoment()
	for _, h := range held {
		begins = begins || b.from.IsMoment() || b.from.Offset <= h.End
		ends = ends || b.to.Offset >= h.Oldest
	}
	switch {
	case !begins:
		return &outsideError{"--from", b.from, held}
	case !ends:
		return &outsideError{"--to", *b.to, held}
	}
	return nil
}

// sayWhatIsMissing logs where a partition, on which from is at first, holds less
// than was asked for.
func (b bounds) sayWhatIsMissing(h holding, first int64, log *slog.Logger) {
	log = log.With("topic", h.Topic, "partition", h.Partition, "oldest", h.Oldest, "end", h.End)
	switch {
	case h.Oldest > 0 && b.from.IsMoment() && first <= h.Oldest:
		log.Warn("the head of the log is gone, and may have had younger records: this begins at the oldest", "from", b.from.String())
	case !b.from.IsMoment() && first < h.Oldest:
		log.Warn("the head of the log is gone: this begins at the oldest record", "from", first)
	case !b.from.IsMoment() && first > h.End:
		log.Warn("the log ends before that offset", "from", first)
	}
	if b.to != nil && !b.to.IsMoment() && b.to.Offset > h.End {
		log.Warn("the log ends before that offset", "to", b.to.Offset)
	}
}
