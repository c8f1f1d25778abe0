package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// Span is records of a partition: from offset From up to but not including To.
type Span struct {
	pipeline.TopicPartition
	From, To int64
}

// CopyConfig says what to copy, and where to.
type CopyConfig struct {
	Source, Target log.Broker
	// Spans are of one topic, no two of one partition.
	Spans []Span
	// To is a topic of Target, with at least as many partitions.
	To schema.Topic
	// Grace is how long batches that are under way may take once Copy is to stop.
	// With 0, whether they are in the log is not known.
	Grace time.Duration
	// Progress, if not nil, is told of each batch that is in the log of the target,
	// by several goroutines.
	Progress func(records int)
}

// Copied is how far the copy of a span came.
type Copied struct {
	Partition int32 `json:"partition"`
	From      int64 `json:"from"`
	To        int64 `json:"to"`
	// Next is where to continue: what lies before it was copied.
	Next    int64 `json:"next"`
	Records int64 `json:"records"`
	// Beyond is what else the target got: records that are there twice, as a
	// batch is sent again whose answer was lost; the last batch of a copy that was
	// interrupted; or what someone else wrote.
	Beyond int64 `json:"beyond"`
}

// Done says whether all of the span was copied.
func (c Copied) Done() bool { return c.Next == c.To }

// copiesAtOnce is how many partitions are copied side by side. Each holds two
// fetches in memory.
const copiesAtOnce = 4

// Copy appends the records of each span to the same partition of the target: key,
// headers, value and timestamp as they are, in their order, one batch of a
// partition in flight. Their offsets become others.
//
// It tells how far each span came, also next to an error. To send is tried as long
// as Target's Send does; Copy does not try again, since anyone who asked for it sees
// where to continue.
func Copy(ctx context.Context, cfg CopyConfig) ([]Copied, error) {
	copied := make([]Copied, len(cfg.Spans))
	for i, span := range cfg.Spans {
		copied[i] = Copied{Partition: span.Partition, From: span.From, To: span.To, Next: span.From}
	}
	before, err := cfg.Target.Offsets(ctx, cfg.To)
	if err != nil {
		return copied, fmt.Errorf("asking for the ends of %s: %w", cfg.To, err)
	}
	if err := cfg.check(len(before)); err != nil {
		return copied, err
	}
	group, inGroup := errgroup.WithContext(ctx)
	group.SetLimit(copiesAtOnce)
	for i := range cfg.Spans {
		group.Go(func() error { return cfg.copy(inGroup, cfg.Spans[i], &copied[i]) })
	}
	err = group.Wait()
	return copied, errors.Join(err, cfg.count(ctx, before, copied))
}

func (cfg CopyConfig) check(partitions int) error {
	for _, span := range cfg.Spans {
		if int(span.Partition) >= partitions {
			return fmt.Errorf("copying %s: %s has partitions 0 to %d", span.TopicPartition, cfg.To, partitions-1)
		}
	}
	return nil
}

// copy copies a span.
func (cfg CopyConfig) copy(ctx context.Context, span Span, to *Copied) error {
	if to.Done() {
		return nil
	}
	sending, end := lingering(ctx, cfg.Grace)
	defer end()
	err := cfg.Source.Read(ctx, span.TopicPartition, span.From, span.To, func(records []pipeline.Record) error {
		for len(records) > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := cfg.send(sending, span.Partition, records)
			if err != nil {
				return err
			}
			to.Records, to.Next = to.Records+int64(n), records[n-1].Offset+1
			if cfg.Progress != nil {
				cfg.Progress(n)
			}
			records = records[n:]
		}
		return nil
	})
	if err != nil && !to.Done() { // a stop that comes after the last batch stops nothing
		return fmt.Errorf("copying %s: %w", span.TopicPartition, err)
	}
	to.Next = span.To // the last offsets may hold no record
	return nil
}

// send appends as many of the records as go into a batch, and says how many.
func (cfg CopyConfig) send(ctx context.Context, partition int32, records []pipeline.Record) (int, error) {
	outgoing := make([]log.OutgoingRecord, min(len(records), log.BatchRecords))
	for i := range outgoing {
		r := &records[i]
		outgoing[i] = log.OutgoingRecord{Key: r.Key, Headers: r.Headers, Value: r.Value, Timestamp: r.Timestamp}
	}
	n := fitting(outgoing)
	batch := log.PartitionBatch{TopicPartition: pipeline.TopicPartition{Topic: cfg.To, Partition: partition}, Records: outgoing[:n]}
	return n, cfg.Target.Send(ctx, []log.PartitionBatch{batch})[0]
}

// countTime bounds the last question that a copy asks, also one that is to stop.
const countTime = 5 * time.Second

// count finds what is in the target beyond what was copied.
func (cfg CopyConfig) count(ctx context.Context, before []log.OffsetRange, copied []Copied) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countTime)
	defer cancel()
	after, err := cfg.Target.Offsets(ctx, cfg.To)
	if err != nil {
		return fmt.Errorf("asking for the ends of %s: %w", cfg.To, err)
	}
	for i := range copied {
		p := copied[i].Partition
		copied[i].Beyond = after[p].End - before[p].End - copied[i].Records
	}
	return nil
}

// lingering is a context that ends some time after ctx does.
func lingering(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		defer cancel()
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-late.Done():
		}
	})
	return late, func() { stop(); cancel() }
}
