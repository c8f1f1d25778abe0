package table

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Failures that callers tell apart.
var (
	// ErrClosed is returned by everything that was closed.
	ErrClosed = errors.New("closed")
	// ErrUnknownTopic is wrapped where the log has no such topic or partition.
	ErrUnknownTopic = errors.New("unknown topic")
	// ErrTooLarge is wrapped where a record is larger than the log takes.
	ErrTooLarge = errors.New("record too large")
	// ErrOutOfRange is wrapped where the log does not hold the offsets that were asked for.
	ErrOutOfRange = errors.New("offset out of range")
)

// Consumer decides which process consumes the log. It makes consuming efficient; what
// makes it exact is that a stage moves its positions in the transaction of its effects.
type Consumer interface {
	// Acquire waits until this process is the consumer. The context it returns is done
	// when that ends.
	Acquire(ctx context.Context) (held context.Context, err error)
}

// Config describes a log.
type Config struct {
	// Store is the database. Required; the log does not close it.
	Store *store.Store
	// Partitions is the number of partitions of topics that are created. 0 means 4.
	Partitions int32
	// Partitioner says on which partition a key lies. Required by Publisher alone.
	Partitioner func(key []byte, partitions int32) int32
	// Consumer lets one process consume at a time. Nil: this one always does.
	Consumer Consumer
	// Poll is how often the log looks for records of other processes; those of its own
	// need no look. 0 means 20 ms.
	Poll time.Duration
	// NackPause is how long a batch waits after a Nack until it is delivered again. 0
	// means 100 ms.
	NackPause time.Duration
	// Grace is how long the end of a session waits for batches in flight. 0 means 10 s.
	Grace time.Duration
	// Logger receives what no caller is told. Nil drops it.
	Logger *slog.Logger
}

const defaultPartitions = 4

// Log is the log in a table. It is safe for concurrent use.
type Log struct {
	cfg  Config
	db   *store.Store
	log  *slog.Logger
	ends *ends
	// nudged has the watch look at once.
	nudged chan struct{}

	life    context.Context
	endLife context.CancelFunc

	mu       sync.Mutex
	closed   bool
	closers  map[io.Closer]struct{}
	watching bool
	appended chan struct{} // closed at the next commit of records by this process
	work     sync.WaitGroup
	// topics are those known to exist, and timelines the names of their chains. A topic
	// is never deleted, and a chain never renamed.
	topics    map[schema.Topic]store.Topic
	timelines map[place][]byte
}

var (
	_ log.TransactionalLog = (*Log)(nil)
	_ log.Follower         = (*Log)(nil)
)

// Open returns the log of a database.
func Open(cfg Config) *Log {
	setDefault(&cfg.Partitions, defaultPartitions)
	setDefault(&cfg.Poll, 20*time.Millisecond)
	setDefault(&cfg.NackPause, 100*time.Millisecond)
	setDefault(&cfg.Grace, 10*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	life, endLife := context.WithCancel(context.Background())
	return &Log{cfg: cfg, db: cfg.Store, log: cfg.Logger.With(slog.String("component", "log")), ends: newEnds(),
		life: life, endLife: endLife, nudged: make(chan struct{}, 1), appended: make(chan struct{}), closers: map[io.Closer]struct{}{}, topics: map[schema.Topic]store.Topic{}, timelines: map[place][]byte{}}
}

func setDefault[T comparable](value *T, to T) {
	var zero T
	if *value == zero {
		*value = to
	}
}

// Close ends all subscriptions. The database stays open.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	closers := l.closers
	l.closers = nil
	l.mu.Unlock()
	// All sessions end at once: each may have a handler to wait for.
	l.endLife()
	var errs []error
	for c := range closers {
		errs = append(errs, c.Close())
	}
	l.work.Wait()
	return errors.Join(errs...)
}

// adopt makes Close close c, and the log look for records of other processes.
func (l *Log) adopt(c io.Closer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("log: %w", ErrClosed)
	}
	l.closers[c] = struct{}{}
	if !l.watching {
		l.watching = true
		l.work.Go(l.watch)
	}
	return nil
}

func (l *Log) disown(c io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.closers, c)
}

// watch looks for records of other processes until the log is closed, or nothing waits
// for any.
func (l *Log) watch() {
	ticker := time.NewTicker(l.cfg.Poll)
	defer ticker.Stop()
	failing := false
	var seen sight
	for {
		select {
		case <-l.life.Done():
			return
		case <-ticker.C:
		case <-l.nudged:
		}
		if l.endWatch() {
			return
		}
		if err := l.look(&seen); err != nil {
			if !failing && l.life.Err() == nil {
				l.log.Warn("looking for records of other processes failed, trying again", slog.Any("error", err))
			}
			failing = true
			continue
		}
		failing = false
	}
}

