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

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// commands is httpapi.Commands over the outbox.
type commands struct{ emitter pipeline.Emitter }

var _ httpapi.Commands = commands{}

// Publish implements httpapi.Commands.
func (c commands) Publish(ctx context.Context, p schema.Payload) (string, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return "", fmt.Errorf("making an event id: %w", err)
	}
	tokens, err := c.emitter.Emit(ctx, func(*pipeline.Tx) ([]schema.Event, error) {
		return []schema.Event{{ID: id.String(), Source: "pricemill/api", Payload: p}}, nil
	})
	if err != nil {
		return "", fmt.Errorf("publishing %s: %w", p.EventType(), err)
	}
	return tokens[0].String(), nil
}

// newAPI wires the HTTP API to the read models.
func newAPI(c config, b *backends, r *pipeline.Runtime, waiter *requests.Waiter, log *slog.Logger) (*httpapi.API, error) {
	return httpapi.New(httpapi.Config{
		Build:     thisBuild(),
		Providers: providerNames(), ProviderAliases: providerAliases(), DefaultProvider: c.DefaultProvider,
		MaxAge: c.LatestMaxAge, FetchTimeout: c.FetchTimeout, MinInterval: c.MinPollInterval,
		RateLimitPerMinute: c.RateLimit, LimitLoopback: c.LimitLoopback, Logger: log, Now: time.Now,
	}, httpapi.Ports{
		Commands:     commands{r.Emitter()},
		LatestPrices: latestprices.Reader{DB: b.store},
		Averages:     movingaverages.Reader{DB: b.store},
		Requests:     waiter,
		Readiness:    readiness(r),
		Metrics:      metrics(r),
		Unavailable:  func(err error) bool { return errors.Is(err, projections.ErrUnavailable) },
	})
}

// newOperations is newAPI for a process that serves no clients.
func newOperations(c config, r *pipeline.Runtime, log *slog.Logger) (*httpapi.API, error) {
	return httpapi.NewOperations(httpapi.Config{Build: thisBuild(), RateLimitPerMinute: c.RateLimit,
		LimitLoopback: c.LimitLoopback, Logger: log, Now: time.Now},
		httpapi.Ports{Readiness: readiness(r), Metrics: metrics(r)})
}

func thisBuild() httpapi.Build {
	version, revision := buildVersion()
	return httpapi.Build{Version: version, Revision: revision}
}

func metrics(r *pipeline.Runtime) http.Handler {
	return promhttp.HandlerFor(r.Registry(), promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// readiness translates the checks of the runtime.
func readiness(r *pipeline.Runtime) func(context.Context) []httpapi.Check {
	return func(ctx context.Context) []httpapi.Check {
		var checks []httpapi.Check
		for _, check := range r.Checks(ctx) {
			state := httpapi.CheckOK
			if !check.OK {
				state = httpapi.CheckFailed
			}
			checks = append(checks, httpapi.Check{Name: check.Name, State: state, Reason: check.Detail})
		}
		return checks
	}
}
