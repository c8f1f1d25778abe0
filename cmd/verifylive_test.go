package cmd_test

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
)

// TestVerifyWhileTheServiceWorks: whatever comes in meanwhile is no difference.
func TestVerifyWhileTheServiceWorks(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	answers := makeAnswers(rand.New(rand.NewPCG(2, 2)), 20*feedRate, time.Now())
	stop := make(chan struct{})
	fed := make(chan int, 1)
	go func() { fed <- feedSteadily(t, p.env, answers, stop) }()
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			p.get("/api/v1/prices/latest?symbol=ASKED") // it may be too late, on a busy machine
			pause(10 * time.Millisecond)                // the prices are what verify is next to
		}
	})
	for range 3 {
		v := proven(t, p.env)
		log := v.finding(t, "log")
		t.Logf("%.2f s, %s; %d records behind", v.Seconds, log.Counted(), v.Behind)
	}
	close(stop)
	asking.Wait()
	n := <-fed
	awaitDrained(t, p.env)
	v := proven(t, p.env)
	assert.GreaterOrEqual(t, v.finding(t, "stage raw-store").Counts["applied"], int64(n))
	p.eventually("/readyz", http.StatusOK)
}

// startVerify starts verify as a process of its own, and returns once it has begun
// to fill a generation.
func startVerify(t testing.TB, env environment, db *store.Store) *exec.Cmd {
	t.Helper()
	process := command(t, env, "verify")
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		_ = process.Process.Kill() // it may have ended, and been waited for
		_ = process.Wait()
	})
	awaitFilling(t, db)
	return process
}

// awaitFilling waits until a scratch generation is being filled.
func awaitFilling(t testing.TB, db *store.Store) {
	t.Helper()
	require.Eventually(t, func() bool {
		var filled int64
		err := db.Get(t.Context(), &filled, `SELECT COALESCE(SUM(next_offset), 0) FROM positions WHERE stage LIKE 'scratch%'`)
		return err == nil && filled > 0
	}, time.Minute, time.Millisecond)
}

// newFilled is a service with enough in its log that verify takes a moment.
func newFilled(t testing.TB) *program {
	t.Helper()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	feed(t, p.env, makeAnswers(rand.New(rand.NewPCG(3, 3)), 5*feedRate, time.Now()))
	awaitDrained(t, p.env)
	return p
}

// A verify that was killed leaves a generation, which disturbs no one, and which
// the next one drops.
func TestVerifyIsKilled(t *testing.T) {
	t.Parallel()
	p := newFilled(t)
	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	process := startVerify(t, p.env, db)
	require.NoError(t, process.Process.Kill())
	var exit *exec.ExitError
	require.ErrorAs(t, process.Wait(), &exit)
	var left int
	require.NoError(t, db.Get(t.Context(), &left, `SELECT COUNT(*) FROM generations WHERE scratch = 1`))
	assert.Positive(t, left)

	p.eventually("/readyz", http.StatusOK)
	status, stdout, stderr := run(t, p.env, "stages", "list")
	assert.Zero(t, status, stderr)
	assert.NotContains(t, stdout, store.Scratch)
	feed(t, p.env, oneEach(0, 3))
	awaitDrained(t, p.env) // all stages that ever ran, and no one runs those
	p.stopped()
	p = start(t, p.env)
	p.eventually("/readyz", http.StatusOK)
	proven(t, p.env)
}

// Ctrl-C ends it, and nothing is left.
func TestVerifyIsInterrupted(t *testing.T) {
	t.Parallel()
	p := newFilled(t)
	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	process := startVerify(t, p.env, db)
	require.NoError(t, process.Process.Signal(syscall.SIGINT))
	var exit *exec.ExitError
	require.ErrorAs(t, process.Wait(), &exit)
	assert.Equal(t, 1, exit.ExitCode())
	noScratch(t, p.env)
	proven(t, p.env)
}

// freeze stops a process, and reports whether it is: the signal reaches one thread
// after the other, and one that it has not reached may begin a transaction yet.
func freeze(process *exec.Cmd) bool {
	if process.Process.Signal(syscall.SIGSTOP) != nil {
		return false
	}
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(process.Process.Pid, &status, syscall.WUNTRACED, nil)
		if !errors.Is(err, syscall.EINTR) {
			return err == nil && status.Stopped()
		}
	}
}

// A process that was stopped for so long that another one took over ends with an
// error when it continues.
func TestVerifyIsOvertaken(t *testing.T) {
	t.Parallel()
	p := newFilled(t)
	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	process := startVerify(t, p.env, db)
	// Stopped in the midst of a transaction, it would keep everybody from SQLite's
	// only writer, the one who is to take over included: then it is stopped again.
	require.Eventually(t, func() bool {
		if freeze(process) && db.Write(t.Context(), func(*store.Tx) error { return nil }) == nil {
			return true
		}
		_ = process.Process.Signal(syscall.SIGCONT) // if it has ended, what follows says so
		return false
	}, 2*time.Minute, time.Millisecond, "it is always in a transaction")
	proven(t, p.env)
	require.NoError(t, process.Process.Signal(syscall.SIGCONT))
	var exit *exec.ExitError
	require.ErrorAs(t, process.Wait(), &exit)
	assert.Equal(t, 1, exit.ExitCode())
	noScratch(t, p.env)
	proven(t, p.env)
}

// Two at once take turns.
func TestTwoVerifyAtOnce(t *testing.T) {
	t.Parallel()
	p := newFilled(t)
	statuses := make([]int, 2)
	outputs := make([]string, 2)
	var both sync.WaitGroup
	for i := range statuses {
		both.Go(func() { statuses[i], _, outputs[i] = run(t, p.env, "verify") })
	}
	both.Wait()
	for i, status := range statuses {
		// On a machine that is busy, the first may take longer than the second waits.
		if status != 0 {
			assert.Contains(t, outputs[i], "another process compares or fills generations")
		}
	}
	assert.Contains(t, statuses, 0)
	noScratch(t, p.env)
}
