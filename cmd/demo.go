package cmd

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/knadh/koanf/v2"

	"github.com/pricemill/pricemill/handlers/demo"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topology"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// demoIndicators are on while the demo may run.
var demoIndicators = []string{"bollinger", "candles", "ema", "vwap"}

// readDemo reads the setting, and sees whether anything is configured that speaks
// against a demo.
func (c *config) readDemo(k *koanf.Koanf, wrong *faults) {
	text := k.String("demo")
	if text != "auto" && text != "off" {
		wrong.add("demo", "%q is neither auto nor off", text)
	}
	c.mayDemo = text == "auto" && c.DatabaseURL == "" && len(c.Brokers) == 0 && c.Roles.Handlers &&
		c.DefaultProvider == simulatedProvider && strings.TrimSpace(k.String("finnhub_api_key")) == "" && slices.Contains(c.Providers.names(), simulatedProvider)
}

// withDemo is the configuration of a service that runs the demo if it may. The
// indicators are on then, unless PLUGINS says which are.
func (c config) withDemo() config {
	if !c.mayDemo {
		return c
	}
	c.Demo = true
	if c.Plugins.all || len(c.Plugins.named) > 0 {
		return c
	}
	c.Plugins = c.Plugins.with(demoIndicators)
	return c
}

// addDemo adds the demo to the sources of this process.
func (m *modules) addDemo(log *slog.Logger) {
	streamer, ok := m.providers[simulatedProvider].(pipeline.Streamer)
	if !ok {
		return // what is wrong with the provider is reported
	}
	m.parts = append(m.parts, topology.Component{Kind: topology.SourceComponent, Name: demo.Name, Doc: "Simulated prices, for an hour.", Produces: demo.Produces()})
	m.sources = append(m.sources, engine.SourceSpec{Name: demo.Name, Produces: demo.Produces(), Runner: demo.New(demo.Config{
		Provider: simulatedProvider, Streamer: streamer, Real: realProvider, Log: log.With("module", demo.Name)})})
}

// realProvider is a provider other than simulated that has prices, or a job or a stream
// that is not stopped; empty for none.
func realProvider(ctx context.Context, q store.Querier) (schema.Provider, error) {
	var others []schema.Provider
	err := q.Select(ctx, &others, `SELECT provider FROM latest_prices WHERE provider <> $1
		UNION ALL SELECT provider FROM streams WHERE provider <> $1 AND status <> 'stopped'
		UNION ALL SELECT provider FROM polling_jobs WHERE provider <> $1 AND status <> 'stopped'
		LIMIT 1`, simulatedProvider)
	if err != nil {
		return "", projections.QueryError("which providers are in use", err)
	}
	if len(others) == 0 {
		return "", nil
	}
	return others[0], nil
}

// demoList names the symbols of the demo.
func demoList() string {
	names := make([]string, 0, len(demo.Symbols()))
	for _, symbol := range demo.Symbols() {
		names = append(names, string(symbol))
	}
	return strings.Join(names, ", ")
}
