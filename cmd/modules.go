package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/pipeline/topology"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// modules are the registered modules, built with their settings.
type modules struct {
	providers map[schema.Provider]pipeline.Provider // by name and alias
	known     providerList
	stages    []engine.StageSpec
	sources   []engine.SourceSpec
	// parts are all that work in the service, in whatever process.
	parts []topology.Component
	// delivering are the handlers that hand what they read to another system.
	delivering map[string]bool
	// active are the modules that work in this process and have something else
	// to do.
	active []activeModule
	// projections are built here, and become stages once there is a database.
	projections []pipeline.Projection
	// switchedOff are the indicators that PLUGINS could switch on.
	switchedOff map[string]projections.IndicatorDoc
	registry    *prometheus.Registry
	tracer      *tracing.Tracer // nil for none
}

// build makes the modules that the roles of this process need. It does no I/O,
// so wrong settings are reported before anything starts.
func build(c config, log *slog.Logger) (*modules, error) { return buildTraced(c, nil, log) }

// buildTraced is build for a process that records traces, or with nil for one that does not.
func buildTraced(c config, tracer *tracing.Tracer, log *slog.Logger) (*modules, error) {
	m := &modules{tracer: tracer, known: c.Providers, providers: map[schema.Provider]pipeline.Provider{}, registry: prometheus.NewRegistry(), parts: slices.Clone(builtinSources),
		delivering: map[string]bool{}, switchedOff: map[string]projections.IndicatorDoc{}}
	env := func(name string) pipeline.Env {
		return pipeline.Env{Settings: c.Modules[name], Log: log.With("module", name), Now: time.Now, Version: releaseName(),
			Provider: m.provider, Metrics: m.registry, Tracer: tracer}
	}
	var errs []error
	for _, module := range c.Providers {
		provider, err := module.New(env(string(module.Name)))
		if err = m.made("provider "+string(module.Name), provider, err, c.Roles.Handlers); err != nil {
			errs = append(errs, err)
			continue
		}
		m.providers[module.Name] = provider
		for _, alias := range module.Aliases {
			m.providers[alias] = provider
		}
	}
	for _, module := range pipeline.Handlers() {
		if !c.Plugins.on(module.Name, module.Optional) {
			continue
		}
		m.parts = append(m.parts, topology.Component{Kind: topology.HandlerComponent, Name: module.Name, Doc: module.Doc, Consumes: module.Consumes, Produces: module.Produces})
		m.delivering[module.Name] = module.Delivers
		handler, err := module.New(env(module.Name))
		if err = m.made("handler "+module.Name, handler, err, c.Roles.Handlers); err != nil {
			errs = append(errs, err)
		} else if c.Roles.Handlers {
			m.stages = append(m.stages, engine.StageSpec{Name: module.Name, Consumes: module.Consumes, Produces: module.Produces, Handler: handler})
		}
	}
	for _, module := range pipeline.Sources() {
		if !c.Plugins.on(module.Name, module.Optional) {
			continue
		}
		m.parts = append(m.parts, topology.Component{Kind: topology.SourceComponent, Name: module.Name, Doc: module.Doc, Produces: module.Produces})
		source, err := module.New(env(module.Name))
		if err = m.made("source "+module.Name, source, err, c.Roles.Handlers); err != nil {
			errs = append(errs, err)
		} else if c.Roles.Handlers {
			m.sources = append(m.sources, engine.SourceSpec{Name: module.Name, Produces: module.Produces, Runner: source})
		}
	}
	if c.Demo {
		m.addDemo(log)
	}
	for _, module := range pipeline.Projections() {
		if !c.Plugins.on(module.Name, module.Optional) {
			m.describeSwitchedOff(module, env(module.Name))
			continue
		}
		projection, err := module.New(env(module.Name))
		if err = m.made("projection "+module.Name, projection, err, c.Roles.Projections); err != nil {
			errs = append(errs, err)
			continue
		}
		m.parts = append(m.parts, topology.Component{Kind: topology.ProjectionComponent, Name: module.Name, Doc: module.Doc,
			Consumes: projection.Consumes(), Tables: projection.TableNames()})
		m.projections = append(m.projections, projection)
	}
	errs = append(errs, pipeline.CheckModules(), topology.CheckComponents(m.parts))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return m, nil
}

