package cmd_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFaultsKills kills processes with SIGKILL while answers come in and clients
// ask, and starts each again at once: on the services two workers that come back by
// their ids, one that has none, and the API; on SQLite the one that
// is all. One kill in four follows the last before its partitions move again.
func TestFaultsKills(t *testing.T) {
	s := newScenario(t, "killed with SIGKILL under load", everyStack...)
	var c *fleet
	var kills int
	var drawn []*worker
	if onServices() {
		kills = pick(s, 5, 200)
		// Three share six evenly, so that each has as much to hold after a kill as
		// before.
		c = newFleet(s, environment{"KAFKA_SESSION_TIMEOUT": "6s", "KAFKA_PARTITIONS": "6"})
		one := c.add(workerRoles, "worker-1", environment{"KAFKA_INSTANCE_ID": "worker-1"})
		two := c.add(workerRoles, "worker-2", environment{"KAFKA_INSTANCE_ID": "worker-2"})
		three := c.add(workerRoles, "worker-3", nil)
		api := c.addServer("api")
		drawn = []*worker{one, one, one, one, two, two, two, two, three, api}
	} else {
		kills = pick(s, 3, 50)
		c = newFleet(s, nil)
		drawn = []*worker{c.addServer("all")}
	}
	c.begin(c.workers...)
	c.killAtRandom(kills, drawn)
	c.end()
}

// recovery is how long it took from a kill until all was well.
type recovery struct {
	of   *worker
	took time.Duration
	err  error
}

// killAtRandom kills one of the processes that are drawn from, again and again.
func (c *fleet) killAtRandom(kills int, drawn []*worker) {
	c.t.Helper()
	recoveries := make(chan recovery, kills)
	kinds := map[string][]time.Duration{}
	pending := 0
	settle := func() {
		for ; pending > 0; pending-- {
			r := <-recoveries
			require.NoError(c.t, r.err, "after a kill of %s", r.of.name)
			kinds[r.of.name] = append(kinds[r.of.name], r.took)
			c.recovered(r.took)
		}
	}
	for range kills {
		if pending == 0 {
			c.awaitLoad()
		}
		victim := drawn[c.random.IntN(len(drawn))]
		stood, killed := c.kill(victim)
		c.t.Logf("%s killed", victim.name)
		go func() {
			err := c.awaitRecovery(victim, stood)
			recoveries <- recovery{victim, time.Since(killed), err}
		}()
		pending++
		c.start(victim)
		if c.random.IntN(4) > 0 {
			settle()
		}
	}
	settle()
	c.t.Logf("from the kill until all partitions move again; of the server, until it answers:%s", summary(kinds))
}

// awaitRecovery waits until all partitions move again, and where clients are asked,
// until they are answered.
func (c *fleet) awaitRecovery(victim *worker, stood standing) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), stallLimit)
	defer cancel()
	if victim == c.server {
		if err := c.clients.awaitSuccess(ctx); err != nil || onServices() {
			return err // there, the workers are others
		}
	}
	return c.look.awaitMoves(ctx, stood)
}
