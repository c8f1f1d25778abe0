package kafka_test

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/kafka"
	"github.com/pricemill/pricemill/pipeline/proxytest"
	"github.com/pricemill/pricemill/schema"
)

// silent listens and never answers: the system accepts for it.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}

// TestNewOnABrokerThatHangs: the context ends it, and without one the timeout.
func TestNewOnABrokerThatHangs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := kafka.New(ctx, kafka.Config{Brokers: []string{silent(t)}, AnswerTimeout: time.Hour, Timeout: time.Hour}); err == nil {
		t.Error("it connected")
	}
	t.Logf("given up after %v", time.Since(began))
	_, err := kafka.New(t.Context(), kafka.Config{Brokers: []string{silent(t)}, AnswerTimeout: time.Hour, Timeout: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "connecting to Kafka at 127.0.0.1:") || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("the error is %v", err)
	}
}

// The listener of a cluster that says it is reached by another address, and that
// address; see .ci/services.
const (
	listenerVariable   = "KAFKA_PROXIED_LISTENER"
	advertisedVariable = "KAFKA_PROXIED_ADVERTISED"
)

// TestABrokerHangs loses all that goes to and from a cluster: the calls under way
// end with their contexts, consuming is reported to fail, and Close does not wait
// for the answer to its farewell.
func TestABrokerHangs(t *testing.T) {
	listener := os.Getenv(listenerVariable)
	if listener == "" {
		t.Skip("needs a cluster that can be reached through a proxy: make test-services")
	}
	proxy := proxytest.New(t, os.Getenv(advertisedVariable), listener)
	// Answers may take for ever where sarama alone decides.
	b := newBroker(t, func(c *kafka.Config) {
		c.Brokers, c.AnswerTimeout = []string{proxy.Addr()}, time.Hour
		c.Names = map[schema.Topic]string{schema.PriceEvents: unique("hangs")}
	})
	if _, err := b.EnsureTopics(t.Context(), []schema.Topic{schema.PriceEvents}); err != nil {
		t.Fatal(err)
	}
	send := func(ctx context.Context) error {
		return b.Send(ctx, []pipeline.PartitionBatch{{TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents},
			Records: []pipeline.OutgoingRecord{{Key: []byte("k"), Value: []byte("v")}}}})[0]
	}
	if err := send(t.Context()); err != nil {
		t.Fatal(err)
	}
	sub, err := b.Subscriber(pipeline.SubscriberConfig{Group: unique("group"), BatchSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := sub.Subscribe(t.Context(), string(schema.PriceEvents))
	if err != nil {
		t.Fatal(err)
	}
	message, _ := receive(t, messages)
	message.Ack()

	proxy.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := send(ctx); err == nil {
		t.Error("it was sent")
	}
	if _, err := b.Topics(ctx, []schema.Topic{schema.PriceEvents}); err == nil {
		t.Error("it answered")
	}
	began, closed := time.Now(), make(chan error, 1)
	go func() { closed <- b.Close() }()
	select {
	case err := <-closed:
		t.Logf("closed after %v: %v", time.Since(began), err)
	case <-time.After(patience):
		t.Fatal("closing hangs")
	}
}
