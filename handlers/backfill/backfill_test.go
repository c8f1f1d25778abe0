package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/backfill"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// epoch is the time of trade 0; others follow a second apart.
var epoch = time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)

func at(trade int) schema.Time { return schema.NewTime(epoch.Add(time.Duration(trade) * time.Second)) }

func entry(trade int) pipeline.HistoryEntry {
	return pipeline.HistoryEntry{ID: fmt.Sprint("trade-", trade), RawResponse: schema.RawResponse(fmt.Sprint("answer ", trade)), Time: at(trade)}
}

type historyFunc func(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error)

// service is a provider whose calls follow scripts, the last of them for all that come later.
type service struct {
	pipeline.Provider
	limits  []pipeline.Limit
	scripts []historyFunc

	mu    sync.Mutex
	calls []time.Time
}

func (s *service) Limits() []pipeline.Limit { return s.limits }

func (s *service) History(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	s.mu.Lock()
	script := s.scripts[min(len(s.calls), len(s.scripts)-1)]
	s.calls = append(s.calls, time.Now())
	s.mu.Unlock()
	return script(ctx, r)
}

func (s *service) called() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.calls...)
}

func scripts(all ...historyFunc) *service { return &service{scripts: all} }

// pages has trades 0 to last, ten a page. The cursor is the first trade of a page.
func pages(last int) historyFunc {
	return func(_ context.Context, r pipeline.HistoryRequest) (page pipeline.HistoryPage, err error) {
		first, _ := strconv.Atoi(r.Cursor) // 0 for none
		for trade := first; trade < first+10 && trade <= last; trade++ {
			page.Entries = append(page.Entries, entry(trade))
		}
		if first+10 <= last {
			page.Next = strconv.Itoa(first + 10)
		}
		return page, nil
	}
}

func fails(err error) historyFunc {
	return func(context.Context, pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
		return pipeline.HistoryPage{}, err
	}
}

func newHandler(t testing.TB, p pipeline.Provider) pipeline.Runner {
	t.Helper()
	return newCounted(t, p, nil)
}

func newCounted(t testing.TB, p pipeline.Provider, metrics prometheus.Registerer) pipeline.Runner {
	t.Helper()
	h, err := backfill.New(pipeline.Env{Now: time.Now, Log: slog.New(slog.DiscardHandler), Metrics: metrics,
		Provider: func(name schema.Provider) (pipeline.Provider, bool) { return p, name == "p" }})
	require.NoError(t, err)
	return h.(pipeline.Runner)
}

// process runs a worker until stop is called.
func process(t testing.TB, emit pipeline.Emitter, runner pipeline.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx, emit) }()
	return func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

func command(t testing.TB, rig *pipelinetest.Rig, runner pipeline.Runner, commands ...schema.Payload) {
	t.Helper()
	stage := rig.StartHandler(t, backfill.Name, runner.(pipeline.Handler))
	require.NoError(t, stage.Deliver(rig.AppendAll(t, commands...)...))
	stage.Close(t)
}

// started asks for trades first to last.
func started(id string, provider schema.Provider, first, last int) schema.BackfillStarted {
	return schema.BackfillStarted{BackfillID: id, Provider: provider, Symbol: "A", From: at(first), To: at(last), StartedAt: schema.NewTime(time.Now())}
}

func stopped(id string) schema.BackfillStopped {
	return schema.BackfillStopped{BackfillID: id, StoppedAt: schema.NewTime(time.Now())}
}

func get(t testing.TB, rig *pipelinetest.Rig, id string) backfill.Backfill {
	t.Helper()
	found, err := backfill.Reader{DB: rig.DB}.Get(context.Background(), id)
	require.NoError(t, err)
	return found
}

// sent are the ids of the quotes in the log, in their order.
func sent(rig *pipelinetest.Rig) []string {
	var ids []string
	for _, r := range rig.Sent() {
		ids = append(ids, r.Event.ID)
	}
	return ids
}

