package table

import (
	"context"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
)

// AppendTx implements log.TransactionalLog.
func (l *Log) AppendTx(ctx context.Context, tx *store.Tx, rows []store.OutboxRow) error {
	now := time.Now()
	entries := make([]entry, len(rows))
	places := make([]place, len(rows))
	for i, row := range rows {
		entries[i] = entry{now, row.Key, row.Headers, row.Payload}
		if err := entries[i].check(); err != nil {
			return err
		}
		places[i] = place{row.Epoch, row.Part}
	}
	numbers, err := l.append(ctx, tx, places, entries)
	if err != nil {
		return err
	}
	for i := range rows {
		rows[i].Seq = numbers[i]
	}
	return nil
}

// append appends entries, each to its place, in their order, and returns their numbers.
func (l *Log) append(ctx context.Context, tx *store.Tx, places []place, entries []entry) ([]int64, error) {
	var wanted []store.Numbers
	index := map[place]int{}
	of := make([]int, len(entries)) // which of wanted
	for i, p := range places {
		at, begun := index[p]
		if !begun {
			at = len(wanted)
			index[p] = at
			wanted = append(wanted, store.Numbers{Epoch: p.epoch, Part: p.part})
		}
		wanted[at].N++
		of[i] = at
	}
	if err := tx.TakeLogNumbers(ctx, wanted); err != nil {
		return nil, err
	}
	sorted := make([][]entry, len(wanted))
	numbers := make([]int64, len(entries))
	for i, at := range of {
		numbers[i] = wanted[at].First() + int64(len(sorted[at]))
		sorted[at] = append(sorted[at], entries[i])
	}
	var segments []store.Segment
	reached := make([]store.Chain, len(wanted))
	for at, n := range wanted {
		segments = append(segments, pack(n.Epoch, n.Part, n.First(), sorted[at])...)
		reached[at] = store.Chain{Epoch: n.Epoch, Part: n.Part, Last: n.Last}
	}
	if err := tx.AppendSegments(ctx, segments); err != nil {
		return nil, err
	}
	tx.OnCommit(func() { l.ends.raise(reached...); l.announce() })
	return numbers, nil
}

// Send implements log.Broker. What can be appended is, in one transaction.
func (l *Log) Send(ctx context.Context, batches []log.PartitionBatch) []error {
	packed, errs := l.packAll(ctx, batches)
	err := l.write(ctx, packed)
	for i := range errs {
		if errs[i] == nil && len(batches[i].Records) > 0 {
			errs[i] = err
		}
	}
	return errs
}

// packed is records on their way into the log, each with its place.
type packed struct {
	places  []place
	entries []entry
}

// packAll packs batches, but for those with an error.
func (l *Log) packAll(ctx context.Context, batches []log.PartitionBatch) (packed, []error) {
	now := time.Now()
	errs := make([]error, len(batches))
	refused := map[pipeline.TopicPartition]error{}
	var all packed
	if l.life.Err() != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("log: %w", ErrClosed)
		}
		return all, errs
	}
	for i, batch := range batches {
		// What follows a batch that is refused would come before it.
		if errs[i] = refused[batch.TopicPartition]; errs[i] != nil {
			continue
		}
		topic, entries, err := l.pack(ctx, batch, now)
		if err != nil {
			errs[i], refused[batch.TopicPartition] = err, err
			continue
		}
		for range entries {
			all.places = append(all.places, place{topic.Epoch, batch.Partition})
		}
		all.entries = append(all.entries, entries...)
	}
	return all, errs
}

// write appends records in a transaction of its own.
func (l *Log) write(ctx context.Context, all packed) error {
	if len(all.entries) == 0 {
		return nil
	}
	return l.db.Write(ctx, func(tx *store.Tx) error {
		_, err := l.append(ctx, tx, all.places, all.entries)
		return err
	})
}

// pack makes the entries of a batch.
func (l *Log) pack(ctx context.Context, batch log.PartitionBatch, now time.Time) (store.Topic, []entry, error) {
	topic, err := l.topic(ctx, batch.Topic)
	if err != nil {
		return store.Topic{}, nil, err
	}
	if batch.Partition < 0 || batch.Partition >= topic.Partitions {
		return store.Topic{}, nil, fmt.Errorf("%w: %s", ErrUnknownTopic, batch.TopicPartition)
	}
	entries := make([]entry, len(batch.Records))
	for i, r := range batch.Records {
		at := r.Timestamp
		if at.IsZero() {
			at = now
		}
		entries[i] = entry{at, r.Key, store.EncodeHeaders(chain.DirectHeaders(r.Headers)), r.Value}
		if err := entries[i].check(); err != nil {
			return store.Topic{}, nil, fmt.Errorf("appending to %s: %w", batch.TopicPartition, err)
		}
	}
	return topic, entries, nil
}

// place is a partition of a topic's epoch.
type place struct {
	epoch int64
	part  int32
}