// indicators are the projections that clients may ask.
func (m *modules) indicators(db *store.Store) map[string]httpapi.Indicator {
	all := map[string]httpapi.Indicator{}
	for _, p := range m.projections {
		if indicator, ok := p.(projections.Indicator); ok {
			all[p.Name()] = boundIndicator{indicator, db}
		}
	}
	return all
}

// describeSwitchedOff keeps the description of an indicator that does not work here. A
// module whose settings are wrong has none: they matter once it is switched on.
func (m *modules) describeSwitchedOff(module pipeline.ProjectionModule, env pipeline.Env) {
	env.Metrics = prometheus.NewRegistry()
	projection, err := module.New(env)
	if err != nil {
		return
	}
	if indicator, ok := projection.(projections.Indicator); ok {
		m.switchedOff[module.Name] = indicator.Indicator()
	}
}

// boundIndicator is an indicator that reads one database.
type boundIndicator struct {
	of projections.Indicator
	db *store.Store
}

// Indicator implements httpapi.Indicator.
func (b boundIndicator) Indicator() projections.IndicatorDoc { return b.of.Indicator() }

// Points implements httpapi.Indicator.
func (b boundIndicator) Points(ctx context.Context, q projections.IndicatorQuery) ([]projections.Point, error) {
	if q.AsOf == 0 {
		return b.of.Points(ctx, b.db, q)
	}
	indicator, can := b.of.(projections.AsOfIndicator)
	if !can {
		return nil, fmt.Errorf("indicator %s: %w", b.of.Name(), projections.ErrNoAsOf)
	}
	snapshot, err := b.db.Snapshot(ctx)
	if err != nil {
		return nil, projections.QueryError("indicator "+b.of.Name(), err)
	}
	defer snapshot.Close()
	return indicator.PointsAsOf(ctx, snapshot, q, q.AsOf)
}

func (m *modules) provider(name schema.Provider) (pipeline.Provider, bool) {
	p, known := m.providers[name]
	return p, known
}

// able are the providers that can do something.
func (m *modules) able(is func(pipeline.Provider) bool) []schema.Provider {
	var names []schema.Provider
	for _, name := range m.known.names() {
		if is(m.providers[name]) {
			names = append(names, name)
		}
	}
	return names
}

// openProjections makes sure that all have tables, and orders rebuilds of those whose
// fold is a later one than what built them.
func (m *modules) openProjections(ctx context.Context, c config, b *backends, log *slog.Logger) error {
	for _, p := range m.projections {
		if _, err := projections.Open(ctx, b.store, p); err != nil {
			return err
		}
		if err := projections.Renew(ctx, b.store, p, c.RebuildPromote, log); err != nil {
			return err
		}
	}
	return nil
}

// serving are the names of the stages that the service needs, in whatever process:
// those of the handlers but such that deliver, and of the generations that readers see.
func (m *modules) serving(ctx context.Context, db store.Querier) ([]string, error) {
	folds, err := projections.Serving(ctx, db, m.projections)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, part := range m.parts {
		if part.Kind == topology.HandlerComponent && !m.delivering[part.Name] {
			names = append(names, part.Name)
		}
	}
	for _, fold := range folds {
		names = append(names, fold.Name)
	}
	return names, nil
}

// shownDifferences is how many differences a rebuild keeps.
const shownDifferences = 20

// retention deletes old rows in this process.
func (m *modules) retention(c config, b *backends, registry prometheus.Registerer, log *slog.Logger) *projections.Retention {
	deleted := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pricemill_retention_deleted_total",
		Help: "Rows of read models that were deleted since they were old."}, []string{"projection"})
	registry.MustRegister(deleted)
	for _, p := range m.projections {
		if _, ok := p.(projections.Forgetful); ok {
			deleted.WithLabelValues(p.Name())
		}
	}
	return &projections.Retention{Store: b.store, Projections: m.projections, Log: log, Now: time.Now,
		Keep:    map[string]time.Duration{requests.Name: c.RequestsRetention, jobs.Name: c.JobsRetention},
		Deleted: func(projection string, rows int) { deleted.WithLabelValues(projection).Add(float64(rows)) }}
}

// rebuilder does the work of rebuilds in this process.
func (m *modules) rebuilder(b *backends, topics *topics.Set, log *slog.Logger) *projections.Rebuilder {
	return &projections.Rebuilder{Projections: m.projections, CompareConfig: projections.CompareConfig{Store: b.store, Broker: b.broker,
		Topics: topics, Log: log, Most: shownDifferences}}
}
