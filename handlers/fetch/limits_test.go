package fetch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

// diary notes when a provider is asked for what, since it was begun.
type diary struct {
	mu    sync.Mutex
	begin time.Time
	calls []string
}

func newDiary() *diary { return &diary{begin: time.Now()} }

// of notes the calls of quote.
func (d *diary) of(quote quoteFunc) quoteFunc {
	return func(ctx context.Context, s schema.Symbol) (schema.RawResponse, error) {
		d.mu.Lock()
		d.calls = append(d.calls, fmt.Sprint(time.Since(d.begin).Round(time.Second), " ", s))
		d.mu.Unlock()
		return quote(ctx, s)
	}
}

// since returns the calls since it was last asked, those of one moment by symbol.
func (d *diary) since() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	slices.SortStableFunc(calls, func(a, b string) int {
		if at, other := strings.Fields(a), strings.Fields(b); at[0] == other[0] {
			return strings.Compare(at[1], other[1])
		}
		return 0
	})
	return calls
}

func failing(err error) quoteFunc {
	return func(context.Context, schema.Symbol) (schema.RawResponse, error) { return nil, err }
}

// failure is the one outcome of a request, and how long after begin it came.
func failure(t *testing.T, got map[string][]schema.Event, id string, begin time.Time) (schema.QuoteFailed, time.Duration) {
	t.Helper()
	require.Len(t, got[id], 1, id)
	require.IsType(t, schema.QuoteFailed{}, got[id][0].Payload, id)
	failed := got[id][0].Payload.(schema.QuoteFailed)
	return failed, failed.FailedAt.Sub(begin)
}

// What can have no call by its deadline is told so at once, and the others wait.
func TestARequestWithoutACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig, calls := pipelinetest.New(t), newDiary()
		p := newScripted(calls.of(answering))
		p.limits = []pipeline.Limit{{Calls: 2, Per: time.Minute}, {Calls: 100, Per: time.Second}}
		runner := newHandler(t, providers{"p": p}, quiet)
		defer process(t, rig, runner)()
		begin := time.Now()
		enter(t, rig, runner, request("a", "p", "A", 10*time.Second), request("b", "p", "B", 10*time.Second),
			request("c", "p", "C", 10*time.Second), request("d", "p", "D", 90*time.Second),
			request("e", "p", "E", 90*time.Second), request("f", "p", "F", 90*time.Second))
		synctest.Wait()
		assert.Equal(t, []string{"0s A", "0s B"}, calls.since(), "the oldest first")
		got := outcomes(t, rig)
		c, after := failure(t, got, "c", begin)
		assert.Equal(t, schema.CodeRateLimited, c.Code)
		assert.Contains(t, c.Reason, "budget of calls is spent: the next one comes free in 1m0.")
		assert.Zero(t, after)
		_, after = failure(t, got, "f", begin)
		assert.Zero(t, after, "two wait before it, and then there are no more for a minute")
		assert.Len(t, got, 4)
		time.Sleep(59 * time.Second)
		assert.Empty(t, calls.since())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, []string{"1m0s D", "1m0s E"}, calls.since())
		assert.Len(t, outcomes(t, rig), 2)
	})
}

// When more is asked than allowed forever, symbols take turns: one that was
// refused comes before those that had a price since, and before newcomers.
func TestSymbolsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig, calls := pipelinetest.New(t), newDiary()
		p := newScripted(calls.of(answering))
		p.limits = []pipeline.Limit{{Calls: 2, Per: time.Minute}}
		runner := newHandler(t, providers{"p": p}, quiet)
		stop := process(t, rig, runner)
		var turns []string
		for round := range 8 {
			// Always in the same order; two jobs want A. Each time there is a stranger
			// who never comes again, and LATE comes again and again from the fourth on.
			symbols := []schema.Symbol{"A", "A", "B", "C", "D", schema.Symbol(fmt.Sprint("STRANGER", round)), "E", "LATE"}
			if round < 3 {
				symbols = symbols[:7]
			}
			var requests []schema.FetchRequested
			for i, s := range symbols {
				requests = append(requests, request(fmt.Sprint(round, i), "p", s, 10*time.Second))
			}
			enter(t, rig, runner, requests...)
			synctest.Wait()
			turn := ""
			for _, c := range calls.since() {
				turn += strings.Fields(c)[1]
			}
			turns = append(turns, turn)
			time.Sleep(61 * time.Second)
		}
		assert.Equal(t, []string{"AA", "BC", "DE", "AA", "BC", "DE", "ALATE", "BC"}, turns)
		for id, events := range outcomes(t, rig) {
			require.Len(t, events, 1, id)
		}
		var kept []string
		require.NoError(t, rig.DB.Select(t.Context(), &kept, `SELECT symbol FROM fetch_refused WHERE symbol NOT LIKE 'STRANGER%' ORDER BY symbol`))
		assert.Equal(t, []string{"A", "D", "E", "LATE"}, kept, "who had a price has no place to keep")
		stop()
		time.Sleep(3 * time.Hour)
		defer process(t, rig, runner)()
		enter(t, rig, runner, request("x", "p", "X", time.Second), request("y", "p", "Y", time.Second), request("z", "p", "Z", time.Second))
		synctest.Wait()
		require.NoError(t, rig.DB.Select(t.Context(), &kept, `SELECT symbol FROM fetch_refused`))
		assert.Equal(t, []string{"Z"}, kept, "who does not come again is forgotten")
	})
}

