package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// Segment is consecutive records of one partition of the table log, written by one
// transaction: those with the numbers First to Last.
type Segment struct {
	// Epoch is that of the topic, as in Topic; Part is the partition.
	Epoch       int64
	Part        int32
	First, Last int64
	// Newest is when the newest of the records was written, in milliseconds since 1970.
	Newest int64
	// Codec says how Body is written, and Checksum covers Body and where it belongs;
	// both are their writer's to choose.
	Codec    int64
	Checksum int64
	Body     []byte
}

// ErrSegment is wrapped where a column of a segment holds a value of another type than
// was written.
var ErrSegment = errors.New("a segment cannot be read")

// A segment's id is 57 bits: the topic's epoch, the partition, and the last number.
const (
	segmentPartBits   = 12
	segmentNumberBits = 38
)

func segmentID(epoch int64, part int32, last int64) int64 {
	return epoch<<(segmentPartBits+segmentNumberBits) | int64(part)<<segmentNumberBits | last
}

// segmentIDs bound the ids of the segments of a partition that hold a record with a
// number above after: those above the first and below the second of them.
func segmentIDs(epoch int64, part int32, after int64) (above, below int64) {
	return segmentID(epoch, part, after), segmentID(epoch, part, 0) + 1<<segmentNumberBits
}

var segmentColumns = []string{"id", "first", "newest", "codec", "checksum", "body"}

// maxSegmentAppend bounds the bodies of one statement, in bytes, except for a single
// segment.
const maxSegmentAppend = 1 << 20

// AppendSegments appends segments to the table log, through watermill-sql's publisher:
// each is one message. The caller has taken their numbers in this transaction, with
// TakeLogNumbers.
func (t *Tx) AppendSegments(ctx context.Context, segments []Segment) error {
	most := t.store.engine.MaxRows(len(segmentColumns))
	for len(segments) > 0 {
		n, size := 0, 0
		for ; n < min(most, len(segments)) && (n == 0 || size+len(segments[n].Body) <= maxSegmentAppend); n++ {
			size += len(segments[n].Body)
		}
		rows := Rows{Table: "log_segments", Columns: segmentColumns, Values: make([]any, 0, n*len(segmentColumns))}
		messages := make([]*message.Message, n)
		for i, s := range segments[:n] {
			rows.Add(segmentID(s.Epoch, s.Part, s.Last), s.First, s.Newest, s.Codec, s.Checksum, s.Body)
			messages[i] = message.NewMessage("", s.Body)
		}
		if err := t.publish(ctx, rows, messages); err != nil {
			return fmt.Errorf("appending %d segments to the log: %w", n, err)
		}
		segments = segments[n:]
		if err := failpoint.Hit(ctx, failpoint.StoreInserting); err != nil {
			return err
		}
	}
	return nil
}

// ErrSegmentChanged says that a segment is not there as it was read.
var ErrSegmentChanged = errors.New("a segment of the log was changed meanwhile")

// ReplaceSegment writes a segment in the place of the one with its numbers, which had a
// checksum.
func (t *Tx) ReplaceSegment(ctx context.Context, s Segment, former int64) error {
	changed, err := t.Exec(ctx, `UPDATE log_segments SET codec = $1, checksum = $2, body = $3 WHERE id = $4 AND first = $5 AND checksum = $6`,
		s.Codec, s.Checksum, s.Body, segmentID(s.Epoch, s.Part, s.Last), s.First, former)
	if err == nil && changed != 1 {
		err = ErrSegmentChanged
	}
	if err != nil {
		return fmt.Errorf("replacing numbers %d to %d of partition %d of epoch %d: %w", s.First, s.Last, s.Part, s.Epoch, err)
	}
	return nil
}

// TakeLogNumbers is TakeNumbers for the table log, where an event is in the log as
// soon as its transaction commits.
func (t *Tx) TakeLogNumbers(ctx context.Context, wanted []Numbers) error {
	return t.takeNumbers(ctx, wanted, `last = last + held.n, sent = last + held.n`)
}

// SegmentRange is which segments to read: those of a partition of a topic's epoch
// that hold a record with a number above After.
type SegmentRange struct {
	Epoch int64
	Part  int32
	After int64
}

// EachSegment calls f with the segments of a range in their order, at most limit of
// them, until f returns false or an error, which it returns. The body is f's to keep.
func (s *Store) EachSegment(ctx context.Context, r SegmentRange, limit int, f func(Segment) (more bool, err error)) (err error) {
	above, below := segmentIDs(r.Epoch, r.Part, r.After)
	rows, err := s.engine.Reader().QueryContext(ctx, `SELECT id, first, newest, codec, checksum, body FROM log_segments
		WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3`, above, below, limit)
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	defer func() {
		if closing := rows.Close(); err == nil && closing != nil {
			err = fmt.Errorf("reading the log: %w", closing)
		}
	}()
	for rows.Next() {
		segment := Segment{Epoch: r.Epoch, Part: r.Part}
		var id int64
		if err := rows.Scan(&id, &segment.First, &segment.Newest, &segment.Codec, &segment.Checksum, &segment.Body); err != nil {
			return fmt.Errorf("reading the log: %w after number %d of partition %d of epoch %d: %w", ErrSegment, r.After, r.Part, r.Epoch, err)
		}
		segment.Last = id & (1<<segmentNumberBits - 1)
		if more, err := f(segment); err != nil || !more {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

// FirstSegmentSince returns the first and the last number of the first segment of a
// partition with a record that was written at or after a time (milliseconds since 1970);
// false where there is none. It looks at each segment before that one.
func (s *Store) FirstSegmentSince(ctx context.Context, epoch int64, part int32, millis int64) (first, last int64, found bool, err error) {
	above, below := segmentIDs(epoch, part, 0)
	var segment struct {
		ID    int64 `db:"id"`
		First int64 `db:"first"`
	}
	err = s.Get(ctx, &segment, `SELECT id, first FROM log_segments WHERE id > $1 AND id < $2 AND newest >= $3 ORDER BY id LIMIT 1`,
		above, below, millis)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, false, nil
	}
	if err != nil {
		return 0, 0, false, fmt.Errorf("looking for the first segment since a time: %w", err)
	}
	return segment.First, segment.ID & (1<<segmentNumberBits - 1), true, nil
}

// GroupOffset is how far a consumer group of the table log has come on a partition.
type GroupOffset struct {
	Epoch int64 `db:"epoch"`
	Part  int32 `db:"part"`
	Next  int64 `db:"next_offset"`
}

// GroupOffsets are those of a consumer group; partitions it never consumed are absent.
func (s *Store) GroupOffsets(ctx context.Context, group string) ([]GroupOffset, error) {
	var offsets []GroupOffset
	if err := s.Select(ctx, &offsets, `SELECT epoch, part, next_offset FROM log_groups WHERE name = $1`, group); err != nil {
		return nil, fmt.Errorf("reading the offsets of group %s: %w", group, err)
	}
	return offsets, nil
}

// CommitGroupOffsets records how far a consumer group has come.
func (s *Store) CommitGroupOffsets(ctx context.Context, group string, offsets []GroupOffset) error {
	rows := Rows{Table: "log_groups", Columns: []string{"name", "epoch", "part", "next_offset"},
		Clause: `ON CONFLICT (name, epoch, part) DO UPDATE SET next_offset = excluded.next_offset`}
	for _, o := range offsets {
		rows.Add(group, o.Epoch, o.Part, o.Next)
	}
	return s.Write(ctx, func(tx *Tx) error { return tx.Insert(ctx, rows) })
}
