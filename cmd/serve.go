package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/apikeys"
	"github.com/pricemill/pricemill/httpapi/symbolmap"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/requests"
)

func newServe(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the service",
		Long: `Run the pipeline and the HTTP API. On SIGTERM the service stops accepting
requests, finishes the batches under way and exits.

A process without the role api still serves /livez, /readyz, /version and
/metrics.

Without Kafka one process consumes the log. On SQLite a second one is refused;
on PostgreSQL it answers requests, and takes over when the first one ends.`,
		Example: "  pricemill serve\n  HTTP_ADDR=127.0.0.1:9000 pricemill serve --data-dir /var/lib/pricemill",
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			return a.serve(c.Context(), cfg.withDemo())
		},
	}
	c.Flags().Var(settingFlag{a, "roles"}, "roles", "what this process does: api, handlers, projections, relay, or all; without Kafka, all or api")
	c.Flags().Var(settingFlag{a, "http_addr"}, "http-addr", "address to listen on")
	return c
}

// httpGrace is how long a stop waits for requests under way.
const httpGrace = 2 * time.Second

// service is what "serve" runs: the pipeline and the HTTP API.
type service struct {
	config   config
	backends *backends
	modules  *modules
	topics   *topics.Set
	runtime  *engine.Runtime
	listener net.Listener
	// symbolMap is nil where there is none.
	symbolMap *symbolmap.Map
	log       *slog.Logger
	// started is called once all of it runs.
	started func()
}

// serve runs until ctx is done.
func (a *app) serve(ctx context.Context, c config) (err error) {
	log := a.logger(c)
	for _, warning := range c.Warnings {
		log.Warn(warning)
	}
	tracer, log, err := startTracing(c, log)
	if err != nil {
		return err
	}
	defer stopTracing(tracer, log)
	s, err := openService(ctx, c, tracer, log)
	if err != nil {
		return unlessStopped(ctx, err, log)
	}
	defer func() {
		if err == nil {
			log.Info("stopped")
		}
	}()
	defer func() { err = errors.Join(err, s.close()) }()
	if a.logsText(c) {
		s.started = func() { s.greet(a.stderr) }
	}
	stop, err := s.modules.start(ctx)
	if err != nil {
		return unlessStopped(ctx, err, log)
	}
	defer func() { err = errors.Join(err, stop()) }()
	return s.run(ctx)
}

