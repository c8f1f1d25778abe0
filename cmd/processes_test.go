package cmd_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// spawnAPI starts a process that does nothing but answer requests.
func spawnAPI(t testing.TB, env environment) *program {
	t.Helper()
	return spawnServer(t, "api", env)
}

// spawnServer starts a process with these roles.
func spawnServer(t testing.TB, roles string, env environment) *program {
	t.Helper()
	env = env.with(environment{"ROLES": roles})
	process, l := spawn(t, env)
	p := &program{t: t, env: env, logs: l, url: l.await(t, "listening")["url"].(string)}
	p.stop = func() int {
		require.NoError(t, process.Process.Signal(syscall.SIGTERM))
		_ = process.Wait() // the status says it
		return process.ProcessState.ExitCode()
	}
	p.kill = func() {
		require.NoError(t, process.Process.Kill())
		_ = process.Wait() // it was killed
	}
	l.await(t, "pipeline running")
	return p
}

// worker is a process that does everything but answer requests, or has the roles
// that it was given.
type worker struct {
	t       testing.TB
	name    string
	env     environment
	binary  string    // of another version; empty for this one
	process *exec.Cmd // nil while it does not run
	logs    *logs
}

const workerRoles = "handlers,projections,relay"

// newWorker describes a worker that does not run yet.
func newWorker(t testing.TB, name string, env environment) *worker {
	return newWorkerAs(t, workerRoles, name, env)
}

// newWorkerAs is newWorker with other roles.
func newWorkerAs(t testing.TB, roles, name string, env environment) *worker {
	w := &worker{t: t, name: name, env: env.with(environment{"ROLES": roles})}
	t.Cleanup(func() {
		if t.Failed() && w.logs != nil {
			t.Logf("the log of the last process of %s:\n%s", name, w.logs)
		}
	})
	return w
}

// running is what a process logs once it works.
const running = "pipeline running"

func (w *worker) start() {
	w.t.Helper()
	w.launch()
	w.logs.await(w.t, running)
}

// launch is start, and does not wait until the process works.
func (w *worker) launch() {
	w.t.Helper()
	if w.binary != "" {
		w.process, w.logs = launched(w.t, programOf(w.binary, w.env, "serve"))
		return
	}
	w.process, w.logs = spawn(w.t, w.env)
}

// url is where the process listens.
func (w *worker) url() string {
	w.t.Helper()
	return w.logs.await(w.t, "listening")["url"].(string)
}

// freeze stops the process where it stands, and returns when it has stopped.
func (w *worker) freeze() {
	w.t.Helper()
	require.NoError(w.t, w.process.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(w.process.Process.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		require.NoError(w.t, err)
		require.True(w.t, status.Stopped(), "%s: %v, status %x; its log:\n%s", w.name, err, status, w.logs)
		return
	}
}

// thaw lets the process continue.
func (w *worker) thaw() {
	w.t.Helper()
	require.NoError(w.t, w.process.Process.Signal(syscall.SIGCONT))
}

// kill ends the process with SIGKILL.
func (w *worker) kill() {
	w.t.Helper()
	require.NoError(w.t, w.process.Process.Kill())
	var exit *exec.ExitError
	require.ErrorAs(w.t, w.process.Wait(), &exit)
	w.process = nil
}

// stop has the process finish what it has begun.
func (w *worker) stop() {
	w.t.Helper()
	require.NoError(w.t, <-w.leave(), "%s: exit status 0:\n%s", w.name, w.logs)
	w.process = nil
}

// leave asks the process to finish what it has begun, and gives what its end comes
// to.
func (w *worker) leave() <-chan error {
	w.t.Helper()
	require.NoError(w.t, w.process.Process.Signal(syscall.SIGTERM))
	ended, process := make(chan error, 1), w.process
	go func() { ended <- process.Wait() }()
	return ended
}

// observer looks at how far the workers have come.
type observer struct {
	t      testing.TB
	db     *store.Store
	broker eventLog
}

func newObserver(t testing.TB, env environment) *observer {
	t.Helper()
	o := &observer{t: t, db: openTables(t, env), broker: connect(t, env)}
	t.Cleanup(func() { assert.NoError(t, o.db.Close()) })
	return o
}

// standing is how far each stage has come on the partitions of the chain.
type standing map[standpoint]int64

type standpoint struct {
	stage, topic string
	part         int32
}

func standpointOf(p store.Position) standpoint { return standpoint{p.Stage, p.Topic, p.Part} }

// chainTopics are those on which each answer that is fed has a record.
var chainTopics = []schema.Topic{schema.RawQuotes, schema.StoredQuotes, schema.PriceEvents}

// standing looks how far each stage has come.
func (o *observer) standing(ctx context.Context) (standing, error) {
	positions, err := store.Positions(ctx, o.db, "")
	s := standing{}
	for _, p := range positions {
		if slices.Contains(chainTopics, schema.Topic(p.Topic)) {
			s[standpointOf(p)] = p.Next
		}
	}
	return s, err
}

// awaitMoves waits until someone works again on each partition of each stage that
// an answer passes. Answers must come in on all partitions.
func (o *observer) awaitMoves(ctx context.Context, since standing) error {
	for _, topic := range chainTopics {
		err := o.awaitPositions(ctx, topic, func(p store.Position) bool { return p.Next > since[standpointOf(p)] })
		if err != nil {
			return err
		}
	}
	return nil
}

// backlog is where raw-quotes ended at one moment.
type backlog []log.OffsetRange

func (o *observer) backlog(ctx context.Context) (backlog, error) {
	return o.broker.Offsets(ctx, schema.RawQuotes)
}

// awaitTables waits until the backlog has gone through the chain and into every
// table. Each stage must come to where the one before it was when that had done
// its part: by offset in raw-quotes, after it by the numbers of the chains,
// which do not count repeats.
func (o *observer) awaitTables(ctx context.Context, b backlog) error {
	err := o.awaitPositions(ctx, schema.RawQuotes, func(p store.Position) bool { return p.Next >= b[p.Part].End })
	if err != nil {
		return err
	}
	for _, topic := range chainTopics[1:] {
		numbers, err := o.lastNumbers(ctx, topic)
		if err != nil {
			return err
		}
		if err := o.awaitPositions(ctx, topic, func(p store.Position) bool { return p.Reached.Seq >= numbers[p.Part] }); err != nil {
			return err
		}
	}
	return nil
}

// lastNumbers are those of the chains of a topic, by partition.
func (o *observer) lastNumbers(ctx context.Context, topic schema.Topic) (map[int32]int64, error) {
	topics, err := o.db.Topics(ctx)
	if err != nil {
		return nil, err
	}
	chains, err := store.Chains(ctx, o.db)
	if err != nil {
		return nil, err
	}
	numbers := map[int32]int64{}
	for _, known := range topics {
		for _, chain := range chains {
			if known.Name == string(topic) && known.Epoch == chain.Epoch {
				numbers[chain.Part] = chain.Last
			}
		}
	}
	return numbers, nil
}

// awaitPositions waits until all positions on a topic are there.
func (o *observer) awaitPositions(ctx context.Context, topic schema.Topic, there func(store.Position) bool) error {
	for {
		positions, err := store.Positions(ctx, o.db, "")
		if err != nil {
			return err
		}
		positions = slices.DeleteFunc(positions, func(p store.Position) bool { return p.Topic != string(topic) })
		if len(positions) > 0 && !slices.ContainsFunc(positions, func(p store.Position) bool { return !there(p) }) {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for the stages of %s: %w", topic, ctx.Err())
		}
	}
}
