package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/delivery"
)

const (
	defaultBatchSize = 2000
	defaultLinger    = 2 * time.Millisecond
)

// Subscriber delivers batches of records as Watermill messages. It is safe for
// concurrent use. Get one from Broker.Subscriber.
//
// A message is one of a lane's. Ack marks its offsets in the group, for tools
// that show the lag and, without an Assignor, as the place to continue from. Nack
// has the same records delivered again, in another message, after
// Config.NackPause, until the session ends. When the session ends, because of a
// rebalance, a Restart or Close, the context of the message is done; the
// handler then has Config.Grace to Ack or Nack, and until it has, no other
// session of the subscription starts.
type Subscriber struct {
	broker *Broker
	cfg    log.SubscriberConfig

	life    context.Context
	endLife context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // subscriptions
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// Subscriber implements log.Broker. It returns a *Subscriber.
func (b *Broker) Subscriber(cfg log.SubscriberConfig) (message.Subscriber, error) {
	setDefault(&cfg.Linger, defaultLinger)
	if err := delivery.Complete(&cfg, defaultBatchSize); err != nil {
		return nil, err
	}
	life, endLife := context.WithCancel(b.life)
	s := &Subscriber{broker: b, cfg: cfg, life: life, endLife: endLife}
	if err := b.adopt(s); err != nil {
		endLife()
		return nil, fmt.Errorf("making a subscriber: %w", err)
	}
	return s, nil
}

// Subscribe implements message.Subscriber: it joins the group and consumes the
// topic, or several joined by commas, which then share the lanes. The channel
// is closed when ctx is done or the Subscriber is closed. Topics that do not
// exist are waited for.
//
// Each call is a member of the group of its own; its sessions are not aware of
// those of another call.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	roles, err := delivery.SplitTopics(topic)
	if err != nil {
		return nil, fmt.Errorf("subscribing to %q: %w", topic, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribing to %q: subscriber: %w", topic, ErrClosed)
	}
	sub := newSubscription(s, roles)
	group, leave, err := sub.join()
	if err != nil {
		return nil, fmt.Errorf("subscribing to %q: %w", topic, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.life, cancel)
	s.running.Go(func() {
		defer leave()
		defer cancel()
		defer stop()
		sub.run(ctx, group)
	})
	return sub.out, nil
}

// SubscribeInitialize implements message.SubscribeInitializer: it creates the
// topics that do not exist.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	roles, err := delivery.SplitTopics(topic)
	if err != nil {
		return fmt.Errorf("creating %q: %w", topic, err)
	}
	_, err = s.broker.EnsureTopics(s.life, roles)
	return err
}

// Close implements message.Subscriber: it ends the sessions, waits for handlers
// up to Config.Grace, commits what was acked and closes the channels. It may be
// called again.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.endLife()
	s.running.Wait()
	s.broker.disown(s)
	return nil
}
