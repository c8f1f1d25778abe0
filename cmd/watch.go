package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pricemill/pricemill/schema"
)

// Events of GET /prices/stream that a watch shows.
const (
	snapshotEvent = "snapshot"
	priceEvent    = "price"
	averageEvent  = "average"
)

// watching is what the flags of watch say.
type watching struct {
	provider, window string
	count            int
}

func newWatch(a *app) *cobra.Command {
	var w watching
	c := &cobra.Command{
		Use:   "watch SYMBOL...",
		Short: "Watch prices as they change",
		Long: `Watch the prices of up to 250 symbols as the service pushes them, until Ctrl-C.

On a terminal it is a table, renewed in place: the latest price of each symbol,
its change since the first price that was shown, the moving average, and the age
of the price by its event time. Elsewhere each price is a line of its own, the
first for each symbol being the one known when the watch began; with -o json
each event is a line of JSON, as a WebSocket has it.

A connection that is lost is made again, and continues where it ended, so that
no price is missing; standard error says so, or the line below the table.`,
		Example: "  pricemill watch ACME GLOBEX\n  pricemill watch BTC-USD --provider coinbase --window 20\n  pricemill watch AAPL -o json | jq .data.price",
		Args:    atLeast(1),
	}
	cl := newClient(a, c)
	c.Flags().StringVar(&w.provider, "provider", "", "provider of the prices (default: the service's)")
	c.Flags().StringVar(&w.window, "window", "", "number of `prices` of the average, 1 to 1000 (default: the service's)")
	c.Flags().IntVar(&w.count, "count", 0, "end after so many `prices`; 0 for no end")
	c.RunE = func(c *cobra.Command, args []string) error {
		if w.count < 0 {
			return fmt.Errorf("%w: --count: %d is below 0", errUsage, w.count)
		}
		return w.run(c.Context(), cl, args)
	}
	return c
}

// query is that of the stream.
func (w watching) query(symbols []string) string {
	average := averageEvent
	if w.window != "" {
		average += ":" + w.window
	}
	return "symbols=" + url.QueryEscape(strings.Join(symbols, ",")) + "&events=" + priceEvent + "," + url.QueryEscape(average) +
		parameter("provider", w.provider)
}

// viewer shows what a watch sees.
type viewer interface {
	// take shows an event, and reports how many prices that showed.
	take(e pushEvent) (prices int, err error)
	// tell says how the connection is doing.
	tell(text string)
	// end is called last.
	end()
}

// errWatched ends a watch that has shown all that it was to.
var errWatched = errors.New("all prices were shown")

// run shows events until ctx is done, or there were as many prices as were asked for.
func (w watching) run(ctx context.Context, cl *client, symbols []string) error {
	v := w.viewer(ctx, cl)
	defer v.end()
	left := w.count
	err := cl.follow(ctx, "/prices/stream?"+w.query(symbols), v.tell, func(e pushEvent) error {
		prices, err := v.take(e)
		if err != nil {
			return err
		}
		if left -= prices; w.count > 0 && left <= 0 {
			return errWatched
		}
		return nil
	})
	if errors.Is(err, errWatched) || ctx.Err() != nil {
		return nil // as was asked for, or by Ctrl-C
	}
	return err
}

func (w watching) viewer(ctx context.Context, cl *client) viewer {
	switch {
	case cl.output == jsonOutput:
		return jsonLines{cl.app}
	case isTerminal(cl.app.stdout):
		return newLiveTable(ctx, cl.app.stdout, cl.app.env)
	}
	return &plainLines{app: cl.app, quotes: quotes{}}
}

// pushEvent is an event of the stream.
type pushEvent struct {
	Event string          `json:"event"`
	ID    string          `json:"id"`
	Data  json.RawMessage `json:"data"`
}

// quote is what is known of a symbol.
type quote struct {
	Symbol, Provider string
	Price, Average   schema.Decimal
	At               schema.Time
	Simulated        bool
	HasAverage       bool
	// First is the price that changes are counted from, of FirstAt.
	First   schema.Decimal
	FirstAt schema.Time
}

// quotes are those of a watch, by symbol.
type quotes map[string]*quote

