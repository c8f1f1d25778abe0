package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/time/rate"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// StageSpec declares a stage.
type StageSpec struct {
	// Name is unique; consumer group, positions and event ids hang on it.
	Name string
	// Consumes are the types of the events the handler wants. Others on the same
	// topics are skipped.
	Consumes []schema.EventType
	// Produces are the types of the events the handler may return.
	Produces []schema.EventType
	Handler  pipeline.Handler
}

// Topics are those of the events the stage takes.
func (s StageSpec) Topics() []schema.Topic {
	var topics []schema.Topic
	for _, t := range s.Consumes {
		if topic, known := schema.TopicOf(t); known && !slices.Contains(topics, topic) {
			topics = append(topics, topic)
		}
	}
	return topics
}

// Stage runs a handler over batches, each in a transaction that fences other
// consumers off, applies the effects, and puts the events that follow into the
// outbox. It is the Assignor of its subscriber.
type Stage struct {
	spec    StageSpec
	db      *store.Store
	topics  *topics.Set
	outbox  outbox.Writer
	log     *slog.Logger
	metrics stageMetrics
	tracer  *tracing.Tracer // nil for none
	// committed is called after each transaction.
	committed func()
	// patience bounds how long what fails for another reason than a record's is
	// tried again; 0 does not.
	patience time.Duration
	// strict has it fail with ErrPoison instead of writing dead letters.
	strict bool
	// published, if not nil, reports events that are in the log and are not published again.
	published func(id string) bool
	// limit bounds a transaction. applying is done when a stop waits for
	// transactions no longer.
	limit         time.Duration
	watchdogLimit time.Duration // see watchdogLimit
	bisectTime    time.Duration // see bisectTime
	applying      context.Context
	// worked, if not nil, is told how long a transaction took until its commit:
	// without what it waited for others, or the disk.
	worked     func(time.Duration)
	complaints rate.Sometimes
	buried     buried
	// retries has the stage retry its dead letters, now or when it is next free.
	retries chan struct{}

	mu      sync.Mutex
	session *session
	// troubles are why the last attempt of each lane failed, and that of the
	// consumer and the runner.
	troubles map[string]error
	// stuck are the partitions whose consumers failed, until a record comes.
	stuck map[pipeline.TopicPartition]stuckPartition
	// resting is until when no lane begins a transaction, and restsFor why.
	resting  time.Time
	restsFor error
}

var _ log.Assignor = (*Stage)(nil)

// newStage returns a stage that publishes to these topics.
func newStage(spec StageSpec, db *store.Store, topics *topics.Set, log *slog.Logger, m *metrics, committed func()) *Stage {
	log = log.With("stage", spec.Name)
	return &Stage{spec: spec, db: db, topics: topics, outbox: outbox.NewWriter(topics),
		log: log, buried: buried{log: log, stage: spec.Name}, retries: make(chan struct{}, 1), metrics: m.of(spec.Name), committed: committed,
		limit: transactionLimit, watchdogLimit: watchdogLimit, bisectTime: bisectTime, applying: context.Background(),
		complaints: rate.Sometimes{First: 1, Interval: 10 * time.Second}, troubles: map[string]error{}, stuck: map[pipeline.TopicPartition]stuckPartition{}}
}

// deliver is the Watermill handler: an error means the batch was not applied
// and is to be delivered again.
func (s *Stage) deliver(msg *message.Message) error {
	batch, ok := log.BatchOf(msg)
	if !ok {
		return fmt.Errorf("stage %s: the message carries no batch: its subscriber is not one of the pipeline's", s.spec.Name)
	}
	s.metrics.records.Observe(float64(len(batch.Records)))
	s.decode(batch.Records)
	if s.tracer == nil {
		return s.applyBatch(msg.Context(), batch)
	}
	ctx, end := s.traceBatch(msg.Context(), batch)
	err := s.applyBatch(ctx, batch)
	end(err)
	return err
}

// applyBatch applies records that are decoded.
func (s *Stage) applyBatch(ctx context.Context, batch *log.Batch) error {
	if err := s.prepare(ctx, batch); err != nil {
		return err
	}
	if err := s.run(ctx, batch, batch.Records); err != nil {
		return err
	}
	return failpoint.Hit(ctx, failpoint.StageCommitted)
}

// decode reads the events of all records, once for all attempts.
func (s *Stage) decode(records []pipeline.Record) {
	for i := range records {
		topic, _ := s.topics.Topic(records[i].Topic)
		s.decodeRecord(&records[i], topic)
	}
}

// decodeRecord reads the event of a record of an incarnation of its topic.
func (s *Stage) decodeRecord(r *pipeline.Record, topic store.Topic) {
	r.State.Stage = s.spec.Name
	if r.Decode(topic); r.State.Fault == nil {
		r.State.Unwanted = !slices.Contains(s.spec.Consumes, r.Event.Payload.EventType())
	}
}

// prepare runs the handler's Prepare over the records that it will get, and
// finds those it refuses by halving.
func (s *Stage) prepare(ctx context.Context, batch *log.Batch) error {
	preparer, ok := s.spec.Handler.(pipeline.Preparer)
	if !ok {
		return nil
	}
	var wanted []*pipeline.Record
	for i := range batch.Records {
		if r := &batch.Records[i]; r.State.Fault == nil && !r.State.Unwanted {
			wanted = append(wanted, r)
		}
	}
	again := func(f func() error) error { return s.retry(ctx, batch.Lane, f) }
	return s.prepareSome(ctx, again, preparer, wanted)
}

