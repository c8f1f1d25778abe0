package kafka_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/internal/kafkatest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/schema"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// The tests run on a broker in this process, or, with servicesVariable set, on the
// cluster at addressVariable. TestSendAfterTheBrokerCameBack stops and starts a
// broker, which no test may do to a cluster: it starts one of its own
// in either case.
const (
	servicesVariable = "PRICEMILL_TEST_SERVICES"
	addressVariable  = "KAFKA_BOOTSTRAP_SERVERS"
)

// cluster is the broker that all tests share; each uses names of its own.
var cluster struct {
	brokers []string
	prefix  string // of all names of this run
	names   atomic.Int64
}

func TestMain(m *testing.M) {
	if text := os.Getenv(asMember); text != "" {
		fmt.Fprintln(os.Stderr, runMember(text))
		os.Exit(1)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	cluster.prefix = "test-" + strings.ToLower(rand.Text()[:12]) + "."
	if os.Getenv(servicesVariable) != "" {
		address := os.Getenv(addressVariable)
		if address == "" {
			return 0, fmt.Errorf("%s is set, but %s is not", servicesVariable, addressVariable)
		}
		cluster.brokers = strings.Split(address, ",")
		code = m.Run()
		if err := deleteTopics(); err != nil {
			return code, fmt.Errorf("deleting the topics of this run: %w", err)
		}
	} else if code, err = runFake(m); err != nil {
		return code, err
	}
	// go-metrics, which sarama uses, keeps one ticker for the process.
	return code, goleak.Find(goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

func runFake(m *testing.M) (int, error) {
	broker, err := kafkatest.Start(kafkatest.Config{})
	if err != nil {
		return 0, err
	}
	cluster.brokers = []string{broker.Addr()}
	code := m.Run()
	return code, broker.Close()
}

// deleteTopics leaves the cluster as it was found: each run makes hundreds of
// partitions.
func deleteTopics() error {
	admin, err := sarama.NewClusterAdmin(cluster.brokers, nil)
	if err != nil {
		return err
	}
	topics, err := admin.ListTopics()
	errs := []error{err}
	for name := range topics {
		if strings.HasPrefix(name, cluster.prefix) {
			errs = append(errs, admin.DeleteTopic(name))
		}
	}
	return errors.Join(append(errs, admin.Close())...)
}

// unique is a name that neither another test nor another run uses, for topics,
// groups and transactions alike.
func unique(kind string) string {
	return fmt.Sprintf("%s%s-%d", cluster.prefix, kind, cluster.names.Add(1))
}

// noTopic is the name of a topic that does not exist.
func noTopic() schema.Topic { return schema.Topic(unique("no-such-topic")) }

func testConfig() kafka.Config {
	return kafka.Config{
		Brokers:    cluster.brokers,
		Partitions: 4,
		Heartbeat:  50 * time.Millisecond,
		NackPause:  5 * time.Millisecond,
		Grace:      time.Second,
	}
}

func newBroker(t testing.TB, change ...func(*kafka.Config)) *kafka.Broker {
	t.Helper()
	cfg := testConfig()
	for _, f := range change {
		f(&cfg)
	}
	b, err := kafka.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("closing the broker: %v", err)
		}
	})
	return b
}

// newTopic creates a topic that no other test uses.
func newTopic(t testing.TB, b *kafka.Broker) schema.Topic {
	t.Helper()
	topic := schema.Topic(unique("topic"))
	if _, err := b.EnsureTopics(t.Context(), []schema.Topic{topic}); err != nil {
		t.Fatal(err)
	}
	return topic
}

func at(topic schema.Topic, partition int32) pipeline.TopicPartition {
	return pipeline.TopicPartition{Topic: topic, Partition: partition}
}

// numbered makes n records whose values are first, first+1, …
func numbered(first, n int) []log.OutgoingRecord {
	records := make([]log.OutgoingRecord, n)
	for i := range records {
		records[i] = log.OutgoingRecord{
			Key:     []byte("simulated/AAPL"),
			Headers: []schema.Header{{Key: "ce_type", Value: []byte("test")}},
			Value:   fmt.Appendf(nil, "%d", first+i),
		}
	}
	return records
}

func send(t testing.TB, b *kafka.Broker, tp pipeline.TopicPartition, records ...log.OutgoingRecord) {
	t.Helper()
	if err := b.Send(t.Context(), []log.PartitionBatch{{TopicPartition: tp, Records: records}})[0]; err != nil {
		t.Fatal(err)
	}
}

// positions is an Assignor that starts where it is told and remembers.
type positions struct {
	mu     sync.Mutex
	next   map[pipeline.TopicPartition]int64
	calls  [][]log.Claim
	before func() error // called first in Assign
	only   func(pipeline.TopicPartition) bool
	called chan []log.Claim
	again  func() // ends the session
}

func newPositions() *positions {
	return &positions{next: map[pipeline.TopicPartition]int64{}, called: make(chan []log.Claim, 1000)}
}

func (p *positions) Assign(_ context.Context, claims []log.Claim, restart func()) (map[pipeline.TopicPartition]int64, error) {
	if p.before != nil {
		if err := p.before(); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls, p.again = append(p.calls, claims), restart
	starts := map[pipeline.TopicPartition]int64{}
	for _, claim := range claims {
		if p.only == nil || p.only(claim.TopicPartition) {
			starts[claim.TopicPartition] = p.next[claim.TopicPartition]
		}
	}
	p.called <- claims
	return starts, nil
}

// restart ends the session.
func (p *positions) restart() {
	p.mu.Lock()
	again := p.again
	p.mu.Unlock()
	again()
}

func (p *positions) set(tp pipeline.TopicPartition, next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next[tp] = next
}

func subscribe(t testing.TB, b *kafka.Broker, cfg log.SubscriberConfig, topics string) <-chan *message.Message {
	t.Helper()
	sub := newSubscriber(t, b, cfg)
	messages, err := sub.Subscribe(t.Context(), topics)
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

func newSubscriber(t testing.TB, b *kafka.Broker, cfg log.SubscriberConfig) message.Subscriber {
	t.Helper()
	if cfg.Group == "" {
		cfg.Group = cluster.prefix + "group-" + t.Name()
	}
	sub, err := b.Subscriber(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// receive returns the next message with its batch.
func receive(t testing.TB, messages <-chan *message.Message) (*message.Message, *log.Batch) {
	t.Helper()
	select {
	case msg, open := <-messages:
		if !open {
			t.Fatal("the channel was closed")
		}
		batch, ok := log.BatchOf(msg)
		if !ok {
			t.Fatal("the message carries no batch")
		}
		return msg, batch
	case <-time.After(patience):
		t.Fatal("no message came")
		return nil, nil
	}
}

func wait[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return *new(T)
}
