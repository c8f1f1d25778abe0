package kafka_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// follow acks batches until every partition has given n records, and fails
// where one is out of order or missing.
func follow(t *testing.T, messages <-chan *message.Message, partitions, n int) {
	t.Helper()
	next := map[pipeline.TopicPartition]int64{}
	for done := 0; done < partitions; {
		msg, batch := receive(t, messages)
		for _, r := range batch.Records {
			if r.Offset != next[r.TopicPartition] || string(r.Value) != strconv.FormatInt(r.Offset, 10) {
				t.Fatalf("%s: got offset %d with %q, want %d", r.TopicPartition, r.Offset, r.Value, next[r.TopicPartition])
			}
			if next[r.TopicPartition]++; next[r.TopicPartition] == int64(n) {
				done++
			}
		}
		msg.Ack()
	}
}

func TestBatchesKeepOrderAndOmitNothing(t *testing.T) {
	t.Parallel()
	const perPartition = 5000
	b := newBroker(t)
	first, second := newTopic(t, b), newTopic(t, b)
	for _, topic := range []schema.Topic{first, second} {
		for partition := range int32(4) {
			for sent := 0; sent < perPartition; sent += 1000 {
				send(t, b, at(topic, partition), numbered(sent, 1000)...)
			}
		}
	}
	for _, size := range []int{1, 7, 1000} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			messages := subscribe(t, b, pipeline.SubscriberConfig{BatchSize: size, Lanes: 3},
				string(first)+","+string(second))
			follow(t, messages, 8, perPartition)
		})
	}
}

func TestRecordIsWhatWasSent(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	infos, err := b.EnsureTopics(t.Context(), []schema.Topic{topic})
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-time.Second)
	send(t, b, at(topic, 2), pipeline.OutgoingRecord{
		Key:     []byte("key"),
		Headers: []schema.Header{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}},
		Value:   []byte("value"),
	})
	msg, batch := receive(t, subscribe(t, b, pipeline.SubscriberConfig{}, string(topic)))
	defer msg.Ack()
	r := batch.Records[0]
	if len(batch.Records) != 1 || r.TopicPartition != at(topic, 2) || r.TopicID != infos[topic].ID ||
		r.Offset != 0 || string(r.Key) != "key" || string(r.Value) != "value" ||
		len(r.Headers) != 2 || r.Headers[1].Key != "b" || string(r.Headers[1].Value) != "2" {
		t.Errorf("got %+v", r)
	}
	if r.Timestamp.Before(before) || r.Timestamp.After(time.Now()) {
		t.Errorf("timestamp is %v", r.Timestamp)
	}
	if want := string(topic) + "/2@0"; msg.UUID != want || len(msg.Payload) != 0 {
		t.Errorf("message %q with %d bytes, want %q with none", msg.UUID, len(msg.Payload), want)
	}
}

func TestUndecodableRecordIsDelivered(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), pipeline.OutgoingRecord{}, pipeline.OutgoingRecord{Value: []byte{0xff, 0x00}})
	messages := subscribe(t, b, pipeline.SubscriberConfig{BatchSize: 1}, string(topic))
	for i, want := range []string{"", "\xff\x00"} {
		msg, _ := receive(t, messages)
		if string(msg.Payload) != want || msg.UUID != string(topic)+"/0@"+strconv.Itoa(i) {
			t.Errorf("got %q in message %s", msg.Payload, msg.UUID)
		}
		msg.Ack()
	}
}

func TestLaneHasOneBatchInFlight(t *testing.T) {
	t.Parallel()
	const lanes = 2
	b := newBroker(t)
	topic := newTopic(t, b)
	for partition := range int32(4) {
		send(t, b, at(topic, partition), numbered(0, 500)...)
	}
	messages := subscribe(t, b, pipeline.SubscriberConfig{BatchSize: 10, Lanes: lanes}, string(topic))
	var inFlight [lanes]atomic.Int32
	var seen atomic.Int32
	done := make(chan struct{})
	var handlers sync.WaitGroup
	for range 8 {
		handlers.Go(func() {
			for {
				select {
				case msg, open := <-messages:
					if !open {
						return
					}
					batch, _ := pipeline.BatchOf(msg)
					if n := inFlight[batch.Lane].Add(1); n != 1 {
						t.Errorf("%d batches of lane %d are in flight", n, batch.Lane)
					}
					for _, r := range batch.Records {
						if int(r.Partition)%lanes != batch.Lane {
							t.Errorf("partition %d came in lane %d", r.Partition, batch.Lane)
						}
					}
					inFlight[batch.Lane].Add(-1)
					if seen.Add(int32(len(batch.Records))) == 2000 {
						close(done)
					}
					msg.Ack()
				case <-done:
					return
				}
			}
		})
	}
	wait(t, "all records", done)
	handlers.Wait()
}

