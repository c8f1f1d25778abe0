package table

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/delivery"
	"github.com/pricemill/pricemill/schema"
)

// With 2,000 a process that catches up took 50 MB more, and was not faster.
const defaultBatchSize = 1000

// Subscriber delivers batches of records as Watermill messages. It is safe for concurrent
// use. Get one from Log.Subscriber.
//
// A message is one of a lane's. Ack lets the lane continue, and without an Assignor
// commits its offsets for the group. Nack has the same records delivered again, in
// another message, after Config.NackPause. When the session ends, because this process
// stops being the consumer, or by a restart or Close, the context of the message is done;
// the handler then has Config.Grace to Ack or Nack, and until it has, no other session of
// the subscription starts.
//
// A group has one Subscriber at a time: of two, each gets all records. A batch does not
// wait for more records, whatever SubscriberConfig.Linger says: they are read from the
// database that the batch before is written to.
type Subscriber struct {
	l   *Log
	cfg log.SubscriberConfig

	life    context.Context
	endLife context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// Subscriber implements log.Broker. It returns a *Subscriber.
func (l *Log) Subscriber(cfg log.SubscriberConfig) (message.Subscriber, error) {
	if err := delivery.Complete(&cfg, defaultBatchSize); err != nil {
		return nil, err
	}
	life, endLife := context.WithCancel(l.life)
	s := &Subscriber{l: l, cfg: cfg, life: life, endLife: endLife}
	if err := l.adopt(s); err != nil {
		endLife()
		return nil, fmt.Errorf("making a subscriber: %w", err)
	}
	return s, nil
}

// Subscribe implements message.Subscriber: it consumes the topic, or several joined by
// commas, which then share the lanes. The channel is closed when ctx is done or the
// Subscriber is closed. Topics that do not exist are waited for.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	topics, err := delivery.SplitTopics(topic)
	if err != nil {
		return nil, fmt.Errorf("subscribing to %q: %w", topic, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribing to %q: subscriber: %w", topic, ErrClosed)
	}
	sub := &subscription{l: s.l, cfg: s.cfg, topics: topics, out: make(chan *message.Message),
		log: s.l.log.With(slog.String("group", s.cfg.Group))}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.life, cancel)
	s.running.Go(func() {
		defer cancel()
		defer stop()
		sub.run(ctx)
	})
	return sub.out, nil
}

// SubscribeInitialize implements message.SubscribeInitializer: it creates the topics that
// do not exist.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	topics, err := delivery.SplitTopics(topic)
	if err != nil {
		return fmt.Errorf("creating %q: %w", topic, err)
	}
	_, err = s.l.EnsureTopics(s.life, topics)
	return err
}

// Close implements message.Subscriber: it ends the sessions, waits for handlers up to
// Config.Grace, and closes the channels. It may be called again.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.endLife()
	s.running.Wait()
	s.l.disown(s)
	return nil
}

// subscription is one call of Subscribe: one session after another.
type subscription struct {
	l      *Log
	cfg    log.SubscriberConfig
	topics []schema.Topic
	out    chan *message.Message
	log    *slog.Logger
	// stragglers are messages of earlier sessions that were neither acked nor nacked
	// within the grace. Sessions follow one another, so it needs no lock.
	stragglers []*message.Message
}

// shortSession is what makes the end of a session suspicious: a restart that comes sooner
// is followed by a pause that grows.
const shortSession = time.Second

// run runs sessions until ctx is done.
func (s *subscription) run(ctx context.Context) {
	defer close(s.out)
	failures, pauses := 0, log.NewPauses()
	for ctx.Err() == nil {
		began := time.Now()
		err := s.session(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && time.Since(began) > shortSession:
			failures = 0
			pauses.Reset()
			continue
		case err != nil:
			s.tell(err)
			if failures%16 == 0 {
				s.log.Warn("consuming failed, trying again", slog.Any("error", err))
			}
		}
		failures++
		log.Pause(ctx, pauses.NextBackOff())
	}
}

// tell reports to the subscriber's owner how consuming goes.
func (s *subscription) tell(err error) {
	if s.cfg.Report != nil {
		s.cfg.Report(err)
	}
}
