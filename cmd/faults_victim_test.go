package cmd_test

import (
	"math/rand/v2"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/store"
)

// load are answers that come in steadily until the scenario has had enough.
type load struct {
	stop func()
	fed  chan []fedAnswer
}

// feed feeds a stack with answers.
func (s *scenario) feed(env environment) *load {
	s.t.Helper()
	return s.feedAt(feedRate, env, time.Now())
}

// feedAt feeds a stack with so many answers a second, and at once those that would
// have come since began.
func (s *scenario) feedAt(rate int, env environment, began time.Time) *load {
	s.t.Helper()
	stop := make(chan struct{})
	l := &load{fed: make(chan []fedAnswer, 1), stop: sync.OnceFunc(func() { close(stop) })}
	random := rand.New(rand.NewPCG(s.random.Uint64(), 1)) // of the goroutine alone
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		const seconds = 10
		var fed []fedAnswer
		for part, all := 0, true; all; part++ {
			answers := makeAnswersAt(rate, random, seconds*rate, began.Add(time.Duration(part)*seconds*time.Second))
			for i := range answers {
				answers[i].id += "-" + strconv.Itoa(part)
			}
			n := feedSteadily(s.t, env, answers, stop)
			fed, all = append(fed, answers[:n]...), n == len(answers)
		}
		l.fed <- fed
	}()
	s.t.Cleanup(func() { l.stop(); <-ended })
	return l
}

// end stops the load and returns what was fed.
func (l *load) end() []fedAnswer {
	l.stop()
	return <-l.fed
}

// victim is the one process of a stack: it dies at failpoints, and is started
// again.
type victim struct {
	*scenario
	env     environment
	process *exec.Cmd // nil while none runs
	logs    *logs
	db      *store.Store // nil until it is needed
	// mark is how far all stages together had come at the last death, and since
	// are the deaths after which nothing has moved yet.
	mark  int64
	since []time.Time
}

// newVictim prepares a process that does not run yet, on a stack of its own. When
// it comes back it has its partitions back at once.
func (s *scenario) newVictim(settings environment) *victim {
	s.t.Helper()
	require.True(s.t, failpoint.Enabled, "needs failpoints: go test -tags failpoints")
	env := newStack(s.t, environment{"MOVING_AVERAGE_WINDOW": "5,20"}.with(settings))
	if onServices() {
		env["KAFKA_INSTANCE_ID"] = "victim"
	}
	v := &victim{scenario: s, env: env}
	s.t.Cleanup(v.closeTables)
	s.t.Cleanup(func() {
		if s.t.Failed() && v.logs != nil {
			s.t.Logf("the log of the last process:\n%s", v.logs)
		}
	})
	return v
}

// start starts the process with these failpoints, as failpoint.Variable has them.
func (v *victim) start(points string) {
	v.t.Helper()
	require.Nil(v.t, v.process, "one process at a time")
	v.process, v.logs = spawn(v.t, v.env.with(environment{failpoint.Variable: points}))
}

// dies starts the process and returns when it is dead by one of its failpoints.
func (v *victim) dies(points string) {
	v.t.Helper()
	v.start(points)
	awaitKilled(v.t, v.process, v.logs, v.look)
	v.process = nil
	v.since = append(v.since, time.Now())
	v.mark = v.moved()
}

// awaitKilled returns when a process is dead by a failpoint, and looks meanwhile.
func awaitKilled(t testing.TB, process *exec.Cmd, l *logs, look func()) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !l.hasEnded() {
		if time.Now().After(deadline) {
			// Its stacks say where it hangs.
			assert.NoError(t, process.Process.Signal(syscall.SIGQUIT))
			assert.Eventually(t, l.hasEnded, 10*time.Second, 5*time.Millisecond)
			require.Fail(t, "it lives, although it has a failpoint to die of", "its log:\n%s", l)
		}
		look()
		pause(5 * time.Millisecond)
	}
	var exit *exec.ExitError
	require.ErrorAs(t, process.Wait(), &exit)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "the log:\n%s", l)
	require.Len(t, l.all(failpoint.Message), 1, "it died of its failpoint and of nothing else:\n%s", l)
}

// look notes for each death after which something moves again that the service
// has recovered from it.
func (v *victim) look() {
	if len(v.since) == 0 || v.moved() <= v.mark {
		return
	}
	for _, death := range v.since {
		v.recovered(time.Since(death))
	}
	v.since = nil
}

// judged counts deaths after which an operator had to act, so that a time would
// be the operator's.
func (v *victim) judged() {
	v.cycles += len(v.since)
	v.since = nil
}

// moved is the sum of all positions.
func (v *victim) moved() (sum int64) {
	require.NoError(v.t, v.tables().Get(v.t.Context(), &sum, `SELECT COALESCE(SUM(next_offset), 0) FROM positions`))
	return sum
}

func (v *victim) tables() *store.Store {
	if v.db == nil {
		v.db = openTables(v.t, v.env)
	}
	return v.db
}

// closeTables lets go of the database, which is about to become another one.
func (v *victim) closeTables() {
	if v.db != nil {
		assert.NoError(v.t, v.db.Close())
		v.db = nil
	}
}

// up starts the process and returns once its pipeline runs.
func (v *victim) up(points string) *program {
	v.t.Helper()
	v.start(points)
	p := &program{t: v.t, env: v.env, logs: v.logs, url: v.logs.await(v.t, "listening")["url"].(string)}
	v.logs.await(v.t, "pipeline running")
	return p
}

// recovers is up, and returns once the service has recovered from all deaths.
func (v *victim) recovers(points string) *program {
	v.t.Helper()
	p := v.up(points)
	require.Eventually(v.t, func() bool { v.look(); return len(v.since) == 0 }, time.Minute, 5*time.Millisecond, "nothing moves")
	return p
}

// stop ends the process as an operator does. It must go without a fault.
func (v *victim) stop() {
	v.t.Helper()
	require.NoError(v.t, v.process.Process.Signal(syscall.SIGTERM))
	v.logs.awaitEnd(v.t)
	require.NoError(v.t, v.process.Wait(), "exit status 0:\n%s", v.logs)
	v.process = nil
}

// commandDies runs a command of the program that is killed at a failpoint.
func (v *victim) commandDies(points string, args ...string) {
	v.t.Helper()
	process := command(v.t, v.env.with(environment{failpoint.Variable: points}), args...)
	stderr, err := process.StderrPipe()
	require.NoError(v.t, err)
	require.NoError(v.t, process.Start())
	v.t.Cleanup(func() {
		_ = process.Process.Kill() // it has ended, unless the test failed
		_ = process.Wait()
	})
	l := newLogs()
	go l.follow(stderr)
	awaitKilled(v.t, process, l, func() {})
	v.cycles++
}

// hasEnded reports whether the program has written its last line.
func (l *logs) hasEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// awaitEnd returns when the program has written its last line.
func (l *logs) awaitEnd(t testing.TB) {
	t.Helper()
	require.Eventually(t, l.hasEnded, time.Minute, 5*time.Millisecond, "it does not end:\n%s", l)
}
