package kafka_test

import (
	"testing"

	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
)

// The universal suite of Watermill, over messages of one record.

// features are those of both forms of it.
func features() tests.Features {
	return tests.Features{
		ConsumerGroups: true, Persistent: true, ForceShort: raceEnabled,
		GenerateTopicFunc: func(test tests.TestContext) string { return cluster.prefix + "topic-" + test.TestID.String() },
	}
}

func TestUniversalUnordered(t *testing.T) {
	t.Parallel()
	tests.TestPubSub(t, features(), pubSub(nil), pubSubOfGroup(nil))
}

func TestUniversalOrderedByKey(t *testing.T) {
	t.Parallel()
	// As in watermill-kafka's own tests, messages without the metadata have the
	// empty key, which is a key.
	marshaler := wkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) {
		return msg.Metadata.Get("partition_key"), nil
	})
	ordered := features()
	ordered.GuaranteedOrder = true
	tests.TestPubSub(t, ordered, pubSub(marshaler), pubSubOfGroup(marshaler))
}

// pubSub makes pairs that are of one group as long as they are of one test.
func pubSub(marshaler wkafka.Marshaler) tests.PubSubConstructor {
	ofGroup := pubSubOfGroup(marshaler)
	return func(t *testing.T) (message.Publisher, message.Subscriber) {
		return ofGroup(t, cluster.prefix+"group-"+t.Name())
	}
}

func pubSubOfGroup(marshaler wkafka.Marshaler) tests.ConsumerGroupPubSubConstructor {
	return func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		b := newBroker(t)
		pub, err := b.Publisher(kafka.PublisherConfig{Marshaler: marshaler, CreateTopics: true})
		if err != nil {
			t.Fatal(err)
		}
		return pub, newSubscriber(t, b, log.SubscriberConfig{Group: group, BatchSize: 1})
	}
}