// openService prepares all that a service needs; nothing moves before run.
func openService(ctx context.Context, c config, tracer *tracing.Tracer, log *slog.Logger) (_ *service, err error) {
	s := &service{config: c, log: log, started: func() {}}
	if s.modules, err = buildTraced(c, tracer, log); err != nil {
		return nil, err
	}
	if c.Roles.API {
		if s.symbolMap, err = readSymbolMap(c); err != nil {
			return nil, err
		}
	}
	// First of all: a port that is taken should be known before the log is
	// replayed.
	if s.listener, err = net.Listen("tcp", c.HTTPAddr); err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	if s.backends, err = open(ctx, c, serving, log); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if s.topics, s.runtime, err = newRuntime(ctx, c, s.backends, s.modules, log); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close closes what openService opened.
func (s *service) close() error {
	_ = s.listener.Close() // the server has closed it as well, if it ran
	if s.backends == nil {
		return nil
	}
	return s.backends.close()
}

// unlessStopped is what a start returns that failed: to stop it is no failure.
func unlessStopped(ctx context.Context, err error, log *slog.Logger) error {
	if ctx.Err() == nil {
		return err
	}
	log.Info("stopped before the start was done", "error", err)
	return nil
}

// newRuntime prepares topics, tables and stages.
func newRuntime(ctx context.Context, c config, b *backends, m *modules, log *slog.Logger) (*topics.Set, *engine.Runtime, error) {
	topics, err := b.topics(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := m.createTables(ctx, b.store); err != nil {
		return nil, nil, err
	}
	if err := m.openProjections(ctx, c, b, log); err != nil {
		return nil, nil, err
	}
	work := engine.Config{Stages: m.stages, Sources: m.sources, Registry: m.registry, Tracer: m.tracer,
		Serving: func(ctx context.Context) ([]string, error) { return m.serving(ctx, b.store) }}
	if c.Roles.Projections {
		work.Changing = func(ctx context.Context) ([]engine.StageSpec, error) {
			return projections.RunnableStages(ctx, b.store, m.projections)
		}
	}
	runtime, err := newRuntimeOf(ctx, c, b, topics, work, log)
	return topics, runtime, err
}

// newRuntimeOf completes the description of a runtime whose stages are given.
func newRuntimeOf(ctx context.Context, c config, b *backends, topics *topics.Set, work engine.Config, log *slog.Logger) (*engine.Runtime, error) {
	owner, err := nameProcess(ctx, c, b)
	if err != nil {
		return nil, err
	}
	work.Store, work.Broker, work.Topics, work.Log = b.store, b.broker, topics, log
	work.SoleWorker = b.locked
	work.GroupPrefix, work.Owner, work.Relay = c.GroupPrefix, owner, c.Roles.Relay
	// The server should have let go of a statement before its stage does.
	work.TransactionLimit = c.DatabaseTimeout + 5*time.Second
	return engine.New(work)
}

// nameProcess names this process among those that share the work. One with an
// instance id that is back gives up what it held, for which all would wait.
func nameProcess(ctx context.Context, c config, b *backends) (string, error) {
	random, err := uuid.NewRandom()
	if err != nil {
		return "", fmt.Errorf("naming this process: %w", err)
	}
	if c.InstanceID == "" {
		return random.String(), nil
	}
	prefix := c.InstanceID + "/" // which is not part of an id
	return prefix + random.String(), b.store.ReleaseLeases(ctx, prefix)
}

// run runs everything until ctx is done or something fails: first the API ends,
// then the pipeline.
func (s *service) run(ctx context.Context) error {
	pipelineCtx, stopPipeline := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPipeline()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return s.runtime.Run(pipelineCtx, func() { s.log.Info("pipeline running"); s.started() })
	})
	if s.config.DatabaseURL == "" && !s.backends.locked {
		group.Go(func() error { s.watchWorker(pipelineCtx); return nil })
	}
	if s.config.Roles.Projections {
		rebuilder := s.modules.rebuilder(s.backends, s.topics, s.log)
		group.Go(func() error { rebuilder.Run(pipelineCtx); return nil })
		retention := s.modules.retention(s.config, s.backends, s.runtime.Registry(), s.log)
		group.Go(func() error { retention.Run(pipelineCtx); return nil })
	}
	group.Go(func() error {
		defer stopPipeline()
		return s.serveHTTP(ctx)
	})
	return group.Wait()
}

// workerPoll is how soon a process that only answers sees that the worker died.
const workerPoll = time.Second

// watchWorker takes back what the process announced that ran the stages, where that one
// died, until ctx is done. Only SQLite needs it: elsewhere announcements expire.
func (s *service) watchWorker(ctx context.Context) {
	ticker := time.NewTicker(workerPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		release, err := holdDir(s.config.DataDir) // no process begins to work meanwhile
		if errors.Is(err, errLocked) {
			continue
		}
		if err == nil {
			err = errors.Join(engine.ForgetRunning(ctx, s.backends.store), release())
		}
		if err != nil {
			s.log.Debug("looking whether a process runs the stages failed", "error", err)
		}
	}
}

