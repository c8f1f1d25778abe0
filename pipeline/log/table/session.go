package table

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/delivery"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// session is one assignment of all partitions, for as long as this process is the
// consumer.
type session struct {
	sub    *subscription
	ctx    context.Context
	end    context.CancelFunc
	topics map[schema.Topic]store.Topic

	mu        sync.Mutex
	paused    map[pipeline.TopicPartition]struct{}
	abandoned []*message.Message
	damages   []error // why partitions are no longer consumed
	err       error   // why it ended, unless it was told to
}

// standbyAfter is how long a subscription waits for its turn until it says that it stands
// by.
const standbyAfter = 100 * time.Millisecond

// session returns nil where it was told to end.
func (s *subscription) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.l.cfg.Consumer != nil {
		waiting := time.AfterFunc(standbyAfter, func() { s.tell(log.ErrStandby) })
		held, err := s.l.cfg.Consumer.Acquire(ctx)
		waiting.Stop()
		if err != nil {
			return fmt.Errorf("waiting to consume: %w", err)
		}
		defer context.AfterFunc(held, cancel)()
	}
	err := s.consume(ctx, cancel)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// consume consumes until ctx is done, which end makes it.
func (s *subscription) consume(ctx context.Context, end context.CancelFunc) error {
	var err error
	if s.stragglers, err = delivery.AwaitStragglers(ctx, s.log, s.stragglers); err != nil {
		return err
	}
	if err := failpoint.Hit(ctx, failpoint.SubscriberSetup); err != nil {
		return err
	}
	sess := &session{sub: s, ctx: ctx, end: end, paused: map[pipeline.TopicPartition]struct{}{}}
	partitions, err := sess.assign(ctx)
	if err != nil {
		return err
	}
	s.tell(nil)
	s.log.Debug("partitions assigned", slog.Int("partitions", len(partitions)))
	sess.run(partitions)
	s.stragglers = append(s.stragglers, sess.abandoned...)
	return sess.err
}

// assign finds out where each partition starts.
func (s *session) assign(ctx context.Context) ([]partition, error) {
	l := s.sub.l
	var err error
	if s.topics, err = l.lookUp(ctx, s.sub.topics); err != nil {
		return nil, err
	}
	var claims []log.Claim
	for _, name := range s.sub.topics {
		topic, exists := s.topics[name]
		if !exists {
			return nil, fmt.Errorf("%w: %s", ErrUnknownTopic, name)
		}
		ranges, err := l.Offsets(ctx, name)
		if err != nil {
			return nil, err
		}
		for part, held := range ranges {
			claims = append(claims, log.Claim{TopicPartition: pipeline.TopicPartition{Topic: name, Partition: int32(part)},
				TopicInfo: log.TopicInfo{ID: topic.ID, Partitions: topic.Partitions}, OffsetRange: held})
		}
	}
	starts, err := s.starts(ctx, claims)
	if err != nil {
		return nil, err
	}
	var partitions []partition
	reached := make([]store.Chain, 0, len(claims))
	for _, c := range claims {
		start, consumed := starts[c.TopicPartition]
		if !consumed {
			continue
		}
		if start < c.Oldest || start > c.End {
			return nil, fmt.Errorf("the assignor's answer: %w", &OutOfRangeError{c.TopicPartition, start, start, c.OffsetRange})
		}
		p := l.partition(c.TopicPartition, s.topics[c.Topic], start)
		partitions = append(partitions, p)
		reached = append(reached, store.Chain{Epoch: p.epoch, Part: p.part, Last: c.End})
	}
	l.ends.raise(reached...)
	return partitions, nil
}

func (s *session) starts(ctx context.Context, claims []log.Claim) (map[pipeline.TopicPartition]int64, error) {
	if assignor := s.sub.cfg.Assignor; assignor != nil {
		starts, err := assignor.Assign(ctx, slices.Clone(claims), s.end)
		if err != nil {
			return nil, fmt.Errorf("assigning partitions: %w", err)
		}
		return starts, nil
	}
	committed, err := s.sub.l.db.GroupOffsets(ctx, s.sub.cfg.Group)
	if err != nil {
		return nil, err
	}
	starts := make(map[pipeline.TopicPartition]int64, len(claims))
	for _, c := range claims {
		starts[c.TopicPartition] = c.Oldest
		for _, o := range committed {
			if o.Epoch == s.topics[c.Topic].Epoch && o.Part == c.Partition {
				starts[c.TopicPartition] = min(max(o.Next, c.Oldest), c.End)
			}
		}
	}
	return starts, nil
}

// run runs the lanes until the session ends and the batches then in flight are finished
// or abandoned.
func (s *session) run(partitions []partition) {
	lanes := map[int]*lane{}
	for _, p := range partitions {
		// Not by topic, so that a key's records are in one lane whatever their topic.
		number := int(p.Partition) % s.sub.cfg.Lanes
		if lanes[number] == nil {
			lanes[number] = &lane{session: s, number: number, size: s.sub.cfg.BatchSize}
		}
		lanes[number].partitions = append(lanes[number].partitions, p)
	}
	var done sync.WaitGroup
	for _, lane := range lanes {
		slices.SortFunc(lane.partitions, func(a, b partition) int {
			return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
		})
		for _, p := range lane.partitions {
			lane.places = append(lane.places, p.place)
		}
		done.Go(func() { s.fail(lane.run(s.ctx)) })
	}
	<-s.ctx.Done()
	done.Wait()
}

