package kafka_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline/log/kafka"
)

func newPublisher(t *testing.T, b *kafka.Broker) *kafka.Publisher {
	t.Helper()
	pub, err := b.Publisher(kafka.PublisherConfig{
		Marshaler: wkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) {
			return msg.Metadata.Get("key"), nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func TestPublishKeepsEachCallersOrder(t *testing.T) {
	t.Parallel()
	const callers, calls = 8, 50
	b := newBroker(t)
	topic := newTopic(t, b)
	pub := newPublisher(t, b)
	var publishing sync.WaitGroup
	for caller := range callers {
		publishing.Go(func() {
			for call := range calls {
				messages := make([]*message.Message, 3)
				for i := range messages {
					messages[i] = message.NewMessage("id", fmt.Appendf(nil, "%d", call*3+i))
					messages[i].Metadata.Set("key", fmt.Sprint(caller))
				}
				if err := pub.Publish(string(topic), messages...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishing.Wait()
	next := map[string]int{}
	for partition := range int32(4) {
		for _, r := range readAll(t, b, at(topic, partition)) {
			key := string(r.Key)
			if kafka.Partition(r.Key, 4) != partition || string(r.Value) != fmt.Sprint(next[key]) {
				t.Fatalf("partition %d: caller %s published %s, want %d", partition, key, r.Value, next[key])
			}
			next[key]++
		}
	}
	for caller := range callers {
		if next[fmt.Sprint(caller)] != calls*3 {
			t.Errorf("caller %d has %d records", caller, next[fmt.Sprint(caller)])
		}
	}
}

func TestPublishCutsWhatIsLargerThanABatch(t *testing.T) {
	t.Parallel()
	b := newBroker(t, func(c *kafka.Config) { c.MaxMessageBytes = 1000 })
	topic := newTopic(t, b)
	pub := newPublisher(t, b)
	messages := make([]*message.Message, 50)
	for i := range messages {
		messages[i] = message.NewMessage(fmt.Sprint(i), make([]byte, 300))
	}
	if err := pub.Publish(string(topic), messages...); err != nil {
		t.Fatal(err)
	}
	messages[1].Payload = make([]byte, 1000)
	if err := pub.Publish(string(topic), messages[:10]...); !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("a message larger than a batch: %v", err)
	}
	got := readAll(t, b, at(topic, kafka.Partition(nil, 4)))
	// Of the second call the message before the one too large is there, and
	// none after it.
	if len(got) != 51 {
		t.Fatalf("the log holds %d records, want 51", len(got))
	}
	for i, r := range got {
		if string(r.Headers[0].Value) != fmt.Sprint(i%50) {
			t.Errorf("record %d is message %s", i, r.Headers[0].Value)
		}
	}
	if err := pub.Publish(string(topic), message.NewMessage("after", nil)); err != nil {
		t.Error(err)
	}
}

func TestPublishWithoutAKeySpreads(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	pub, err := b.Publisher(kafka.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if err := pub.Publish(string(topic), message.NewMessage("id", nil)); err != nil {
			t.Fatal(err)
		}
	}
	for partition := range int32(4) {
		if got := readAll(t, b, at(topic, partition)); len(got) != 2 || got[0].Key != nil {
			t.Errorf("partition %d holds %d records", partition, len(got))
		}
	}
	if err := pub.Publish(string(noTopic()), message.NewMessage("id", nil)); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if err := pub.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := pub.Publish(string(topic), message.NewMessage("id", nil)); !errors.Is(err, kafka.ErrClosed) {
		t.Errorf("publishing after Close: %v", err)
	}
}
