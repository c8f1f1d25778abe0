package cmd_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/projections"
)

// A process that only answers requests orders a rebuild; one of two workers does it,
// and the other one continues when that is killed. All that comes later is in both
// generations, no matter which process feeds them.
func TestRebuildByWorkers(t *testing.T) {
	t.Parallel()
	env := newSharedStack(t, nil)
	workers := []*worker{newWorker(t, "first", env), newWorker(t, "second", env)}
	for _, w := range workers {
		w.start()
	}
	p := spawnAPI(t, env)
	const events = 20 * feedRate
	fillPrices(t, env, events)
	id := p.startRebuild(fmt.Sprintf(`{"projection":"moving-averages","promote":"if-equal","rate_limit":%d}`, events/4))
	for _, w := range workers {
		done := p.rebuild(id).Done
		require.Eventually(t, func() bool { return p.rebuild(id).Done > done }, time.Minute, 5*time.Millisecond)
		w.kill()
		w.start()
	}
	r := p.reaches(id, projections.RebuildPromoted)
	assert.True(t, r.Proof.Equal)
	feed(t, env, oneEach(0, 50))
	awaitDrained(t, env)
	assertEqualGenerations(t, env)
	got := p.post("/api/v1/rebuilds/"+id+"/rollback", "")
	require.Equal(t, http.StatusOK, got.status, got.body)
	feed(t, env, oneEach(50, 50))
	awaitDrained(t, env)
	assertEqualGenerations(t, env)
	proven(t, env)
	require.Zero(t, p.stop())
	for _, w := range workers {
		w.stop()
	}
}

func (p *program) rebuild(id string) (r projections.Rebuild) {
	p.t.Helper()
	got := p.get("/api/v1/rebuilds/" + id)
	require.NoError(p.t, json.Unmarshal([]byte(got.body), &r), got.body)
	return r
}

// While a worker of the old fold still runs, what it feeds is as new as what the new
// one feeds: nothing is stale, and a rollback loses nothing.
func TestRebuildBesideAnOldWorker(t *testing.T) {
	t.Parallel()
	env := newSharedStack(t, nil)
	old := newWorker(t, "old", env)
	old.start()
	feed(t, env, oneEach(0, 20))
	awaitDrained(t, env)
	changed := env.with(environment{"MOVING_AVERAGE_WINDOW": "5,20", "REBUILD_PROMOTE": "manual"})
	young := newWorker(t, "young", changed)
	young.start()
	p := spawnAPI(t, changed)
	id := p.rebuilds()[0].ID
	p.reaches(id, projections.RebuildReady)
	feed(t, env, oneEach(20, 20))
	awaitDrained(t, env) // each generation by its own worker
	average := p.get("/api/v1/prices/moving-average?symbol=S0&provider=simulated")
	assert.Empty(t, average.header.Get("Age"))
	for _, command := range []string{"promote", "rollback", "promote"} {
		got := p.post("/api/v1/rebuilds/"+id+"/"+command, "")
		require.Equal(t, http.StatusOK, got.status, "%s: %s", command, got.body)
	}
	feed(t, env, oneEach(40, 20))
	awaitDrained(t, env)
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	for query, want := range map[string]int{
		`SELECT COUNT(*) FROM moving_averages`:                           2 * 4 * 60,
		`SELECT COUNT(*) FROM moving_averages_g1`:                        4 * 60,
		`SELECT COUNT(*) FROM rebuilds`:                                  1,
		`SELECT COUNT(*) FROM generations WHERE projection = 'requests'`: 1,
	} {
		var n int
		require.NoError(t, db.Get(t.Context(), &n, query))
		assert.Equal(t, want, n, query)
	}
	old.stop()
	old.start() // which finds a later fold, or other settings
	require.Zero(t, p.stop())
	young.stop()
	old.stop()
}
