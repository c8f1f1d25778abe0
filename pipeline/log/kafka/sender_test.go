package kafka_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/pricemill/pricemill/internal/kafkatest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
)

// readAll returns what a partition holds.
func readAll(t testing.TB, b *kafka.Broker, tp pipeline.TopicPartition) []pipeline.Record {
	t.Helper()
	ranges, err := b.Offsets(t.Context(), tp.Topic)
	if err != nil {
		t.Fatal(err)
	}
	var all []pipeline.Record
	held := ranges[tp.Partition]
	err = b.Read(t.Context(), tp, held.Oldest, held.End, func(records []pipeline.Record) error {
		all = append(all, records...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSendBatchIsOneBatchOfTheLog(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 100)...)
	records := readAll(t, b, at(topic, 0))
	for _, r := range records {
		// One batch has one time, and ours is of now.
		if !r.Timestamp.Equal(records[0].Timestamp) || time.Since(r.Timestamp) > time.Minute {
			t.Fatalf("timestamps %v and %v", r.Timestamp, records[0].Timestamp)
		}
	}
}

func TestSendGivesEachBatchItsError(t *testing.T) {
	t.Parallel()
	// As long as the topic that does not exist is waited for.
	b := newBroker(t, func(c *kafka.Config) { c.Timeout = 3 * time.Second })
	topic := newTopic(t, newBroker(t))
	errs := b.Send(t.Context(), []log.PartitionBatch{
		{TopicPartition: at(topic, 0), Records: numbered(0, 1)},
		{TopicPartition: at(topic, 1), Records: []log.OutgoingRecord{{Value: make([]byte, 1_040_000)}}},
		{TopicPartition: at(noTopic(), 0), Records: numbered(0, 1)},
		{TopicPartition: at(topic, 2)},
		{TopicPartition: at(topic, 1), Records: numbered(0, 1)}, // after the one too large
		{TopicPartition: at(topic, 0), Records: numbered(1, 1)},
	})
	for _, i := range []int{0, 3, 5} {
		if errs[i] != nil {
			t.Errorf("batch %d: %v", i, errs[i])
		}
	}
	var large *kafka.TooLargeError
	if !errors.As(errs[1], &large) || !errors.Is(errs[1], kafka.ErrTooLarge) || large.Limit != 1_040_000 ||
		large.TopicPartition != at(topic, 1) {
		t.Errorf("too large: %v", errs[1])
	}
	if !errors.Is(errs[2], kafka.ErrUnknownTopic) || !errors.Is(errs[2], context.DeadlineExceeded) {
		t.Errorf("unknown topic: %v", errs[2])
	}
	if !errors.Is(errs[4], kafka.ErrTooLarge) {
		t.Errorf("after a failed one: %v", errs[4])
	}
	if got := readAll(t, b, at(topic, 0)); len(got) != 2 || string(got[1].Value) != "1" {
		t.Errorf("partition 0 holds %d records", len(got))
	}
	if got := readAll(t, b, at(topic, 1)); len(got) != 0 {
		t.Errorf("partition 1 holds %d records, want none", len(got))
	}
}

// TestSendMeasuresExactly finds the broker's own limit to the byte, where all records
// of a batch have one time and where they have others.
func TestSendMeasuresExactly(t *testing.T) {
	t.Parallel()
	for name, records := range map[string][]log.OutgoingRecord{
		"of one time": numbered(0, 200), "of other times": written(0, 1, -100, 1_000_000, -8_640_000_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testSendMeasures(t, records)
		})
	}
}

func testSendMeasures(t *testing.T, records []log.OutgoingRecord) {
	t.Helper()
	last := len(records) - 1
	const brokersLimit = 1_048_588
	b := newBroker(t, func(c *kafka.Config) { c.MaxMessageBytes = brokersLimit + 1 })
	topic := newTopic(t, b)
	bytes := func(filler int) int {
		records[last].Value = make([]byte, filler)
		var large *kafka.TooLargeError
		tiny := newBroker(t, func(c *kafka.Config) { c.MaxMessageBytes = 100 })
		err := tiny.Send(t.Context(), []log.PartitionBatch{{TopicPartition: at(topic, 0), Records: records}})[0]
		if !errors.As(err, &large) {
			t.Fatalf("no size in %v", err)
		}
		return large.Bytes
	}
	filler := 1_000_000
	filler += brokersLimit - bytes(filler)
	if got := bytes(filler); got != brokersLimit {
		t.Fatalf("the batch has %d bytes, want %d", got, brokersLimit)
	}
	send(t, b, at(topic, 0), records...)
	records[last].Value = make([]byte, filler+1)
	err := b.Send(t.Context(), []log.PartitionBatch{{TopicPartition: at(topic, 0), Records: records}})[0]
	if !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("a byte more than the broker takes: %v", err)
	}
}

