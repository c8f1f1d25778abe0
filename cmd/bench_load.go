package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/schema"
)

// ticks are a stream's answers, made while they are sent, so that none are in the
// memory of the process that is measured.
type ticks struct {
	random  *rand.Rand
	symbols int
	made    int
	start   time.Time
}

func newTicks(symbols int) *ticks {
	return &ticks{random: rand.New(rand.NewPCG(1, 1)), symbols: symbols, start: time.Now()}
}

// next makes a tick. The first ones are of one symbol after the other, so that
// soon all are known; the rest of any.
func (t *ticks) next() schema.Event {
	number := t.made
	if number >= t.symbols {
		number = t.random.IntN(t.symbols)
	}
	symbol := symbolOf(number)
	at := t.timeOf(t.made)
	payload := `{"simulated":true,"provider":"simulated","symbol":"` + string(symbol) + `","price":"` +
		strconv.Itoa(1+t.random.IntN(1000)) + `.` + strconv.Itoa(10+t.random.IntN(90)) + `","time":"` + at.Format(time.RFC3339Nano) + `"}`
	t.made++
	return schema.Event{ID: "bench-" + strconv.Itoa(t.made), Source: "pricemill/bench", Payload: schema.QuoteFetched{
		Quote:       schema.Quote{Provider: simulatedProvider, Symbol: symbol},
		RawResponse: schema.RawResponse(payload), ReceivedAt: schema.NewTime(time.Now())}}
}

// timeOf is the provider's time of a tick: each has its own, so none is a repeat.
func (t *ticks) timeOf(number int) schema.Time {
	return schema.NewTime(t.start.Add(time.Duration(number) * time.Microsecond))
}

// chunk is the most ticks that are sent at once.
const chunk = 2000

// injection sends ticks into raw-quotes and learns when the average of each is
// committed. That is known without asking the database: the tick with number k on
// a partition is the price with number k on the same partition of price-events,
// and the stage of the averages says after each commit how far it has come.
type injection struct {
	service  *service
	appender *engine.Appender
	topics   *topics.Set
	ticks    *ticks
	stage    string

	mu sync.Mutex
	// due are the times, by partition, from which the latency of those under way
	// counts; the first of them is the tick with number applied.
	due     map[int32][]time.Time
	applied map[int32]int64
	each    []time.Duration // of those committed
}

func newInjection(ctx context.Context, s *service, t *ticks) (*injection, error) {
	topics, err := s.backends.topics(ctx)
	if err != nil {
		return nil, err
	}
	i := &injection{service: s, topics: topics, ticks: t, due: map[int32][]time.Time{}, applied: map[int32]int64{},
		appender: engine.NewAppender(s.backends.broker, topics)}
	averages, err := s.modules.projection(movingaverages.Name)
	if err != nil {
		return nil, err
	}
	stages, err := projections.Serving(ctx, s.backends.store, []pipeline.Projection{averages})
	if err != nil || len(stages) != 1 {
		return nil, errors.Join(err, fmt.Errorf("%s has %d stages", movingaverages.Name, len(stages)))
	}
	i.stage = stages[0].Name
	return i, nil
}

// send sends n ticks, the latency of each counting from the time that since says,
// and returns once they are in the log.
func (i *injection) send(ctx context.Context, n int, since func(int) time.Time) error {
	events := make([]schema.Event, n)
	i.mu.Lock()
	for k := range events {
		events[k] = i.ticks.next()
		partition, err := i.topics.PartitionOf(schema.RawQuotes, []byte(events[k].Payload.Key()))
		if err != nil {
			i.mu.Unlock()
			return err
		}
		i.due[partition] = append(i.due[partition], since(k))
	}
	i.mu.Unlock()
	return i.appender.Append(ctx, events)
}

