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
GET moving-average is under "also". So are both of 100 symbols in one request,
each in turns with the request for one, and what they cost of its time.

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
			one := fmt.Sprintf("/api/v1/prices/moving-average?window=%d&", b.average)
			averages, err := b.ask(ctx, s, one)
			if err != nil {
				return err
			}
			prices100, pricesCost, err := b.askMany(ctx, s, "/api/v1/prices/latest?", "/api/v1/prices?")
			if err != nil {
				return err
			}
			averages100, averagesCost, err := b.askMany(ctx, s, one, fmt.Sprintf("/api/v1/prices/moving-averages?window=%d&", b.average))
			result.Also = variants{{"moving_average", averages}, {"latest_of_100", prices100}, {"moving_average_of_100", averages100},
				{"latest_of_100_costs", pricesCost}, {"moving_average_of_100_costs", averagesCost}, {"process", used}}
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

// manySymbols is how many one request may name.
const manySymbols = 100

// url is that of the question with a number, about some symbols: symbol=S1, or
// symbols=S1,S2,S3.
func (b readsBench) url(s *service, path string, number, symbols int) string {
	begin := s.url() + path + "provider=" + simulatedProvider
	of := append(make([]byte, 0, len(begin)+16*(symbols+1)), begin...)
	if of = append(of, "&symbol"...); symbols > 1 {
		of = append(of, 's')
	}
	separator := byte('=')
	for i := range symbols {
		of = append(append(of, separator), symbolOf((number+i)%b.symbols)...)
		separator = ','
	}
	return string(of)
}

func (b readsBench) client() loopback {
	client := newLoopback(b.clients)
	client.key = b.key
	return client
}

// ask measures a query, and then the bare handler.
func (b readsBench) ask(ctx context.Context, s *service, path string) (figures, error) {
	client := b.client()
	defer client.CloseIdleConnections()
	body, err := fetch(ctx, client, http.MethodGet, b.url(s, path, 0, 1), "", http.StatusOK)
	if err != nil {
		return figures{}, err
	}
	each, took, err := b.read(ctx, client, s, path, b.events, 1)
	if err != nil {
		return figures{}, err
	}
	limit, err := b.askBare(ctx, body)
	return figuresOf(b.events, took, each).against(limit), err
}

func (b readsBench) read(ctx context.Context, client loopback, s *service, path string, events, symbols int) ([]time.Duration, time.Duration, error) {
	return closedLoop(ctx, b.clients, events, b.bar("asking", events), func(ctx context.Context, number int) error {
		_, err := fetch(ctx, client, http.MethodGet, b.url(s, path, number, symbols), "", http.StatusOK)
		return err
	})
}

// manyCost is what a request for many symbols costs, as a multiple of one for a single one.
type manyCost struct {
	Time float64 `json:"time"`
	// CPU is that of this process, clients included and a server of a database not; 0 for
	// one that was too short to be told, or a system that does not tell.
	CPU float64 `json:"cpu"`
}

// String implements fmt.Stringer.
func (c manyCost) String() string {
	return fmt.Sprintf("%.1f times the time of one symbol, %.1f times its processor time", c.Time, c.CPU)
}

// turns is how often askMany changes between the two questions: the speed of a machine
// changes too.
const turns = 5

// askMany measures a query for as many symbols as one request may name, in turns with that
// for one, and then the bare handler.
func (b readsBench) askMany(ctx context.Context, s *service, onePath, manyPath string) (figures, manyCost, error) {
	client := b.client()
	defer client.CloseIdleConnections()
	symbols := min(manySymbols, b.symbols)
	body, err := fetch(ctx, client, http.MethodGet, b.url(s, manyPath, 0, symbols), "", http.StatusOK)
	if err != nil {
		return figures{}, manyCost{}, err
	}
	events := max(1, b.events/turns/2)
	var each []time.Duration
	var took [2]time.Duration
	var cpu [2]float64
	for range turns {
		for i, of := range []struct {
			path    string
			symbols int
		}{{onePath, 1}, {manyPath, symbols}} {
			m := startMeter()
			part, lasted, err := b.read(ctx, client, s, of.path, events, of.symbols)
			cpu[i] += m.end(events).CPUSeconds
			took[i] += lasted
			if err != nil {
				return figures{}, manyCost{}, err
			}
			if i == 1 {
				each = append(each, part...)
			}
		}
	}
	cost := manyCost{Time: float64(took[1]) / float64(took[0])}
	if cpu[0] > 0 {
		cost.CPU = cpu[1] / cpu[0]
	}
	limit, err := b.askBare(ctx, body)
	return figuresOf(turns*events, took[1], each).against(limit), cost, err
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
