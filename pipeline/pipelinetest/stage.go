package pipelinetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/pipelinetest/shrink"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Stage is a running stage whose batches come from the test. One goroutine at
// a time may use it.
type Stage struct {
	rig   *Rig
	spec  engine.StageSpec
	queue *queue
	stop  context.CancelFunc
	ended chan error
	undo  atomic.Int32
}

// Start runs a stage until Close, and makes the tables of a TableOwner. A Runner among the handlers is not started:
// the test calls its Run with the rig's Emitter.
func (r *Rig) Start(t TB, spec engine.StageSpec) *Stage {
	t.Helper()
	s := &Stage{rig: r, queue: &queue{messages: make(chan *message.Message)}, ended: make(chan error, 1)}
	if owner, ok := spec.Handler.(pipeline.TableOwner); ok {
		require.NoError(t, engine.CreateTables(context.Background(), r.DB, owner))
	}
	// Neither wrapper is a Runner.
	wrapped := undone{spec.Handler, &s.undo}
	if preparer, ok := spec.Handler.(pipeline.Preparer); ok {
		spec.Handler = undonePreparer{wrapped, preparer}
	} else {
		spec.Handler = wrapped
	}
	s.spec = spec
	runtime, err := engine.New(engine.Config{Store: r.DB, Broker: broker{r, s.queue}, Topics: r.topics,
		GroupPrefix: "pipelinetest", Owner: "pipelinetest", Stages: []engine.StageSpec{spec}, Log: discard})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	started := make(chan struct{})
	go func() { s.ended <- runtime.Run(ctx, func() { close(started) }) }()
	select {
	case <-started:
	case err := <-s.ended:
		require.Fail(t, "the stage did not start", "%v", err)
	}
	s.Restart(t)
	return s
}

// StartHandler starts the stage of a registered handler, as Start does.
func (r *Rig) StartHandler(t TB, name string, h pipeline.Handler) *Stage {
	t.Helper()
	for _, m := range pipeline.Handlers() {
		if m.Name == name {
			return r.Start(t, engine.StageSpec{Name: name, Consumes: m.Consumes, Produces: m.Produces, Handler: h})
		}
	}
	require.Fail(t, "no such handler", name)
	return nil
}

// Restart begins a new session, as a rebalance does: the lanes forget what they
// remember.
func (s *Stage) Restart(t TB) {
	t.Helper()
	require.NoError(t, s.TryRestart())
}

// TryRestart is Restart that may fail, where the test has something fail in it.
func (s *Stage) TryRestart() error {
	_, err := s.queue.assignor.Assign(context.Background(), s.rig.claims(s.spec.Topics()), func() {})
	return err
}

// Undo makes the stage roll the next batch back, after the handler has applied
// it, and try it again at once, so often.
func (s *Stage) Undo(times int) { s.undo.Store(int32(times)) }

// Deliver hands records to the stage as one batch and returns once they are
// applied. As with a broker, those of one partition come in order, and what was
// applied before is not applied again. Records that became dead letters are an
// error; the others of the batch are applied all the same.
func (s *Stage) Deliver(records ...pipeline.Record) error {
	if len(records) == 0 {
		return nil
	}
	before, err := s.lastLetter()
	if err != nil {
		return err
	}
	var halted []string
	msg := message.NewMessage("batch", nil)
	msg.SetContext(log.WithBatch(context.Background(), &log.Batch{Records: slices.Clone(records),
		Pause: func(tp pipeline.TopicPartition) { halted = append(halted, tp.String()) }}))
	s.queue.messages <- msg
	select {
	case <-msg.Acked():
	case <-msg.Nacked():
		return errors.New("the batch was not applied")
	}
	if len(halted) > 0 {
		return fmt.Errorf("the stage halted on %q", halted)
	}
	after, err := s.lastLetter()
	if err == nil && after.ID != before.ID {
		err = fmt.Errorf("%w, the last one of %s/%d at offset %d: %s", shrink.ErrDeadLetters, after.Topic, after.Part, after.Offset, after.Reason)
	}
	return err
}

