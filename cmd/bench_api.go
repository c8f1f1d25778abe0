package cmd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/schema"
)

// apiBench measures requests that write.
type apiBench struct {
	*measurement
	clients int
}

func newBenchAPI(a *app) *cobra.Command {
	var b apiBench
	c := &cobra.Command{
		Use:   "api",
		Short: "Measure the first GET latest of a symbol, and POST poll",
		Long: `Fill the tables with a few prices of --symbols symbols. Then send --events GET
latest requests, each for an unknown symbol, so that each passes the whole
pipeline before it is answered: the headline. Then send as many POST poll
requests, each answered when its command is committed: under "also". The
simulated provider answers at once.

The limit is what a single price needs at least, one after the other: five
commits (request, answer, stored answer, price, outcome) and four appends to the
log, each of one small row or record.`,
		Example: "  pricemill bench api\n  pricemill bench api --clients 20 --events 2000",
	}
	c.Flags().IntVar(&b.clients, "clients", 1, "concurrent `clients`; each sends its next request after an answer")
	return benchCommand(a, c, 200, 1000, func(ctx context.Context, m *measurement) (report, error) {
		b.measurement = m
		return b.measure(ctx)
	})
}

func (b apiBench) measure(ctx context.Context) (result report, err error) {
	if err := within("--clients", b.clients, 1, 10_000); err != nil {
		return report{}, err
	}
	b.config.LatestMaxAge = time.Hour // no price is fetched twice
	b.config.MaxActiveJobs = -1       // each command is a job
	err = b.withScratch(ctx, func(ctx context.Context, c config) error {
		return b.withService(ctx, c, func(ctx context.Context, s *service) (err error) {
			if _, _, err := b.fill(ctx, s, b.symbols*pricesEach); err != nil {
				return err
			}
			result, err = b.ask(ctx, s)
			return err
		})
	})
	if err != nil {
		return report{}, err
	}
	limit, err := b.bareSteps(ctx)
	result.figures = result.against(limit)
	return result, err
}

func (b apiBench) ask(ctx context.Context, s *service) (report, error) {
	client := newLoopback(b.clients)
	defer client.CloseIdleConnections()
	first := func(ctx context.Context, number int) error {
		unknown := string(symbolOf(b.symbols + number))
		_, err := fetch(ctx, client, http.MethodGet, s.url()+"/api/v1/prices/latest?symbol="+unknown, "", http.StatusOK)
		return err
	}
	// A few that do not count, which open connections.
	warm := max(5, b.clients)
	if _, _, err := closedLoop(ctx, b.clients, warm, b.bar("warming up", warm), first); err != nil {
		return report{}, err
	}
	m := startMeter()
	each, took, err := closedLoop(ctx, b.clients, b.events, b.bar("first prices", b.events), func(ctx context.Context, number int) error {
		return first(ctx, warm+number)
	})
	used := m.end(b.events)
	if err != nil {
		return report{}, err
	}
	result := report{figures: figuresOf(b.events, took, each)}
	each, took, err = closedLoop(ctx, b.clients, b.events, b.bar("commands", b.events), func(ctx context.Context, number int) error {
		body := fmt.Sprintf(`{"symbols":[%q],"interval":3600}`, symbolOf(number%b.symbols))
		_, err := fetch(ctx, client, http.MethodPost, s.url()+"/api/v1/prices/poll", body, http.StatusAccepted)
		return err
	})
	result.Also = variants{{"post_poll", figuresOf(b.events, took, each)}, {"process", used}}
	return result, err
}

// The steps of a price that cannot be left out.
const commits, appends = 5, 4

// bareSteps measures them, with as many at once as there were clients.
func (b apiBench) bareSteps(ctx context.Context) (perSecond float64, err error) {
	err = b.withScratch(ctx, func(ctx context.Context, c config) (err error) {
		backends, err := open(ctx, c, serving, b.log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, backends.close()) }()
		topics, err := backends.topics(ctx)
		if err != nil {
			return err
		}
		appender := engine.NewAppender(backends.broker, topics)
		_, took, err := closedLoop(ctx, b.clients, b.events, b.bar("the limit", b.events), func(ctx context.Context, number int) error {
			name := string(symbolOf(number))
			for step := range commits {
				// One row of a small table.
				if _, err := backends.store.AcquireLease(ctx, "bench "+name, name, time.Minute); err != nil {
					return err
				}
				if step == appends {
					break
				}
				event := schema.Event{ID: name, Source: "pricemill/bench", Payload: schema.FetchRequested{
					Quote:       schema.Quote{Provider: simulatedProvider, Symbol: symbolOf(number), RequestID: name},
					RequestedAt: schema.NewTime(time.Now()), Deadline: schema.NewTime(time.Now())}}
				if err := appender.Append(ctx, []schema.Event{event}); err != nil {
					return err
				}
			}
			return nil
		})
		perSecond = float64(b.events) / took.Seconds()
		return err
	})
	return perSecond, err
}