// serveHTTP answers clients, or only those who watch this process, until ctx is
// done.
func (s *service) serveHTTP(ctx context.Context) (err error) {
	c, r, log := s.config, s.runtime, s.log
	registerProcess(r.Registry(), s.backends.store)
	registerTracing(r.Registry(), s.modules.tracer)
	keys, err := apikeys.Open(ctx, s.backends.store, log, time.Now)
	if err != nil {
		return unlessStopped(ctx, err, log)
	}
	shared, err := newSharing(ctx, c, s.backends, r, log)
	if err != nil {
		return unlessStopped(ctx, err, log)
	}
	defer func() { err = errors.Join(err, shared.close()) }()
	group, background := errgroup.WithContext(context.WithoutCancel(ctx))
	background, stopBackground := context.WithCancel(background)
	defer func() { stopBackground(); _ = group.Wait() }() // its goroutines return nil
	group.Go(func() error { keys.Run(background); return nil })
	shared.run(background, group, c.Roles.API)
	if !c.Roles.API {
		operations, err := newOperations(c, s.backends, s.modules, r, keys, shared, log)
		if err != nil {
			return err
		}
		return answer(ctx, c, r, operations, s.listener, log)
	}
	r.Registry().MustRegister(freshness{latestprices.NewReader(s.backends.store), log})
	if c.MetricsLastPrices > 0 {
		r.Registry().MustRegister(priceGauges{latestprices.NewReader(s.backends.store), c.MetricsLastPrices, log})
	}
	waiter := requests.NewWaiter(s.backends.store, shared.changed, log)
	group.Go(func() error { waiter.Run(background); return nil })

	hub := newHub(c, s.backends, s.topics, s.modules, r, shared, log)
	defer hub.Close()
	api, err := newAPI(c, s.symbolMap, s.backends, s.modules, r, waiter, hub, keys, shared, log)
	if err != nil {
		return err
	}
	defer api.Close()
	return answer(ctx, c, r, api, s.listener, log)
}

// registerConnections counts the connections of the API for Prometheus.
func registerConnections(registry *prometheus.Registry, connections *httpapi.Connections) {
	refused := func(limit string, count func(httpapi.Refusals) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "pricemill_http_connections_refused_total",
			Help: "Connections that were closed at once, by the limit that they would have passed.", ConstLabels: prometheus.Labels{"limit": limit}},
			func() float64 { return float64(count(connections.Refused())) })
	}
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pricemill_http_connections", Help: "Open connections to the HTTP API."},
			func() float64 { return float64(connections.Open()) }),
		refused("total", func(r httpapi.Refusals) uint64 { return r.Total }),
		refused("per_client", func(r httpapi.Refusals) uint64 { return r.PerClient }))
}

// answer serves until ctx is done, and gives the requests under way a while.
func answer(ctx context.Context, c config, r *engine.Runtime, handler *httpapi.API, listener net.Listener, log *slog.Logger) error {
	server, connections := httpapi.NewServer(c.HTTPAddr, handler, c.Connections, log)
	server.RegisterOnShutdown(handler.Drain)
	registerConnections(r.Registry(), connections)
	return serveHTTP(ctx, c, server, listener, log, func(url string) {
		if c.Roles.API {
			log.Info("listening", "url", url, "docs", url+"/docs")
		} else {
			log.Info("listening", "url", url)
		}
	})
}

// serveHTTP serves with the certificate of the settings, or none, until ctx is done, and
// gives the requests under way a while. It tells the URL to listening.
func serveHTTP(ctx context.Context, c config, server *http.Server, listener net.Listener, log *slog.Logger, listening func(url string)) error {
	failed := make(chan error, 1)
	if c.TLSCertFile == "" {
		go func() { failed <- server.Serve(httpapi.ReadAhead(listener)) }()
	} else {
		certificate, err := openCertificate(c.TLSCertFile, c.TLSKeyFile)
		if err != nil {
			return fmt.Errorf("reading TLS_CERT_FILE: %w", err)
		}
		server.TLSConfig = certificate.serverConfig()
		go func() { failed <- server.ServeTLS(listener, "", "") }()
	}
	listening(schemeOf(c.TLSCertFile) + listener.Addr().String())
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	log.Info("stopping")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		log.Warn("requests were cut off", "error", err)
		_ = server.Close() // the listener is closed already
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}
