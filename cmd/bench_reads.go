package cmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/httpapi/apikeys"
)

// readsBench measures queries of what is known.
type readsBench struct {
	*measurement
	clients int
	average int // window
	keys    bool
	key     string // empty for none
}

func newBenchReads(a *app) *cobra.Command {
	var b readsBench
	c := &cobra.Command{
		Use:   "reads",
		Short: "Measure GET latest and GET moving-average of known prices",
		Long: `Fill the tables with a few prices of each symbol, then send --events requests
from --clients concurrent clients: the headline is GET latest of known prices;
GET moving-average is under "also".

The limit is a bare net/http handler in this process that writes the same bytes
to the same clients.`,
		Example: "  pricemill bench reads\n  pricemill bench reads --clients 200 --events 100000 --symbols 10000",
	}
	c.Flags().IntVar(&b.clients, "clients", 50, "concurrent `clients`")
	c.Flags().IntVar(&b.average, "window", 5, "window of the moving averages in `prices`; one that is not kept up to date is computed for each request")
	c.Flags().BoolVar(&b.keys, "keys", false, "send an API key with each request, of 100 that there are")
	return benchCommand(a, c, 20_000, 1000, func(ctx context.Context, m *measurement) (report, error) {
		b.measurement = m
		return b.measure(ctx)
	})
}

// pricesEach is how many prices of each symbol are known: enough for the window
// that is kept by default.
const pricesEach = 5

func (b readsBench) measure(ctx context.Context) (result report, err error) {
	if err := errors.Join(within("--clients", b.clients, 1, 10_000), within("--window", b.average, 1, 1000)); err != nil {
		return report{}, err
	}
	b.config.LatestMaxAge = time.Hour // nothing is to be fetched
	err = b.withScratch(ctx, func(ctx context.Context, c config) error {
		return b.withService(ctx, c, func(ctx context.Context, s *service) (err error) {
			if _, _, err := b.fill(ctx, s, b.symbols*pricesEach); err != nil {
				return err
			}
			if err := b.makeKeys(ctx, s); err != nil {
				return err
			}
			m := startMeter()
			if result.figures, err = b.ask(ctx, s, "/api/v1/prices/latest?"); err != nil {
				return err
			}
			used := m.end(b.events)
			averages, err := b.ask(ctx, s, fmt.Sprintf("/api/v1/prices/moving-average?window=%d&", b.average))
			result.Also = variants{{"moving_average", averages}, {"process", used}}
			return err
		})
	})
	return result, err
}

// makeKeys makes keys where they are asked for, so that the service needs one.
func (b *readsBench) makeKeys(ctx context.Context, s *service) error {
	if !b.keys {
		return nil
	}
	for n := range 100 {
		_, secret, err := apikeys.Create(ctx, s.backends.store, fmt.Sprintf("bench-%d", n), apikeys.Read, 0, time.Now())
		if err != nil {
			return err
		}
		b.key = secret
	}
	return nil
}

// withKey sends a key with each request.
type withKey struct {
	http.RoundTripper
	key string
}

func (t withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+t.key)
	return t.RoundTripper.RoundTrip(r)
}

// ask measures a query, and then the bare handler.
func (b readsBench) ask(ctx context.Context, s *service, path string) (figures, error) {
	of := func(number int) string {
		return s.url() + path + "provider=" + simulatedProvider + "&symbol=" + string(symbolOf(number%b.symbols))
	}
	client := newLoopback(b.clients)
	defer client.CloseIdleConnections()
	if b.key != "" {
		client.Transport = withKey{client.Transport, b.key}
	}
	body, err := fetch(ctx, client, http.MethodGet, of(0), "", http.StatusOK)
	if err != nil {
		return figures{}, err
	}
	each, took, err := closedLoop(ctx, b.clients, b.events, b.bar("asking", b.events), func(ctx context.Context, number int) error {
		_, err := fetch(ctx, client, http.MethodGet, of(number), "", http.StatusOK)
		return err
	})
	if err != nil {
		return figures{}, err
	}
	limit, err := b.askBare(ctx, body)
	return figuresOf(b.events, took, each).against(limit), err
}

// askBare measures a handler that does nothing but to write body.
func (b readsBench) askBare(ctx context.Context, body []byte) (perSecond float64, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("listening: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: clientTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // a client that is gone has said so
	})}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	client := newLoopback(b.clients)
	defer client.CloseIdleConnections()
	url := "http://" + listener.Addr().String() + "/"
	_, took, err := closedLoop(ctx, b.clients, b.events, b.bar("the limit", b.events), func(ctx context.Context, _ int) error {
		_, err := fetch(ctx, client, http.MethodGet, url, "", http.StatusOK)
		return err
	})
	err = errors.Join(err, server.Close())
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return float64(b.events) / took.Seconds(), err
}
