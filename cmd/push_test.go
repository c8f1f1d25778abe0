package cmd_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// pushed is an event that a client got.
type pushed struct{ event, id, data string }

// subscriber is a client of GET /api/v1/prices/stream that comes back with the id of its
// last event, wherever it is told to go.
type subscriber struct {
	query string
	// base is where the service is now.
	base *atomic.Pointer[string]

	mu     sync.Mutex
	last   string
	events []pushed
	faults []string
	opened int
}

// run reads until ctx is done.
func (s *subscriber) run(ctx context.Context) {
	for ctx.Err() == nil {
		s.connect(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *subscriber) connect(ctx context.Context) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, *s.base.Load()+"/api/v1/prices/stream?provider=simulated&"+s.query, nil)
	if err != nil {
		s.fail(err.Error())
		return
	}
	s.mu.Lock()
	if s.last != "" {
		r.Header.Set("Last-Event-ID", s.last)
	}
	s.mu.Unlock()
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return // nothing is there now
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		if response.StatusCode != http.StatusServiceUnavailable {
			s.fail(response.Status)
		}
		return
	}
	s.mu.Lock()
	s.opened++
	s.mu.Unlock()
	var e pushed
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "event":
			e.event = value
		case "id":
			e.id = value
		case "data":
			e.data = value
		case "":
			if e.id != "" {
				s.take(e)
			}
			e = pushed{}
		}
	}
}

func (s *subscriber) take(e pushed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = e.id
	if e.event != "" {
		s.events = append(s.events, e)
	}
}

func (s *subscriber) fail(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, why)
}

// of are the data of the events of a name, by symbol.
func (s *subscriber) of(t testing.TB, name string) map[string][]map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string][]map[string]any{}
	for _, e := range s.events {
		if e.event != name {
			continue
		}
		var data map[string]any
		decoder := json.NewDecoder(strings.NewReader(e.data))
		decoder.UseNumber()
		require.NoError(t, decoder.Decode(&data), e.data)
		symbol, _ := data["symbol"].(string)
		found[symbol] = append(found[symbol], data)
	}
	return found
}

// count is how many events of a name came.
func (s *subscriber) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.events {
		if e.event == name {
			n++
		}
	}
	return n
}

// subscribe runs a client until the test ends, or it is told to stop.
func subscribe(t testing.TB, base *atomic.Pointer[string], query string) (s *subscriber, stop func()) {
	t.Helper()
	s = &subscriber{query: query, base: base}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.run(ctx); close(done) }()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	t.Cleanup(stop)
	return s, stop
}

// symbolsOf are some of those of makeAnswers.
func symbolsOf(from, to int) string {
	var names []string
	for i := from; i < to; i++ {
		names = append(names, "S"+strconv.Itoa(i))
	}
	return strings.Join(names, ",")
}

// storedPrice is a row of a table of prices or averages, in the order of the log.
type storedPrice struct {
	Symbol    string         `db:"symbol"`
	Value     schema.Decimal `db:"value"`
	Timestamp schema.Time    `db:"timestamp"`
}

func (p storedPrice) String() string {
	return p.Value.String() + " at " + p.Timestamp.Text()
}

// storedOf are the rows of a query, by symbol.
func storedOf(t testing.TB, env environment, query string) map[string][]string {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var rows []storedPrice
	require.NoError(t, db.Select(t.Context(), &rows, query))
	all := map[string][]string{}
	for _, row := range rows {
		all[row.Symbol] = append(all[row.Symbol], row.String())
	}
	return all
}

const (
	pricesInOrder   = `SELECT symbol, price AS value, timestamp FROM processed_prices ORDER BY id`
	averagesInOrder = `SELECT symbol, value, timestamp FROM moving_averages WHERE window_size = 5 ORDER BY id`
)

// shown are values as storedPrice writes them.
func shown(events []map[string]any, member string) []string {
	var all []string
	for _, e := range events {
		all = append(all, fmt.Sprintf("%v at %v", e[member], e["timestamp"]))
	}
	return all
}

