package schedule_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/schedule"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newHandler(t *testing.T, now func() time.Time, settings map[string]any) pipeline.Runner {
	t.Helper()
	h, err := schedule.New(pipeline.Env{Settings: settings, Now: now})
	require.NoError(t, err)
	return h.(pipeline.Runner)
}

// process runs the scheduler on a store, until its function stop is called.
func process(t *testing.T, rig *pipelinetest.Rig, runner pipeline.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx, rig.Emitter()) }()
	return func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

func enter(t *testing.T, rig *pipelinetest.Rig, runner pipeline.Runner, jobs ...schema.Payload) {
	t.Helper()
	stage := rig.StartHandler(t, schedule.Name, runner.(pipeline.Handler))
	require.NoError(t, stage.Deliver(rig.AppendAll(t, jobs...)...))
	stage.Close(t)
}

func job(id string, interval int, created time.Time, symbols ...schema.Symbol) schema.PollingJobCreated {
	return schema.PollingJobCreated{JobID: id, Symbols: symbols, Interval: interval, Provider: "p", CreatedAt: schema.NewTime(created)}
}

// runs lists "job slot ran-at" of the new runs, times in seconds from begin.
func runs(t *testing.T, rig *pipelinetest.Rig, begin time.Time) []string {
	t.Helper()
	var all []string
	for _, e := range rig.Events(t, schema.PollingJobs) {
		r := e.Payload.(schema.PollingJobRan)
		all = append(all, fmt.Sprintf("%s %v %v", r.JobID, r.Slot.Sub(begin), r.RanAt.Sub(begin)))
	}
	slices.Sort(all)
	return all
}

// The bubble's clock is the injected one: it moves only when everything waits.
func TestAJobRunsAtOnceAndThenOnItsGrid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		begin := time.Now()
		runner := newHandler(t, time.Now, map[string]any{"timeout": "7s"})
		stop := process(t, rig, runner)
		defer stop()
		enter(t, rig, runner, job("a", 60, begin, "A", "BRK.B"))
		synctest.Wait()
		assert.Equal(t, []string{"a 0s 0s"}, runs(t, rig, begin), "woken: no poll has passed")

		events := rig.Events(t, schema.FetchRequests)
		require.Len(t, events, 2)
		symbols := map[schema.Symbol]bool{}
		for _, e := range events {
			r := e.Payload.(schema.FetchRequested)
			symbols[r.Symbol] = true
			assert.Equal(t, schema.FetchRequested{
				Quote: schema.Quote{Provider: "p", Symbol: r.Symbol, RequestID: "a." + e.ID}, JobID: "a",
				RequestedAt: schema.NewTime(begin), Deadline: schema.NewTime(begin.Add(7 * time.Second))}, r)
		}
		assert.Equal(t, map[schema.Symbol]bool{"A": true, "BRK.B": true}, symbols)

		time.Sleep(59 * time.Second)
		assert.Empty(t, runs(t, rig, begin))
		time.Sleep(2 * time.Minute)
		assert.Equal(t, []string{"a 1m0s 1m0s", "a 2m0s 2m0s"}, runs(t, rig, begin))
	})
}

func TestMoreJobsThanATransactionTakesRunAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		runner := newHandler(t, time.Now, nil)
		var jobs []schema.Payload
		for i := range 250 {
			jobs = append(jobs, job(fmt.Sprint("j", i), 60, time.Now(), "A"))
		}
		enter(t, rig, runner, jobs...)
		defer process(t, rig, runner)()
		synctest.Wait()
		assert.Len(t, rig.Events(t, schema.FetchRequests), 250, "no poll has passed")
	})
}

func TestMissedSlotsAreSkipped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		begin := time.Now()
		enter(t, rig, newHandler(t, time.Now, nil), job("a", 60, begin, "A"))
		stop := process(t, rig, newHandler(t, time.Now, nil))
		synctest.Wait()
		stop()
		assert.Equal(t, []string{"a 0s 0s"}, runs(t, rig, begin))

		time.Sleep(10*time.Minute + 30*time.Second) // no one runs
		stop = process(t, rig, newHandler(t, time.Now, nil))
		defer stop()
		synctest.Wait()
		assert.Equal(t, []string{"a 1m0s 10m30s"}, runs(t, rig, begin), "one run, not ten")
		time.Sleep(45 * time.Second)
		assert.Equal(t, []string{"a 11m0s 11m0s"}, runs(t, rig, begin), "and back on the grid")
	})
}

func TestAJobEnteredTwiceIsOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		begin := time.Now()
		runner := newHandler(t, time.Now, nil)
		enter(t, rig, runner, job("a", 60, begin, "A"), job("a", 90, begin, "B"))
		stop := process(t, rig, runner)
		time.Sleep(61 * time.Second)
		stop()
		assert.Equal(t, []string{"a 0s 0s", "a 1m0s 1m0s"}, runs(t, rig, begin))
	})
}

func paused(id string) schema.Payload {
	return schema.PollingJobPaused{JobID: id, PausedAt: schema.NewTime(time.Now())}
}

func resumed(id string) schema.Payload {
	return schema.PollingJobResumed{JobID: id, ResumedAt: schema.NewTime(time.Now())}
}

func stopped(id string) schema.Payload {
	return schema.PollingJobStopped{JobID: id, StoppedAt: schema.NewTime(time.Now())}
}

// A paused job makes no requests and continues with its next slot, however often
// it is told; a stopped one never does again. The others run on.
func TestPauseResumeAndStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		begin := time.Now()
		runner := newHandler(t, time.Now, nil)
		defer process(t, rig, runner)()
		enter(t, rig, runner, job("a", 60, begin, "A"), job("b", 90, begin, "B"), paused("no-such-job"), stopped("no-such-job"))
		time.Sleep(30 * time.Second)
		enter(t, rig, runner, paused("a"), paused("a"))
		time.Sleep(125 * time.Second)
		assert.Equal(t, []string{"a 0s 0s", "b 0s 0s", "b 1m30s 1m30s"}, runs(t, rig, begin), "a is paused")
		assert.Len(t, rig.Events(t, schema.FetchRequests), 3)

		enter(t, rig, runner, resumed("a"), resumed("b"))
		time.Sleep(30 * time.Second)
		assert.Equal(t, []string{"a 3m0s 3m0s", "b 3m0s 3m0s"}, runs(t, rig, begin), "the slots missed stay missed")
		enter(t, rig, runner, paused("a"), resumed("a"), paused("a"), resumed("a"))
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"a 4m0s 4m0s"}, runs(t, rig, begin))

		enter(t, rig, runner, paused("a"), stopped("a"), resumed("a"), job("a", 60, time.Now(), "A"))
		enter(t, rig, runner, resumed("a"), stopped("b"), stopped("b"), job("b", 60, time.Now(), "B"))
		time.Sleep(time.Hour)
		assert.Empty(t, runs(t, rig, begin))
	})
}

// More jobs than one transaction takes, two processes with clocks that differ,
// one database: each slot of each job runs exactly once.
func TestTwoProcessesShareTheJobs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	const jobs, rounds = 150, 4
	rigs := []*pipelinetest.Rig{pipelinetest.On(t, pipelinetest.OpenStore(t, path)), pipelinetest.On(t, pipelinetest.OpenStore(t, path))}
	begin := time.Unix(1_000_000, 0)
	var mu sync.Mutex
	now := begin
	clock := func(ahead time.Duration) func() time.Time {
		return func() time.Time { mu.Lock(); defer mu.Unlock(); return now.Add(ahead) }
	}
	runners := []pipeline.Runner{newHandler(t, clock(0), nil), newHandler(t, clock(3*time.Second), nil)}
	var payloads []schema.Payload
	for i := range jobs {
		payloads = append(payloads, job(fmt.Sprint("j", i), 10, begin, "A"))
	}
	enter(t, rigs[0], runners[0], payloads...)
	for i, runner := range runners {
		defer process(t, rigs[i], runner)()
	}
	seen, requests := map[string]int{}, map[string]int{}
	for round := range rounds {
		mu.Lock()
		now = begin.Add(time.Duration(round) * 10 * time.Second)
		mu.Unlock()
		count := func() int {
			for _, e := range rigs[0].Events(t, schema.PollingJobs) {
				r := e.Payload.(schema.PollingJobRan)
				seen[fmt.Sprint(r.JobID, " ", r.Slot)]++
			}
			return len(seen)
		}
		require.Eventually(t, func() bool { return count() == jobs*(round+1) }, 10*time.Second, 5*time.Millisecond)
	}
	for slot, times := range seen {
		require.Equal(t, 1, times, slot)
	}
	for _, e := range rigs[0].Events(t, schema.FetchRequests) {
		requests[e.ID]++
	}
	assert.Len(t, requests, jobs*rounds)
	for id, times := range requests {
		require.Equal(t, 1, times, id)
	}
}