// measure runs load, which sends n ticks, until the average of the last of them
// is committed, and returns the latency of each.
func (i *injection) measure(ctx context.Context, n int, bar *progressbar.ProgressBar,
	load func(context.Context) error) ([]time.Duration, time.Duration, error) {
	defer clearBar(bar)
	i.each = make([]time.Duration, 0, n)
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return load(ctx) })
	group.Go(func() error {
		for {
			changed := i.service.runtime.Changed() // before the look, so that no commit is missed
			if i.look(); len(i.each) >= n {
				return nil
			}
			_ = bar.Set(len(i.each)) // it is only shown
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	err := group.Wait()
	return i.each, time.Since(began), err
}

// look notes what was committed since the last look.
func (i *injection) look() {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	for tp, next := range i.service.runtime.Applied(i.stage) {
		due := i.due[tp.Partition]
		n := min(int(next-i.applied[tp.Partition]), len(due))
		for _, since := range due[:n] {
			i.each = append(i.each, now.Sub(since))
		}
		i.due[tp.Partition] = due[n:]
		i.applied[tp.Partition] += int64(n)
	}
}

// flood sends n ticks as fast as the log takes them.
func (i *injection) flood(ctx context.Context, n int, bar *progressbar.ProgressBar) ([]time.Duration, time.Duration, error) {
	return i.measure(ctx, n, bar, func(ctx context.Context) error {
		for sent := 0; sent < n; {
			now := time.Now()
			k := min(chunk, n-sent)
			if err := i.send(ctx, k, func(int) time.Time { return now }); err != nil {
				return err
			}
			sent += k
		}
		return nil
	})
}

// steady sends n ticks at a rate. It is an open loop: the times at which ticks are
// to be sent stand beforehand, and their latencies count from there, so that what
// comes late because the log or this process is slow is not left out.
func (i *injection) steady(ctx context.Context, n, perSecond int, bar *progressbar.ProgressBar) ([]time.Duration, time.Duration, error) {
	began := time.Now()
	at := func(k int) time.Time { return began.Add(time.Duration(k) * time.Second / time.Duration(perSecond)) }
	return i.measure(ctx, n, bar, func(ctx context.Context) error {
		for sent := 0; sent < n; {
			select {
			case <-time.After(time.Until(at(sent))):
			case <-ctx.Done():
				return ctx.Err()
			}
			due, now := sent+1, time.Now()
			for due < n && due-sent < chunk && !at(due).After(now) {
				due++
			}
			first := sent
			if err := i.send(ctx, due-sent, func(k int) time.Time { return at(first + k) }); err != nil {
				return err
			}
			sent = due
		}
		return nil
	})
}

// check compares what is in the tables with what was sent: a measurement of a
// chain that loses or doubles prices would be worth nothing.
func (i *injection) check(ctx context.Context) error {
	b := i.service.backends
	if err := engine.CatchUp(ctx, b.store, b.broker, nil, nil); err != nil {
		return err
	}
	for _, rows := range []string{"raw_market_data", "processed_prices",
		"moving_averages WHERE window_size = (SELECT MIN(window_size) FROM moving_averages)"} {
		var got int
		if err := b.store.Get(ctx, &got, `SELECT COUNT(*) FROM `+rows); err != nil {
			return fmt.Errorf("counting %s: %w", rows, err)
		}
		if got != i.ticks.made {
			return fmt.Errorf("%d ticks were sent, and there are %d rows of %s", i.ticks.made, got, rows)
		}
	}
	return nil
}

// fill sends n ticks through the chain, and waits until all read models have
// them.
func (m *measurement) fill(ctx context.Context, s *service, n int) ([]time.Duration, time.Duration, error) {
	i, err := newInjection(ctx, s, newTicks(m.symbols))
	if err != nil {
		return nil, 0, err
	}
	each, took, err := i.flood(ctx, n, m.bar("filling", n))
	if err != nil {
		return nil, 0, err
	}
	return each, took, i.check(ctx)
}

// loopback is a client of a benchmark.
type loopback struct {
	*http.Client
	key string // an API key that it sends; empty for none
}

// newLoopback is a client with as many connections as it is used from at once.
func newLoopback(connections int) loopback {
	return loopback{Client: &http.Client{Timeout: clientTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: connections, DisableCompression: true}}}
}

// fetch asks and reads the answer.
func fetch(ctx context.Context, client loopback, method, url, body string, status int) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if client.key != "" {
		request.Header.Set("Authorization", "Bearer "+client.key)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	var read bytes.Buffer
	if response.ContentLength > 0 && response.ContentLength < 1<<20 {
		read.Grow(int(response.ContentLength) + bytes.MinRead)
	}
	_, err = read.ReadFrom(response.Body)
	answer := read.Bytes()
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", url, err)
	}
	if response.StatusCode != status {
		return nil, fmt.Errorf("%s %s answered %s instead of %d: %s", method, url, response.Status, status, answer)
	}
	return answer, nil
}

// closedLoop calls f for each number below n, from as many goroutines as there are
// clients, each of which begins a call when its last one ended.
func closedLoop(ctx context.Context, clients, n int, bar *progressbar.ProgressBar,
	f func(ctx context.Context, number int) error) ([]time.Duration, time.Duration, error) {
	defer clearBar(bar)
	each := make([]time.Duration, n)
	var next atomic.Int64
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for range min(clients, n) {
		group.Go(func() error {
			for {
				number := int(next.Add(1)) - 1
				if number >= n || ctx.Err() != nil {
					return ctx.Err()
				}
				asked := time.Now()
				if err := f(ctx, number); err != nil {
					return err
				}
				each[number] = time.Since(asked)
				_ = bar.Add(1) // it is only shown
			}
		})
	}
	err := group.Wait()
	return each, time.Since(began), err
}
