package cmd_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// The binaries of two versions, which .ci/upgrade builds.
const (
	oldBinaryVariable = "PRICEMILL_TEST_OLD_BINARY"
	newBinaryVariable = "PRICEMILL_TEST_NEW_BINARY"
)

// TestARollingUpgrade takes two workers and an API from one version to the next, one by one,
// while answers come in: the migrations run while the former version works, an old process that
// dies meanwhile starts again, and both versions work at once. Each answer is there once, and
// verify holds.
func TestARollingUpgrade(t *testing.T) {
	former, next := os.Getenv(oldBinaryVariable), os.Getenv(newBinaryVariable)
	if former == "" || next == "" {
		t.Skip("needs the binaries of two versions: .ci/upgrade")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	env := newSharedStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	processes := []*worker{newWorker(t, "worker 1", env), newWorker(t, "worker 2", env), newWorkerAs(t, "api", "api", env)}
	for _, p := range processes {
		p.binary = former
		p.start()
		p.ready()
	}
	answers := makeAnswers(rand.New(rand.NewPCG(seed, 0)), 30_000, time.Now())
	stop, fed := make(chan struct{}), make(chan int, 1)
	go func() { fed <- feedAt(t, env, answers, 100, stop) }()
	api := processes[2]
	require.Eventually(t, func() bool { return ask(api.url()+"/api/v1/prices/latest?symbol=S1&stale=allow") == http.StatusOK }, time.Minute, 100*time.Millisecond)

	// Nothing here may open the database before: it would run the migrations.
	output, err := programOf(next, env, "migrate").CombinedOutput()
	require.NoError(t, err, "migrations while the former version works:\n%s", output)
	t.Logf("migrate: %s", regexp.MustCompile(`(?m)^tables of the pipeline: .*$`).Find(output))
	look := newObserver(t, env)
	works := func(when string) {
		t.Helper()
		stood, err := look.standing(t.Context())
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, topic := range []schema.Topic{schema.RawQuotes, schema.StoredQuotes} { // those of handlers: a projection may be rebuilt
			require.NoError(t, look.awaitPositions(ctx, topic, func(p store.Position) bool { return p.Next > stood[standpointOf(p)] }), when)
		}
	}
	works("the former version, after the migrations")
	processes[1].kill()
	processes[1].start()
	works("the former version, started again after the migrations")
	for _, p := range processes {
		p.stop()
		p.binary = next
		p.start()
		p.ready()
		works("with " + p.name + " of the next version")
	}
	close(stop)
	answers = answers[:<-fed]
	awaitDrained(t, env)
	t.Logf("%d answers were fed", len(answers))
	checkTables(t, env, answers)
	output, err = programOf(next, env, "verify").CombinedOutput()
	assert.NoError(t, err, "%s", output)
}

// programOf is a command of another binary.
func programOf(binary string, env environment, args ...string) *exec.Cmd {
	process := exec.Command(binary, args...)
	process.Env = append(os.Environ(), "DEMO=off")
	for name, value := range env {
		process.Env = append(process.Env, name+"="+value)
	}
	return process
}

// ask is the status of an answer; 0 where there is none.
func ask(url string) int {
	response, err := http.Get(url) //nolint:noctx // a test ends with it
	if err != nil {
		return 0
	}
	_ = response.Body.Close() // nothing was read
	return response.StatusCode
}

// ready waits until the process is ready.
func (w *worker) ready() {
	w.t.Helper()
	url := w.url()
	require.Eventually(w.t, func() bool { return ask(url+"/readyz") == http.StatusOK }, time.Minute, 50*time.Millisecond, "%s is ready", w.name)
}
