package kafka_test

import (
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pricemill/pricemill/internal/proxytest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
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
	// Answers may take forever where sarama alone decides.
	b := newBroker(t, func(c *kafka.Config) {
		c.Brokers, c.AnswerTimeout = []string{proxy.Addr()}, time.Hour
		c.Names = map[schema.Topic]string{schema.PriceEvents: unique("hangs")}
	})
	if _, err := b.EnsureTopics(t.Context(), []schema.Topic{schema.PriceEvents}); err != nil {
		t.Fatal(err)
	}
	tp := pipeline.TopicPartition{Topic: schema.PriceEvents}
	send := func(ctx context.Context) error {
		return b.Send(ctx, []log.PartitionBatch{{TopicPartition: tp,
			Records: []log.OutgoingRecord{{Key: []byte("k"), Value: make([]byte, 900_000)}}}})[0]
	}
	const sent = 8 // more than one fetch brings
	for range sent {
		if err := send(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sub, err := b.Subscriber(log.SubscriberConfig{Group: unique("group"), BatchSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := sub.Subscribe(t.Context(), string(schema.PriceEvents))
	if err != nil {
		t.Fatal(err)
	}
	message, _ := receive(t, messages)
	message.Ack()
	reading, stopReading := context.WithCancel(t.Context())
	began, cut, read := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		first := sync.OnceFunc(func() { close(began); <-cut })
		read <- b.Read(reading, tp, 0, sent, func([]pipeline.Record) error { first(); return nil })
	}()
	wait(t, "the first records", began)

	within := func(what string, f func() error) {
		began, ended := time.Now(), make(chan error, 1)
		go func() { ended <- f() }()
		err := wait(t, what, ended)
		t.Logf("%s: %v: %v", what, time.Since(began), err)
	}
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	ask := func() error {
		_, err := b.Topics(soon(), []schema.Topic{schema.PriceEvents})
		return err
	}
	proxy.Cut()
	close(cut)
	stopReading()
	within("reading", func() error { return <-read })
	within("sending", func() error { return send(soon()) })
	within("asking", ask)
	proxy.Heal() // which ends all connections
	proxy.Cut()
	for range 3 {
		within("sending on a connection that is being made", func() error { return send(soon()) })
		within("asking on one", ask)
	}
	within("closing", b.Close)
}
