package cmd_test

import (
	"context"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWorkersJoinAndLeave has three workers come and go, some by SIGTERM and
// some by SIGKILL, while answers come in steadily; sometimes one follows before
// the partitions of the last have settled. At least one worker runs at any time.
// Then it holds every table against a recomputation.
func TestWorkersJoinAndLeave(t *testing.T) {
	const lasting = 15 * time.Second
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	// Shorter than the default, for the sake of the kills alone.
	env := newSharedStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20", "KAFKA_SESSION_TIMEOUT": "6s"})
	all := make([]*worker, 3)
	for i := range all {
		all[i] = newWorker(t, "worker "+strconv.Itoa(i+1), env)
	}
	all[0].start()
	running := 1
	look := newObserver(t, env)
	answers := makeAnswers(random, int(lasting.Seconds())*feedRate, time.Now())
	fed := make(chan struct{})
	go func() { feedSteadily(t, env, answers); close(fed) }()

	steps := 0
	for feeding := true; feeding; steps++ {
		w := all[random.IntN(len(all))]
		switch {
		case w.process == nil:
			t.Logf("%s joins", w.name)
			w.start()
			running++
		case running == 1:
			continue
		case random.IntN(4) == 0:
			t.Logf("%s is killed", w.name)
			w.kill()
			running--
		default:
			t.Logf("%s leaves", w.name)
			w.stop()
			running--
		}
		if random.IntN(2) == 0 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			began := time.Now()
			b, err := look.backlog(ctx)
			require.NoError(t, err)
			require.NoError(t, look.awaitTables(ctx, b))
			cancel()
			t.Logf("applied after %v", time.Since(began).Round(10*time.Millisecond))
		}
		select {
		case <-fed:
			feeding = false
		default:
		}
	}
	t.Logf("%d steps", steps)
	awaitDrained(t, env)
	checkTables(t, env, answers)
}