// pricePart and averagePart are as much of the data of events as is shown.
type pricePart struct {
	Symbol, Provider string
	Price            schema.Decimal
	Timestamp        schema.Time
}

type averagePart struct {
	Symbol string
	Value  schema.Decimal
}

// take brings an event in, and returns the quote that it is about; priced reports
// whether it has another price.
func (q quotes) take(e pushEvent) (of *quote, priced bool, err error) {
	switch e.Event {
	case snapshotEvent:
		var data struct {
			Symbol    string
			Simulated bool
			Price     *pricePart
			Average   *averagePart
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			return nil, false, fmt.Errorf("reading the event %s: %w", e.Event, err)
		}
		of = q.of(data.Symbol)
		of.Simulated = data.Simulated
		if data.Average != nil {
			of.Average, of.HasAverage = data.Average.Value, true
		}
		return of, data.Price != nil && of.setPrice(*data.Price), nil
	case priceEvent:
		var data pricePart
		if err := json.Unmarshal(e.Data, &data); err != nil {
			return nil, false, fmt.Errorf("reading the event %s: %w", e.Event, err)
		}
		of = q.of(data.Symbol)
		return of, of.setPrice(data), nil
	case averageEvent:
		var data averagePart
		if err := json.Unmarshal(e.Data, &data); err != nil {
			return nil, false, fmt.Errorf("reading the event %s: %w", e.Event, err)
		}
		of = q.of(data.Symbol)
		of.Average, of.HasAverage = data.Value, true
		return of, false, nil
	}
	return nil, false, nil // missed, reset, and what later versions have
}

func (q quotes) of(symbol string) *quote {
	if q[symbol] == nil {
		q[symbol] = &quote{Symbol: symbol}
	}
	return q[symbol]
}

// setPrice reports whether the price is another one: after a reset the one that is known
// comes again. One that is older by its event time is not the latest.
func (o *quote) setPrice(p pricePart) bool {
	if o.At.Equal(p.Timestamp.Time) && o.Price.Cmp(p.Price) == 0 && o.Provider == p.Provider {
		return false
	}
	if o.FirstAt.IsZero() {
		o.First, o.FirstAt = p.Price, p.Timestamp
	}
	if p.Timestamp.Before(o.At.Time) {
		return false
	}
	o.Price, o.At, o.Provider = p.Price, p.Timestamp, p.Provider
	return true
}

// follow reads a stream of events below /api/v1 and gives each to take, until take
// returns an error, which it returns, or ctx is done. It connects again where the
// connection is lost; what the service refuses is an error.
func (cl *client) follow(ctx context.Context, path string, tell func(string), take func(pushEvent) error) error {
	base, err := cl.base()
	if err != nil {
		return err
	}
	s := eventStream{url: base + "/api/v1" + path, authorize: cl.authorize, retry: firstRetry}
	for {
		err := s.read(ctx, tell, take)
		var stop *stopError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &stop):
			return stop.error
		case !s.connected:
			return err // it never was there
		}
		tell(fmt.Sprintf("%v; connecting again in %v", err, s.retry))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.retry):
		}
		s.retry = min(2*s.retry, lastRetry)
	}
}

const (
	// firstRetry and lastRetry bound the time until a lost connection is made again,
	// unless the service names another.
	firstRetry, lastRetry = time.Second, 10 * time.Second
	// silence is how long a stream may be silent: the service says something every 15 s.
	silence = 45 * time.Second
	// maxEvent bounds a line of a stream, in bytes.
	maxEvent = 1 << 20
)

// stopError ends a stream: it is what take returned, or a refusal.
type stopError struct{ error }

// errSilent says that nothing came for too long.
var errSilent = fmt.Errorf("nothing came for %v", silence)

// refused is the error of an answer that is no stream. One that says to come again is no
// reason to stop, once there was a stream.
func (s *eventStream) refused(response *http.Response, answer []byte) error {
	err := refusal(response, answer)
	if s.connected && (response.StatusCode == http.StatusTooManyRequests || response.StatusCode >= http.StatusInternalServerError) {
		return err
	}
	return &stopError{err}
}
