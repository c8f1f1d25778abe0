package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// Offsets implements log.Broker: the range of partition number i is the
// i-th. The error wraps ErrUnknownTopic for a topic that does not exist.
func (b *Broker) Offsets(ctx context.Context, topic schema.Topic) ([]log.OffsetRange, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	partitions, err := b.partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	ranges, err := b.offsetRanges(ctx, partitions)
	if err != nil {
		return nil, err
	}
	ordered := make([]log.OffsetRange, len(partitions))
	for i, tp := range partitions {
		ordered[i] = ranges[tp]
	}
	return ordered, nil
}

// OffsetsAt returns, for each partition of a topic in their order, the offset of
// the first record whose timestamp is at or after a moment, or the end of the
// partition where there is none. Offsets are ordered and timestamps need not be:
// later records may be older. The log counts milliseconds from 1970 on. The error
// wraps ErrUnknownTopic for a topic that does not exist.
func (b *Broker) OffsetsAt(ctx context.Context, topic schema.Topic, moment time.Time) ([]int64, error) {
	held, found, err := b.askAt(ctx, topic, millisFrom(moment))
	if err != nil {
		return nil, err
	}
	offsets := make([]int64, len(held))
	for p := range offsets {
		tp := pipeline.TopicPartition{Topic: topic, Partition: int32(p)}
		switch offset, inLog := found[tp], held[tp]; {
		case offset >= 0:
			offsets[p] = offset
		case inLog.Oldest == 0:
			offsets[p] = inLog.End
		default:
			if offsets[p], err = b.lookFor(ctx, tp, inLog, moment); err != nil {
				return nil, err
			}
		}
	}
	return offsets, nil
}

// askAt asks for what each partition holds and then, so that no record that comes
// in between lies below an end that stands for "none is that young", for its first
// record from a time on, which is negative where there is none.
func (b *Broker) askAt(ctx context.Context, topic schema.Topic, millis int64) (map[pipeline.TopicPartition]log.OffsetRange,
	map[pipeline.TopicPartition]int64, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	partitions, err := b.partitions(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	held, err := b.offsetRanges(ctx, partitions)
	if err != nil {
		return nil, nil, err
	}
	found, err := b.listOffsets(ctx, partitions, millis)
	return held, found, err
}

// errFound ends a reading that has found what it looked for.
var errFound = errors.New("found")

// lookFor reads a partition until a record is young enough. Brokers look into one
// segment only, the first that ever had such a record: where it went with the head
// of the log, they answer that there is none, whatever lies behind.
func (b *Broker) lookFor(ctx context.Context, tp pipeline.TopicPartition, held log.OffsetRange, moment time.Time) (int64, error) {
	at := held.End
	err := b.Read(ctx, tp, held.Oldest, held.End, func(records []pipeline.Record) error {
		for i := range records {
			if !records[i].Timestamp.Before(moment) {
				at = records[i].Offset
				return errFound
			}
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return at, err
}

// millisFrom is the first millisecond that is not before a moment. Numbers below
// 0 would mean the ends of the log.
func millisFrom(moment time.Time) int64 {
	millis := moment.UnixMilli()
	if time.UnixMilli(millis).Before(moment) {
		millis++
	}
	return max(millis, 0)
}

// partitions are those of a topic.
func (b *Broker) partitions(ctx context.Context, topic schema.Topic) ([]pipeline.TopicPartition, error) {
	infos, err := b.describeTopics(ctx, []schema.Topic{topic})
	if err != nil {
		return nil, err
	}
	info, exists := infos[topic]
	if !exists {
		return nil, fmt.Errorf("reading the offsets of %s: %w", topic, ErrUnknownTopic)
	}
	partitions := make([]pipeline.TopicPartition, info.Partitions)
	for i := range partitions {
		partitions[i] = pipeline.TopicPartition{Topic: topic, Partition: int32(i)}
	}
	return partitions, nil
}

// offsetRanges asks the leaders for what each partition holds: two requests a
// leader, however many partitions it leads.
func (b *Broker) offsetRanges(ctx context.Context, tps []pipeline.TopicPartition) (map[pipeline.TopicPartition]log.OffsetRange, error) {
	oldest, err := b.listOffsets(ctx, tps, sarama.OffsetOldest)
	if err != nil {
		return nil, err
	}
	// The end is asked for last, so that it is never below the oldest.
	ends, err := b.listOffsets(ctx, tps, sarama.OffsetNewest)
	if err != nil {
		return nil, err
	}
	ranges := make(map[pipeline.TopicPartition]log.OffsetRange, len(tps))
	for _, tp := range tps {
		ranges[tp] = log.OffsetRange{Oldest: oldest[tp], End: ends[tp]}
	}
	return ranges, nil
}

func (b *Broker) listOffsets(ctx context.Context, tps []pipeline.TopicPartition, at int64) (map[pipeline.TopicPartition]int64, error) {
	var found map[pipeline.TopicPartition]int64
	err := b.retry(ctx, "reading offsets", func() (err error) {
		found, err = await(ctx, b, func() (map[pipeline.TopicPartition]int64, error) {
			return b.askLeaders(tps, at)
		})
		return err
	})
	return found, err
}

// askLeaders makes one attempt. Where it fails for want of the right leader, it
// has the metadata refreshed for the next one.
func (b *Broker) askLeaders(tps []pipeline.TopicPartition, at int64) (map[pipeline.TopicPartition]int64, error) {
	requests := map[*sarama.Broker]*sarama.OffsetRequest{}
	asked := map[*sarama.Broker][]pipeline.TopicPartition{}
	for _, tp := range tps {
		leader, err := b.client.Leader(b.cfg.name(tp.Topic), tp.Partition)
		if err != nil {
			return nil, fmt.Errorf("finding the leader of %s: %w", tp, err)
		}
		if requests[leader] == nil {
			requests[leader] = sarama.NewOffsetRequest(b.client.Config().Version)
		}
		requests[leader].AddBlock(b.cfg.name(tp.Topic), tp.Partition, at, 1)
		asked[leader] = append(asked[leader], tp)
	}
	found := make(map[pipeline.TopicPartition]int64, len(tps))
	for leader, request := range requests {
		response, err := leader.GetAvailableOffsets(request)
		if err != nil {
			_ = leader.Close()
			return nil, b.withFreshMetadata(asked[leader], fmt.Errorf("asking broker %d: %w", leader.ID(), err))
		}
		for _, tp := range asked[leader] {
			block := response.GetBlock(b.cfg.name(tp.Topic), tp.Partition)
			if block == nil {
				return nil, fmt.Errorf("%s: %w", tp, sarama.ErrIncompleteResponse)
			}
			if block.Err != sarama.ErrNoError {
				return nil, b.withFreshMetadata(asked[leader], fmt.Errorf("%s: %w", tp, block.Err))
			}
			found[tp] = block.Offset
		}
	}
	return found, nil
}

// withFreshMetadata returns err. That the refresh failed shows in the next
// attempt.
func (b *Broker) withFreshMetadata(tps []pipeline.TopicPartition, err error) error {
	names := map[string]struct{}{}
	for _, tp := range tps {
		names[b.cfg.name(tp.Topic)] = struct{}{}
	}
	list := make([]string, 0, len(names))
	for name := range names {
		list = append(list, name)
	}
	_ = b.client.RefreshMetadata(list...)
	return err
}
