package cmd_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// How often the program is killed; the longer target sets 20. killShare is how
// many answers it has for each then.
const (
	killsVariable = "PRICEMILL_TEST_KILLS"
	standardKills = 3
	killShare     = 5_000
)

// TestKilledAtRandomMoments feeds the program answers of a stream, kills it
// with SIGKILL at random moments, starts it again, and then holds every table
// against a recomputation from what was fed and from the log.
func TestKilledAtRandomMoments(t *testing.T) {
	kills, events := standardKills, killEvents
	if text := os.Getenv(killsVariable); text != "" {
		var err error
		kills, err = strconv.Atoi(text)
		require.NoError(t, err)
		events = kills * killShare
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d kills", seed, kills)
	random := rand.New(rand.NewPCG(seed, 0))
	env := newStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	answers := makeAnswers(random, events, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))

	process, l := spawn(t, env)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of the last process:\n%s", l)
		}
	})
	l.await(t, "pipeline running")
	fed := make(chan struct{})
	go func() { feed(t, env, answers); close(fed) }()
	began := time.Now()
	for i := range kills {
		// Somewhere between two shares of the work, by what has been applied.
		awaitApplied(t, env, (events*i+random.IntN(events))/(kills+1))
		require.NoError(t, process.Process.Kill())
		var exit *exec.ExitError
		require.ErrorAs(t, process.Wait(), &exit)
		process, l = spawn(t, env)
		restarted := time.Now()
		l.await(t, "pipeline running")
		t.Logf("kill %d: back after %v", i+1, time.Since(restarted))
	}
	<-fed
	awaitApplied(t, env, events)
	awaitDrained(t, env)
	t.Logf("%d answers through the chain with %d kills in %v", events, kills, time.Since(began))
	checkTables(t, env, answers)
	proven(t, env)
}
