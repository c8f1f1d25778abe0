package kafka_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
)

func TestReadOutOfRange(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 10)...)
	for _, bounds := range [][2]int64{{0, 11}, {-1, 5}, {11, 11}, {5, 4}} {
		err := b.Read(t.Context(), at(topic, 0), bounds[0], bounds[1], func([]pipeline.Record) error {
			t.Errorf("%v: records were read", bounds)
			return nil
		})
		var out *kafka.OutOfRangeError
		if !errors.Is(err, kafka.ErrOutOfRange) || !errors.As(err, &out) || out.End != 10 || out.From != bounds[0] {
			t.Errorf("%v: %v", bounds, err)
		}
	}
	for _, tp := range []pipeline.TopicPartition{at(topic, 4), at(topic, -1), at(noTopic(), 0)} {
		if err := b.Read(t.Context(), tp, 0, 0, nil); !errors.Is(err, kafka.ErrUnknownTopic) {
			t.Errorf("%s: %v", tp, err)
		}
	}
}

func TestReadPartitionsSideBySide(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	for partition := range int32(4) {
		for sent := 0; sent < 20_000; sent += 5000 {
			send(t, b, at(topic, partition), numbered(sent, 5000)...)
		}
	}
	var readers sync.WaitGroup
	for partition := range int32(4) {
		readers.Go(func() {
			next := int64(0)
			err := b.Read(t.Context(), at(topic, partition), 0, 20_000, func(records []pipeline.Record) error {
				for _, r := range records {
					if r.Offset != next || r.Partition != partition {
						return errors.New("out of order")
					}
					next++
				}
				return nil
			})
			if err != nil || next != 20_000 {
				t.Errorf("partition %d: read to %d: %v", partition, next, err)
			}
		})
	}
	readers.Wait()
}

// TestReadStepsOverGaps reads a log whose last offset is the end of a
// transaction, which is no record.
func TestReadStepsOverGaps(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 1)...) // until it is taken: sarama's producer is not that patient
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Return.Successes = true
	conf.Producer.Idempotent = true
	conf.Producer.Transaction.ID = unique("transaction")
	conf.Producer.Partitioner = sarama.NewManualPartitioner
	conf.Net.MaxOpenRequests = 1
	producer, err := sarama.NewSyncProducer(cluster.brokers, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := producer.Close(); err != nil {
			t.Error(err)
		}
	}()
	for range 3 {
		if err := producer.BeginTxn(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: string(topic), Value: sarama.StringEncoder("x")}); err != nil {
			t.Fatal(err)
		}
		if err := producer.CommitTxn(); err != nil {
			t.Fatal(err)
		}
	}
	awaitEnd(t, b, at(topic, 0), 7)
	var offsets []int64
	err = b.Read(t.Context(), at(topic, 0), 0, 7, func(records []pipeline.Record) error {
		for _, r := range records {
			offsets = append(offsets, r.Offset)
		}
		return nil
	})
	if err != nil || !slices.Equal(offsets, []int64{0, 1, 3, 5}) {
		t.Errorf("read offsets %v: %v", offsets, err)
	}
	// The bounds may themselves be gaps.
	err = b.Read(t.Context(), at(topic, 0), 6, 7, func(records []pipeline.Record) error {
		return errors.New("the gap holds records")
	})
	if err != nil {
		t.Error(err)
	}
}

// awaitEnd waits until the partition ends at an offset. A transaction is over
// before its end is written.
func awaitEnd(t *testing.T, b *kafka.Broker, tp pipeline.TopicPartition, end int64) {
	t.Helper()
	for began := time.Now(); time.Since(began) < patience; <-time.After(time.Millisecond) {
		ranges, err := b.Offsets(t.Context(), tp.Topic)
		if err != nil {
			t.Fatal(err)
		}
		if ranges[tp.Partition].End == end {
			return
		}
	}
	t.Fatalf("%s does not end at %d", tp, end)
}

func BenchmarkRead(b *testing.B) {
	broker := newBroker(b)
	topic := newTopic(b, broker)
	const n = 200_000
	records := numbered(0, 1000)
	for i := range records {
		records[i].Value = make([]byte, 150)
	}
	for range n / len(records) {
		send(b, broker, at(topic, 0), records...)
	}
	read := 0
	for b.Loop() {
		err := broker.Read(b.Context(), at(topic, 0), 0, n, func(records []pipeline.Record) error {
			read += len(records)
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(read)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkSubscribe(b *testing.B) {
	broker := newBroker(b)
	topic := newTopic(b, broker)
	const n = 100_000 // in each partition
	records := numbered(0, 1000)
	for i := range records {
		records[i].Value = make([]byte, 150)
	}
	for range n / len(records) {
		for partition := range int32(4) {
			send(b, broker, at(topic, partition), records...)
		}
	}
	assignor := newPositions()
	messages := subscribe(b, broker, log.SubscriberConfig{Assignor: assignor}, string(topic))
	received := 0
	for b.Loop() {
		for seen := 0; seen < 4*n; {
			msg, batch := receive(b, messages)
			seen += len(batch.Records)
			if received += len(batch.Records); seen == 4*n {
				assignor.restart() // read all of it again
			}
			msg.Ack()
		}
	}
	b.ReportMetric(float64(received)/b.Elapsed().Seconds(), "records/s")
}
