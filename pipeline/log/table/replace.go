package table

import (
	"context"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Replacement is what takes the place of a record in the log.
type Replacement struct {
	Headers []schema.Header
	Value   []byte
}

const (
	// replaceSegments is how many segments are looked through for one transaction, and
	// replaceBytes where it ends sooner, in bytes of those that change.
	replaceSegments = 128
	replaceBytes    = 4 << 20
)

// Replace gives f the records of a partition that are before an offset, and puts what it
// returns in the place of those for which that is not nil: with their numbers and times, and
// without a key. Nothing else changes what is in the log, and nothing else may work with the
// database meanwhile. Before each transaction, committing is asked. After an error, Replace
// can be called again: what is committed stays.
func (l *Log) Replace(ctx context.Context, tp pipeline.TopicPartition, before int64,
	f func(r *pipeline.Record) (*Replacement, error), committing func(ctx context.Context) error) error {
	topic, err := l.topic(ctx, tp.Topic)
	if err != nil {
		return fmt.Errorf("replacing records of %s: %w", tp, err)
	}
	p := l.partition(tp, topic, 0)
	for p.next < before {
		changed, err := l.replaced(ctx, &p, before, f)
		if err == nil && len(changed) > 0 {
			if err = committing(ctx); err == nil {
				err = l.writeReplaced(ctx, changed)
			}
		}
		if err != nil {
			return fmt.Errorf("replacing records of %s: %w", tp, err)
		}
	}
	return nil
}

// changedSegment is a segment as it is to be, and the checksum that it had.
type changedSegment struct {
	store.Segment
	former int64
}

// replaced reads some segments from p on, and returns those that change.
func (l *Log) replaced(ctx context.Context, p *partition, before int64, f func(r *pipeline.Record) (*Replacement, error)) ([]changedSegment, error) {
	var changed []changedSegment
	size, begin := 0, p.next
	err := l.db.EachSegment(ctx, store.SegmentRange{Epoch: p.epoch, Part: p.part, After: p.next}, replaceSegments, func(s store.Segment) (bool, error) {
		if s.First != p.next+1 {
			return false, fmt.Errorf("%w: after number %d comes %d", ErrDamaged, p.next, s.First)
		}
		other, changes, err := p.replace(s, before, f)
		if err != nil {
			return false, err
		}
		if changes {
			changed = append(changed, changedSegment{other, s.Checksum})
			size += len(other.Body)
		}
		p.next = s.Last
		return p.next < before && size < replaceBytes, nil
	})
	switch {
	case errors.Is(err, store.ErrSegment):
		err = fmt.Errorf("%w: number %d or one of the next: %w", ErrDamaged, p.next+1, err)
	case err == nil && p.next == begin:
		err = fmt.Errorf("%w: number %d is missing, and the last that was written is %d or later", ErrDamaged, begin+1, before)
	}
	return changed, err
}

// replace returns a segment with what takes the place of some of its records.
func (p *partition) replace(s store.Segment, before int64, f func(r *pipeline.Record) (*Replacement, error)) (other store.Segment, changes bool, err error) {
	var body []byte
	err = unpack(s, func(number int64, e entry) error {
		if number <= before {
			r, err := p.record(number, e)
			if err != nil {
				return err
			}
			replacement, err := f(&r)
			if err != nil {
				return err
			}
			if replacement != nil {
				changes = true
				e = entry{at: e.at, headers: store.EncodeHeaders(replacement.Headers), value: replacement.Value}
			}
		}
		body = appendEntry(body, e)
		return nil
	})
	if err != nil || !changes {
		return s, false, err
	}
	return withBody(s, body), true, nil
}

// writeReplaced writes segments in one transaction.
func (l *Log) writeReplaced(ctx context.Context, changed []changedSegment) error {
	return l.db.Write(ctx, func(tx *store.Tx) error {
		for _, c := range changed {
			if err := tx.ReplaceSegment(ctx, c.Segment, c.former); err != nil {
				return err
			}
		}
		return nil
	})
}