func TestSamePartitionOfTwoTopicsSharesALane(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	first, second := newTopic(t, b), newTopic(t, b)
	for partition := range int32(4) {
		send(t, b, at(first, partition), numbered(0, 10)...)
		send(t, b, at(second, partition), numbered(0, 10)...)
	}
	messages := subscribe(t, b, pipeline.SubscriberConfig{Lanes: 4}, string(first)+", "+string(second))
	lanes := map[pipeline.TopicPartition]int{}
	for seen := 0; seen < 80; {
		msg, batch := receive(t, messages)
		for _, r := range batch.Records {
			lanes[r.TopicPartition] = batch.Lane
			seen++
		}
		msg.Ack()
	}
	used := map[int]bool{}
	for partition := range int32(4) {
		if lanes[at(first, partition)] != lanes[at(second, partition)] {
			t.Errorf("partition %d is in lanes %d and %d", partition, lanes[at(first, partition)], lanes[at(second, partition)])
		}
		used[lanes[at(first, partition)]] = true
	}
	if len(used) != 4 {
		t.Errorf("%d lanes were used, want 4", len(used))
	}
}

func TestLingerFillsABatchOfAnIdleLane(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	messages := subscribe(t, b, pipeline.SubscriberConfig{Linger: time.Hour, BatchSize: 3, Lanes: 1}, string(topic))
	for i := range 3 {
		send(t, b, at(topic, 0), numbered(i, 1)...)
	}
	msg, batch := receive(t, messages)
	msg.Ack()
	if len(batch.Records) != 3 {
		t.Errorf("the batch has %d records, want 3", len(batch.Records))
	}
}

func TestBatchIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	const records, size, limit = 20, 900_000, 4 << 20
	b := newBroker(t)
	topic := newTopic(t, b)
	for i := range records {
		record := numbered(i, 1)
		record[0].Value = make([]byte, size)
		send(t, b, at(topic, 0), record...)
	}
	messages := subscribe(t, b, pipeline.SubscriberConfig{}, string(topic))
	for next := int64(0); next < records; {
		msg, batch := receive(t, messages)
		if bytes := len(batch.Records) * size; bytes >= limit+size {
			t.Errorf("the batch has %d bytes", bytes)
		}
		for _, r := range batch.Records {
			if r.Offset != next {
				t.Fatalf("got offset %d, want %d", r.Offset, next)
			}
			next++
		}
		msg.Ack()
	}
}

func TestNackDeliversTheSameBatchAgain(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 20)...)
	messages := subscribe(t, b, pipeline.SubscriberConfig{BatchSize: 10}, string(topic))
	msg, batch := receive(t, messages)
	name, first := msg.UUID, batch.Records[0].Offset
	for range 3 {
		batch.Records[0].Prepared = "left by the handler"
		msg.Nack()
		if wait(t, "the end of the context", msg.Context().Done()); msg.Context().Err() == nil {
			t.Error("the context goes on after a nack")
		}
		msg, batch = receive(t, messages)
		if msg.UUID != name || batch.Records[0].Offset != first || batch.Records[0].Prepared != nil {
			t.Fatalf("got %s with %v, want %s as it came", msg.UUID, batch.Records[0].Prepared, name)
		}
	}
	msg.Ack()
	msg, batch = receive(t, messages)
	msg.Ack()
	if batch.Records[0].Offset != 10 {
		t.Errorf("got offset %d, want 10", batch.Records[0].Offset)
	}
}

func TestContextEndsWithTheSession(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 0), numbered(0, 1)...)
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "of the subscription"))
	defer cancel()
	messages, err := newSubscriber(t, b, pipeline.SubscriberConfig{}).Subscribe(ctx, string(topic))
	if err != nil {
		t.Fatal(err)
	}
	msg, _ := receive(t, messages)
	if msg.Context().Value(key{}) == nil {
		t.Error("the context is not derived from that of Subscribe")
	}
	cancel()
	wait(t, "the end of the context", msg.Context().Done())
	msg.Nack()
	for range messages {
		t.Error("a message after the end")
	}
}

func TestSubscriberConfigFaults(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	_, err := b.Subscriber(pipeline.SubscriberConfig{BatchSize: -1, Lanes: -1, Linger: -1})
	for _, want := range []string{"group", "batch size", "lanes", "linger"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name the %s: %v", want, err)
		}
	}
	if _, err := newSubscriber(t, b, pipeline.SubscriberConfig{}).Subscribe(t.Context(), "a,,b"); err == nil {
		t.Error("an empty topic was taken")
	}
}
