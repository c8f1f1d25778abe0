package table

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

const (
	// readSegments is the most segments that one statement reads.
	readSegments = 256
	// readBytes is where a slice of records ends, in bytes. A record that passes it is
	// still in.
	readBytes = 4 << 20
	// readRecords is the most records of a slice.
	readRecords = 4000
)

// OutOfRangeError says what was asked for and what there is; it wraps ErrOutOfRange.
type OutOfRangeError struct {
	pipeline.TopicPartition
	// From and To bound the offsets asked for; To is not included.
	From, To int64
	// OffsetRange is what the partition holds.
	log.OffsetRange
}

func (e *OutOfRangeError) Error() string {
	return fmt.Sprintf("%v: %s holds %d to %d, not %d to %d", ErrOutOfRange, e.TopicPartition, e.Oldest, e.End, e.From, e.To)
}

// Unwrap makes it an ErrOutOfRange.
func (e *OutOfRangeError) Unwrap() error { return ErrOutOfRange }

// Read implements log.Broker. Where the partition does not hold all of the offsets,
// the error wraps ErrOutOfRange; where it should, and does not, ErrDamaged.
func (l *Log) Read(ctx context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error {
	topic, err := l.topic(ctx, tp.Topic)
	if err != nil {
		return fmt.Errorf("reading %s: %w", tp, err)
	}
	ranges, err := l.Offsets(ctx, tp.Topic)
	if err != nil {
		return fmt.Errorf("reading %s: %w", tp, err)
	}
	if tp.Partition < 0 || int(tp.Partition) >= len(ranges) {
		return fmt.Errorf("reading %s: %w", tp, ErrUnknownTopic)
	}
	if held := ranges[tp.Partition]; from < held.Oldest || to > held.End || from > to {
		return fmt.Errorf("reading: %w", &OutOfRangeError{tp, from, to, held})
	}
	p := l.partition(tp, topic, from)
	for p.next < to {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		records, err := l.next(ctx, &p, to, readRecords, readBytes)
		if err != nil {
			return err
		}
		if err := f(records); err != nil {
			return err
		}
	}
	return nil
}

// OffsetsAt returns, for each partition of a topic in their order, the offset of the first
// record that was written at or after a moment, or the end of the partition where there is
// none. The log counts milliseconds.
func (l *Log) OffsetsAt(ctx context.Context, name schema.Topic, moment time.Time) ([]int64, error) {
	topic, err := l.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	ranges, err := l.Offsets(ctx, name)
	if err != nil {
		return nil, err
	}
	millis := moment.UnixMilli()
	if time.UnixMilli(millis).Before(moment) {
		millis++
	}
	offsets := make([]int64, len(ranges))
	for part, held := range ranges {
		offsets[part] = held.End
		first, last, found, err := l.db.FirstSegmentSince(ctx, topic.Epoch, int32(part), millis)
		if err != nil {
			return nil, err
		}
		if !found || first > held.End {
			continue // it came after the end was asked for
		}
		p := l.partition(pipeline.TopicPartition{Topic: name, Partition: int32(part)}, topic, first-1)
		records, err := l.next(ctx, &p, last, maxSegmentRecords, maxUnpacked)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			if r.Timestamp.UnixMilli() >= millis {
				offsets[part] = r.Offset
				break
			}
		}
	}
	return offsets, nil
}

// maxSegmentRecords is more than a segment holds: each record takes some bytes.
const maxSegmentRecords = maxSegment

// partition is a reader's place in a partition.
type partition struct {
	pipeline.TopicPartition
	place
	topicID  string
	timeline []byte // the name of its chain
	next     int64  // offset
	keys     store.HeaderDecoder
}

// errEnough ends the unpacking of a segment.
var errEnough = errors.New("enough records")

// next reads the records of a partition from its next offset, up to but not including
// end, which the log is known to reach; at most so many, and none after the one that
// passes maxBytes. It moves the partition's offset. Records before damage are returned;
// the next call returns the damage.
func (l *Log) next(ctx context.Context, p *partition, end int64, most, maxBytes int) ([]pipeline.Record, error) {
	var records []pipeline.Record
	size := 0
	after := p.next // the number of the record before
	limit := min(readSegments, most)
	err := l.db.EachSegment(ctx, store.SegmentRange{Epoch: p.epoch, Part: p.part, After: after}, limit, func(s store.Segment) (bool, error) {
		if s.First > after+1 {
			return false, fmt.Errorf("%w: after number %d comes %d", ErrDamaged, after, s.First)
		}
		err := unpack(s, func(number int64, e entry) error {
			switch {
			case number <= after:
				return nil
			case number > end || len(records) >= most || size >= maxBytes:
				return errEnough
			}
			record, err := p.record(number, e)
			if err != nil {
				return err
			}
			if records == nil {
				records = make([]pipeline.Record, 0, min(end-after, int64(most), readRecords, int64(limit)*(s.Last-s.First+1)))
			}
			records = append(records, record)
			size += e.size()
			after = number
			return nil
		})
		if errors.Is(err, errEnough) {
			return false, nil
		}
		return after < end && len(records) < most && size < maxBytes, err
	})
	if errors.Is(err, store.ErrSegment) {
		err = fmt.Errorf("%w: number %d or one of the next: %w", ErrDamaged, after+1, err)
	}
	if err == nil && len(records) == 0 {
		err = fmt.Errorf("%w: number %d is missing, and the last that was written is %d", ErrDamaged, after+1, end)
	}
	if err != nil && (len(records) == 0 || !unreadable(err)) {
		return nil, fmt.Errorf("reading %s from offset %d: %w", p.TopicPartition, p.next, err)
	}
	p.next = after
	return records, nil
}

// unreadable reports whether err says that a partition cannot be read, whenever and by
// whichever process of this version.
func unreadable(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, ErrUnknownFormat)
}

// record is a record as it is delivered.
func (p *partition) record(number int64, e entry) (pipeline.Record, error) {
	var headers []schema.Header
	if e.headers != nil {
		var err error
		if headers, err = p.keys.Decode(e.headers); err != nil {
			return pipeline.Record{}, fmt.Errorf("%w: number %d: %w", ErrDamaged, number, err)
		}
	}
	link := chain.LinkHeaders(p.timeline, number)
	return pipeline.Record{TopicPartition: p.TopicPartition, TopicID: p.topicID, Offset: number - 1,
		Timestamp: e.at, Key: e.key, Headers: append(headers, link[:]...), Value: e.value}, nil
}
