package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// ErrOtherRecords is wrapped where a partition does not hold what was written to it.
var ErrOtherRecords = errors.New("the topic does not hold what was written to it")

// Sequence returns the next records of a partition, in their order and one for each offset; none
// at the end.
type Sequence func(ctx context.Context) ([]OutgoingRecord, error)

// WriteSequence appends the records of a sequence to a partition. progress is told how many
// records more are in the log.
func WriteSequence(ctx context.Context, broker Broker, tp pipeline.TopicPartition, next Sequence, progress func(records int)) error {
	for {
		records, err := next(ctx)
		if err != nil || len(records) == 0 {
			return err
		}
		for len(records) > 0 {
			n := fitting(records)
			if err := broker.Send(ctx, []PartitionBatch{{TopicPartition: tp, Records: records[:n]}})[0]; err != nil {
				return err
			}
			progress(n)
			records = records[n:]
		}
	}
}

// fitting is how many of records go into one batch, one at least.
func fitting(records []OutgoingRecord) int {
	size := 0
	for i, r := range records {
		if size += r.Size(); i > 0 && (size > BatchBytes || i == BatchRecords) {
			return i
		}
	}
	return len(records)
}

// CompareSequence compares the records of a partition, from an offset on up to but not including
// end, with a sequence that begins there. The error wraps ErrOtherRecords where they differ, or
// where the partition ends elsewhere. If exact is true, timestamps are compared too, to the
// millisecond, and no key is told from an empty one.
func CompareSequence(ctx context.Context, broker Broker, tp pipeline.TopicPartition, from, end int64, exact bool, next Sequence, progress func(records int)) error {
	ranges, err := broker.Offsets(ctx, tp.Topic)
	if err != nil {
		return fmt.Errorf("asking for the ends of %s: %w", tp.Topic, err)
	}
	if held := ranges[tp.Partition]; held.Oldest > from || held.End != end {
		return fmt.Errorf("%w: it holds the offsets %d to %d of partition %d, and those written are %d to %d", ErrOtherRecords, held.Oldest, held.End, tp.Partition, from, end)
	}
	var want []OutgoingRecord
	at := from
	err = broker.Read(ctx, tp, from, end, func(records []pipeline.Record) error {
		for i := range records {
			var err error
			if len(want) == 0 {
				if want, err = next(ctx); err != nil {
					return err
				}
			}
			if len(want) == 0 || !sameRecord(&records[i], at, want[0], exact) {
				return fmt.Errorf("%w: another record is at offset %d", ErrOtherRecords, records[i].Offset)
			}
			want, at = want[1:], at+1
		}
		progress(len(records))
		return nil
	})
	if err == nil && at < end {
		err = fmt.Errorf("%w: records are missing from offset %d on", ErrOtherRecords, at)
	}
	return err
}

func sameRecord(r *pipeline.Record, offset int64, want OutgoingRecord, exact bool) bool {
	return r.Offset == offset && bytes.Equal(r.Key, want.Key) && bytes.Equal(r.Value, want.Value) && (r.Value == nil) == (want.Value == nil) &&
		(!exact || (r.Key == nil) == (want.Key == nil) && r.Timestamp.UnixMilli() == want.Timestamp.UnixMilli()) &&
		slices.EqualFunc(r.Headers, want.Headers, func(a, b schema.Header) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) })
}

// EachPartition calls f for the partitions of a topic, numbered from 0, some of them side by side.
func EachPartition(ctx context.Context, topic schema.Topic, partitions int, f func(ctx context.Context, tp pipeline.TopicPartition) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for part := range partitions {
		tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
		group.Go(func() error {
			if err := f(ctx, tp); err != nil {
				return fmt.Errorf("%s: %w", tp, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// Gap is the record at an offset of which nothing is known. It has the oldest time there is, so
// that a search by time never finds it. source is that of its event.
func Gap(tp pipeline.TopicPartition, offset int64, source string, filledAt schema.Time) (OutgoingRecord, error) {
	headers, value, err := schema.Event{ID: fmt.Sprintf("gap/%s/%d", tp, offset), Source: source, Payload: schema.LogGap{FilledAt: filledAt}}.Encode()
	return OutgoingRecord{Headers: headers, Value: value, Timestamp: time.UnixMilli(0)}, err
}