func trades(first, last int) []string {
	var ids []string
	for trade := first; trade <= last; trade++ {
		ids = append(ids, entry(trade).ID)
	}
	return ids
}

// settle lets time pass. Nothing stores answers here, so a job waits a minute after each page.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestABackfillTakesWhatIsInItsSpan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		twice := func(_ context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
			page, err := pages(29)(t.Context(), r)
			page.Entries = append(page.Entries, page.Entries...)
			return page, err
		}
		runner := newHandler(t, scripts(twice))
		command(t, rig, runner, started("b", "p", 5, 24))
		defer process(t, rig.Emitter(), runner)()
		settle(5 * time.Minute)
		assert.Equal(t, trades(5, 24), sent(rig))
		for i, r := range rig.Sent() {
			quote := r.Event.Payload.(schema.QuoteFetched)
			assert.Equal(t, schema.QuoteFetched{Quote: schema.Quote{Provider: "p", Symbol: "A"},
				RawResponse: entry(5 + i).RawResponse, ReceivedAt: at(5 + i)}, quote, "an old price is never a fresh one")
		}
		b := get(t, rig, "b")
		assert.Equal(t, backfill.Completed, b.Status)
		assert.EqualValues(t, 3, b.Calls)
		assert.EqualValues(t, 20, b.Prices)
		assert.Equal(t, at(24), *b.Reached)
		assert.NotNil(t, b.EndedAt)
		assert.False(t, b.Owned)
		assert.Equal(t, "trade-24", b.LastID)
		assert.Empty(t, b.LastError)
	})
}

func TestFaultsOfAHistory(t *testing.T) {
	t.Parallel()
	passing := func(code schema.Code) error { return pipeline.Quotef(code, "no luck") }
	for name, test := range map[string]struct {
		provider schema.Provider
		scripts  []historyFunc
		status   backfill.Status
		calls    int
		reason   string
	}{
		"away for a while":  {"p", []historyFunc{fails(passing(schema.CodeUnavailable)), fails(passing(schema.CodeTimeout)), pages(9)}, backfill.Completed, 3, "timeout: no luck"},
		"unknown symbol":    {"p", []historyFunc{fails(passing(schema.CodeUnknownSymbol))}, backfill.Failed, 1, "unknown_symbol: no luck"},
		"no key":            {"p", []historyFunc{fails(passing(schema.CodeNotConfigured))}, backfill.Failed, 1, "not_configured: no luck"},
		"unauthorized":      {"p", []historyFunc{fails(passing(schema.CodeUnauthorized))}, backfill.Failed, 1, "unauthorized: no luck"},
		"too large":         {"p", []historyFunc{fails(passing(schema.CodeTooLarge))}, backfill.Failed, 1, "too_large: no luck"},
		"nonsense":          {"p", []historyFunc{fails(passing(schema.CodeBadResponse))}, backfill.Failed, 5, "bad_response: no luck"},
		"nonsense at times": {"p", []historyFunc{fails(passing(schema.CodeBadResponse)), fails(passing(schema.CodeInternal)), pages(9)}, backfill.Completed, 3, "internal: no luck"},
		"an unknown error":  {"p", []historyFunc{fails(errors.New("canary"))}, backfill.Failed, 5, "internal: the provider failed in a way that it does not explain"},
		"a panic": {"p", []historyFunc{func(context.Context, pipeline.HistoryRequest) (pipeline.HistoryPage, error) { panic("canary") }},
			backfill.Failed, 5, "internal: the provider failed in a way that it does not explain"},
		"no end": {"p", []historyFunc{func(_ context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
			return pipeline.HistoryPage{Next: "again"}, nil
		}}, backfill.Failed, 6, "bad_response: the page after this one is this one again"},
		"no id": {"p", []historyFunc{func(context.Context, pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
			return pipeline.HistoryPage{Entries: []pipeline.HistoryEntry{{RawResponse: []byte("x"), Time: at(1)}}}, nil
		}}, backfill.Failed, 5, "bad_response: a price without an id"},
		"a huge page": {"p", []historyFunc{func(context.Context, pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
			return pipeline.HistoryPage{Entries: make([]pipeline.HistoryEntry, pipeline.MaxHistoryEntries+1)}, nil
		}}, backfill.Failed, 1, "too_large: a page of 10001 prices"},
		"unknown provider": {"q", nil, backfill.Failed, 0, `unknown_provider: no provider "q" in this binary`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rig := pipelinetest.New(t)
				runner := newHandler(t, scripts(test.scripts...))
				command(t, rig, runner, started("b", test.provider, 0, 9))
				defer process(t, rig.Emitter(), runner)()
				settle(5 * time.Minute)
				b := get(t, rig, "b")
				assert.Equal(t, test.status, b.Status)
				assert.EqualValues(t, test.calls, b.Calls)
				assert.Contains(t, b.LastError, test.reason)
				assert.NotContains(t, b.LastError, "canary")
			})
		})
	}
}

