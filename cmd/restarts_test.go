package cmd_test

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// outageRate is how many answers a second are fed while services are down.
const outageRate = 300

// TestFaultsKafkaRestarts kills Kafka with SIGKILL under load and starts it again.
func TestFaultsKafkaRestarts(t *testing.T) {
	s := newScenario(t, "Kafka killed with SIGKILL and started again", servicesStack)
	r := newOutage(s, newStack(t, outageSettings), nil)
	t.Cleanup(func() { services(t, "up", "kafka") }) // whatever the result of the test
	for cycle := range pick(s, 2, 10) {
		r.awaitLoad()
		services(t, "kill", "kafka")
		r.one.awaitReadiness(503)
		if cycle == 0 {
			old := r.api.get("/api/v1/prices/latest?max_age=0&stale=allow&symbol=" + anySymbol())
			assert.Equal(t, 200, old.status, old.body)
			assert.NotEmpty(t, old.header.Get("Age"), "a price that is not fresh has its age")
		}
		ready := r.api.get("/readyz")
		assert.Equal(t, 200, ready.status)
		// After some seconds no worker counts as consuming either.
		states := slices.DeleteFunc(statesOf(ready), func(state string) bool { return state == "workers: warning" })
		assert.Equal(t, []string{"broker: warning"}, states, "the API continues without it, and says so")
		services(t, "up", "kafka")
		r.recovers(time.Now())
	}
	r.end()
}

// TestFaultsPostgresRestarts restarts PostgreSQL at once, as a crash would, under
// load.
func TestFaultsPostgresRestarts(t *testing.T) {
	s := newScenario(t, "PostgreSQL restarted with -m immediate", servicesStack)
	r := newOutage(s, newStack(t, outageSettings), nil)
	t.Cleanup(func() { services(t, "up", "postgres") })
	for range pick(s, 2, 10) {
		r.awaitLoad()
		before := r.unready()
		services(t, "restart", "postgres")
		r.recovers(time.Now())
		for i, n := range r.unready() {
			assert.Greater(t, n, before[i], "/readyz says so meanwhile, also in a process that only answers")
		}
	}
	r.end()
}

// services runs .ci/services on the pair of services that the test uses: that of
// SERVICES_DIR, or the one in the checkout.
func services(t testing.TB, arguments ...string) {
	t.Helper()
	began := time.Now()
	output, err := exec.Command(filepath.Join("..", ".ci", "services"), arguments...).CombinedOutput()
	require.NoError(t, err, "%v: %s", arguments, output)
	t.Logf("services %v: %v", arguments, since(began))
}

// outage is an installation under load whose services go away: one process that
// does all, and one that only answers, both asked everything all the time.
type outage struct {
	s        *scenario
	env      environment // by which the test itself reaches the services
	one, api *program
	visitors []*visitor
	look     *observer
	random   *rand.Rand

	answers []fedAnswer
	enough  chan struct{}
	fed     chan int
	before  [2]footprint
}

// outageSettings are those of an installation whose services go away.
var outageSettings = environment{"MOVING_AVERAGE_WINDOW": "5,20", "FETCH_TIMEOUT": "2s"}

// newOutage starts an installation on env, by the settings of detour.
func newOutage(s *scenario, env, detour environment) *outage {
	t := s.t
	t.Helper()
	o := &outage{s: s, env: env, random: s.random, enough: make(chan struct{}), fed: make(chan int, 1)}
	o.one = spawnServer(t, "all", env.with(detour))
	o.api = spawnServer(t, "api", env.with(detour))
	o.look = newObserver(t, env)
	o.answers = makeAnswers(s.random, pick(s, 300, 1800)*outageRate, time.Now())
	go func() { o.fed <- feedAt(t, env, o.answers, outageRate, o.enough) }()
	awaitSymbols(t, o.look)
	o.before = o.footprints()
	o.visitors = []*visitor{newVisitor("all in one", o.one.url), newVisitor("API", o.api.url)}
	return o
}

func (o *outage) footprints() (all [2]footprint) {
	for i, p := range []*program{o.one, o.api} {
		var err error
		all[i], err = footprintOf(o.s.t.Context(), o.s.t, o.env, p.url)
		require.NoError(o.s.t, err)
	}
	return all
}

// unready is how often each process has said that it is not ready.
func (o *outage) unready() (times []int) {
	for _, v := range o.visitors {
		times = append(times, v.count("/readyz", 503))
	}
	return times
}

// awaitLoad waits until some, by the seed, of what is fed now was applied.
func (o *outage) awaitLoad() {
	o.s.t.Helper()
	target := o.applied() + int64(outageRate/2+o.random.IntN(outageRate))
	require.Eventually(o.s.t, func() bool { return o.applied() >= target }, time.Minute, 10*time.Millisecond)
}

func (o *outage) applied() int64 {
	var n int64
	err := o.look.db.Get(o.s.t.Context(), &n, `SELECT COALESCE(SUM(next_offset), 0) FROM positions WHERE stage = 'moving-averages.g1'`)
	require.NoError(o.s.t, err)
	return n
}

// recovers waits until all that is in the log is applied and both processes are
// ready, and notes how long that took since the services were back.
func (o *outage) recovers(back time.Time) {
	o.s.t.Helper()
	ctx, cancel := context.WithTimeout(o.s.t.Context(), 3*time.Minute)
	defer cancel()
	held, err := o.look.backlog(ctx)
	require.NoError(o.s.t, err)
	require.NoError(o.s.t, o.look.awaitTables(ctx, held))
	applied := since(back)
	for _, p := range []*program{o.one, o.api} {
		p.awaitReadiness(200)
	}
	o.s.t.Logf("applied after %v, ready after %v", applied, since(back))
	o.s.recovered(time.Since(back))
}

// end stops load and requests, and checks their results.
func (o *outage) end() {
	t := o.s.t
	t.Helper()
	close(o.enough)
	n := <-o.fed
	for _, p := range []*program{o.one, o.api} {
		p.eventually("/api/v1/prices/latest?max_age=0&symbol="+anySymbol(), 200)
	}
	var accepted []string
	for _, v := range o.visitors {
		v.leave(t)
		accepted = append(accepted, v.jobs...)
	}
	o.s.check(o.env, o.answers[:n])
	assert.NotEmpty(t, accepted)
	var ran []string
	require.NoError(t, o.look.db.Select(t.Context(), &ran, `SELECT job_id FROM polling_jobs WHERE last_run IS NOT NULL`))
	assert.Subset(t, ran, accepted, "jobs that were accepted have run")
	for i, p := range []*program{o.one, o.api} {
		o.s.checkLevel(o.env, p.url, o.before[i])
	}
	for _, p := range []*program{o.one, o.api} {
		assert.Zero(t, p.stop(), "exit status")
	}
}
