package fetch_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/fetch"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// One provider that hangs takes its own slots only; and what waits after it
// fails by its deadline although no slot comes free.
func TestAHangingProviderDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		known := providers{"hangs": newScripted(hanging), "answers": newScripted(answering)}
		runner := newHandler(t, known, quiet)
		defer process(t, rig, runner)()
		begin := time.Now()
		var requests []schema.FetchRequested
		for i := range 16 {
			requests = append(requests, request(fmt.Sprint("a", i), "hangs", "A", time.Minute))
		}
		enter(t, rig, runner, requests...)
		synctest.Wait()
		enter(t, rig, runner, request("b1", "hangs", "A", 5*time.Second), request("b2", "hangs", "A", 5*time.Second),
			request("c", "answers", "A", 5*time.Second))
		synctest.Wait()
		got := outcomes(t, rig)
		require.Len(t, got, 1, "no clock moved")
		assert.IsType(t, schema.QuoteFetched{}, got["c"][0].Payload)
		assert.Equal(t, 16, known["hangs"].total(), "calls under way")

		time.Sleep(6 * time.Second)
		got = outcomes(t, rig)
		require.Len(t, got, 2)
		for _, id := range []string{"b1", "b2"} {
			failed := got[id][0].Payload.(schema.QuoteFailed)
			assert.Equal(t, schema.CodeTimeout, failed.Code)
			assert.LessOrEqual(t, failed.FailedAt.Sub(begin), 5*time.Second+250*time.Millisecond)
		}
		assert.Equal(t, 16, known["hangs"].total())
		time.Sleep(time.Minute)
		assert.Len(t, outcomes(t, rig), 16, "the others end at their own deadline")
		assert.Equal(t, 16, known["hangs"].total())
	})
}

// A request with all the time of the world keeps neither a slot nor, once its
// process has died, a call of the budget for as long.
func TestACallEndsBeforeADistantDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		known := providers{"hangs": newScripted(hanging)}
		known["hangs"].limits = []pipeline.Limit{{Calls: 1, Per: time.Minute}}
		distant := request("r", "hangs", "A", 0)
		distant.Deadline = schema.NewTime(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC))
		dies := newHandler(t, known, quiet)
		stop := process(t, rig, dies)
		enter(t, rig, dies, distant)
		synctest.Wait()
		require.Equal(t, 1, known["hangs"].total(), "under way")
		stop() // without an outcome, and without a word of the call
		runner := newHandler(t, known, quiet)
		defer process(t, rig, runner)()
		time.Sleep(7 * time.Minute)
		require.Equal(t, 2, known["hangs"].total(), "the budget has let go of the call")
		assert.Empty(t, outcomes(t, rig))
		time.Sleep(5 * time.Minute)
		got := outcomes(t, rig)["r"]
		require.Len(t, got, 1)
		assert.Equal(t, schema.CodeTimeout, got[0].Payload.(schema.QuoteFailed).Code)
	})
}

// From request to price it takes as long as the provider takes, whether another
// one hangs or not.
func TestAHangingProviderCostsOthersNoTime(t *testing.T) {
	t.Parallel()
	took := func(neighbours int) (times []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			rig := pipelinetest.New(t)
			known := providers{"hangs": newScripted(hanging), "answers": newScripted(func(context.Context, schema.Symbol) (schema.RawResponse, error) {
				time.Sleep(130 * time.Millisecond)
				return []byte("x"), nil
			})}
			known["answers"].limits = []pipeline.Limit{{Calls: 20, Per: time.Minute}}
			runner := newHandler(t, known, quiet)
			defer process(t, rig, runner)()
			for i := range 8 {
				var requests []schema.FetchRequested
				for n := range neighbours {
					requests = append(requests, request(fmt.Sprint("h", i, "-", n), "hangs", "A", 20*time.Second))
				}
				for n := range 4 { // more than the limit, in the end
					requests = append(requests, request(fmt.Sprint("a", i, "-", n), "answers", "A", 90*time.Second))
				}
				begin := time.Now()
				enter(t, rig, runner, requests...)
				time.Sleep(5 * time.Second)
				for _, e := range rig.Events(t, schema.RawQuotes) {
					times = append(times, e.Payload.(schema.QuoteFetched).ReceivedAt.Sub(begin))
				}
			}
		})
		return times
	}
	alone := took(0)
	assert.Len(t, alone, 20)
	assert.Equal(t, alone, took(1), "one request that hangs")
	assert.Equal(t, alone, took(40), "more than there are slots")
}

