package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// pushBench measures streams of prices to clients.
type pushBench struct {
	*measurement
	clients int
	rate    int
}

func newBenchPush(a *app) *cobra.Command {
	var b pushBench
	c := &cobra.Command{
		Use:   "push",
		Short: "Measure how soon clients have a price after its commit",
		Long: `Open --clients streams of server-sent events, each of all --symbols symbols, and
one more that reads nothing. Then commit --events prices, --rate a second, and
wait until every client has every price.

Each price that a client gets is an event of the result. Its latency counts from
just before the transaction that commits the price until the client has read it;
the clients are in this process. A client that gets a price twice, or not at
all, or out of the order of its symbol, fails the run.`,
		Example: "  pricemill bench push\n  pricemill bench push --clients 200 --rate 250 --events 5000",
	}
	c.Flags().IntVar(&b.clients, "clients", 1000, "`streams` that are open")
	c.Flags().IntVar(&b.rate, "rate", 50, "`prices` a second, each of which all clients get")
	return benchCommand(a, c, 1500, 20, func(ctx context.Context, m *measurement) (report, error) {
		b.measurement = m
		return b.measure(ctx)
	})
}

// maxPushed is the most symbols of one stream.
const maxPushed = 250

func (b pushBench) measure(ctx context.Context) (result report, err error) {
	if err := errors.Join(within("--clients", b.clients, 1, 10_000), within("--rate", b.rate, 1, 10_000),
		within("--symbols", b.symbols, 1, maxPushed)); err != nil {
		return report{}, err
	}
	all := b.clients + 1 // and the one that reads nothing
	b.config.Push = httpapi.PushLimits{Total: all, PerClient: all}
	b.config.Connections.PerClient = all
	err = b.withScratch(ctx, func(ctx context.Context, c config) error {
		return b.withService(ctx, c, func(ctx context.Context, s *service) (err error) {
			result, err = b.push(ctx, s)
			return err
		})
	})
	return result, err
}

// patience is how long clients may wait for the last prices.
const patience = time.Minute

func (b pushBench) push(ctx context.Context, s *service) (report, error) {
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	silent, err := b.openSilently(ctx, s)
	if err != nil {
		return report{}, err
	}
	defer func() { _ = silent.Close() }() // it was read from never

	began := time.Now()
	sent := make([]atomic.Int64, b.events) // nanoseconds after began
	listeners := make([]*listener, b.clients)
	group, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := make(chan struct{}, b.clients)
	bar := b.bar("opening", b.clients)
	for i := range listeners {
		listeners[i] = &listener{began: began, sent: sent, next: make([]int, b.symbols), each: make([]time.Duration, 0, b.events)}
		for symbol := range b.symbols {
			listeners[i].next[symbol] = symbol
		}
		group.Go(func() error {
			return listeners[i].listen(ctx, client, s.url()+b.path(), func() { ready <- struct{}{} })
		})
	}
	var meter *meter
	var first time.Time
	group.Go(func() error {
		for range b.clients {
			select {
			case <-ready:
				_ = bar.Add(1) // it is only shown
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		clearBar(bar)
		meter, first = startMeter(), time.Now()
		if err := b.commit(ctx, s, began, sent); err != nil {
			return err
		}
		time.AfterFunc(patience, cancel)
		return nil
	})
	err = group.Wait()
	took := time.Since(first)
	if meter != nil {
		defer meter.stop()
	}
	if err != nil {
		return report{}, fmt.Errorf("a client: %w", err)
	}
	used := meter.end(b.events * b.clients)
	var each []time.Duration
	for _, l := range listeners {
		each = append(each, l.each...)
	}
	return report{figures: figuresOf(len(each), took, each), Also: variants{{"process", used}}}, nil
}

func (b pushBench) path() string {
	names := make([]string, b.symbols)
	for i := range names {
		names[i] = string(symbolOf(i))
	}
	return "/api/v1/prices/stream?events=price&symbols=" + strings.Join(names, ",")
}

// openSilently opens a stream whose client reads nothing.
func (b pushBench) openSilently(ctx context.Context, s *service) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", s.listener.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", b.path()); err != nil {
		return nil, errors.Join(fmt.Errorf("opening a stream: %w", err), conn.Close())
	}
	return conn, nil
}

// commit commits prices at the rate. It is an open loop: one that is late does not
// delay those after it.
func (b pushBench) commit(ctx context.Context, s *service, began time.Time, sent []atomic.Int64) error {
	bar := b.bar("committing", b.events)
	defer clearBar(bar)
	emitter, first := s.runtime.Emitter(), time.Now()
	for k := range b.events {
		select {
		case <-time.After(time.Until(first.Add(time.Duration(k) * time.Second / time.Duration(b.rate)))):
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		sent[k].Store(int64(now.Sub(began)))
		_, err := emitter.Emit(ctx, func(*pipeline.Tx) ([]schema.Event, error) {
			// The price is the number of the event, by which clients know it.
			return []schema.Event{{ID: "bench-" + strconv.Itoa(k), Source: "pricemill/bench", Payload: schema.PriceObserved{
				Symbol: symbolOf(k % b.symbols), Source: simulatedProvider, Price: schema.MustDecimal(strconv.Itoa(k + 1)),
				Timestamp: schema.NewTime(now), ReceivedAt: schema.NewTime(now), RawResponseID: strconv.Itoa(k)}}}, nil
		})
		if err != nil {
			return fmt.Errorf("committing a price: %w", err)
		}
		_ = bar.Add(1) // it is only shown
	}
	return nil
}

// listener is one client.
type listener struct {
	began time.Time
	sent  []atomic.Int64
	next  []int // the number of the price that comes next, by symbol
	each  []time.Duration
}

// listen reads a stream until it has brought every price; ready is called once it has
// begun.
func (l *listener) listen(ctx context.Context, client *http.Client, url string, ready func()) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it is left in the middle
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("opening a stream: %s", response.Status)
	}
	return l.read(response.Body, ready)
}

func (l *listener) read(body io.Reader, ready func()) error {
	event, snapshots := "", 0
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "event":
			event = value
		case name != "data":
		case event == "snapshot":
			if snapshots++; snapshots == len(l.next) {
				ready()
			}
		case event != "price":
			return fmt.Errorf("an event %s came instead of a price: %s", event, value)
		default:
			if err := l.take(value); err != nil || len(l.each) == len(l.sent) {
				return err
			}
		}
	}
	return errors.Join(lines.Err(), fmt.Errorf("the stream ended after %d of %d prices", len(l.each), len(l.sent)))
}

// take notes a price, and fails where it is not the one that comes next.
func (l *listener) take(data string) error {
	_, text, _ := strings.Cut(data, `"price":`)
	text, _, _ = strings.Cut(text, ",")
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 || number > len(l.sent) {
		return fmt.Errorf("not a price that was committed: %s", data)
	}
	k := number - 1
	if want := l.next[k%len(l.next)]; k != want {
		return fmt.Errorf("price %d came where %d is next of its symbol; all that were next: %v", k, want, slices.Sorted(slices.Values(l.next)))
	}
	l.next[k%len(l.next)] += len(l.next)
	l.each = append(l.each, time.Since(l.began)-time.Duration(l.sent[k].Load()))
	return nil
}
