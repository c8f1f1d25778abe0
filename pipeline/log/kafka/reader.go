package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

const (
	// fetchVersion is the newest that sarama can send.
	fetchVersion = 11
	// readBytes is how much one fetch of Read asks for.
	readBytes = 4 << 20
	// readMaxBytes bounds what a single batch may make a fetch grow to.
	readMaxBytes = 64 << 20
	// emptyAnswers is how many fetches in a row must find nothing below the
	// end before the offsets up to it are taken for a gap.
	emptyAnswers = 3
)

// errNothingFetched is an answer without records where there may be some.
var errNothingFetched = fmt.Errorf("fetch came back empty: %w", sarama.ErrIncompleteResponse)

// Read implements log.Broker. Where the partition does not hold all of the
// offsets, the error is an *OutOfRangeError; this is checked before f is called
// first, though retention may still overtake a slow reader. Offsets that hold
// no record, as those of transactions, are skipped.
//
// Each call has a connection of its own, so several partitions may be read side
// by side, and the next records are fetched while f works. f may keep the
// slices. Failures that pass are waited out as long as Config.Timeout goes by
// without a record.
func (b *Broker) Read(ctx context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error {
	r, err := b.newReader(ctx, tp, from, to)
	if err != nil {
		return fmt.Errorf("reading %s: %w", tp, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(b.life, func() { cancel(ErrClosed) })()
	fetched := make(chan []pipeline.Record, 1)
	ended := make(chan error, 1)
	go func() {
		defer close(fetched)
		ended <- r.run(ctx, fetched)
	}()
	// Deferred calls run last first: the fetching is told to end, then awaited.
	defer func() {
		for range fetched {
			continue
		}
	}()
	defer cancel(nil)
	for records := range fetched {
		if err := f(records); err != nil {
			return err
		}
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("reading %s from %d to %d: %w", tp, from, to, err)
	}
	return nil
}

// reader fetches one partition over a connection of its own.
type reader struct {
	broker    *Broker
	tp        pipeline.TopicPartition
	name      string
	next, to  int64
	converter *converter
	limit     int32 // bytes a fetch asks for
	empty     int   // answers without anything in a row
	conn      *sarama.Broker
}

func (b *Broker) newReader(ctx context.Context, tp pipeline.TopicPartition, from, to int64) (*reader, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	infos, err := b.describeTopics(ctx, []schema.Topic{tp.Topic})
	if err != nil {
		return nil, err
	}
	info, exists := infos[tp.Topic]
	if !exists || tp.Partition < 0 || tp.Partition >= info.Partitions {
		return nil, ErrUnknownTopic
	}
	ranges, err := b.offsetRanges(ctx, []pipeline.TopicPartition{tp})
	if err != nil {
		return nil, err
	}
	if held := ranges[tp]; from < held.Oldest || to > held.End || from > to {
		return nil, &OutOfRangeError{tp, from, to, held}
	}
	return &reader{
		broker: b, tp: tp, name: b.cfg.name(tp.Topic), next: from, to: to,
		converter: newConverter(tp, info.ID), limit: readBytes,
	}, nil
}

func (r *reader) run(ctx context.Context, out chan<- []pipeline.Record) error {
	defer r.disconnect()
	failures := 0
	progress := time.Now()
	for r.next < r.to {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		records, err := r.fetch(ctx)
		if err != nil {
			failures++
			if err := r.recover(ctx, err, failures, time.Since(progress)); err != nil {
				return err
			}
			continue
		}
		if len(records) > 0 {
			select {
			case out <- records:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		failures, progress = 0, time.Now()
	}
	return nil
}

// recover prepares for another fetch, or returns the error where that is no use.
func (r *reader) recover(ctx context.Context, err error, failures int, since time.Duration) error {
	if errors.Is(err, sarama.ErrOffsetOutOfRange) {
		return r.outOfRange(ctx, err)
	}
	remedy := classify(err)
	if remedy == hopeless || since > r.broker.cfg.Timeout {
		return err
	}
	r.broker.log.Debug("fetching again", slog.String("partition", r.tp.String()), slog.Any("error", err))
	if remedy != again {
		r.disconnect()
	}
	if !log.Pause(ctx, backoff(failures)) {
		return errors.Join(context.Cause(ctx), err)
	}
	if remedy != again {
		_, _ = await(ctx, r.broker, func() (none struct{}, err error) {
			return none, r.broker.client.RefreshMetadata(r.name)
		})
	}
	return nil
}

// outOfRange says what the log holds now that it was cut under the reader.
func (r *reader) outOfRange(ctx context.Context, cause error) error {
	ctx, cancel := r.broker.bounded(ctx)
	defer cancel()
	ranges, err := r.broker.offsetRanges(ctx, []pipeline.TopicPartition{r.tp})
	if err != nil {
		return errors.Join(ErrOutOfRange, cause, err)
	}
	return &OutOfRangeError{r.tp, r.next, r.to, ranges[r.tp]}
}

// fetch returns the next records, none where there were only gaps.
func (r *reader) fetch(ctx context.Context) ([]pipeline.Record, error) {
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	request := &sarama.FetchRequest{
		Version: fetchVersion, MinBytes: 1, MaxBytes: max(r.limit, readBytes),
		MaxWaitTime: int32(fetchWait / time.Millisecond),
		// No fetch session: each request says all.
		SessionID: 0, SessionEpoch: -1,
	}
	request.AddBlock(r.name, r.tp.Partition, r.next, r.limit, -1)
	conn := r.conn
	response, err := await(ctx, r.broker, func() (*sarama.FetchResponse, error) { return conn.Fetch(request) })
	if err != nil {
		return nil, err
	}
	block := response.GetBlock(r.name, r.tp.Partition)
	if block == nil {
		return nil, errNothingFetched
	}
	if block.Err != sarama.ErrNoError {
		return nil, block.Err
	}
	return r.parse(block)
}

// parse takes the records of an answer and moves next after it. It goes by the
// batches' own bounds: their last offsets may hold no record.
func (r *reader) parse(block *sarama.FetchResponseBlock) ([]pipeline.Record, error) {
	var records []pipeline.Record
	start := r.next
	for _, set := range block.RecordsSet {
		batch := set.RecordBatch
		if batch == nil {
			return nil, errors.New("the log holds records in a format older than Kafka 0.11")
		}
		if batch.PartialTrailingRecord {
			break
		}
		if !batch.Control {
			records = r.take(records, batch)
		}
		r.next = max(r.next, batch.LastOffset()+1)
	}
	if r.next > start {
		r.empty = 0
		return records, nil
	}
	if len(block.RecordsSet) > 0 && r.limit < readMaxBytes {
		r.limit *= 2 // not even one batch fitted
		return nil, errNothingFetched
	}
	// Nothing at all, although the log continues. A single such answer may come
	// from a broker that is not itself yet.
	if r.empty++; r.empty >= emptyAnswers && block.HighWaterMarkOffset >= r.to {
		r.next = r.to
		return nil, nil
	}
	return nil, errNothingFetched
}

func (r *reader) take(records []pipeline.Record, batch *sarama.RecordBatch) []pipeline.Record {
	if records == nil {
		records = make([]pipeline.Record, 0, len(batch.Records))
	}
	for _, record := range batch.Records {
		offset := batch.FirstOffset + record.OffsetDelta
		if offset < r.next || offset >= r.to {
			continue
		}
		at := batch.FirstTimestamp.Add(record.TimestampDelta)
		if batch.LogAppendTime {
			at = batch.MaxTimestamp
		}
		records = append(records, r.converter.record(offset, at, record.Key, record.Value, record.Headers))
	}
	return records
}

func (r *reader) connect(ctx context.Context) error {
	if r.conn != nil {
		return nil
	}
	leader, err := await(ctx, r.broker, func() (*sarama.Broker, error) {
		return r.broker.client.Leader(r.name, r.tp.Partition)
	})
	if err != nil {
		return err
	}
	conn := sarama.NewBroker(leader.Addr())
	if err := conn.Open(r.broker.client.Config()); err != nil {
		return fmt.Errorf("connecting to %s: %w", leader.Addr(), err)
	}
	r.conn = conn
	return nil
}

// disconnect does not wait for a fetch that is under way: to a broker that hangs,
// that would be for as long as an answer may take. Close does, after it has cut the
// lines.
func (r *reader) disconnect() {
	if r.conn == nil {
		return
	}
	conn := r.conn
	r.conn = nil
	// Nothing that is left to be done on it can fail.
	if !r.broker.begin(func() { _ = conn.Close() }) {
		_ = conn.Close()
	}
}