// fail ends the session. What fails after its end, fails because of it.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.ctx.Err() == nil {
		s.err = err
	}
	s.end()
}

// damaged has a partition no longer consumed, and says so until the next session, which
// tries it again. The others are not held up.
func (s *session) damaged(tp pipeline.TopicPartition, err error) {
	s.sub.log.Error("a partition is no longer consumed: restore the database from a backup", slog.String("partition", tp.String()),
		slog.Any("error", err))
	s.pause(tp)
	s.mu.Lock()
	s.damages = append(s.damages, err)
	all := errors.Join(s.damages...)
	s.mu.Unlock()
	s.sub.tell(all)
}

// pause implements Batch.Pause.
func (s *session) pause(tp pipeline.TopicPartition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused[tp] = struct{}{}
}

func (s *session) isPaused(tp pipeline.TopicPartition) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, paused := s.paused[tp]
	return paused
}

// lane delivers one batch at a time.
type lane struct {
	session    *session
	number     int
	size       int
	partitions []partition
	places     []place // of partitions
	first      int     // the partition that the next batch begins with, so that all have their turn
}

// run delivers until ctx is done, or reading fails.
func (l *lane) run(ctx context.Context) error {
	for {
		records, err := l.take(ctx)
		if err != nil {
			return err
		}
		if err := l.deliver(ctx, records); err != nil {
			return err
		}
	}
}

// take waits for records and returns them.
func (l *lane) take(ctx context.Context) ([]pipeline.Record, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ends, changed := l.session.sub.l.ends.of(l.places)
		records, err := l.read(ctx, ends)
		if err != nil || len(records) > 0 {
			return records, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// read reads a batch of what lies before ends.
func (l *lane) read(ctx context.Context, ends []int64) ([]pipeline.Record, error) {
	var batch []pipeline.Record
	bytes := 0
	for n := range l.partitions {
		i := (l.first + n) % len(l.partitions)
		p := &l.partitions[i]
		if p.next >= ends[i] || l.session.isPaused(p.TopicPartition) {
			continue
		}
		records, err := l.session.sub.l.next(ctx, p, ends[i], l.size-len(batch), delivery.MaxBatchBytes-bytes)
		if unreadable(err) {
			l.session.damaged(p.TopicPartition, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range records {
			bytes += delivery.Weight(&records[i])
		}
		if batch == nil {
			batch = records
		} else {
			batch = append(batch, records...)
		}
		if len(batch) >= l.size || bytes >= delivery.MaxBatchBytes {
			l.first = (i + 1) % len(l.partitions)
			break
		}
	}
	return batch, nil
}

// deliver sends records until they are acked, or the session ends.
func (l *lane) deliver(ctx context.Context, records []pipeline.Record) error {
	sub := l.session.sub
	for len(records) > 0 {
		batch := &log.Batch{Lane: l.number, Records: records, Pause: l.session.pause}
		msg, cancel := delivery.Message(ctx, batch, l.size == 1)
		select {
		case sub.out <- msg:
		case <-ctx.Done():
			cancel()
			return ctx.Err()
		}
		acked, settled := l.settle(ctx, msg)
		cancel()
		if !settled {
			return ctx.Err()
		}
		if acked {
			return l.commit(records)
		}
		if !log.Pause(ctx, sub.l.cfg.NackPause) {
			return ctx.Err()
		}
		kept := make([]pipeline.Record, 0, len(records))
		for i := range records {
			if !l.session.isPaused(records[i].TopicPartition) {
				kept = append(kept, delivery.Pristine(&records[i]))
			}
		}
		records = kept
	}
	return nil
}

// settle waits for the Ack or Nack, after the end of the session for the grace only.
func (l *lane) settle(ctx context.Context, msg *message.Message) (acked, settled bool) {
	acked, settled = delivery.Settle(ctx, msg, l.session.sub.l.cfg.Grace)
	if !settled {
		l.session.sub.log.Warn("a batch is still in flight after the end of its session", slog.String("batch", msg.UUID))
		l.session.mu.Lock()
		defer l.session.mu.Unlock()
		l.session.abandoned = append(l.session.abandoned, msg)
	}
	return acked, settled
}

// commit records the offsets of a group that has no Assignor.
func (l *lane) commit(records []pipeline.Record) error {
	sub := l.session.sub
	if sub.cfg.Assignor != nil {
		return nil
	}
	next := map[place]int64{}
	for i := range records {
		r := &records[i]
		if !l.session.isPaused(r.TopicPartition) {
			next[place{l.session.topics[r.Topic].Epoch, r.Partition}] = r.Offset + 1
		}
	}
	offsets := make([]store.GroupOffset, 0, len(next))
	for p, offset := range next {
		offsets = append(offsets, store.GroupOffset{Epoch: p.epoch, Part: p.part, Next: offset})
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.session.ctx), sub.l.cfg.Grace)
	defer cancel()
	return sub.l.db.CommitGroupOffsets(ctx, sub.cfg.Group, offsets)
}