// checkAverages: what a client saw are averages as they stood, in their order, none twice,
// and at the end the last.
func (s *subscriber) checkAverages(t testing.TB, symbols string, stored map[string][]string) {
	t.Helper()
	got := s.of(t, "average")
	for symbol := range strings.SplitSeq(symbols, ",") {
		seen := shown(got[symbol], "value")
		place := 0
		for _, one := range seen {
			at := slices.Index(stored[symbol][place:], one)
			if !assert.GreaterOrEqual(t, at, 0, "%s: %s is not, or no more, an average of it: seen %v, stored %v", symbol, one, seen, stored[symbol]) {
				break
			}
			place += at + 1
		}
		if want := stored[symbol]; len(want) > 0 && assert.NotEmpty(t, seen, symbol) {
			assert.Equal(t, want[len(want)-1], seen[len(seen)-1], symbol)
		}
	}
}

// TestPushIsGaplessOverKills: clients of a service that is killed again and again, and
// that go to a process that only answers requests and is killed as well, miss nothing and
// get nothing twice.
func TestPushIsGaplessOverKills(t *testing.T) {
	const kills, rate = 3, 300
	env := newStack(t, nil)
	random := rand.New(rand.NewPCG(seed(t), 0))
	answers := makeAnswers(random, 4000, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	process, l := spawn(t, env)
	l.await(t, "pipeline running")
	workers, apis := &atomic.Pointer[string]{}, &atomic.Pointer[string]{}
	url := l.await(t, "listening")["url"].(string)
	workers.Store(&url)
	api := spawnAPI(t, env)
	apis.Store(&api.url)

	few, many := symbolsOf(0, 10), symbolsOf(0, fedSymbols)
	var all []*subscriber
	for range 5 {
		s, _ := subscribe(t, workers, "symbols="+few)
		all = append(all, s)
	}
	everything, _ := subscribe(t, workers, "symbols="+many+"&events=price")
	ofAPI, _ := subscribe(t, apis, "symbols="+few)
	conflated, _ := subscribe(t, workers, "symbols="+few+"&max_rate=2")
	all = append(all, ofAPI)
	// They begin before there is a price.
	require.Eventually(t, func() bool {
		for _, s := range append(slices.Clone(all), conflated) {
			if s.count("snapshot") < 10 {
				return false
			}
		}
		return everything.count("snapshot") == fedSymbols
	}, 30*time.Second, 10*time.Millisecond)

	stop := make(chan struct{})
	fed := make(chan int, 1)
	go func() { fed <- feedAt(t, env, answers, rate, stop) }()
	for i := range kills {
		awaitApplied(t, env, len(answers)*(i+1)/(kills+1))
		require.NoError(t, process.Process.Kill())
		_ = process.Wait() // it was killed
		if i == 1 {        // to the other process and back
			workers.Store(&api.url)
		}
		process, l = spawn(t, env)
		url := l.await(t, "listening")["url"].(string)
		workers.Store(&url)
		if i == 1 {
			api.kill()
			api = spawnAPI(t, env)
			apis.Store(&api.url)
		}
	}
	require.Equal(t, len(answers), <-fed)
	awaitDrained(t, env) // by all read models: they follow one by one
	prices := storedOf(t, env, pricesInOrder)
	wanted := 0
	for symbol := range strings.SplitSeq(few, ",") {
		wanted += len(prices[symbol])
	}
	require.Eventually(t, func() bool {
		for _, s := range all {
			if s.count("price") < wanted {
				return false
			}
		}
		return everything.count("price") >= len(answers)
	}, 60*time.Second, 20*time.Millisecond, "not all prices came")
	// Averages come after their prices, and what is conflated after a while.
	averages := storedOf(t, env, averagesInOrder)
	last := func(s *subscriber, event, member string, stored map[string][]string) bool {
		got := s.of(t, event)
		for symbol := range strings.SplitSeq(few, ",") {
			want, seen := stored[symbol], shown(got[symbol], member)
			if len(want) > 0 && (len(seen) == 0 || seen[len(seen)-1] != want[len(want)-1]) {
				return false
			}
		}
		return true
	}
	require.Eventually(t, func() bool {
		for _, s := range append(slices.Clone(all), conflated) {
			if !last(s, "average", "value", averages) {
				return false
			}
		}
		return last(conflated, "price", "price", prices)
	}, 30*time.Second, 20*time.Millisecond, "not all averages came")

	for i, s := range all {
		got := s.of(t, "price")
		for symbol := range strings.SplitSeq(few, ",") {
			assert.Equal(t, prices[symbol], shown(got[symbol], "price"), "client %d, %s", i, symbol)
		}
		s.checkAverages(t, few, averages)
	}
	got := everything.of(t, "price")
	for symbol, want := range prices {
		assert.Equal(t, want, shown(got[symbol], "price"), symbol)
	}
	for _, s := range append(slices.Clone(all), everything, conflated) {
		assert.Greater(t, s.opened, 1, "it was cut off")
		assert.Empty(t, s.faults)
		assert.Zero(t, s.count("missed"))
		assert.Zero(t, s.count("reset"))
	}
	conflated.checkAverages(t, few, averages)
	assert.Less(t, conflated.count("price"), wanted, "it wanted fewer")
}

// TestPushOverASwap: a client sees the averages of the generation that serves, whichever
// that is, and none twice or out of order where another one takes its place.
func TestPushOverASwap(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	base := &atomic.Pointer[string]{}
	base.Store(&p.url)
	symbols := symbolsOf(0, 20)
	s, _ := subscribe(t, base, "symbols="+symbols)
	require.Eventually(t, func() bool { return s.count("snapshot") == 20 }, 20*time.Second, 10*time.Millisecond)
	answers := makeAnswers(rand.New(rand.NewPCG(seed(t), 0)), 3000, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	fed := make(chan int, 1)
	go func() { fed <- feedAt(t, p.env, answers, 200, nil) }()
	for range 2 {
		id := p.startRebuild(`{"projection":"moving-averages","promote":"auto"}`)
		p.reaches(id, projections.RebuildPromoted)
	}
	require.Equal(t, len(answers), <-fed)
	awaitDrained(t, p.env)
	averages, prices := storedOf(t, p.env, averagesInOrder), storedOf(t, p.env, pricesInOrder)
	require.Eventually(t, func() bool {
		got := s.of(t, "average")
		for symbol := range strings.SplitSeq(symbols, ",") {
			seen := shown(got[symbol], "value")
			if want := averages[symbol]; len(seen) == 0 || seen[len(seen)-1] != want[len(want)-1] {
				return false
			}
		}
		return true
	}, 30*time.Second, 20*time.Millisecond)
	s.checkAverages(t, symbols, averages)
	got := s.of(t, "price")
	for symbol := range strings.SplitSeq(symbols, ",") {
		assert.Equal(t, prices[symbol], shown(got[symbol], "price"), symbol)
	}
	assert.Empty(t, s.faults)
	assert.Equal(t, 1, s.opened)
}

// TestPushOfAPositionThatIsNotThere: who comes with the position of another log is told,
// and begins again.
func TestPushOfAPositionThatIsNotThere(t *testing.T) {
	t.Parallel()
	other, p := start(t, nil), start(t, nil)
	base := &atomic.Pointer[string]{}
	base.Store(&other.url)
	s, stop := subscribe(t, base, "symbols=AAPL")
	require.Eventually(t, func() bool { return s.count("snapshot") == 1 }, 20*time.Second, 10*time.Millisecond)
	stop()
	base.Store(&p.url)
	again, _ := subscribe(t, base, "symbols=AAPL&last_event_id="+s.last)
	require.Eventually(t, func() bool { return again.count("snapshot") == 1 }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, 1, again.count("reset"))
	assert.Contains(t, again.events[0].data, "another log")
	refused := p.get("/api/v1/prices/stream?symbols=MSFT&last_event_id=" + s.last)
	assert.Equal(t, http.StatusUnprocessableEntity, refused.status, refused.body)
}
