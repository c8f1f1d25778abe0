package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/delivery"
	"github.com/pricemill/pricemill/schema"
)

const (
	// chunk is how many records of a partition are handed to a lane at once, but
	// fewer once they have chunkBytes.
	chunk      = 256
	chunkBytes = 1 << 20
	// assignAttempts is how often a session asks the Assignor before it ends.
	assignAttempts = 5
)

// session is one assignment of partitions, from the join to the next rebalance.
// sarama calls its methods: Setup, then ConsumeClaim for each partition in a
// goroutine of its own, then, when all have returned, Cleanup.
type session struct {
	sub   *subscription
	group sarama.ConsumerGroup
	// end ends the session; it may be called more than once.
	end       context.CancelFunc
	restarted atomic.Bool
	failed    atomic.Bool
	claims    int
	begun     atomic.Int64 // ConsumeClaims

	// Written by Setup alone, before the others start.
	ctx    context.Context
	topics map[schema.Topic]log.TopicInfo
	starts map[pipeline.TopicPartition]int64 // nil: all claims are consumed
	lanes  map[int]*lane
	done   sync.WaitGroup
}

var _ sarama.ConsumerGroupHandler = (*session)(nil)

func newSession(sub *subscription, group sarama.ConsumerGroup, end context.CancelFunc) *session {
	return &session{sub: sub, group: group, end: end}
}

// Setup implements sarama.ConsumerGroupHandler. An error ends the session.
func (s *session) Setup(gs sarama.ConsumerGroupSession) error {
	s.ctx = gs.Context()
	s.sub.lines.patience.Store(int64(s.sub.broker.cfg.AnswerTimeout))
	if err := failpoint.Hit(s.ctx, failpoint.SubscriberSetup); err != nil {
		return err
	}
	var claimed []pipeline.TopicPartition
	for name, partitions := range gs.Claims() {
		for _, partition := range partitions {
			claimed = append(claimed, pipeline.TopicPartition{Topic: s.sub.roleOf[name], Partition: partition})
		}
	}
	s.claims = len(claimed)
	// Heartbeats continue meanwhile: the group does not take us for dead.
	var err error
	if s.sub.stragglers, err = delivery.AwaitStragglers(s.ctx, s.sub.log, s.sub.stragglers); err != nil {
		return fmt.Errorf("waiting for batches of earlier sessions: %w", err)
	}
	// What fails for longer than a while is better reported than waited for.
	ctx, cancel := s.sub.broker.bounded(s.ctx)
	defer cancel()
	if s.topics, err = s.sub.broker.describeTopics(ctx, s.sub.roles); err != nil {
		return err
	}
	if s.sub.subscriber.cfg.Assignor != nil {
		ranges, err := s.sub.broker.offsetRanges(ctx, claimed)
		if err != nil {
			return err
		}
		if err := s.assign(gs, claimed, ranges); err != nil {
			return err
		}
	}
	s.startLanes(gs, claimed)
	s.sub.tell(nil)
	s.sub.log.Debug("partitions assigned", slog.Int("partitions", len(claimed)))
	return nil
}

// assign asks the Assignor where to start and seeks there.
func (s *session) assign(
	gs sarama.ConsumerGroupSession, claimed []pipeline.TopicPartition, ranges map[pipeline.TopicPartition]log.OffsetRange,
) error {
	claims := make([]log.Claim, len(claimed))
	for i, tp := range claimed {
		claims[i] = log.Claim{TopicPartition: tp, TopicInfo: s.topics[tp.Topic], OffsetRange: ranges[tp]}
	}
	slices.SortFunc(claims, compareClaims)
	starts, err := s.askAssignor(claims)
	if err != nil {
		return err
	}
	for tp, offset := range starts {
		held, ours := ranges[tp]
		if !ours {
			return fmt.Errorf("the assignor answered for %s, which was not claimed", tp)
		}
		if offset < held.Oldest || offset > held.End {
			return fmt.Errorf("the assignor's answer: %w", &OutOfRangeError{tp, offset, offset, held})
		}
		// Marking only raises the position and resetting only lowers it: both
		// together seek, whatever the group had committed.
		name := s.sub.broker.cfg.name(tp.Topic)
		gs.MarkOffset(name, tp.Partition, offset, "")
		gs.ResetOffset(name, tp.Partition, offset, "")
	}
	s.starts = maps.Clone(starts)
	if s.starts == nil {
		s.starts = map[pipeline.TopicPartition]int64{}
	}
	s.parkOthers(gs, ranges)
	return nil
}

// parkOthers moves the claims that are not consumed to the head of the log.
// sarama opens them all the same, and where what the group has committed is no
// longer in the log, it ends the session for all.
func (s *session) parkOthers(gs sarama.ConsumerGroupSession, ranges map[pipeline.TopicPartition]log.OffsetRange) {
	for tp, held := range ranges {
		if _, consumed := s.starts[tp]; !consumed {
			name := s.sub.broker.cfg.name(tp.Topic)
			gs.MarkOffset(name, tp.Partition, held.Oldest, "")
			gs.ResetOffset(name, tp.Partition, held.Oldest, "")
		}
	}
}

