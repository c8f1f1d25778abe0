package cmd_test

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/kafka"
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
	l.await(t, "the pipeline runs")
	return p
}

// worker is a process that does everything but answer requests.
type worker struct {
	t       testing.TB
	name    string
	env     environment
	process *exec.Cmd // nil while it does not run
	logs    *logs
}

// newWorker describes a worker that does not run yet.
func newWorker(t testing.TB, name string, env environment) *worker {
	w := &worker{t: t, name: name, env: env.with(environment{"ROLES": "handlers,projections,relay"})}
	t.Cleanup(func() {
		if t.Failed() && w.logs != nil {
			t.Logf("the log of the last process of %s:\n%s", name, w.logs)
		}
	})
	return w
}

func (w *worker) start() {
	w.t.Helper()
	w.process, w.logs = spawn(w.t, w.env)
	w.logs.await(w.t, "the pipeline runs")
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
	require.NoError(w.t, w.process.Process.Signal(syscall.SIGTERM))
	require.NoError(w.t, w.process.Wait(), "%s: exit status 0:\n%s", w.name, w.logs)
	w.process = nil
}

// observer looks at how far the workers have come.
type observer struct {
	t      testing.TB
	db     *store.Store
	broker *kafka.Broker
}

func newObserver(t testing.TB, env environment) *observer {
	t.Helper()
	o := &observer{t: t, db: openTables(t, env), broker: connect(t, env)}
	t.Cleanup(func() { assert.NoError(t, o.db.Close()) })
	return o
}

// backlog is what raw-quotes holds at one moment, and how much of it is stored.
type backlog struct {
	ends   []pipeline.OffsetRange
	stored map[int32]int64
}

func (o *observer) backlog(ctx context.Context) (backlog, error) {
	b := backlog{stored: map[int32]int64{}}
	positions, err := store.Positions(ctx, o.db, "raw-store")
	if err != nil {
		return backlog{}, err
	}
	for _, p := range positions {
		b.stored[p.Part] = p.Next
	}
	b.ends, err = o.broker.Offsets(ctx, schema.RawQuotes)
	return b, err
}

// awaitMoves waits until somebody works on each partition again. Answers must
// come in on all of them.
func (o *observer) awaitMoves(ctx context.Context, b backlog) error {
	return o.awaitPositions(ctx, schema.RawQuotes, func(p store.Position) bool { return p.Next > b.stored[p.Part] })
}

// awaitTables waits until the backlog has gone through the chain and into every
// table. Each stage must come to where the one before it was when that had done
// its part: by offset in raw-quotes, behind it by the numbers of the chains,
// which do not count repeats.
func (o *observer) awaitTables(ctx context.Context, b backlog) error {
	err := o.awaitPositions(ctx, schema.RawQuotes, func(p store.Position) bool { return p.Next >= b.ends[p.Part].End })
	if err != nil {
		return err
	}
	for _, topic := range []schema.Topic{schema.StoredQuotes, schema.PriceEvents} {
		numbers, err := o.lastNumbers(ctx, topic)
		if err != nil {
			return err
		}
		if err := o.awaitPositions(ctx, topic, func(p store.Position) bool { return p.Seq >= numbers[p.Part] }); err != nil {
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
