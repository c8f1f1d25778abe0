package cmd_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
)

// workersVariable is for how long TestWorkersAreTakenOver kills, such as 2m. The
// workers' KAFKA_SESSION_TIMEOUT and KAFKA_INSTANCE_ID, which gets a number
// after it, may be set too, to measure by other than the default.
const (
	workersVariable = "PRICEMILL_TEST_WORKERS"
	standardWorkers = 20 * time.Second
	// killEvery lies between two kills, of one worker and then the other.
	killEvery = 10 * time.Second
)

// TestWorkersAreTakenOver feeds two workers steadily, kills one of
// them every ten seconds, and has clients ask the API of a third process all the
// time: each answer is a success. Then it holds every table against a
// recomputation.
func TestWorkersAreTakenOver(t *testing.T) {
	lasting := standardWorkers
	if text := os.Getenv(workersVariable); text != "" {
		var err error
		lasting, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	seed := uint64(time.Now().UnixNano())
	env := newSharedStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	if timeout := os.Getenv("KAFKA_SESSION_TIMEOUT"); timeout != "" {
		env["KAFKA_SESSION_TIMEOUT"] = timeout
	}
	instance := os.Getenv("KAFKA_INSTANCE_ID")
	t.Logf("seed %d, for %v, session timeout %q, instance id %q", seed, lasting, env["KAFKA_SESSION_TIMEOUT"], instance)
	var pair [2]*worker
	for i := range pair {
		number := strconv.Itoa(i + 1)
		settings := environment{"KAFKA_INSTANCE_ID": ""}
		if instance != "" {
			settings["KAFKA_INSTANCE_ID"] = instance + "-" + number
		}
		pair[i] = newWorker(t, "worker "+number, env.with(settings))
		pair[i].start()
	}
	api := spawnAPI(t, env)
	look := newObserver(t, env)

	began := time.Now()
	answers := makeAnswers(rand.New(rand.NewPCG(seed, 0)), int(lasting.Seconds())*feedRate, began)
	fed := make(chan struct{})
	go func() { feedSteadily(t, env, answers, nil); close(fed) }()
	awaitSymbols(t, look)
	asking := newClient(api.url)
	asking.askAll()

	takenOver := killInTurns(t, look, pair[:], began.Add(killEvery/2), began.Add(lasting))
	<-fed
	takenOver.Wait()
	asking.close()
	awaitDrained(t, env)
	t.Logf("%d answers fed in %v, everything applied after %v", len(answers), lasting, time.Since(began))
	checkClient(t, look, asking)
	checkTables(t, env, answers)
}

// awaitSymbols waits until there is something to ask for.
func awaitSymbols(t *testing.T, look *observer) {
	t.Helper()
	require.Eventually(t, func() bool {
		var symbols int
		err := look.db.Get(t.Context(), &symbols, `SELECT count(DISTINCT symbol) FROM moving_averages`)
		return err == nil && symbols >= fedSymbols
	}, time.Minute, 50*time.Millisecond)
	require.Eventually(t, func() bool {
		var symbols int
		err := look.db.Get(t.Context(), &symbols, `SELECT count(*) FROM latest_prices`)
		return err == nil && symbols >= fedSymbols
	}, time.Minute, 50*time.Millisecond)
}

// killInTurns kills the workers one after the other, the first at from, and
// starts each again at once. It returns when the last is back, with what waits
// for the backlogs of the kills to be applied.
func killInTurns(t *testing.T, look *observer, pair []*worker, from, until time.Time) *sync.WaitGroup {
	t.Helper()
	var takenOver sync.WaitGroup
	for n := 0; from.Add(time.Duration(n) * killEvery).Before(until); n++ {
		pause(time.Until(from.Add(time.Duration(n) * killEvery)))
		victim := pair[n%len(pair)]
		victim.kill()
		killed := time.Now()
		takenOver.Go(func() { timeTakeover(t, look, n+1, killed) })
		victim.start()
		t.Logf("kill %d, of %s: back after %v", n+1, victim.name, since(killed))
	}
	return &takenOver
}

// timeTakeover logs when someone works on each partition again, and when what
// was in the log at the kill has reached every table.
func timeTakeover(t *testing.T, look *observer, kill int, killed time.Time) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	stood, err := look.standing(ctx)
	if !assert.NoError(t, err, "kill %d", kill) {
		return
	}
	held, err := look.backlog(ctx)
	if !assert.NoError(t, err, "kill %d", kill) || !assert.NoError(t, look.awaitMoves(ctx, stood), "kill %d", kill) {
		return
	}
	moves := since(killed)
	if assert.NoError(t, look.awaitTables(ctx, held), "kill %d", kill) {
		t.Logf("kill %d: all partitions move after %v, what was in the log is applied after %v", kill, moves, since(killed))
	}
}