// Look has the log look for records of other processes now. Without it, it looks every
// Config.Poll.
func (l *Log) Look() {
	select {
	case l.nudged <- struct{}{}:
	default: // it will
	}
}

// Appended returns a channel that is closed when this process next commits records.
func (l *Log) Appended() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.appended
}

func (l *Log) announce() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.appended)
	l.appended = make(chan struct{})
}

// sight is what a look at the chains found.
type sight struct {
	chains, last int64
	// unchanged is how many looks ago the chains were read.
	unchanged int
}

// readAgainAfter is after how many looks without a change the chains are read anyway:
// another may have been deleted as one grew by as much.
const readAgainAfter = 100

// look reads the chains, where any may have grown since it was called before.
func (l *Log) look(seen *sight) error {
	n, last, err := store.ChainsTotal(l.life, l.db)
	if err != nil {
		return err
	}
	if n == seen.chains && last == seen.last && seen.unchanged < readAgainAfter {
		seen.unchanged++
		return nil
	}
	chains, err := store.Chains(l.life, l.db)
	if err != nil {
		return err
	}
	l.ends.raise(chains...)
	*seen = sight{chains: n, last: last}
	return nil
}

// endWatch reports that nothing waits for records; adopt begins to look again.
func (l *Log) endWatch() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.closers) == 0 {
		l.watching = false
	}
	return !l.watching
}

// EnsureTopics implements log.Broker.
func (l *Log) EnsureTopics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	infos, err := l.Topics(ctx, topics)
	if err != nil || len(infos) == len(topics) {
		return infos, err
	}
	for _, topic := range topics {
		if _, exists := infos[topic]; exists {
			continue
		}
		if err := l.db.EnsureTopic(ctx, string(topic), l.cfg.Partitions); err != nil {
			return nil, err
		}
	}
	return l.Topics(ctx, topics)
}

// Topics implements log.Broker.
func (l *Log) Topics(ctx context.Context, topics []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	known, err := l.lookUp(ctx, topics)
	if err != nil {
		return nil, err
	}
	infos := make(map[schema.Topic]log.TopicInfo, len(topics))
	for name, topic := range known {
		infos[name] = log.TopicInfo{ID: topic.ID, Partitions: topic.Partitions}
	}
	return infos, nil
}

// lookUp returns those of the topics that exist.
func (l *Log) lookUp(ctx context.Context, topics []schema.Topic) (map[schema.Topic]store.Topic, error) {
	known := l.remembered(topics)
	if len(known) == len(topics) {
		return known, nil
	}
	all, err := l.db.Topics(ctx)
	if err != nil {
		return nil, err
	}
	chains, err := store.Chains(ctx, l.db)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	for _, topic := range all { // by epoch: the newest stays
		l.topics[schema.Topic(topic.Name)] = topic
	}
	for _, chain := range chains {
		l.timelines[place{chain.Epoch, chain.Part}] = []byte(chain.Timeline)
	}
	l.mu.Unlock()
	return l.remembered(topics), nil
}

func (l *Log) remembered(topics []schema.Topic) map[schema.Topic]store.Topic {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := make(map[schema.Topic]store.Topic, len(topics))
	for _, name := range topics {
		if topic, exists := l.topics[name]; exists {
			known[name] = topic
		}
	}
	return known
}

// partition is the place of a reader that begins at an offset of a partition.
func (l *Log) partition(tp pipeline.TopicPartition, topic store.Topic, offset int64) partition {
	p := partition{TopicPartition: tp, place: place{topic.Epoch, tp.Partition}, topicID: topic.ID, next: offset,
		keys: store.HeaderDecoder{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.timeline = l.timelines[p.place]
	return p
}

func (l *Log) topic(ctx context.Context, name schema.Topic) (store.Topic, error) {
	known, err := l.lookUp(ctx, []schema.Topic{name})
	if err != nil {
		return store.Topic{}, err
	}
	topic, exists := known[name]
	if !exists {
		return store.Topic{}, fmt.Errorf("%w: %s", ErrUnknownTopic, name)
	}
	return topic, nil
}

// LimitedRetention implements log.Broker: the table keeps all records.
func (l *Log) LimitedRetention(context.Context, []schema.Topic) (map[schema.Topic]string, error) {
	return nil, nil
}

// Offsets implements log.Broker. The log keeps all records: a partition whose first
// ones are missing is damaged, and begins with them all the same.
func (l *Log) Offsets(ctx context.Context, name schema.Topic) ([]log.OffsetRange, error) {
	topic, err := l.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	chains, err := store.Chains(ctx, l.db)
	if err != nil {
		return nil, err
	}
	ranges := make([]log.OffsetRange, topic.Partitions)
	for _, chain := range chains {
		if chain.Epoch == topic.Epoch && chain.Part < topic.Partitions {
			ranges[chain.Part].End = chain.Last
		}
	}
	return ranges, nil
}