// A provider that says how long to leave it alone is left alone, by all processes
// and after a restart too. Only requests that live longer wait.
func TestRetryAfterIsObeyed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limits []pipeline.Limit
		says   time.Duration
		want   time.Duration
	}{
		"it says how long":              {nil, 30 * time.Second, 30 * time.Second},
		"it says how long, with limits": {[]pipeline.Limit{{Calls: 100, Per: time.Second}}, 30 * time.Second, 30 * time.Second},
		"it does not say":               {nil, 0, time.Minute},
		"it has a short period":         {[]pipeline.Limit{{Calls: 100, Per: 5 * time.Second}}, 0, 5 * time.Second},
		"it has a long period":          {[]pipeline.Limit{{Calls: 100, Per: time.Hour}}, 0, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connect := newDatabase(t)
			synctest.Test(t, func(t *testing.T) {
				rigs := []*pipelinetest.Rig{pipelinetest.On(t, connect(t)), pipelinetest.On(t, connect(t))}
				calls := newDiary()
				p := newScripted(calls.of(failing(&pipeline.QuoteError{Code: schema.CodeRateLimited, Reason: "too many", RetryAfter: test.says})))
				p.limits = test.limits
				known := providers{"p": p}
				first := newHandler(t, known, quiet)
				enter(t, rigs[0], first, request("a", "p", "A", time.Second))
				stop := process(t, rigs[0], first)
				synctest.Wait()
				failed, _ := failure(t, outcomes(t, rigs[0]), "a", time.Now())
				assert.Equal(t, "too many", failed.Reason)
				assert.Equal(t, []string{"0s A"}, calls.since())
				stop()

				p.quote = calls.of(answering)
				for _, rig := range rigs {
					defer process(t, rig, newHandler(t, known, quiet))()
				}
				begin := time.Now()
				enter(t, rigs[0], first, request("b", "p", "B", test.want), request("c", "p", "C", test.want+2*time.Second))
				time.Sleep(300 * time.Millisecond)
				got := outcomes(t, rigs[0])
				failed, after := failure(t, got, "b", begin)
				assert.Equal(t, schema.CodeRateLimited, failed.Code)
				assert.Contains(t, failed.Reason, "wants to be left alone for another")
				assert.LessOrEqual(t, after, 250*time.Millisecond)
				assert.Len(t, got, 1)
				time.Sleep(test.want - time.Second)
				assert.Empty(t, calls.since())
				time.Sleep(time.Second)
				synctest.Wait()
				assert.Equal(t, []string{fmt.Sprint(test.want, " C")}, calls.since())
			})
		})
	}
}

// Processes claim side by side, in real time, from a service that counts.
func TestProcessesShareABudget(t *testing.T) {
	t.Parallel()
	const requests = 300
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	asked := &service{limit: pipeline.Limit{Calls: 50, Per: 300 * time.Millisecond}, random: rand.New(rand.NewPCG(seed, 0)), hurry: 40}
	connect := newDatabase(t)
	find := func(schema.Provider) (pipeline.Provider, bool) { return asked, true }
	rig := pipelinetest.On(t, connect(t))
	var all []schema.FetchRequested
	for i := range requests {
		all = append(all, request(fmt.Sprint("r", i), "p", "A", time.Minute))
	}
	for i := range 3 {
		runner := newHandlerIn(t, pipeline.Env{Now: time.Now, Log: quiet, Provider: find})
		if i == 0 {
			enter(t, rig, runner, all...)
		}
		defer process(t, pipelinetest.On(t, connect(t)), runner)()
	}
	require.Eventually(t, func() bool { return len(open(t, rig.DB)) == 0 }, time.Minute, 5*time.Millisecond)
	got := outcomes(t, rig)
	require.Len(t, got, requests)
	for id, events := range got {
		require.Len(t, events, 1, id)
		assert.IsType(t, schema.QuoteFetched{}, events[0].Payload)
	}
	assert.Zero(t, asked.refused, "calls that the service refused")
}

// While there is nothing to do, or all that there is must wait, nothing is
// written.
func TestAnIdleProcessWritesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		p := newScripted(answering)
		p.limits = []pipeline.Limit{{Calls: 1, Per: 10 * time.Minute}}
		hangs := newScripted(hanging)
		runner := newHandler(t, providers{"p": p, "hangs": hangs}, quiet)
		spy := &writes{Emitter: rig.Emitter()}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- runner.Run(ctx, spy) }()
		defer func() { cancel(); require.NoError(t, <-ended) }()
		time.Sleep(10 * time.Minute)
		assert.Zero(t, spy.count(), "no requests")
		enter(t, rig, runner, request("a", "p", "A", time.Minute), request("b", "p", "B", time.Hour))
		synctest.Wait()
		assert.Equal(t, 2, spy.count(), "a claim and an outcome")
		time.Sleep(9 * time.Minute)
		assert.Equal(t, 0, spy.count(), "one waits for its call")
		time.Sleep(2 * time.Minute)
		assert.Equal(t, 2, spy.count())
		enter(t, rig, runner, request("c", "hangs", "A", 10*time.Second+100*time.Millisecond))
		time.Sleep(11 * time.Second)
		assert.Equal(t, 2+10, spy.count(), "a claim of 3 s is renewed every second")
	})
}

// writes counts the transactions of a runner.
type writes struct {
	pipeline.Emitter
	mu sync.Mutex
	n  int
}

func (w *writes) Emit(ctx context.Context, f func(tx *pipeline.Tx) ([]schema.Event, error)) ([]pipeline.Token, error) {
	w.mu.Lock()
	w.n++
	w.mu.Unlock()
	return w.Emitter.Emit(ctx, f)
}

// count is how many there were since it was last asked.
func (w *writes) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.n
	w.n = 0
	return n
}