func TestAProviderWithoutHistory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		runner := newHandler(t, struct{ pipeline.Provider }{})
		command(t, rig, runner, started("b", "p", 0, 9))
		defer process(t, rig.Emitter(), runner)()
		settle(time.Minute)
		assert.Equal(t, backfill.Failed, get(t, rig, "b").Status)
		assert.Equal(t, `unknown_provider: provider "p" has no history`, get(t, rig, "b").LastError)
	})
}

func TestAProviderThatAsksForPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		limited := pipeline.Quotef(schema.CodeRateLimited, "slow down")
		limited.RetryAfter = 90 * time.Second
		p := scripts(fails(limited), pages(9))
		runner := newHandler(t, p)
		command(t, rig, runner, started("b", "p", 0, 9))
		defer process(t, rig.Emitter(), runner)()
		settle(time.Second)
		command(t, rig, runner, started("c", "p", 0, 9))
		settle(80 * time.Second)
		require.Len(t, p.called(), 1, "neither backfill calls")
		settle(5 * time.Minute)
		assert.Equal(t, backfill.Completed, get(t, rig, "b").Status)
		assert.Equal(t, backfill.Completed, get(t, rig, "c").Status)
		assert.GreaterOrEqual(t, p.called()[1].Sub(p.called()[0]), 90*time.Second)
	})
}

// Of 10 calls a minute two are left to requests, of 3 one, and of 1 none.
func TestABackfillLeavesCallsToRequests(t *testing.T) {
	t.Parallel()
	for calls, most := range map[int]int{10: 8, 3: 2, 1: 1} {
		t.Run(fmt.Sprint(calls), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rig := pipelinetest.New(t)
				p := endless()
				p.limits = []pipeline.Limit{{Calls: calls, Per: time.Minute}}
				runner := newHandler(t, p)
				command(t, rig, runner, started("b", "p", 0, 9))
				defer process(t, rig.Emitter(), runner)()
				settle(4 * time.Minute)
				made := p.called()
				assert.GreaterOrEqual(t, len(made), 3*most)
				for i := most; i < len(made); i++ {
					require.Greater(t, made[i].Sub(made[i-most]), time.Minute, "call %d", i)
				}
			})
		})
	}
}

// endless has pages without prices.
func endless() *service {
	return scripts(func(_ context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
		n, _ := strconv.Atoi(r.Cursor)
		return pipeline.HistoryPage{Next: strconv.Itoa(n + 1)}, nil
	})
}

