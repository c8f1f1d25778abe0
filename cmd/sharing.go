package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/ratelimit"
	"github.com/pricemill/pricemill/httpapi/redis"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log/table"
)

// sharing is what processes share: how many requests clients have made and, with Redis,
// the news that something was committed.
type sharing struct {
	redis   *redis.Client // nil for none
	limits  *ratelimit.Limiter
	runtime *engine.Runtime
	table   *table.Log // nil where the log is Kafka
	news    *news      // of commits in any process; nil without redis
	own     *news      // of those in this one, with what it appended to the log
	heard   atomic.Uint64
}

// newSharing connects to Redis, if there is one. The caller closes it after run has returned.
func newSharing(ctx context.Context, c config, b *backends, r *engine.Runtime, log *slog.Logger) (*sharing, error) {
	s := &sharing{runtime: r}
	s.table, _ = b.broker.(*table.Log)
	limits := ratelimit.Config{DB: b.store, Logger: log}
	if c.Redis != nil {
		installation, err := b.store.ID(ctx)
		if err != nil {
			return nil, err
		}
		s.redis = redis.Open(ctx, redis.Config{Address: *c.Redis, Installation: installation, Logger: log})
		s.news, s.own = newNews(), newNews()
		limits.Remote = s.redis
	}
	s.limits = ratelimit.New(limits)
	s.register(r.Registry())
	return s, nil
}

func (s *sharing) close() error {
	if s.redis == nil {
		return nil
	}
	return s.redis.Close()
}

// run keeps up what is shared until ctx is done. serving says that the process has clients.
func (s *sharing) run(ctx context.Context, group *errgroup.Group, serving bool) {
	if serving {
		group.Go(func() error { s.limits.Run(ctx); return nil })
	}
	if s.redis == nil {
		return
	}
	group.Go(func() error { s.redis.Run(ctx); return nil })
	group.Go(func() error { s.tell(ctx); return nil })
	group.Go(func() error {
		eachChange(ctx, s.runtime.Changed, func() { s.news.wake(); s.own.wake() })
		return nil
	})
	if s.table != nil {
		group.Go(func() error { eachChange(ctx, s.table.Appended, s.own.wake); return nil })
	}
	if serving || s.table != nil { // the stages of others get their records from Kafka
		group.Go(func() error { s.redis.Hear(ctx, s.hear); return nil })
	}
}

// hear takes the news of another process.
func (s *sharing) hear() {
	s.heard.Add(1)
	if s.table != nil {
		s.table.Look()
	}
	s.news.wake()
}

// changed returns a channel that is closed at the next commit of a stage: in this process,
// and with Redis in any.
func (s *sharing) changed() <-chan struct{} {
	if s.news == nil {
		return s.runtime.Changed()
	}
	return s.news.next()
}

// tellPause is the least time between two messages of a process about its commits.
const tellPause = 5 * time.Millisecond

// tell tells other processes of the commits of this one.
func (s *sharing) tell(ctx context.Context) {
	eachChange(ctx, s.own.next, func() {
		if s.redis.Tell(ctx) != nil {
			return // they look by themselves
		}
		select {
		case <-ctx.Done():
		case <-time.After(tellPause):
		}
	})
}

// eachChange calls f after each change, or after several, until ctx is done.
func eachChange(ctx context.Context, changed func() <-chan struct{}, f func()) {
	next := changed()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next:
		}
		next = changed() // before f: a change during it is seen
		f()
	}
}

// news wakes those who wait for a commit.
type news struct {
	mu      sync.Mutex
	changed chan struct{}
}

func newNews() *news { return &news{changed: make(chan struct{})} }

func (n *news) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *news) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// checks are those of Redis. The process serves without it.
func (s *sharing) checks() []httpapi.Check {
	if s.redis == nil {
		return nil
	}
	check := httpapi.Check{Name: "redis", State: httpapi.CheckOK}
	if outage := s.redis.Down(); outage != nil {
		check.State = httpapi.CheckWarning
		check.Reason = fmt.Sprintf("it has not answered since %s, and the database shares the limits: %v",
			outage.Since.UTC().Format(time.RFC3339), outage.Err)
	}
	return []httpapi.Check{check}
}

func (s *sharing) register(registry prometheus.Registerer) {
	for name, place := range map[string]ratelimit.Place{"redis": ratelimit.InRemote, "database": ratelimit.InDatabase, "process": ratelimit.InProcess} {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "pricemill_rate_limit_requests_total",
			Help: "Requests that were counted against a rate limit, by where it was kept.", ConstLabels: prometheus.Labels{"kept_in": name}},
			func() float64 { return float64(s.limits.Counted(place)) }))
	}
	if s.redis == nil {
		return
	}
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pricemill_redis_up", Help: "1 while Redis answers, else 0."}, func() float64 {
			if s.redis.Down() != nil {
				return 0
			}
			return 1
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "pricemill_redis_failures_total", Help: "Times that Redis did not do what it was asked."},
			func() float64 { return float64(s.redis.Failed()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "pricemill_redis_wakeups_total", Help: "Times that another process said that it had committed something."},
			func() float64 { return float64(s.heard.Load()) }))
}
