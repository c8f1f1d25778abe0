package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillmetrics "github.com/ThreeDotsLabs/watermill/components/metrics"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// Config describes a runtime.
type Config struct {
	Store  *store.Store
	Broker log.Broker
	Topics *topics.Set
	// GroupPrefix begins the name of each consumer group.
	GroupPrefix string
	// Owner identifies this process among those that share the work.
	Owner  string
	Stages []StageSpec
	// Changing, if not nil, tells which other stages run in this process now: it
	// is asked again and again, and they come and go while the runtime runs. A stage
	// is known by its name.
	Changing func(ctx context.Context) ([]StageSpec, error)
	// Serving, if not nil, names the stages of the service that readers depend on,
	// whichever process runs them. A fault of any other stage is a warning, and so is
	// a stage of these that no process runs. Nil: all stages of this process.
	Serving func(ctx context.Context) ([]string, error)
	// Sources run next to the stages.
	Sources []SourceSpec
	// SoleWorker says that no other process runs stages while this one does: what it
	// announces then lasts until it ends, and need not be renewed.
	SoleWorker bool
	// Relay runs the relay in this process, where the log is not in the database.
	Relay bool
	// TransactionLimit bounds the transaction of a batch, so that a handler or a
	// database that hangs holds up its partitions for so long at the most. 0 means
	// 30 s. A little more than the database gives a statement: it should let go
	// first.
	TransactionLimit time.Duration
	// BatchSize, Lanes, Linger are as in SubscriberConfig.
	BatchSize, Lanes int
	Linger           time.Duration
	Log              *slog.Logger
	// Tracer records spans of batches and of what is published. Default: none.
	Tracer *tracing.Tracer
	// Registry is where the runtime registers its metrics. Default: one of its
	// own.
	Registry *prometheus.Registry
}

const (
	// closeTimeout is how long a stop waits for batches that are being applied.
	closeTimeout = 5 * time.Second
	// applyGrace is how long a transaction of a batch may take once a stop has
	// begun: a database that hangs must not hold up the stop.
	applyGrace = 3 * time.Second
)

// Runtime runs stages under Watermill's router, with the relay.
type Runtime struct {
	cfg     Config
	metrics *metrics
	sources []*source
	relay   *outbox.Relay

	looks singleflight.Group // at the broker

	mu      sync.Mutex
	changed chan struct{}
	stages  []*Stage // those of the configuration, and those that came since
}

// New prepares a runtime; nothing moves before Run.
func New(cfg Config) (*Runtime, error) {
	if err := checkStages(cfg.Stages); err != nil {
		return nil, err
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	if cfg.Topics.InDatabase() != nil {
		cfg.Relay = false // what is published is in the log already
	}
	r := &Runtime{cfg: cfg, metrics: newMetrics(cfg.Registry), changed: make(chan struct{})}
	cfg.Registry.MustRegister(r)
	r.relay = outbox.NewRelay(cfg.Store, cfg.Broker, cfg.Topics, cfg.Owner, cfg.Log)
	for _, spec := range cfg.Stages {
		r.stages = append(r.stages, r.newStage(spec))
	}
	for _, spec := range cfg.Sources {
		r.sources = append(r.sources, &source{spec: spec})
	}
	return r, nil
}

func (r *Runtime) newStage(spec StageSpec) *Stage {
	stage := newStage(spec, r.cfg.Store, r.cfg.Topics, r.cfg.Log, r.metrics, r.committed)
	stage.outbox, stage.tracer = r.relay.Writer(), r.cfg.Tracer
	if r.cfg.TransactionLimit > 0 {
		stage.limit = r.cfg.TransactionLimit
	}
	return stage
}

// present are the stages of this process now.
func (r *Runtime) present() []*Stage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.stages)
}

// committed runs after each transaction of a stage.
func (r *Runtime) committed() {
	r.mu.Lock()
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
}

// Changed returns a channel that is closed when a stage of this process next
// commits. Other processes commit unseen, so waiters look now and then as well.
func (r *Runtime) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Applied is how far a stage of this process has come: the next offset of each
// partition that is assigned to it now, after its last commit. Nil for a stage
// that has no partitions, or is not one of this process.
func (r *Runtime) Applied(stage string) map[pipeline.TopicPartition]int64 {
	for _, s := range r.present() {
		if s.spec.Name != stage {
			continue
		}
		positions := s.assigned()
		applied := make(map[pipeline.TopicPartition]int64, len(positions))
		for tp, position := range positions {
			applied[tp] = position.Next
		}
		return applied
	}
	return nil
}

// Registry holds the metrics of the runtime; others may add theirs.
func (r *Runtime) Registry() *prometheus.Registry { return r.cfg.Registry }

// PartitionOf is the partition of a topic on which events of a key are.
func (r *Runtime) PartitionOf(topic schema.Topic, key string) (int32, error) {
	return r.cfg.Topics.PartitionOf(topic, []byte(key))
}

// Emitter publishes events through the outbox, or straight into the log.
func (r *Runtime) Emitter() pipeline.Emitter {
	appender := NewAppender(r.cfg.Broker, r.cfg.Topics)
	appender.tracer = r.cfg.Tracer
	return &emitter{Appender: appender, Store: r.cfg.Store, outbox: r.relay.Writer(), tracer: r.cfg.Tracer}
}

