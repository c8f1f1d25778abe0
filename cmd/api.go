package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pricemill/pricemill/handlers/stream"
	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/httpapi/apikeys"
	"github.com/pricemill/pricemill/httpapi/symbolmap"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topology"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/live"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// commandSource is the source of the events that clients command.
const commandSource = "pricemill/api"

// commands is httpapi.Commands over the outbox.
type commands struct{ emitter pipeline.Emitter }

var _ httpapi.Commands = commands{}

// Publish implements httpapi.Commands. A job is created once: where a client
// asks again with the same Idempotency-Key, it is the same event.
func (c commands) Publish(ctx context.Context, p schema.Payload) (string, error) {
	random, err := uuid.NewRandom()
	if err != nil {
		return "", fmt.Errorf("making an event id: %w", err)
	}
	id := random.String()
	if job, ok := p.(schema.PollingJobCreated); ok {
		id = schema.DeriveID("api", string(job.EventType()), job.JobID)
	}
	return c.PublishAs(ctx, id, p)
}

// PublishAs implements httpapi.Commands.
func (c commands) PublishAs(ctx context.Context, id string, p schema.Payload) (string, error) {
	traceparent := tracing.Traceparent(ctx)
	tokens, err := c.emitter.Emit(ctx, func(*pipeline.Tx) ([]schema.Event, error) {
		return []schema.Event{{ID: id, Source: commandSource, Traceparent: traceparent, Payload: p}}, nil
	})
	if err != nil {
		err = fmt.Errorf("publishing %s: %w", p.EventType(), err)
		// What neither the event nor a value in it is to blame for passes, as it
		// does for queries.
		var data *store.DataError
		if !pipeline.IsPermanent(err) && !errors.As(err, &data) {
			err = fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
		}
		return "", err
	}
	at := tokens[0]
	return fmt.Sprintf("%s:%d:%d", at.Topic, at.Partition, at.Seq), nil
}

// newAPI wires the HTTP API to the read models.
func newAPI(c config, instruments *symbolmap.Map, b *backends, m *modules, r *engine.Runtime, waiter *requests.Waiter, hub *live.Hub, keys *apikeys.Ring, shared *sharing, log *slog.Logger) (*httpapi.API, error) {
	f := newStaleness(b.store, m.projections)
	events, err := topology.AsyncAPI(m.parts, c.Topics, thisBuild().Version)
	if err != nil {
		return nil, err
	}
	latest := latestprices.NewReader(b.store)
	return httpapi.New(httpapi.Config{
		Build:     thisBuild(),
		Providers: c.Providers.names(), ProviderAliases: c.Providers.aliases(), DefaultProvider: c.DefaultProvider, DefaultWindow: c.DefaultWindow,
		SymbolMap:     instruments,
		Streamers:     m.able(func(p pipeline.Provider) bool { _, ok := p.(pipeline.Streamer); return ok }),
		Historians:    m.able(func(p pipeline.Provider) bool { _, ok := p.(pipeline.Historian); return ok }),
		Simulated:     c.Providers.simulated(),
		CaseSensitive: c.Providers.caseSensitive(),
		MaxAge:        c.LatestMaxAge, FetchTimeout: c.FetchTimeout, MinInterval: c.MinPollInterval,
		MaxActiveJobs: c.MaxActiveJobs, MaxActiveStreams: c.MaxActiveStreams, MaxActiveBackfills: c.MaxActiveBackfills,
		Push:               c.Push,
		OpenCommands:       c.OpenCommands,
		RateLimitPerMinute: c.RateLimit, LimitLoopback: c.LimitLoopback, Hosts: c.HTTPHosts, AllowOrigins: c.AllowOrigins,
		Answered: newRequestMetrics(r.Registry()), AccessLog: c.AccessLog, Tracer: m.tracer,
		Logger: log, Now: time.Now,
	}, httpapi.Ports{
		Commands:       commands{r.Emitter()},
		LatestPrices:   latest,
		Symbols:        latest,
		Prices:         processedprices.Reader{DB: b.store},
		Corrections:    processedprices.Reader{DB: b.store},
		Places:         newPlaces(b, r),
		Adjustments:    adjustments.Reader{DB: b.store},
		Averages:       movingaverages.NewReader(b.store),
		Jobs:           jobs.Reader{DB: b.store},
		Requests:       waiter,
		RequestDetails: requests.Reader{DB: b.store},
		ProviderInfo:   m.describeProviders,
		Instruments:    newKnown(m, b.store).describe,
		Indicators:     m.indicators(b.store),
		SwitchedOff:    m.switchedOff,
		Live:           push{hub},
		Keys:           keys,
		Limits:         shared.limits,
		WaitWritten: func(ctx context.Context, topic schema.Topic, partition int32, number int64) error {
			if err := store.WaitWritten(ctx, b.store, topic, partition, number); err != nil {
				return projections.QueryError("how far the log is written", err)
			}
			return nil
		},
		CaughtUp: func(ctx context.Context, projection string, topic schema.Topic) error {
			return projections.WaitCaughtUp(ctx, b.store, projection, topic)
		},
		AsyncAPI:    events,
		Streams:     streams{stream.Reader{DB: b.store}},
		Backfills:   newBackfills(b.store, m),
		Rebuilds:    rebuilds{b.store, m.projections},
		DeadLetters: letters{b.store},
		Pipeline:    newFlow(b, m.parts),
		Stale:       f.age,
		Readiness:   m.readiness(r, f, shared),
		Metrics:     metrics(r, m),
		Unavailable: func(err error) bool { return errors.Is(err, projections.ErrUnavailable) },
	})
}