func TestARequestThatComesAgainWhileItIsOpenIsOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		known := providers{"p": newScripted(answering)}
		runner := newHandler(t, known, quiet)
		enter(t, rig, runner, request("r", "p", "A", time.Second), request("r", "p", "B", time.Second))
		stop := process(t, rig, runner)
		synctest.Wait()
		stop()
		require.Len(t, outcomes(t, rig)["r"], 1)
		assert.Equal(t, map[schema.Symbol]int{"A": 1}, known["p"].asked, "the first counts")
	})
}

// What is under way when we stop has no outcome, whatever the provider makes of
// its cancellation, and the next owner asks again without waiting for a claim
// to end.
func TestStoppingLeavesRequestsOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		known := providers{"p": newScripted(func(ctx context.Context, s schema.Symbol) (schema.RawResponse, error) {
			<-ctx.Done()
			switch s {
			case "EXPLAINS":
				return nil, &pipeline.QuoteError{Code: schema.CodeTimeout, Reason: "no answer in time", Err: ctx.Err()}
			case "ANSWERS":
				return []byte("too late to tell"), nil
			default:
				return nil, ctx.Err()
			}
		})}
		runner := newHandler(t, known, quiet)
		enter(t, rig, runner, request("r1", "p", "EXPLAINS", time.Minute), request("r2", "p", "ANSWERS", time.Minute),
			request("r3", "p", "PLAIN", time.Minute))
		stop := process(t, rig, runner)
		synctest.Wait()
		require.Equal(t, 3, known["p"].total())
		began := time.Now()
		stop()
		assert.Zero(t, time.Since(began), "at once")
		assert.Empty(t, outcomes(t, rig))
		assert.Equal(t, []string{"r1 ", "r2 ", "r3 "}, open(t, rig.DB), "no one's")

		known["p"].quote = answering
		stop = process(t, rig, newHandler(t, known, quiet))
		synctest.Wait()
		stop()
		got := outcomes(t, rig)
		for _, id := range []string{"r1", "r2", "r3"} {
			require.Len(t, got[id], 1, id)
			assert.IsType(t, schema.QuoteFetched{}, got[id][0].Payload)
		}
	})
}

func TestTheClaimOfADeadOwnerEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		known := providers{"p": newScripted(answering)}
		runner := newHandler(t, known, quiet)
		enter(t, rig, runner, request("r", "p", "A", time.Hour))
		setClaim(t, rig.DB, "dead", 1<<60)
		defer process(t, rig, runner)()
		time.Sleep(time.Minute)
		assert.Zero(t, known["p"].total(), "someone else works on it")
		assert.Equal(t, []string{"r dead"}, open(t, rig.DB))
		setClaim(t, rig.DB, "dead", 1)
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		assert.Len(t, outcomes(t, rig)["r"], 1)
		assert.Equal(t, 1, known["p"].total())
	})
}

// A worker that is paused loses its claim, and another one asks as well: the
// first answer counts, the other goes nowhere.
func TestALateAnswerOfAFormerOwnerIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		release := make([]chan string, 2)
		known := make([]providers, 2)
		for i := range release {
			release[i] = make(chan string)
			known[i] = providers{"p": newScripted(func(context.Context, schema.Symbol) (schema.RawResponse, error) {
				return []byte(<-release[i]), nil
			})}
		}
		former := newHandler(t, known[0], quiet)
		enter(t, rig, former, request("r", "p", "A", time.Hour))
		defer process(t, rig, former)()
		synctest.Wait()
		setClaim(t, rig.DB, "nobody", 1)
		defer process(t, rig, newHandler(t, known[1], quiet))()
		synctest.Wait()
		require.Equal(t, 1, known[0]["p"].total())
		require.Equal(t, 1, known[1]["p"].total(), "both ask")
		release[1] <- "second"
		synctest.Wait()
		release[0] <- "first"
		synctest.Wait()
		events := outcomes(t, rig)["r"]
		require.Len(t, events, 1)
		assert.Equal(t, "second", string(events[0].Payload.(schema.QuoteFetched).RawResponse))
	})
}

