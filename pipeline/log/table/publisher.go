package table

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/delivery"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// PublisherConfig describes a Publisher.
type PublisherConfig struct {
	// Key returns the key of a message for a topic: messages of one key keep their
	// order. A nil key, which is not an empty one, is on any partition. Nil: no
	// message has a key.
	Key func(topic string, msg *message.Message) ([]byte, error)
	// CreateTopics has topics that do not exist created by the first message for them.
	// By default publishing to them fails.
	CreateTopics bool
}

// Publisher is a Watermill publisher over Log.Send, for plain Watermill handlers: stages
// publish in their transactions. It is safe for concurrent use. Get one from
// Log.Publisher.
type Publisher struct {
	l   *Log
	cfg PublisherConfig
	// unkeyed counts the messages without a key.
	unkeyed atomic.Uint32

	mu      sync.Mutex
	closed  bool
	sending sync.WaitGroup
}

var _ message.Publisher = (*Publisher)(nil)

// Publisher makes a publisher. Close of the Log closes it.
func (l *Log) Publisher(cfg PublisherConfig) (*Publisher, error) {
	if l.cfg.Partitioner == nil {
		return nil, errors.New("making a publisher: the log has no partitioner")
	}
	p := &Publisher{l: l, cfg: cfg}
	if err := l.adopt(p); err != nil {
		return nil, fmt.Errorf("making a publisher: %w", err)
	}
	return p, nil
}

// Publish implements message.Publisher: all messages are in the log when it returns, or
// none of them, unless the error wraps store.ErrCommit. The UUID of a message travels in
// a header, as with watermill-kafka.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if err := p.begin(); err != nil {
		return fmt.Errorf("publishing to %s: %w", topic, err)
	}
	defer p.sending.Done()
	if len(messages) == 0 {
		return nil
	}
	ctx := messages[0].Context()
	name := schema.Topic(topic)
	if p.cfg.CreateTopics {
		if _, err := p.l.EnsureTopics(ctx, []schema.Topic{name}); err != nil {
			return fmt.Errorf("publishing to %s: %w", topic, err)
		}
	}
	info, err := p.l.topic(ctx, name)
	if err != nil {
		return fmt.Errorf("publishing to %s: %w", topic, err)
	}
	batches, err := p.batches(info, messages)
	if err != nil {
		return fmt.Errorf("publishing to %s: %w", topic, err)
	}
	if err := p.send(ctx, batches); err != nil {
		return fmt.Errorf("publishing to %s: %w", topic, err)
	}
	return nil
}

// begin has Close wait for a call of Publish, which ends with sending.Done.
func (p *Publisher) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("publisher: %w", ErrClosed)
	}
	p.sending.Add(1)
	return nil
}

// batches sorts messages by partition.
func (p *Publisher) batches(topic store.Topic, messages []*message.Message) ([]log.PartitionBatch, error) {
	batches := make([]log.PartitionBatch, topic.Partitions)
	for part := range batches {
		batches[part].TopicPartition = pipeline.TopicPartition{Topic: schema.Topic(topic.Name), Partition: int32(part)}
	}
	for _, msg := range messages {
		record := delivery.Record(msg)
		if p.cfg.Key != nil {
			var err error
			if record.Key, err = p.cfg.Key(topic.Name, msg); err != nil {
				return nil, fmt.Errorf("the key of message %s: %w", msg.UUID, err)
			}
		}
		part := p.partition(record.Key, topic.Partitions)
		batches[part].Records = append(batches[part].Records, record)
	}
	return batches, nil
}

func (p *Publisher) partition(key []byte, partitions int32) int32 {
	if key == nil {
		return int32((p.unkeyed.Add(1) - 1) % uint32(partitions))
	}
	return p.l.cfg.Partitioner(key, partitions)
}

// send appends all batches or none.
func (p *Publisher) send(ctx context.Context, batches []log.PartitionBatch) error {
	packed, errs := p.l.packAll(ctx, batches)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return p.l.write(ctx, packed)
}

// Close implements message.Publisher: it waits for calls of Publish. It may be called
// again.
func (p *Publisher) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.sending.Wait()
	p.l.disown(p)
	return nil
}