// newOperations is newAPI for a process that serves no clients.
func newOperations(c config, b *backends, m *modules, r *engine.Runtime, keys *apikeys.Ring, shared *sharing, log *slog.Logger) (*httpapi.API, error) {
	return httpapi.NewOperations(httpapi.Config{Build: thisBuild(), RateLimitPerMinute: c.RateLimit,
		LimitLoopback: c.LimitLoopback, Hosts: c.HTTPHosts, AllowOrigins: c.AllowOrigins,
		Answered: newRequestMetrics(r.Registry()), AccessLog: c.AccessLog, Logger: log, Now: time.Now},
		httpapi.Ports{Keys: keys, Readiness: m.readiness(r, newStaleness(b.store, m.projections), shared), Metrics: metrics(r, m)})
}

func thisBuild() httpapi.Build {
	version, revision := buildVersion()
	return httpapi.Build{Version: version, Revision: revision}
}

// metrics is /metrics. Exemplars, which traces have, need OpenMetrics.
func metrics(r *engine.Runtime, m *modules) http.Handler {
	return promhttp.HandlerFor(r.Registry(), promhttp.HandlerOpts{EnableOpenMetrics: m.tracer != nil})
}

// describeProviders lists what this binary can ask.
func (m *modules) describeProviders() []httpapi.ProviderInfo {
	var all []httpapi.ProviderInfo
	for _, module := range m.known {
		info := httpapi.ProviderInfo{Name: module.Name, Aliases: module.Aliases, Doc: module.Doc,
			Capabilities: []httpapi.Capability{httpapi.CapabilityQuote}, Configured: true}
		provider := m.providers[module.Name]
		if _, ok := provider.(pipeline.Streamer); ok {
			info.Capabilities = append(info.Capabilities, httpapi.CapabilityStream)
		}
		if _, ok := provider.(pipeline.Historian); ok {
			info.Capabilities = append(info.Capabilities, httpapi.CapabilityHistory)
		}
		if p, ok := provider.(pipeline.Configurable); ok {
			info.Configured = p.Configured()
		}
		if p, ok := provider.(pipeline.Limited); ok {
			for _, l := range p.Limits() {
				info.Limits = append(info.Limits, httpapi.ProviderLimit(l))
			}
		}
		all = append(all, info)
	}
	return all
}

// readiness is the checks of the runtime and of the modules, and generations that no process updates.
func (m *modules) readiness(r *engine.Runtime, f *staleness, shared *sharing) func(context.Context) []httpapi.Check {
	return func(ctx context.Context) []httpapi.Check {
		var checks []httpapi.Check
		for _, check := range r.Checks(ctx) {
			checks = append(checks, httpapi.Check{Name: check.Name, State: httpapi.CheckState(check.State), Reason: check.Detail})
		}
		checks = append(checks, f.checks(ctx)...)
		checks = append(checks, shared.checks()...)
		return append(checks, m.checks(ctx)...)
	}
}

// streams is httpapi.Streams over the table of the stage.
type streams struct{ stream.Reader }

var _ httpapi.Streams = streams{}

// Get implements httpapi.Streams.
func (s streams) Get(ctx context.Context, id string) (httpapi.Stream, error) {
	found, err := s.Reader.Get(ctx, id)
	if err != nil {
		return httpapi.Stream{}, projections.QueryError("stream "+id, err)
	}
	return newStream(found), nil
}

// List implements httpapi.Streams.
func (s streams) List(ctx context.Context, limit int) ([]httpapi.Stream, error) {
	found, err := s.Reader.List(ctx, limit)
	if err != nil {
		return nil, projections.QueryError("the streams", err)
	}
	all := make([]httpapi.Stream, len(found))
	for i, one := range found {
		all[i] = newStream(one)
	}
	return all, nil
}

// Open implements httpapi.Streams.
func (s streams) Open(ctx context.Context, ids []string) (int, []string, error) {
	open, known, err := s.Reader.Open(ctx, ids)
	if err != nil {
		return 0, nil, projections.QueryError("how many streams there are", err)
	}
	return open, known, nil
}

// WaitCaughtUp implements httpapi.Streams.
func (s streams) WaitCaughtUp(ctx context.Context) error {
	if err := s.Reader.WaitCaughtUp(ctx); err != nil {
		return projections.QueryError("how far the streams are", err)
	}
	return nil
}

func newStream(s stream.Stream) httpapi.Stream {
	body := httpapi.Stream{StreamID: s.ID, Status: string(s.Status), Provider: s.Provider, Symbols: s.Symbols,
		StartedAt: s.StartedAt, StoppedAt: s.StoppedAt, OwnerAlive: s.Owned, LastMessageAt: s.LastMessage,
		Messages: s.Messages, Gaps: s.Gaps, Missed: s.Missed, Reconnects: s.Reconnects}
	if s.LastErrorAt != nil {
		body.LastError = &httpapi.StreamError{Reason: s.LastError, Timestamp: *s.LastErrorAt}
	}
	return body
}