// setClaim overwrites all claims, by the database's clock.
func setClaim(t *testing.T, db *store.Store, owner string, until int64) {
	t.Helper()
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE fetch_queue SET claimed_by = $1, claimed_until = $2`, owner, until)
		return err
	}))
}

// A claim lasts 3 s, and what is under way is not asked again.
func TestClaimsAreRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		known := providers{"p": newScripted(hanging)}
		runner := newHandler(t, known, quiet)
		enter(t, rig, runner, request("r", "p", "A", time.Minute))
		defer process(t, rig, runner)()
		synctest.Wait()
		defer process(t, rig, newHandler(t, known, quiet))()
		until := func() (ms int64) {
			require.NoError(t, rig.DB.Get(t.Context(), &ms, `SELECT claimed_until FROM fetch_queue`))
			return ms
		}
		first := until()
		assert.Equal(t, time.Now().UnixMilli()+3000, first)
		time.Sleep(900 * time.Millisecond)
		assert.Equal(t, first, until(), "there is time")
		time.Sleep(50 * time.Second)
		assert.Greater(t, until(), time.Now().UnixMilli()+1500)
		assert.Equal(t, 1, known["p"].total())
	})
}

// Two processes on one database; one of them loses its claims again and again,
// as after a pause, so that both ask. Each request has one outcome.
func TestTwoProcessesGiveOneOutcome(t *testing.T) {
	t.Parallel()
	connect := newDatabase(t)
	const requests = 150
	rigs := []*pipelinetest.Rig{pipelinetest.On(t, connect(t)), pipelinetest.On(t, connect(t))}
	known := providers{"p": newScripted(answering), "q": newScripted(answering)}
	var all []schema.FetchRequested
	for i := range requests {
		all = append(all, request(fmt.Sprint("r", i), []schema.Provider{"p", "q"}[i%2], "A", time.Hour))
	}
	runners := []pipeline.Runner{newHandler(t, known, quiet), newHandler(t, known, quiet)}
	lose := func(quote quoteFunc) quoteFunc {
		return func(ctx context.Context, s schema.Symbol) (schema.RawResponse, error) {
			err := rigs[0].DB.Write(context.Background(), func(tx *store.Tx) error {
				_, err := tx.Exec(context.Background(), `WITH held AS (SELECT request_id FROM fetch_queue
					ORDER BY request_id `+tx.LockRows("fetch_queue")+`)
					UPDATE fetch_queue SET claimed_until = 0 WHERE request_id IN (SELECT request_id FROM held)`)
				return err
			})
			if err != nil {
				return nil, err
			}
			return quote(ctx, s)
		}
	}
	known["p"].quote = lose(answering)
	enter(t, rigs[0], runners[0], all...)
	var stops []func()
	for i, runner := range runners {
		stops = append(stops, process(t, rigs[i], runner))
	}
	seen := map[string]int{}
	require.Eventually(t, func() bool {
		for id, events := range outcomes(t, rigs[0]) {
			seen[id] += len(events)
		}
		return len(seen) == requests
	}, 2*time.Minute, 5*time.Millisecond)
	for _, stop := range slices.Backward(stops) {
		stop()
	}
	for id, events := range outcomes(t, rigs[0]) {
		seen[id] += len(events)
	}
	for id, times := range seen {
		require.Equal(t, 1, times, id)
	}
	t.Logf("%d calls for %d requests", known["p"].total()+known["q"].total(), requests)
}

func TestAFailingDatabaseIsReported(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	require.NoError(t, rig.DB.Close())
	require.Error(t, newHandler(t, nil, quiet).Run(t.Context(), rig.Emitter()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, newHandler(t, nil, quiet).Run(ctx, rig.Emitter()), "unless we stop anyway")
}

func TestBadSettingsAreRefused(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]any{
		"zero": {"concurrency": 0}, "negative": {"concurrency": -1}, "no number": {"concurrency": "many"}, "misspelt": {"concurency": 1},
	} {
		_, err := fetch.New(pipeline.Env{Settings: settings})
		assert.Error(t, err, name)
	}
}
