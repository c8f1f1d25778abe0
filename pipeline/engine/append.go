package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// Appender brings events straight into the log, without an outbox: answers of
// streams and files, of which there are many, and whose ids make a repeat
// harmless. It is safe for concurrent use.
type Appender struct {
	broker log.Broker
	topics *topics.Set
	tracer *tracing.Tracer // nil for none
}

// NewAppender returns an Appender to these topics.
func NewAppender(broker log.Broker, topics *topics.Set) *Appender {
	return &Appender{broker: broker, topics: topics}
}

// Append appends events, in their order on each partition, and returns once all
// are acknowledged. What fails is sent again until ctx is done, so an event may
// be in the log twice, and then has the same id; after an error some are there
// and some are not, and the caller gives all of them again. Two calls at once
// have no order between them: where that of a key's events matters, keep to one.
func (a *Appender) Append(ctx context.Context, events []schema.Event) error {
	events, spans := publish(ctx, a.tracer, events)
	err := a.append(ctx, events)
	spans.end(err)
	return err
}

func (a *Appender) append(ctx context.Context, events []schema.Event) error {
	batches, err := a.batches(events)
	if err != nil {
		return err
	}
	pauses := log.NewPauses()
	for len(batches) > 0 {
		round := make([]log.PartitionBatch, len(batches))
		for i, batch := range batches {
			round[i] = log.PartitionBatch{TopicPartition: batch.TopicPartition, Records: batch.Records[:fitting(batch.Records)]}
		}
		var errs []error
		for i, err := range a.broker.Send(ctx, round) {
			if err != nil {
				errs = append(errs, fmt.Errorf("sending to %s: %w", round[i].TopicPartition, err))
				continue
			}
			batches[i].Records = batches[i].Records[len(round[i].Records):]
		}
		if err := failpoint.Hit(ctx, failpoint.AppendSent); err != nil {
			return errors.Join(append(errs, err)...)
		}
		batches = slices.DeleteFunc(batches, func(b log.PartitionBatch) bool { return len(b.Records) == 0 })
		if len(errs) == 0 {
			pauses.Reset()
			continue
		}
		select {
		case <-ctx.Done():
			return errors.Join(append(errs, ctx.Err())...)
		case <-time.After(pauses.NextBackOff()):
		}
	}
	return nil
}

// fitting is how many of the records go into one batch.
func fitting(records []log.OutgoingRecord) int {
	size := 0
	for i, r := range records {
		if size += r.Size(); i > 0 && size > log.BatchBytes || i == log.BatchRecords {
			return i
		}
	}
	return len(records)
}

// batches sorts events by partition.
func (a *Appender) batches(events []schema.Event) ([]log.PartitionBatch, error) {
	var batches []log.PartitionBatch
	index := map[pipeline.TopicPartition]int{}
	for _, event := range events {
		headers, value, err := event.Encode()
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		key := []byte(event.Payload.Key())
		record := log.OutgoingRecord{Key: key, Headers: headers, Value: value}
		if size := record.Size(); size > log.MaxEventBytes {
			return nil, pipeline.Permanent(fmt.Errorf("appending %s: the event has %d bytes, and the most is %d",
				event.Payload.EventType(), size, log.MaxEventBytes))
		}
		partition, err := a.topics.PartitionOf(event.Payload.Topic(), key)
		if err != nil {
			return nil, err
		}
		tp := pipeline.TopicPartition{Topic: event.Payload.Topic(), Partition: partition}
		at, begun := index[tp]
		if !begun {
			at = len(batches)
			index[tp] = at
			batches = append(batches, log.PartitionBatch{TopicPartition: tp})
		}
		batches[at].Records = append(batches[at].Records, record)
	}
	return batches, nil
}
