package kafka_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/schema"
)

func TestEnsureTopicsSideBySide(t *testing.T) {
	t.Parallel()
	first, second := schema.Topic(unique("ensured")), schema.Topic(unique("ensured"))
	topics := []schema.Topic{first, second, first}
	answers := make([]map[schema.Topic]log.TopicInfo, 4)
	var creators sync.WaitGroup
	for i := range answers {
		b := newBroker(t)
		creators.Go(func() {
			var err error
			if answers[i], err = b.EnsureTopics(t.Context(), topics); err != nil {
				t.Error(err)
			}
		})
	}
	creators.Wait()
	for _, answer := range answers {
		if len(answer) != 2 || !maps.Equal(answer, answers[0]) {
			t.Errorf("got %v and %v", answer, answers[0])
		}
		if info := answer[first]; info.Partitions != 4 || len(info.ID) != 22 || info.ID == answer[second].ID {
			t.Errorf("got %+v", info)
		}
	}
}

func TestOffsets(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	topic := newTopic(t, b)
	send(t, b, at(topic, 2), numbered(0, 7)...)
	got, err := b.Offsets(t.Context(), topic)
	if err != nil || !slices.Equal(got, []log.OffsetRange{{}, {}, {Oldest: 0, End: 7}, {}}) {
		t.Errorf("got %v: %v", got, err)
	}
	if _, err := b.Offsets(t.Context(), noTopic()); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("got %v", err)
	}
}

func TestTopicsByOtherNames(t *testing.T) {
	t.Parallel()
	name := unique("acme.prices")
	b := newBroker(t, func(c *kafka.Config) {
		c.Names = map[schema.Topic]string{schema.PriceEvents: name}
	})
	if _, err := b.EnsureTopics(t.Context(), []schema.Topic{schema.PriceEvents}); err != nil {
		t.Fatal(err)
	}
	send(t, b, at(schema.PriceEvents, 3), numbered(0, 1)...)
	assignor := newPositions()
	msg, batch := receive(t, subscribe(t, b, log.SubscriberConfig{Assignor: assignor}, string(schema.PriceEvents)))
	msg.Ack()
	if batch.Records[0].TopicPartition != at(schema.PriceEvents, 3) {
		t.Errorf("got %s", batch.Records[0].TopicPartition)
	}
	if got := readAll(t, b, at(schema.PriceEvents, 3)); len(got) != 1 || got[0].Topic != schema.PriceEvents {
		t.Errorf("read %v", got)
	}
	if got := readAll(t, newBroker(t), at(schema.Topic(name), 3)); len(got) != 1 {
		t.Errorf("the cluster's topic holds %d records", len(got))
	}
}

func TestNewWithoutABroker(t *testing.T) {
	t.Parallel()
	cfg := testConfig()
	cfg.Brokers = []string{"127.0.0.1:1"}
	if _, err := kafka.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("the error does not name the broker: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kafka.New(ctx, testConfig()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestConfigFaultsAreReportedTogether(t *testing.T) {
	t.Parallel()
	err := kafka.Config{
		Names:           map[schema.Topic]string{"a": "x", "b": "x", "c": "not a name"},
		Partitions:      -1,
		Replication:     -1,
		Heartbeat:       time.Minute,
		InstanceID:      "not an id",
		MaxMessageBytes: 10,
		Compression:     "rar",
		Timeout:         -1,
		NackPause:       -1,
		Grace:           -1,
	}.Validate()
	for _, want := range []string{"brokers", "partitions", "replication", "heartbeat", "instance id", "max message bytes",
		"rar", "timeout", "nack pause", "grace", `a and b are both "x"`, `"not a name" of c`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if err := (kafka.Config{Brokers: []string{"localhost:9092"}}).Validate(); err != nil {
		t.Errorf("the defaults are faulty: %v", err)
	}
}