// writes counts the transactions of a runner.
type writes struct {
	pipeline.Emitter
	n atomic.Int32
}

func (w *writes) Emit(ctx context.Context, f func(tx *pipeline.Tx) ([]schema.Event, error)) ([]pipeline.Token, error) {
	w.n.Add(1)
	return w.Emitter.Emit(ctx, f)
}

func TestAnIdleProcessWritesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		runner := newHandler(t, time.Now, nil)
		enter(t, rig, runner, job("a", 60, time.Now(), "A", "B"))
		spy := &writes{Emitter: rig.Emitter()}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- runner.Run(ctx, spy) }()
		time.Sleep(5*time.Minute + 30*time.Second)
		cancel()
		require.NoError(t, <-ended)
		assert.EqualValues(t, 6, spy.n.Load(), "one transaction a run")
	})
}

func TestEventIDsFollowFromJobAndSlot(t *testing.T) {
	t.Parallel()
	var ids [][]string
	for range 2 {
		synctest.Test(t, func(t *testing.T) { // each bubble begins at the same time
			rig := pipelinetest.New(t)
			runner := newHandler(t, time.Now, nil)
			enter(t, rig, runner, job("a", 60, time.Now(), "A", "B"), job("b", 60, time.Now(), "A"))
			stop := process(t, rig, runner)
			time.Sleep(61 * time.Second)
			stop()
			var own []string
			for _, topic := range []schema.Topic{schema.PollingJobs, schema.FetchRequests} {
				for _, e := range rig.Events(t, topic) {
					own = append(own, e.ID)
				}
			}
			slices.Sort(own)
			ids = append(ids, own)
		})
	}
	assert.Len(t, slices.Compact(slices.Clone(ids[0])), 2*2+2*3, "two runs of two jobs with three symbols")
	assert.Equal(t, ids[0], ids[1])
}

func TestBadSettingsAreRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		settings map[string]any
		want     string
	}{
		"zero":     {map[string]any{"timeout": "0s"}, "timeout: 0s is not positive"},
		"negative": {map[string]any{"timeout": "-1s"}, "timeout: -1s is not positive"},
		"no time":  {map[string]any{"timeout": "soon"}, "timeout"},
		"misspelt": {map[string]any{"timout": "1s"}, "timout"},
	} {
		_, err := schedule.New(pipeline.Env{Settings: test.settings, Now: time.Now})
		assert.ErrorContains(t, err, test.want, name)
	}
}

func TestAFailingDatabaseIsReported(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	require.NoError(t, rig.DB.Close())
	err := newHandler(t, time.Now, nil).Run(t.Context(), rig.Emitter())
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, newHandler(t, time.Now, nil).Run(ctx, rig.Emitter()), "unless we stop anyway")
}

// Retention has deleted a job that was stopped: a command with its id starts nothing.
func TestADeletedJobDoesNotRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		begin := time.Now()
		require.NoError(t, rig.DB.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO forgotten_jobs (job_id, forgotten_at) VALUES ('a', $1)`, schema.NewTime(begin))
			return err
		}))
		runner := newHandler(t, time.Now, nil)
		stop := process(t, rig, runner)
		defer stop()
		enter(t, rig, runner, job("a", 60, begin, "A"), resumed("a"), job("b", 60, begin, "A"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		assert.Equal(t, []string{"b 0s 0s", "b 1m0s 1m0s", "b 2m0s 2m0s"}, runs(t, rig, begin))
	})
}
