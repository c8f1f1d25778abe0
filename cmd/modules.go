package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// modules are the registered modules, built with their settings.
type modules struct {
	providers map[schema.Provider]pipeline.Provider // by name and alias
	stages    []pipeline.StageSpec
	// projections are built here, and become stages once there is a database.
	projections []pipeline.Projection
	registry    *prometheus.Registry
}

// build makes the modules that the roles of this process need. It does no I/O,
// so wrong settings are reported before anything starts.
func build(c config, log *slog.Logger) (*modules, error) {
	m := &modules{providers: map[schema.Provider]pipeline.Provider{}, registry: prometheus.NewRegistry()}
	env := func(name string) pipeline.Env {
		return pipeline.Env{Settings: c.Modules[name], Log: log.With("module", name), Now: time.Now, Version: releaseName(),
			Provider: m.provider, Metrics: m.registry}
	}
	var errs []error
	for _, module := range pipeline.Providers() {
		provider, err := module.New(env(string(module.Name)))
		if err != nil {
			errs = append(errs, fmt.Errorf("provider %s: %w", module.Name, err))
			continue
		}
		m.providers[module.Name] = provider
		for _, alias := range module.Aliases {
			m.providers[alias] = provider
		}
	}
	for _, module := range pipeline.Handlers() {
		handler, err := module.New(env(module.Name))
		if err != nil {
			errs = append(errs, fmt.Errorf("handler %s: %w", module.Name, err))
			continue
		}
		if c.Roles.Handlers {
			m.stages = append(m.stages, pipeline.StageSpec{Name: module.Name, Takes: module.Takes, Gives: module.Gives, Handler: handler})
		}
	}
	for _, module := range pipeline.Projections() {
		projection, err := module.New(env(module.Name))
		if err != nil {
			errs = append(errs, fmt.Errorf("projection %s: %w", module.Name, err))
			continue
		}
		m.projections = append(m.projections, projection)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return m, nil
}

func (m *modules) provider(name schema.Provider) (pipeline.Provider, bool) {
	p, known := m.providers[name]
	return p, known
}

// streamers are the providers that can stream.
func (m *modules) streamers() []schema.Provider {
	var names []schema.Provider
	for _, name := range providerNames() {
		if _, ok := m.providers[name].(pipeline.Streamer); ok {
			names = append(names, name)
		}
	}
	return names
}

// openProjections makes sure all tables exist, and returns the stages that feed
// them.
func (m *modules) openProjections(ctx context.Context, b *backends, log *slog.Logger) ([]pipeline.StageSpec, error) {
	var stages []pipeline.StageSpec
	for _, p := range m.projections {
		stage, err := projections.Open(ctx, b.store, p, log)
		if err != nil {
			return nil, err
		}
		stages = append(stages, stage)
	}
	return stages, nil
}

func providerNames() []schema.Provider {
	var names []schema.Provider
	for _, m := range pipeline.Providers() {
		names = append(names, m.Name)
	}
	return names
}

// providerAliases are the names of providers by their other names.
func providerAliases() map[string]schema.Provider {
	aliases := map[string]schema.Provider{}
	for _, m := range pipeline.Providers() {
		for _, alias := range m.Aliases {
			aliases[string(alias)] = m.Name
		}
	}
	return aliases
}
