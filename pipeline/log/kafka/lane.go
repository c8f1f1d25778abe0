package kafka

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/delivery"
)

// lane delivers one batch at a time, while the claims of its partitions put
// together the next. What is put together is bounded by the size of a batch, in
// records and in bytes: a claim then waits, and so does sarama's fetching.
type lane struct {
	session *session
	group   sarama.ConsumerGroupSession
	number  int
	size    int
	linger  time.Duration

	mu      sync.Mutex
	pending []pipeline.Record
	bytes   int // of pending
	paused  map[pipeline.TopicPartition]struct{}
	ended   bool
	// room is signalled when pending got shorter, a partition was paused, or
	// the session ended.
	room *sync.Cond
	// arrived is signalled when pending is no longer empty, and when it is full.
	arrived chan struct{}

	finished chan struct{}
	// abandoned is the message in flight when the grace was over; read after
	// finished is closed.
	abandoned *message.Message
	lastSize  int // of the last batch, a guess at the next
}

func newLane(s *session, gs sarama.ConsumerGroupSession, number int) *lane {
	l := &lane{
		session:  s,
		group:    gs,
		number:   number,
		size:     s.sub.subscriber.cfg.BatchSize,
		linger:   s.sub.subscriber.cfg.Linger,
		paused:   map[pipeline.TopicPartition]struct{}{},
		arrived:  make(chan struct{}, 1),
		finished: make(chan struct{}),
	}
	l.room = sync.NewCond(&l.mu)
	return l
}

// run delivers until the session ends and the batch then in flight is finished
// or abandoned.
func (l *lane) run() {
	defer close(l.finished)
	defer context.AfterFunc(l.session.ctx, l.end)()
	for {
		records := l.take(l.session.ctx)
		if len(records) == 0 || !l.deliver(l.session.ctx, records) {
			// The session is over. This is not left to AfterFunc, which we are
			// about to call off.
			l.end()
			return
		}
	}
}

// end lets the claims go.
func (l *lane) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.room.Broadcast()
}

// add copies records of one partition to what is pending, waiting for room. It
// returns false when the partition is paused or the session ended.
func (l *lane) add(tp pipeline.TopicPartition, records []pipeline.Record) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for l.full() && !l.refuses(tp) {
			l.room.Wait()
		}
		if l.refuses(tp) {
			return false
		}
		if l.pending == nil {
			l.pending = make([]pipeline.Record, 0, min(l.size, max(l.lastSize, len(records))))
		}
		wasEmpty := len(l.pending) == 0
		n := 0
		for ; n < len(records) && !l.full(); n++ {
			l.pending = append(l.pending, records[n])
			l.bytes += delivery.Weight(&records[n])
		}
		records = records[n:]
		if wasEmpty || l.full() {
			l.signal()
		}
		if len(records) == 0 {
			return true
		}
	}
}

// full is called with the lock held.
func (l *lane) full() bool { return len(l.pending) >= l.size || l.bytes >= delivery.MaxBatchBytes }

func (l *lane) refuses(tp pipeline.TopicPartition) bool {
	_, paused := l.paused[tp]
	return paused || l.ended
}

func (l *lane) signal() {
	select {
	case l.arrived <- struct{}{}:
	default: // it is going to look anyway
	}
}

// take waits for records and returns them; none when ctx is done. Records that
// are there already, having come while the last batch was in flight, are
// returned at once. The first to come to an idle lane waits for others, the
// linger at most.
func (l *lane) take(ctx context.Context) []pipeline.Record {
	if ctx.Err() != nil {
		return nil
	}
	if records := l.cut(); len(records) > 0 {
		return records
	}
	for {
		select {
		case <-l.arrived:
		case <-ctx.Done():
			return nil
		}
		if l.size > 1 && !l.waitFull(ctx) {
			return nil
		}
		// A signal may be older than the last cut, and Pause may have emptied
		// what it told of.
		if records := l.cut(); len(records) > 0 {
			return records
		}
	}
}

// waitFull waits for a full batch, the linger at most; false when ctx is done.
func (l *lane) waitFull(ctx context.Context) bool {
	timer := time.NewTimer(l.linger)
	defer timer.Stop()
	for !l.fullOrEmpty() {
		select {
		case <-l.arrived:
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// fullOrEmpty are the cases in which there is nothing to linger for.
func (l *lane) fullOrEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) == 0 || l.full()
}

func (l *lane) cut() []pipeline.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	records := l.pending
	if len(records) > 0 {
		l.lastSize = len(records)
		l.pending, l.bytes = nil, 0 // the handler has these now
		l.room.Broadcast()
	}
	return records
}

// deliver sends the records until they are acked. It returns false when the
// session has ended.
func (l *lane) deliver(ctx context.Context, records []pipeline.Record) bool {
	for len(records) > 0 {
		if ctx.Err() != nil {
			return false
		}
		batch := &log.Batch{Lane: l.number, Records: records, Pause: l.session.pause}
		msg, cancel := delivery.Message(ctx, batch, l.size == 1)
		select {
		case l.session.sub.out <- msg:
		case <-ctx.Done():
			cancel()
			return false
		}
		acked, settled := l.settle(ctx, msg)
		cancel()
		if !settled {
			return false
		}
		if acked {
			l.mark(records)
			return true
		}
		if !log.Pause(ctx, l.session.sub.broker.cfg.NackPause) {
			return false
		}
		records = l.again(records)
	}
	return true
}

// settle waits for the Ack or Nack, after the end of the session for the grace only.
func (l *lane) settle(ctx context.Context, msg *message.Message) (acked, settled bool) {
	acked, settled = delivery.Settle(ctx, msg, l.session.sub.broker.cfg.Grace)
	if !settled {
		l.session.sub.log.Warn("a batch is still in flight after the end of its session", slog.String("batch", msg.UUID))
		l.abandoned = msg
	}
	return acked, settled
}

// mark notes the offsets as done. A partition that was paused while its records
// were in flight did not get through them.
func (l *lane) mark(records []pipeline.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range records {
		// Chunks of one partition lie together: one call for each.
		if i+1 < len(records) && records[i+1].TopicPartition == records[i].TopicPartition {
			continue
		}
		tp := records[i].TopicPartition
		if _, paused := l.paused[tp]; !paused {
			l.group.MarkOffset(l.session.sub.broker.cfg.name(tp.Topic), tp.Partition, records[i].Offset+1, "")
		}
	}
}

// again is what is delivered after a Nack: the records as they came, but those
// of partitions that were paused meanwhile.
func (l *lane) again(records []pipeline.Record) []pipeline.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := make([]pipeline.Record, 0, len(records))
	for i := range records {
		if _, paused := l.paused[records[i].TopicPartition]; !paused {
			kept = append(kept, delivery.Pristine(&records[i]))
		}
	}
	return kept
}

// pause refuses a partition from now on and drops what is pending of it.
func (l *lane) pause(tp pipeline.TopicPartition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused[tp] = struct{}{}
	kept := l.pending[:0]
	l.bytes = 0
	for i := range l.pending {
		if l.pending[i].TopicPartition != tp {
			kept = append(kept, l.pending[i])
			l.bytes += delivery.Weight(&l.pending[i])
		}
	}
	clear(l.pending[len(kept):])
	l.pending = kept
	l.room.Broadcast()
}
