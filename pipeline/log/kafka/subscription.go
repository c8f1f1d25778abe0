package kafka

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/time/rate"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// shortSession is what makes the end of a session suspicious: one that was
// restarted or failed sooner is followed by a pause that grows.
const shortSession = time.Second

// settling is the pause before a group that is still forming is joined again.
const settling = 100 * time.Millisecond

// subscription is one member of a consumer group: one session after another.
type subscription struct {
	subscriber *Subscriber
	broker     *Broker
	log        *slog.Logger
	roles      []schema.Topic
	names      []string
	roleOf     map[string]schema.Topic
	out        chan *message.Message
	lines      *lines
	complaints rate.Sometimes
	// stragglers are messages of earlier sessions that were neither acked nor
	// nacked within the grace. Sessions follow one another, so that it needs
	// no lock: lanes report to their session, which reports here at its end.
	stragglers []*message.Message
}

func newSubscription(s *Subscriber, roles []schema.Topic) *subscription {
	sub := &subscription{
		subscriber: s,
		broker:     s.broker,
		log:        s.broker.log.With(slog.String("group", s.cfg.Group)),
		roles:      roles,
		roleOf:     make(map[string]schema.Topic, len(roles)),
		out:        make(chan *message.Message),
		lines:      s.broker.cfg.lines(),
		complaints: rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
	for _, role := range roles {
		name := s.broker.cfg.name(role)
		sub.names = append(sub.names, name)
		sub.roleOf[name] = role
	}
	return sub
}

// join makes the member of the group. It does not talk to the cluster yet.
func (s *subscription) join() (sarama.ConsumerGroup, func(), error) {
	instanceID, leave := s.broker.joinGroup(s.subscriber.cfg.Group)
	conf := s.broker.cfg.member(s.lines, instanceID, s.subscriber.cfg.Assignor != nil)
	// A group has a client of its own: its requests wait for records and for
	// the other members, and would hold up everything else.
	group, err := sarama.NewConsumerGroup(s.broker.cfg.Brokers, s.subscriber.cfg.Group, conf)
	if err != nil {
		leave()
		return nil, nil, err
	}
	return group, leave, nil
}

// run runs sessions until ctx is done, then leaves the group.
func (s *subscription) run(ctx context.Context, group sarama.ConsumerGroup) {
	defer close(s.out)
	defer s.lines.cut()
	left := make(chan struct{})
	defer close(left)
	go s.cutOff(ctx, left)
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		for err := range group.Errors() {
			s.report(ctx, err)
			s.tellPartition(err)
		}
	}()
	suspicious := 0
	for ctx.Err() == nil {
		started := time.Now()
		ending := s.session(ctx, group)
		switch {
		case ctx.Err() != nil:
		case ending == rebalanced, ending == restarted && time.Since(started) > shortSession:
			suspicious = 0
		case ending == unsettled:
			log.Pause(ctx, settling)
		case ending == unreached:
			// No one is disturbed by another attempt, and all wait for it to succeed.
			suspicious++
			log.Pause(ctx, backoff(suspicious))
		default:
			// The first restart is free: it is what a stage does that finds its
			// position moved. One that asks for nothing else must not keep the
			// whole group rebalancing.
			if suspicious++; ending == broken || suspicious > 1 {
				log.Pause(ctx, 5*backoff(suspicious))
			}
		}
	}
	if err := group.Close(); err != nil && !errors.Is(err, sarama.ErrClosedClient) {
		s.report(ctx, err)
	}
	<-reported
}

// cutOff ends the connections of a member that is told to leave and cannot: to a
// broker that does not answer, sarama would speak on for as long as to one that
// it joins.
func (s *subscription) cutOff(ctx context.Context, left <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-left:
		return
	}
	timer := time.NewTimer(s.broker.cfg.Grace + farewell)
	defer timer.Stop()
	select {
	case <-timer.C:
		s.log.Warn("the broker does not answer: leaving without its word")
		s.lines.cut()
	case <-left:
	}
}

// ending is how a session ended.
type ending int

const (
	rebalanced ending = iota // or by our own leaving
	restarted                // by the Assignor
	unsettled                // before all partitions were consumed: the group is still forming
	unreached                // before it began: no broker, or no coordinator
	broken                   // by a fault
)

func (s *subscription) session(ctx context.Context, group sarama.ConsumerGroup) ending {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h := newSession(s, group, cancel)
	err := group.Consume(ctx, s.names, h)
	s.lines.patience.Store(0) // for the answer to the next join
	s.stragglers = append(s.stragglers, h.abandoned()...)
	switch {
	case errors.Is(err, sarama.ErrRebalanceInProgress), errors.Is(err, sarama.ErrUnknownMemberId),
		errors.Is(err, sarama.ErrIllegalGeneration):
		s.log.Debug("the group changed while joining", slog.Any("error", err))
		return unsettled
	case err != nil:
		s.report(ctx, err)
		s.tell(err)
		if h.ctx == nil {
			return unreached
		}
		return broken
	case h.failed.Load():
		return broken
	case h.restarted.Load():
		return restarted
	case int(h.begun.Load()) < h.claims:
		return unsettled
	}
	return rebalanced
}

// tell reports how consuming goes to anyone who subscribed.
func (s *subscription) tell(err error) {
	if report := s.subscriber.cfg.Report; report != nil {
		report(err)
	}
}

// tellPartition reports an error of one partition, which ends no session: sarama goes
// on trying.
func (s *subscription) tellPartition(err error) {
	var of *sarama.ConsumerError
	if errors.As(err, &of) {
		if role, ours := s.roleOf[of.Topic]; ours {
			s.tell(&log.PartitionError{TopicPartition: pipeline.TopicPartition{Topic: role, Partition: of.Partition}, Err: of.Err})
		}
	}
}

// report logs what went wrong, unless that is only our own leaving.
func (s *subscription) report(ctx context.Context, err error) {
	if ctx.Err() != nil {
		s.log.Debug("leaving the consumer group", slog.Any("error", err))
		return
	}
	if errors.Is(err, sarama.ErrFencedInstancedId) {
		// It stays out until the other's session ends: to come back at once
		// would put the other out, and so on forever.
		s.log.Error("another process consumes by this one's instance id, which must be unique",
			slog.String("instance", s.broker.cfg.InstanceID))
		return
	}
	// While a broker is down, each partition says so several times a second.
	level := slog.LevelDebug
	s.complaints.Do(func() { level = slog.LevelWarn })
	s.log.Log(ctx, level, "consuming failed, trying again", slog.Any("error", err))
}