// prepareSome runs each call of Prepare by try.
func (s *Stage) prepareSome(ctx context.Context, try func(func() error) error, preparer pipeline.Preparer, wanted []*pipeline.Record) error {
	if len(wanted) == 0 {
		return nil
	}
	in := make([]pipeline.Record, len(wanted))
	err := try(func() error {
		for i, r := range wanted {
			in[i] = *r
		}
		return guard(func() error {
			if err := preparer.Prepare(ctx, in); err != nil {
				return err
			}
			return failpoint.Hit(ctx, failpoint.StagePrepared)
		})
	})
	switch {
	case err == nil:
		for i, r := range wanted {
			r.Prepared = in[i].Prepared
		}
		return nil
	case !isRecordFault(err):
		return err
	case len(wanted) == 1:
		wanted[0].State.Fault = err
		return nil
	}
	half := len(wanted) / 2
	if err := s.prepareSome(ctx, try, preparer, wanted[:half]); err != nil {
		return err
	}
	return s.prepareSome(ctx, try, preparer, wanted[half:])
}

// run applies records until they are committed, without those that the handler
// refuses. It returns an error only when ctx is done.
func (s *Stage) run(ctx context.Context, batch *log.Batch, records []pipeline.Record) error {
	attempt := func(bisect bool) error {
		return s.retry(ctx, batch.Lane, func() error { return s.attempt(ctx, batch, records, bisect) })
	}
	err := attempt(false)
	switch {
	case err == nil || !isRecordFault(err):
		return err
	case len(records) == 1:
		records[0].State.Fault = err
		return s.run(ctx, batch, records)
	}
	if err := attempt(true); !errors.Is(err, errSlowBisect) {
		return err
	}
	half := len(records) / 2
	if err := s.run(ctx, batch, records[:half]); err != nil {
		return err
	}
	return s.run(ctx, batch, records[half:])
}

// retry calls f until it succeeds, fails by a record's fault, or ctx is done.
func (s *Stage) retry(ctx context.Context, lane int, f func() error) error {
	pauses := log.NewPauses()
	who := asLane(lane)
	began := time.Now()
	for {
		err := f()
		if err == nil || isRecordFault(err) || errors.Is(err, ErrPoison) {
			s.setTrouble(who, nil)
			return err
		}
		pause := pauses.NextBackOff()
		var after interface{ RetryAfter() time.Duration }
		brief := false
		if errors.As(err, &after) {
			pause = after.RetryAfter()
			brief = pause < briefPause && time.Since(began) < briefWait
		}
		if !brief {
			s.setTrouble(who, err)
		}
		if s.patience > 0 && s.db.IsFull(err) {
			return err // what can wait gives way
		}
		if s.patience > 0 && time.Since(began)+pause > s.patience {
			return fmt.Errorf("stage %s: tried again for %v: %w", s.spec.Name, s.patience, err)
		}
		s.metrics.retries.Inc()
		// While a database is down, each lane says so every other second.
		level := slog.LevelDebug
		if !brief {
			s.complaints.Do(func() { level = slog.LevelWarn })
		}
		tracing.Event(ctx, "retry", err)
		s.log.Log(ctx, level, "batch failed, trying again", "after", pause, "error", err)
		s.awaitReturn(ctx, err)
		select {
		case <-ctx.Done():
			// The next session tries again, maybe in another process.
			s.setTrouble(who, nil)
			return fmt.Errorf("stage %s: %w, and the last error was: %w", s.spec.Name, ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// A handler that asks for pauses shorter than briefPause waits for what is on its way, such
// as another stage: for as long as briefWait that is no trouble.
const (
	briefPause = 100 * time.Millisecond
	briefWait  = 2 * time.Second
)

// asRunner, asConsumer and asLane name who is in trouble.
const (
	asRunner   = "runner"
	asConsumer = "consumer"
)

func asLane(number int) string { return "lane " + strconv.Itoa(number) }

// consuming is told whether the stage can consume.
func (s *Stage) consuming(err error) {
	var of *log.PartitionError
	if !errors.As(err, &of) {
		s.setTrouble(asConsumer, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	t, known := s.stuck[of.TopicPartition]
	if !known || now.Sub(t.last) >= stuckMemory {
		t.first = now
	}
	t.last, t.err = now, of
	s.stuck[of.TopicPartition] = t
}

// stuckPartition is a partition whose records do not come.
type stuckPartition struct {
	first, last time.Time
	err         error
}

const (
	// stuckAfter is how long a partition's consumer may fail before the stage is in
	// trouble: a leader that moves is none.
	stuckAfter = 5 * time.Second
	// stuckMemory is how long after its last error a consumer counts as failing: it
	// says nothing when it works again and no record comes. More than an attempt
	// takes at a broker that does not answer.
	stuckMemory = 30 * time.Second
)

// stuckErrors are the errors of partitions whose consumers keep failing. It is called
// with the lock held.
func (s *Stage) stuckErrors() []error {
	var errs []error
	for _, t := range s.stuck {
		if time.Since(t.last) < stuckMemory && t.last.Sub(t.first) >= stuckAfter {
			errs = append(errs, fmt.Errorf("%w (for %v)", t.err, time.Since(t.first).Round(time.Second)))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

func (s *Stage) setTrouble(who string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.troubles, who)
	} else {
		s.troubles[who] = err
	}
}
