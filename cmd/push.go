package cmd

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/live"
)

// newHub serves the streams of this process's clients.
func newHub(c config, b *backends, topics *topics.Set, m *modules, r *engine.Runtime, shared *sharing, log *slog.Logger) *live.Hub {
	indicators := map[string]projections.Indicator{}
	for _, p := range m.projections {
		if indicator, ok := p.(projections.Indicator); ok {
			indicators[p.Name()] = indicator
		}
	}
	hub := live.NewHub(live.Config{Store: b.store, Log: b.broker, Topics: topics, Changed: shared.changed, Logger: log,
		Kinds: live.Kinds{Window: c.DefaultWindow, MaxWindow: httpapi.MaxWindow, Indicators: indicators}})
	r.Registry().MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pricemill_push_streams",
		Help: "Streams of clients that are open."}, func() float64 { return float64(hub.Streams()) }))
	return hub
}

// push is httpapi.Live over a hub.
type push struct{ *live.Hub }

var _ httpapi.Live = push{}

// Open implements httpapi.Live.
func (p push) Open(ctx context.Context, r live.Request) (httpapi.LiveStream, error) {
	stream, err := p.Hub.Open(ctx, r)
	if err != nil {
		return nil, err
	}
	return stream, nil
}