func since(then time.Time) time.Duration { return time.Since(then).Round(10 * time.Millisecond) }

// checkClient wants no fault, and each job that was accepted to have run.
func checkClient(t *testing.T, look *observer, c *client) {
	t.Helper()
	t.Logf("the API gave %d answers, of which %d said 503, the slowest in %v", c.answers, c.refused, c.slowest.Round(time.Millisecond))
	assert.Empty(t, c.faults[:min(len(c.faults), 20)], "%d faults", len(c.faults))
	assert.NotEmpty(t, c.jobs)
	var ran []string
	assert.Eventually(t, func() bool { // no position tells when a job has run
		ran = nil
		err := look.db.Select(t.Context(), &ran, `SELECT job_id FROM polling_jobs WHERE last_run IS NOT NULL`)
		return err == nil && !slices.ContainsFunc(c.jobs, func(id string) bool { return !slices.Contains(ran, id) })
	}, time.Minute, 100*time.Millisecond, "%d jobs were accepted, and %d ran", len(c.jobs), len(ran))
	if c.cutOff > 0 {
		t.Logf("%d requests were cut off; %d jobs were accepted, and %d ran", c.cutOff, len(c.jobs), len(ran))
		assert.Subset(t, ran, c.jobs, "jobs that were accepted ran")
		return
	}
	assert.ElementsMatch(t, c.jobs, ran, "jobs that were accepted, and those that ran")
}

// TestAWorkerComesBackByItsID kills workers that have an instance id, one after
// the other. Each comes back to its partitions, and the other one is not assigned
// any meanwhile.
func TestAWorkerComesBackByItsID(t *testing.T) {
	t.Parallel()
	env := newSharedStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20", "KAFKA_SESSION_TIMEOUT": "5m", "DEBUG": "true"})
	var pair [2]*worker
	for i := range pair {
		id := "worker-" + strconv.Itoa(i+1)
		pair[i] = newWorker(t, id, env.with(environment{"KAFKA_INSTANCE_ID": id}))
		pair[i].start()
	}
	look := newObserver(t, env)
	const chunk = 2000
	answers := makeAnswers(rand.New(rand.NewPCG(1, 1)), 3*chunk, time.Now())
	apply := func(n int) {
		feed(t, env, answers[n*chunk:(n+1)*chunk])
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		held, err := look.backlog(ctx)
		require.NoError(t, err)
		require.NoError(t, look.awaitTables(ctx, held))
	}
	apply(0)
	awaitHalves(t, pair[0], pair[1])
	for i, w := range pair {
		other := pair[1-i]
		before := len(other.logs.all(assigned))
		w.kill()
		w.start()
		apply(1 + i) // by both of them
		assert.NotEmpty(t, w.logs.all(assigned), w.name)
		assert.Len(t, other.logs.all(assigned), before, "%s was assigned partitions because %s came back", other.name, w.name)
	}
	awaitDrained(t, env)
	checkTables(t, env, answers)
}

// assigned is what a worker logs, at level debug, when a stage of it is given
// partitions.
const assigned = "partitions assigned"

// defaultStages is how many stages a process has where no plugin is switched on or
// off.
func defaultStages() int {
	stages := 0
	for _, h := range pipeline.Handlers() {
		if !h.Optional {
			stages++
		}
	}
	for _, p := range pipeline.Projections() {
		if !p.Optional {
			stages++
		}
	}
	return stages
}

// awaitHalves waits until each stage has half of its partitions at one worker
// and half at the other.
func awaitHalves(t *testing.T, a, b *worker) {
	t.Helper()
	stages := defaultStages()
	partitions := func(w *worker) map[any]any {
		last := map[any]any{}
		for _, line := range w.logs.all(assigned) {
			last[line["group"]] = line["partitions"]
		}
		return last
	}
	require.Eventually(t, func() bool {
		return len(partitions(a)) == stages && maps.Equal(partitions(a), partitions(b))
	}, time.Minute, 20*time.Millisecond)
}