// lastLetter is the newest dead letter, of whichever stage; zero where there is
// none.
func (s *Stage) lastLetter() (store.DeadLetterSummary, error) {
	letters, err := store.DeadLetters(context.Background(), s.rig.DB, "", 1)
	if err != nil || len(letters) == 0 {
		return store.DeadLetterSummary{}, err
	}
	return letters[0], nil
}

// Close stops the stage.
func (s *Stage) Close(t TB) {
	t.Helper()
	s.stop()
	require.NoError(t, <-s.ended)
}

// undone is a handler whose batches are rolled back, after it has applied them,
// as often as times says.
type undone struct {
	pipeline.Handler
	times *atomic.Int32
}

func (u undone) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	events, err := u.Handler.Handle(ctx, tx, in)
	if err == nil && u.times.Add(-1) >= 0 {
		err = pipeline.RetryAfter(time.Nanosecond, errors.New("rolled back by the test"))
	}
	return events, err
}

type undonePreparer struct {
	undone
	preparer pipeline.Preparer
}

func (u undonePreparer) Prepare(ctx context.Context, in []pipeline.Record) error {
	return u.preparer.Prepare(ctx, in)
}

// broker is the part of a broker that a stage fed by hand needs.
type broker struct {
	rig   *Rig
	queue *queue
}

var _ log.Broker = broker{}

func (b broker) EnsureTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	return b.Topics(ctx, topics)
}

func (broker) Topics(_ context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	infos := map[schema.Topic]log.TopicInfo{}
	for _, topic := range topics {
		infos[topic] = log.TopicInfo{ID: topicID(topic), Partitions: Partitions}
	}
	return infos, nil
}

func (broker) LimitedRetention(context.Context, []schema.Topic) (map[schema.Topic]string, error) {
	return nil, nil
}

func (b broker) Offsets(_ context.Context, topic schema.Topic) ([]log.OffsetRange, error) {
	b.rig.mu.Lock()
	defer b.rig.mu.Unlock()
	ranges := make([]log.OffsetRange, Partitions)
	for partition := range ranges {
		ranges[partition].End = b.rig.ends[pipeline.TopicPartition{Topic: topic, Partition: int32(partition)}]
	}
	return ranges, nil
}

func (b broker) Send(_ context.Context, batches []log.PartitionBatch) []error {
	b.rig.mu.Lock()
	defer b.rig.mu.Unlock()
	errs := make([]error, len(batches))
	for i, batch := range batches {
		for _, r := range batch.Records {
			event, err := schema.DecodeEvent(r.Headers, r.Value)
			if err != nil {
				errs[i] = err
				break
			}
			b.rig.sent = append(b.rig.sent, pipeline.Record{TopicPartition: batch.TopicPartition, TopicID: topicID(batch.Topic),
				Offset: b.rig.ends[batch.TopicPartition], Key: r.Key, Headers: r.Headers, Value: r.Value, Event: event})
			b.rig.ends[batch.TopicPartition]++
		}
	}
	return errs
}

func (broker) Read(context.Context, pipeline.TopicPartition, int64, int64, func([]pipeline.Record) error) error {
	return errors.ErrUnsupported
}

func (b broker) Subscriber(cfg log.SubscriberConfig) (message.Subscriber, error) {
	b.queue.assignor = cfg.Assignor
	return b.queue, nil
}

// queue is the subscriber of a stage fed by hand.
type queue struct {
	assignor log.Assignor
	messages chan *message.Message
	closed   sync.Once
}

// Subscribe returns a channel that is closed when ctx is done, by which the
// router sees that there is nothing more to come.
func (q *queue) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	context.AfterFunc(ctx, func() { _ = q.Close() }) // never fails
	return q.messages, nil
}

func (q *queue) Close() error {
	q.closed.Do(func() { close(q.messages) })
	return nil
}
