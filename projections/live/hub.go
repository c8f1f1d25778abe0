package live

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// Config describes a hub. All fields are required.
type Config struct {
	Store  *store.Store
	Log    Log
	Topics *topics.Set
	Kinds  Kinds
	// Changed returns a channel that is closed when a stage of this process commits.
	Changed func() <-chan struct{}
	Logger  *slog.Logger
}

// Hub serves the streams of a process. It follows the log while there are any. It is
// safe for concurrent use.
type Hub struct {
	cfg     Config
	log     *slog.Logger
	pending chan struct{} // read models have prices to fold

	life     context.Context
	endLife  context.CancelFunc
	draining chan struct{}
	// reading bounds how many streams read the past at once.
	reading chan struct{}

	mu       sync.Mutex
	drained  bool
	feeds    map[int32]*feed
	streams  int
	endViews context.CancelFunc // nil while none are kept
	work     sync.WaitGroup
}

// readsAtOnce is how many streams read snapshots or the past at once.
const readsAtOnce = 4

// NewHub returns a hub. The caller closes it.
func NewHub(cfg Config) *Hub {
	life, end := context.WithCancel(context.Background())
	return &Hub{cfg: cfg, log: cfg.Logger.With(slog.String("component", "push")), pending: make(chan struct{}, 1), life: life, endLife: end,
		draining: make(chan struct{}), reading: make(chan struct{}, readsAtOnce), feeds: map[int32]*feed{}}
}

// Kinds are the kinds of events that there are.
func (h *Hub) Kinds() Kinds { return h.cfg.Kinds }

// Streams is how many streams are open.
func (h *Hub) Streams() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.streams
}

// Drain ends all streams, and has Open refuse further ones.
func (h *Hub) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.drained {
		h.drained = true
		close(h.draining)
	}
}

// Close drains the hub and ends all that it does.
func (h *Hub) Close() {
	h.Drain()
	h.endLife()
	h.work.Wait()
}

// present are the feeds there are.
func (h *Hub) present() []*feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*feed, 0, len(h.feeds))
	for _, f := range h.feeds {
		all = append(all, f)
	}
	return all
}

// logSum is one for all processes on a log, and another once offsets of the topic are
// given out again.
func (h *Hub) logSum(ctx context.Context) (uint32, error) {
	infos, err := h.cfg.Log.Topics(ctx, []schema.Topic{schema.PriceEvents})
	if err != nil {
		return 0, fmt.Errorf("looking at the topic of prices: %w", err)
	}
	topics, err := h.cfg.Store.Topics(ctx)
	if err != nil {
		return 0, err
	}
	info, exists := infos[schema.PriceEvents]
	if !exists {
		return 0, fmt.Errorf("topic %s is missing", schema.PriceEvents)
	}
	epoch := int64(0)
	for _, topic := range topics {
		if topic.Name == string(schema.PriceEvents) && topic.ID == info.ID {
			epoch = topic.Epoch // in order: the newest stays
		}
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(info.ID + "/" + strconv.FormatInt(epoch, 10))) // never fails
	return hash.Sum32(), nil
}

// join has a stream watch a partition; the feed begins with the first of them, at the end
// of the log.
func (h *Hub) join(part int32, logger uint32, end int64, views bool) (*feed, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.drained {
		return nil, ErrEnded
	}
	f := h.feeds[part]
	if f != nil && (f.log != logger || f.hasEnded()) {
		f = nil // its streams leave it
	}
	if f == nil {
		ctx, stop := context.WithCancel(h.life)
		f = &feed{hub: h, tp: pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: part}, log: logger, stop: stop,
			next: end, moved: make(chan struct{}), markets: map[string]*market{}}
		_, own := h.cfg.Log.(log.TransactionalLog)
		f.mayRepeat = !own
		h.feeds[part] = f
		h.work.Go(func() { f.run(ctx) })
	}
	f.watched++
	if views && h.endViews == nil {
		ctx, end := context.WithCancel(h.life)
		h.endViews = end
		h.work.Go(func() { h.keepViews(ctx) })
	}
	return f, nil
}

// part undoes join.
func (h *Hub) part(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.watched--; f.watched > 0 {
		return
	}
	f.stop()
	if h.feeds[f.tp.Partition] == f {
		delete(h.feeds, f.tp.Partition)
	}
	if len(h.feeds) == 0 && h.endViews != nil {
		h.endViews()
		h.endViews = nil
	}
}

func (f *feed) hasEnded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// followPause is how long a feed waits to follow again after the log did not answer.
const followPause = time.Second

// run follows the partition until ctx is done, or the log is another one.
func (f *feed) run(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if f.isOver(ctx) {
			f.end()
			return
		}
		if !failing {
			f.hub.log.Warn("following the log for streams of clients failed, trying again", "partition", f.tp.String(), "error", err)
		}
		failing = true
		log.Pause(ctx, followPause)
	}
}

// lookBack is how many records before the first one say what a relay may send again.
const lookBack = 2000

func (f *feed) follow(ctx context.Context) error {
	f.mu.Lock()
	next := f.next
	f.mu.Unlock()
	if f.mayRepeat {
		repeats, err := f.hub.repeatsBefore(ctx, f.tp, next)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.repeats = repeats
		f.mu.Unlock()
	}
	return f.hub.cfg.Log.Follow(ctx, f.tp, next, f.dispatch)
}

// repeatsBefore knows the records before an offset.
func (h *Hub) repeatsBefore(ctx context.Context, tp pipeline.TopicPartition, offset int64) (*log.Repeats, error) {
	repeats := &log.Repeats{}
	ranges, err := h.cfg.Log.Offsets(ctx, tp.Topic)
	if err != nil {
		return nil, err
	}
	from := max(ranges[tp.Partition].Oldest, offset-lookBack)
	if from >= offset {
		return repeats, nil
	}
	return repeats, h.cfg.Log.Read(ctx, tp, from, offset, func(records []pipeline.Record) error {
		for i := range records {
			repeats.IsRepeat(&records[i])
		}
		return nil
	})
}

// isOver reports whether the log is another one than what the feed followed, or
// does not hold what comes next.
func (f *feed) isOver(ctx context.Context) bool {
	sum, err := f.hub.logSum(ctx)
	if err != nil {
		return false
	}
	ranges, err := f.hub.cfg.Log.Offsets(ctx, f.tp.Topic)
	if err != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	held := ranges[f.tp.Partition]
	return sum != f.log || f.next < held.Oldest || f.next > held.End
}

// end has the streams end.
func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	close(f.moved)
	f.moved = make(chan struct{})
	for _, m := range f.markets {
		m.wake()
	}
}

// turn waits until the caller may read snapshots or the past; done lets the next one.
func (h *Hub) turn(ctx context.Context) (done func(), err error) {
	select {
	case h.reading <- struct{}{}:
		return func() { <-h.reading }, nil
	case <-h.draining:
		return nil, ErrEnded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