// askAssignor tries again here, since the end of the session would make sarama
// rejoin, and the whole group rebalance, without a pause.
func (s *session) askAssignor(claims []log.Claim) (map[pipeline.TopicPartition]int64, error) {
	for attempt := 1; ; attempt++ {
		starts, err := s.sub.subscriber.cfg.Assignor.Assign(s.ctx, slices.Clone(claims), s.restart)
		if err == nil {
			return starts, nil
		}
		if s.ctx.Err() != nil || attempt == assignAttempts {
			return nil, fmt.Errorf("assigning positions: %w", err)
		}
		s.sub.log.Warn("assigning positions failed, trying again", slog.Any("error", err), slog.Int("attempt", attempt))
		log.Pause(s.ctx, 5*backoff(attempt))
	}
}

func compareClaims(a, b log.Claim) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

func (s *session) startLanes(gs sarama.ConsumerGroupSession, claimed []pipeline.TopicPartition) {
	s.lanes = map[int]*lane{}
	for _, tp := range claimed {
		if !s.consumes(tp) || s.lanes[s.laneOf(tp)] != nil {
			continue
		}
		l := newLane(s, gs, s.laneOf(tp))
		s.lanes[l.number] = l
		s.done.Go(l.run)
	}
}

// laneOf does not look at the topic, so that a key's records are in one lane
// whatever topic they are on.
func (s *session) laneOf(tp pipeline.TopicPartition) int {
	return int(tp.Partition) % s.sub.subscriber.cfg.Lanes
}

// consumes says whether the Assignor, if any, gave the partition a start.
func (s *session) consumes(tp pipeline.TopicPartition) bool {
	if s.starts == nil {
		return true
	}
	_, assigned := s.starts[tp]
	return assigned
}

// ConsumeClaim implements sarama.ConsumerGroupHandler. It hands the records of
// a partition to the lane and returns when the session has ended and the lane
// has finished.
func (s *session) ConsumeClaim(gs sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	s.begun.Add(1)
	tp := pipeline.TopicPartition{Topic: s.sub.roleOf[claim.Topic()], Partition: claim.Partition()}
	l := s.lanes[s.laneOf(tp)]
	if s.consumes(tp) {
		s.feed(l, tp, claim)
	}
	// Not consumed, paused, or over. What was fetched is thrown away: sarama
	// stops fetching all partitions of a broker while one is not emptied.
	s.group.Pause(map[string][]int32{claim.Topic(): {claim.Partition()}})
	for range claim.Messages() {
		continue
	}
	if s.ctx.Err() == nil {
		// The claim ended by itself: its position has left the log.
		s.sub.tell(&log.PartitionError{TopicPartition: tp, Err: errors.New("its consumer ended by itself: the position has left the log")})
		s.failed.Store(true)
		s.end()
	}
	if l != nil {
		<-l.finished
	}
	return nil
}

// feed returns when the partition is paused, or its claim or the session ends.
func (s *session) feed(l *lane, tp pipeline.TopicPartition, claim sarama.ConsumerGroupClaim) {
	convert := newConverter(tp, s.topics[tp.Topic].ID)
	records, bytes := make([]pipeline.Record, 0, chunk), 0
	take := func(m *sarama.ConsumerMessage) {
		records = append(records, convert.record(m.Offset, m.Timestamp, m.Key, m.Value, m.Headers))
		bytes += delivery.Weight(&records[len(records)-1])
	}
	for message := range claim.Messages() {
		take(message)
		for more := true; more && len(records) < chunk && bytes < chunkBytes; {
			select {
			case message, open := <-claim.Messages():
				if more = open; open {
					take(message)
				}
			default:
				more = false
			}
		}
		if !l.add(tp, records) {
			return
		}
		clear(records) // let go of the fetched bytes
		records, bytes = records[:0], 0
	}
}

// Cleanup implements sarama.ConsumerGroupHandler. It returns when no batch of
// the session is in flight, or the grace is over; what was acked until then is
// committed after it.
func (s *session) Cleanup(sarama.ConsumerGroupSession) error {
	s.done.Wait()
	return nil
}

// abandoned are the messages still in flight after the grace.
func (s *session) abandoned() []*message.Message {
	var all []*message.Message
	for _, l := range s.lanes {
		if l.abandoned != nil {
			all = append(all, l.abandoned)
		}
	}
	return all
}

// pause implements Batch.Pause.
func (s *session) pause(tp pipeline.TopicPartition) {
	l := s.lanes[s.laneOf(tp)]
	if l == nil {
		return
	}
	l.pause(tp)
	// By the end of the session the group may have a new one, whose consumers
	// are not ours to pause.
	if s.ctx.Err() == nil {
		s.group.Pause(map[string][]int32{s.sub.broker.cfg.name(tp.Topic): {tp.Partition}})
	}
}

// restart is what the Assignor is given to end the session.
func (s *session) restart() {
	s.restarted.Store(true)
	s.end()
}