func TestSendCompressed(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		b := newBroker(t, func(c *kafka.Config) { c.Compression = codec })
		topic := newTopic(t, b)
		send(t, b, at(topic, 0), numbered(0, 100)...)
		if got := readAll(t, b, at(topic, 0)); len(got) != 100 || string(got[99].Value) != "99" {
			t.Errorf("%s: %d records", codec, len(got))
		}
	}
}

func TestSendAfterTheBrokerCameBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	logger, err := kafkatest.Start(kafkatest.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(logger.Addr())
	if err != nil {
		t.Fatal(err)
	}
	b := newBroker(t, func(c *kafka.Config) { c.Brokers = []string{logger.Addr()} })
	topic := newTopic(t, b)
	messages := subscribe(t, b, log.SubscriberConfig{}, string(topic))
	send(t, b, at(topic, 0), numbered(0, 10)...)
	if err := logger.Close(); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	batch := []log.PartitionBatch{{TopicPartition: at(topic, 0), Records: numbered(10, 10)}}
	if err := b.Send(ctx, batch)[0]; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("sending to a broker that is gone: %v", err)
	}

	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	logger, err = kafkatest.Start(kafkatest.Config{Dir: dir, Port: number})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := logger.Close(); err != nil {
			t.Error(err)
		}
	})
	send(t, b, at(topic, 0), batch[0].Records...)
	if got := readAll(t, b, at(topic, 0)); len(got) != 20 || string(got[19].Value) != "19" {
		t.Errorf("the log holds %d records, want 20", len(got))
	}
	// The subscriber comes back by itself.
	for last := int64(-1); last < 19; {
		msg, batch := receive(t, messages)
		last = batch.Records[len(batch.Records)-1].Offset
		msg.Ack()
	}
}

func TestClosedBrokerSendsNothing(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	err := b.Send(t.Context(), []log.PartitionBatch{{TopicPartition: at(topic, 0), Records: numbered(0, 1)}})[0]
	if err == nil {
		t.Error("a closed broker sends")
	}
	if _, err := b.Subscriber(log.SubscriberConfig{Group: "g"}); !errors.Is(err, kafka.ErrClosed) {
		t.Errorf("subscribing: %v", err)
	}
	if _, err := b.Publisher(kafka.PublisherConfig{}); !errors.Is(err, kafka.ErrClosed) {
		t.Errorf("making a publisher: %v", err)
	}
}

func BenchmarkSend(b *testing.B) {
	broker := newBroker(b)
	topic := newTopic(b, broker)
	records := numbered(0, 1000)
	for i := range records {
		records[i].Value = make([]byte, 150)
	}
	var batches []log.PartitionBatch
	for partition := range int32(4) {
		batches = append(batches, log.PartitionBatch{TopicPartition: at(topic, partition), Records: records})
	}
	sent := 0
	for b.Loop() {
		if err := errors.Join(broker.Send(b.Context(), batches)...); err != nil {
			b.Fatal(err)
		}
		sent += 4 * len(records)
	}
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "records/s")
}
