package kafka

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/IBM/sarama"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// PublisherConfig describes a Publisher.
type PublisherConfig struct {
	// Marshaler turns a message into a record. Nil means watermill-kafka's
	// DefaultMarshaler, which sets no key.
	Marshaler wkafka.Marshaler
	// CreateTopics has topics that do not exist created by the first message
	// for them. By default publishing to them fails.
	CreateTopics bool
}

// Publisher is a Watermill publisher over Broker.Send, for the few records that
// do not come from an outbox. A record's key decides its partition, as
// Partition says; records without a key are spread. What is published to one
// partition while a batch is in flight goes with the next, so that records of
// one caller keep their order. It is safe for concurrent use.
type Publisher struct {
	broker *Broker
	cfg    PublisherConfig
	// unkeyed counts the records without a key.
	unkeyed atomic.Uint32

	mu       sync.Mutex
	closed   bool
	counts   map[schema.Topic]int32
	queues   map[pipeline.TopicPartition]*queue
	flushing sync.WaitGroup
}

var _ message.Publisher = (*Publisher)(nil)

// queue is what waits for one partition.
type queue struct {
	waiting []*group
	busy    bool // a goroutine is sending
}

// group is what one call of Publish has for one partition.
type group struct {
	records []log.OutgoingRecord
	done    chan error // buffered
}

// Publisher makes a publisher. Close of the Broker closes it.
func (b *Broker) Publisher(cfg PublisherConfig) (*Publisher, error) {
	if cfg.Marshaler == nil {
		cfg.Marshaler = wkafka.DefaultMarshaler{}
	}
	p := &Publisher{
		broker: b,
		cfg:    cfg,
		counts: map[schema.Topic]int32{},
		queues: map[pipeline.TopicPartition]*queue{},
	}
	if err := b.adopt(p); err != nil {
		return nil, fmt.Errorf("making a publisher: %w", err)
	}
	return p, nil
}

// Publish implements message.Publisher. It returns when all messages are in the
// log, in Config.Timeout at most. After an error some of them may be; those for
// one partition that are, are the first of them.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	role := schema.Topic(topic)
	count, err := p.partitions(role)
	if err != nil {
		return fmt.Errorf("publishing to %s: %w", topic, err)
	}
	groups := map[int32]*group{}
	for _, msg := range messages {
		record, err := p.marshal(topic, msg)
		if err != nil {
			return fmt.Errorf("publishing message %s to %s: %w", msg.UUID, topic, err)
		}
		partition := p.partition(record.Key, count)
		if groups[partition] == nil {
			groups[partition] = &group{done: make(chan error, 1)}
		}
		groups[partition].records = append(groups[partition].records, record)
	}
	if err := p.enqueue(role, groups); err != nil {
		return fmt.Errorf("publishing to %s: %w", topic, err)
	}
	var errs []error
	for _, g := range groups {
		errs = append(errs, <-g.done)
	}
	return errors.Join(errs...)
}

// partitions is the number of a topic's partitions. It is asked for once: a
// topic whose number changes is a fault that stages notice.
func (p *Publisher) partitions(topic schema.Topic) (int32, error) {
	p.mu.Lock()
	count, known := p.counts[topic]
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return 0, fmt.Errorf("publisher: %w", ErrClosed)
	}
	if known {
		return count, nil
	}
	ctx, cancel := p.broker.bounded(p.broker.life)
	defer cancel()
	describe := p.broker.describeTopics
	if p.cfg.CreateTopics {
		describe = p.broker.EnsureTopics
	}
	infos, err := describe(ctx, []schema.Topic{topic})
	if err != nil {
		return 0, err
	}
	info, exists := infos[topic]
	if !exists {
		return 0, ErrUnknownTopic
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[topic] = info.Partitions
	return info.Partitions, nil
}

// partition tells a key that is empty from none, as Kafka does.
func (p *Publisher) partition(key []byte, count int32) int32 {
	if key == nil {
		return int32((p.unkeyed.Add(1) - 1) % uint32(count))
	}
	return Partition(key, count)
}

func (p *Publisher) marshal(topic string, msg *message.Message) (log.OutgoingRecord, error) {
	produced, err := p.cfg.Marshaler.Marshal(topic, msg)
	if err != nil {
		return log.OutgoingRecord{}, err
	}
	var record log.OutgoingRecord
	if record.Key, err = encode(produced.Key); err != nil {
		return record, fmt.Errorf("encoding the key: %w", err)
	}
	if record.Value, err = encode(produced.Value); err != nil {
		return record, fmt.Errorf("encoding the value: %w", err)
	}
	for _, h := range produced.Headers {
		record.Headers = append(record.Headers, schema.Header{Key: string(h.Key), Value: h.Value})
	}
	return record, nil
}

func encode(encoder sarama.Encoder) ([]byte, error) {
	if encoder == nil {
		return nil, nil
	}
	return encoder.Encode()
}

func (p *Publisher) enqueue(topic schema.Topic, groups map[int32]*group) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("publisher: %w", ErrClosed)
	}
	for partition, g := range groups {
		tp := pipeline.TopicPartition{Topic: topic, Partition: partition}
		q := p.queues[tp]
		if q == nil {
			q = &queue{}
			p.queues[tp] = q
		}
		q.waiting = append(q.waiting, g)
		if !q.busy {
			q.busy = true
			p.flushing.Go(func() { p.flush(tp, q) })
		}
	}
	return nil
}

// flush sends one batch after another until nothing waits.
func (p *Publisher) flush(tp pipeline.TopicPartition, q *queue) {
	for {
		p.mu.Lock()
		records, members, rest := p.cut(q.waiting)
		q.waiting = rest
		if len(records) == 0 {
			q.busy = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		batch := log.PartitionBatch{TopicPartition: tp, Records: records}
		err := p.broker.Send(p.broker.life, []log.PartitionBatch{batch})[0]
		p.settle(q, members, err)
	}
}

// cut takes the records of a batch off the queue. A group that does not fit
// stays in front with the rest of its records.
func (p *Publisher) cut(waiting []*group) (records []log.OutgoingRecord, members, rest []*group) {
	bytes := batchOverhead
	for i, g := range waiting {
		taken := 0
		for taken < len(g.records) {
			size := recordBytes(&g.records[taken], len(records), 0)
			if len(records) > 0 && bytes+size > p.broker.cfg.MaxMessageBytes {
				break
			}
			bytes += size
			records = append(records, g.records[taken])
			taken++
		}
		if taken > 0 {
			members = append(members, g)
		}
		g.records = g.records[taken:]
		if len(g.records) > 0 {
			return records, members, waiting[i:]
		}
	}
	return records, members, nil
}

// settle answers those whose records were in a batch. After a failure the rest
// of a group is not sent: it would lie before what its caller sends again.
func (p *Publisher) settle(q *queue, members []*group, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range members {
		split := len(g.records) > 0 // then it is the first that waits
		if split && err == nil {
			continue
		}
		if split {
			q.waiting = q.waiting[1:]
		}
		g.done <- err
	}
}

// Close implements message.Publisher: it waits for what was given to Publish.
// It may be called again.
func (p *Publisher) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.flushing.Wait()
	p.broker.disown(p)
	return nil
}
