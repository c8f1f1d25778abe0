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
	const steps, most = 15, 2 * time.Minute
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
	answers := makeAnswers(random, int(most.Seconds())*feedRate, time.Now())
	enough, fed := make(chan struct{}), make(chan int, 1)
	go func() { fed <- feedSteadily(t, env, answers, enough) }()

	for step := 0; step < steps; {
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
		step++
		if random.IntN(2) == 0 {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			began := time.Now()
			b, err := look.backlog(ctx)
			require.NoError(t, err)
			require.NoError(t, look.awaitTables(ctx, b))
			cancel()
			t.Logf("applied after %v", since(began))
		}
	}
	close(enough)
	n := <-fed
	t.Logf("%d answers fed", n)
	awaitDrained(t, env)
	checkTables(t, env, answers[:n])
}