// Run works until ctx is done, then finishes the batches under way. started, if
// not nil, is called once all stages have subscribed.
func (r *Runtime) Run(ctx context.Context, started func()) error {
	applying, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(applyGrace, abandon) })()
	outer := ctx
	ctx, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer stop() // what runs next to the stages ends with them, whatever ended them
	// Runners end with ctx, the relay after the stages.
	relayCtx, stopRelay := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRelay()
	if r.cfg.Relay {
		background.Go(func() { r.relay.Run(relayCtx) })
	}
	for _, s := range r.sources {
		emit := Declared(r.Emitter(), "source "+s.spec.Name, s.spec.Produces)
		background.Go(func() {
			keepRunning(ctx, s.spec.Runner, emit, r.cfg.Log.With("source", s.spec.Name), s.setTrouble)
		})
	}
	background.Go(func() { r.announce(ctx) })
	background.Go(func() { r.watch(ctx) })
	c := newRouters(ctx, r, applying)
	c.start(r.present()...)
	if r.cfg.Changing != nil {
		if err := c.change(ctx); err != nil {
			stop()
			if outer.Err() != nil {
				err = nil // a stop that came early is no failure
			}
			return errors.Join(err, c.wait())
		}
		c.group.Go(func() error { c.keepChanging(ctx); return nil })
	}
	if started != nil {
		background.Go(func() {
			if c.subscribed(ctx) {
				started()
			}
		})
	}
	<-c.ctx.Done() // outside, or by a stage that failed
	stop()
	if err := c.wait(); err != nil {
		return err
	}
	if outer.Err() == nil {
		return errors.New("the stages stopped by themselves")
	}
	return nil
}

// runStages runs stages under a router until ctx is done, then finishes the batches
// under way. subscribed is called once all have subscribed.
func (r *Runtime) runStages(ctx, applying context.Context, stages []*Stage, subscribed func()) error {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout},
		watermill.NewSlogLogger(quiet(r.cfg.Log)))
	if err != nil {
		return fmt.Errorf("making the router: %w", err)
	}
	watermillmetrics.NewPrometheusMetricsBuilder(r.cfg.Registry, "pricemill", "router").AddPrometheusRouterMetrics(router)
	for _, stage := range stages {
		stage.applying = applying
		subscriber, err := r.cfg.Broker.Subscriber(log.SubscriberConfig{
			Group: r.cfg.GroupPrefix + "." + stage.spec.Name, Assignor: stage, Report: stage.consuming,
			BatchSize: r.cfg.BatchSize, Lanes: r.cfg.Lanes, Linger: r.cfg.Linger,
		})
		if err != nil {
			return fmt.Errorf("subscribing stage %s: %w", stage.spec.Name, err)
		}
		router.AddConsumerHandler(stage.spec.Name, joinTopics(stage.spec.Topics()), subscriber, stage.deliver)
	}
	outer := ctx
	ctx, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer stop() // what runs next to the router ends with it, whatever ended it
	for _, stage := range stages {
		background.Go(func() { stage.watchLetters(ctx) })
		if runner, ok := stage.spec.Handler.(pipeline.Runner); ok {
			emit := Declared(r.Emitter(), "stage "+stage.spec.Name, stage.spec.Produces)
			background.Go(func() {
				keepRunning(ctx, runner, emit, stage.log, func(err error) { stage.setTrouble(asRunner, err) })
			})
		}
	}
	background.Go(func() {
		select {
		case <-router.Running():
			subscribed()
		case <-ctx.Done():
		}
	})
	// The router itself waits for its subscribers without a limit; Close has one.
	defer context.AfterFunc(ctx, func() { _ = router.Close() })() // Run returns its error
	if err := router.Run(ctx); err != nil {
		return fmt.Errorf("running the router: %w", err)
	}
	if outer.Err() == nil {
		return errors.New("the router stopped by itself")
	}
	return nil
}

func joinTopics(topics []schema.Topic) string {
	joined := ""
	for i, t := range topics {
		if i > 0 {
			joined += ","
		}
		joined += string(t)
	}
	return joined
}

// quiet lowers Watermill's chatter by one level: its info is our debug.
func quiet(log *slog.Logger) *slog.Logger { return slog.New(quietHandler{log.Handler()}) }

type quietHandler struct{ slog.Handler }

func (h quietHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.Handler.Enabled(ctx, level-4)
}

func (h quietHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		r.Level -= 4
	}
	return h.Handler.Handle(ctx, r)
}

func (h quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietHandler{h.Handler.WithAttrs(attrs)}
}

func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.Handler.WithGroup(name)}
}

// Trouble is why the last attempt of a lane, the consumer or the runner failed, or
// that the stage has no partitions assigned yet; nil otherwise.
func (s *Stage) Trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, who := range slices.Sorted(maps.Keys(s.troubles)) {
		errs = append(errs, fmt.Errorf("%s: %w", who, s.troubles[who]))
	}
	errs = append(errs, s.stuckErrors()...)
	if len(errs) == 0 && s.session == nil {
		return errors.New("waiting for partitions")
	}
	return errors.Join(errs...)
}