// While a request waits a backfill makes no call.
func TestABackfillComesAfterRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		p := endless()
		p.limits = []pipeline.Limit{{Calls: 10, Per: time.Minute}}
		runner := newHandler(t, p)
		command(t, rig, runner, started("b", "p", 0, 9))
		defer process(t, rig.Emitter(), runner)()
		settle(time.Second)
		assert.NotEmpty(t, p.called())
		_, err := rig.Emitter().Emit(t.Context(), func(tx *pipeline.Tx) ([]schema.Event, error) {
			rows := store.Rows{Table: "fetch_queue", Columns: []string{"request_id", "provider", "symbol", "requested_at",
				"deadline", "traceparent", "claimed_by", "claimed_until", "scheduled"}}
			rows.Add("r", "p", "A", at(0), at(1), "", "", int64(0), int64(1))
			return nil, tx.Insert(t.Context(), rows)
		})
		require.NoError(t, err)
		settle(time.Second)
		before := len(p.called())
		settle(5 * time.Minute)
		assert.Len(t, p.called(), before)
	})
}

func TestAStopEndsACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		hang := func(ctx context.Context, _ pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
			<-ctx.Done()
			return pipeline.HistoryPage{}, ctx.Err()
		}
		runner := newHandler(t, scripts(hang))
		command(t, rig, runner, started("b", "p", 0, 9), started("c", "p", 0, 9))
		defer process(t, rig.Emitter(), runner)()
		settle(5 * time.Second)
		assert.True(t, get(t, rig, "b").Owned)
		command(t, rig, runner, stopped("b"), stopped("unknown"))
		settle(time.Second)
		assert.Equal(t, backfill.Stopped, get(t, rig, "b").Status)
		assert.False(t, get(t, rig, "b").Owned)
		assert.Equal(t, backfill.Active, get(t, rig, "c").Status)
		settle(time.Minute)
		assert.Contains(t, get(t, rig, "c").LastError, "timeout: ", "a call may take half a minute")
	})
}

// world is an Emitter whose transactions can be made to fail.
type world struct {
	pipeline.Emitter
	fails    atomic.Bool
	appended atomic.Int64
	failAt   int64 // appends, after which transactions fail; 0: never
}

func (w *world) Append(ctx context.Context, events []schema.Event) error {
	err := w.Emitter.Append(ctx, events)
	if w.appended.Add(1) == w.failAt {
		w.fails.Store(true)
	}
	return err
}

func (w *world) Emit(ctx context.Context, f func(*pipeline.Tx) ([]schema.Event, error)) ([]pipeline.Token, error) {
	if w.fails.Load() {
		return nil, errors.New("the database is down")
	}
	return w.Emitter.Emit(ctx, f)
}

// A process dies after a page is in the log, before its cursor is stored. The next one takes
// over when the claim has ended, and appends that page again, with the same ids.
func TestABackfillIsTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		p := scripts(pages(39))
		first, second := newHandler(t, p), newHandler(t, p)
		command(t, rig, first, started("b", "p", 0, 39))
		w := &world{Emitter: rig.Emitter(), failAt: 2}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- first.Run(ctx, w) }()
		settle(90 * time.Second)
		assert.True(t, w.fails.Load(), "it died")
		cancel()
		require.Error(t, <-ended, "others may own its backfills by then")
		b := get(t, rig, "b")
		assert.EqualValues(t, 10, b.Prices, "only what is certain counts")
		defer process(t, rig.Emitter(), second)()
		settle(10 * time.Minute)
		b = get(t, rig, "b")
		assert.Equal(t, backfill.Completed, b.Status)
		assert.EqualValues(t, 40, b.Prices)
		once := map[string]bool{}
		ids := sent(rig)
		for _, id := range ids {
			once[id] = true
		}
		assert.Len(t, once, 40)
		assert.Subset(t, ids, trades(0, 39))
		assert.Len(t, ids, 50, "one page came twice")
	})
}

// Of two backfills that fetch some of the same prices, the later one waits until the other has
// ended. Others do not wait.
func TestABackfillWaitsForAnotherOfTheSamePrices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		runner := newHandler(t, scripts(pages(39)))
		other := started("other", "p", 0, 39)
		other.Symbol = "B"
		command(t, rig, runner, started("first", "p", 0, 25))
		settle(time.Second)
		command(t, rig, runner, started("after", "p", 26, 30), started("beyond", "p", 25, 39), started("within", "p", 3, 4), other)
		defer process(t, rig.Emitter(), runner)()
		settle(2 * time.Minute)
		require.Equal(t, backfill.Active, get(t, rig, "first").Status)
		assert.Positive(t, get(t, rig, "first").Calls)
		assert.Positive(t, get(t, rig, "after").Calls)
		assert.Positive(t, get(t, rig, "other").Calls)
		assert.Zero(t, get(t, rig, "beyond").Calls)
		assert.Zero(t, get(t, rig, "within").Calls)
		command(t, rig, runner, stopped("first"))
		settle(5 * time.Second)
		assert.Positive(t, get(t, rig, "beyond").Calls)
		assert.Positive(t, get(t, rig, "within").Calls)
		settle(10 * time.Minute)
		assert.Equal(t, backfill.Completed, get(t, rig, "beyond").Status)
		assert.Equal(t, backfill.Completed, get(t, rig, "within").Status)
	})
}

func TestWhatIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		registry := prometheus.NewRegistry()
		runner := newCounted(t, scripts(fails(pipeline.Quotef(schema.CodeUnavailable, "away")), fails(pipeline.Quotef("odd", "of a plugin")), pages(19)), registry)
		command(t, rig, runner, started("b", "p", 3, 15))
		defer process(t, rig.Emitter(), runner)()
		settle(5 * time.Minute)
		require.Equal(t, backfill.Completed, get(t, rig, "b").Status)
		families, err := registry.Gather()
		require.NoError(t, err)
		got := map[string]float64{}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				name := family.GetName()
				for _, label := range m.GetLabel() {
					name += " " + label.GetValue()
				}
				got[name] = m.GetCounter().GetValue()
			}
		}
		assert.Equal(t, map[string]float64{
			"pricemill_backfill_calls_total ok p": 2, "pricemill_backfill_calls_total unavailable p": 1, "pricemill_backfill_calls_total other p": 1,
			"pricemill_backfill_prices_total appended p": 13, "pricemill_backfill_prices_total repeated p": 0,
		}, got)
	})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for setting, hint := range map[string]string{"concurrency": "concurrency: 0 is not positive", "backoff_min": "backoff_min, backoff_max"} {
		_, err := backfill.New(pipeline.Env{Settings: map[string]any{setting: "0"}})
		assert.ErrorContains(t, err, hint)
	}
}

// Backfills whose service is down take no turn from others, however many they are.
func TestFailingBackfillsBlockNoOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		good := pages(5)
		p := scripts(func(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
			if strings.HasPrefix(string(r.Symbol), "DOWN") {
				return pipeline.HistoryPage{}, pipeline.Quotef(schema.CodeUnavailable, "down")
			}
			return good(ctx, r)
		})
		runner := newHandler(t, p)
		var commands []schema.Payload
		for i := range 10 {
			down := started(fmt.Sprint("down-", i), "p", 0, 5)
			down.Symbol = schema.Symbol(fmt.Sprint("DOWN-", i))
			commands = append(commands, down)
		}
		command(t, rig, runner, append(commands, started("good", "p", 0, 5))...)
		defer process(t, rig.Emitter(), runner)()
		settle(20 * time.Second)
		assert.Equal(t, backfill.Completed, get(t, rig, "good").Status)
		assert.Equal(t, backfill.Failing, get(t, rig, "down-9").Status)
	})
}

// A service whose pages lead in a circle is not asked forever.
func TestPagesInACircle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		p := scripts(func(_ context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
			n, _ := strconv.Atoi(r.Cursor)
			return pipeline.HistoryPage{Next: strconv.Itoa((n + 1) % 3)}, nil
		})
		runner := newHandler(t, p)
		command(t, rig, runner, started("b", "p", 0, 5))
		defer process(t, rig.Emitter(), runner)()
		settle(10 * time.Minute)
		shown := get(t, rig, "b")
		assert.Equal(t, backfill.Failed, shown.Status)
		assert.Contains(t, shown.LastError, "1000 pages in a row brought nothing new")
	})
}
