package cmd_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// sqliteFirst is SQLite in the short form, and all of on in the long one.
func sqliteFirst(on []stack) []stack {
	if os.Getenv(faultsVariable) == "long" {
		return on
	}
	return []stack{sqliteStack}
}

// pointHits is a point with the hits at which something happens there.
type pointHits struct {
	point failpoint.Point
	// most hits go by before the process is killed.
	most int
	// first, and every so many hits after it, is an error.
	first, every int
}

// underLoad are the points that batches pass, and those of a start, on this stack.
func underLoad() []pointHits {
	if thisStack() == servicesStack {
		return append(pointsOfAll, pointsOfKafka...)
	}
	return pointsOfAll
}

// pointsOfKafka are those of the relay and its sender.
var pointsOfKafka = []pointHits{
	{failpoint.RelayAcked, 60, 10, 23},
	{failpoint.SenderAnswered, 60, 10, 23},
}

var pointsOfAll = []pointHits{
	{failpoint.StageApplied, 80, 20, 41},
	{failpoint.StageCommitted, 80, 20, 41},
	{failpoint.StageAssigned, 10, 1, 2},
	{failpoint.StoreCommitting, 300, 50, 67},
	{failpoint.StoreCommitted, 300, 50, 67},
	{failpoint.StoreInserting, 300, 50, 67},
	{failpoint.SubscriberSetup, 10, 1, 2},
}

// eachPoint runs f for each of the points, or, in the short form, once for all.
func eachPoint(t *testing.T, what string, f func(t *testing.T, name string, points []pointHits)) {
	if os.Getenv(faultsVariable) != "long" {
		f(t, fmt.Sprintf("%s at each of %d failpoints", what, len(underLoad())), underLoad())
		return
	}
	for i, p := range underLoad() {
		t.Run(string(p.point), func(t *testing.T) { f(t, fmt.Sprintf("%s at `%s`", what, p.point), underLoad()[i:i+1]) })
	}
}

// TestFaultsFailpointKills kills the service while answers come in, at hits of
// the points that are drawn at random, and starts it again.
func TestFaultsFailpointKills(t *testing.T) {
	eachPoint(t, "killed", func(t *testing.T, name string, points []pointHits) {
		s := newScenario(t, name, everyStack...)
		v := s.newVictim(nil)
		fed := s.feed(v.env)
		for range pick(s, 2, 20) {
			for _, p := range points {
				v.dies(fmt.Sprintf("%s=kill@%d", p.point, 1+s.random.IntN(pick(s, min(10, p.most), p.most))))
			}
		}
		v.recovers("")
		s.check(v.env, fed.end())
		v.stop()
	})
}

// TestFaultsFailpointErrors has a running process fail at the points again and
// again while answers come in. Then it holds no more than one without faults.
func TestFaultsFailpointErrors(t *testing.T) {
	eachPoint(t, "errors", func(t *testing.T, name string, points []pointHits) {
		s := newScenario(t, name, everyStack...)
		v := s.newVictim(nil)
		fed := s.feed(v.env)
		p := v.recovers("")
		p.eventually("/readyz", http.StatusOK)
		without := s.level(v.env, p.url)
		v.stop()

		var armed []string
		for _, p := range points {
			armed = append(armed, fmt.Sprintf("%s=error@%d/%d", p.point, p.first, p.every))
		}
		p = v.recovers(strings.Join(armed, ","))
		most := pick(s, 5, 20)
		require.Eventually(t, func() bool { return v.failed(points, most) }, 2*time.Minute, 5*time.Millisecond, "it fails at the points")
		s.check(v.env, fed.end())
		p.eventually("/readyz", http.StatusOK)
		s.checkLevel(v.env, p.url, without)
		s.cycles += len(v.logs.all(failpoint.Message))
		v.stop()
	})
}

// failed reports whether each of the points has failed so often, or, where it is
// passed at a start alone, at all.
func (v *victim) failed(points []pointHits, often int) bool {
	failures := map[any]int{}
	for _, line := range v.logs.all(failpoint.Message) {
		failures[line["point"]]++
	}
	for _, p := range points {
		if p.first == 1 {
			often = 1
		}
		if failures[string(p.point)] < often {
			return false
		}
	}
	return true
}

// TestFaultsFailpointFirstStart kills first starts at one of their transactions:
// topics are registered, tables made, positions created, and the next start goes
// on from there.
func TestFaultsFailpointFirstStart(t *testing.T) {
	s := newScenario(t, "first starts killed at a commit", sqliteFirst(everyStack)...)
	for range pick(s, 1, 4) {
		v := s.newVictim(nil)
		for range pick(s, 3, 5) {
			point := []failpoint.Point{failpoint.StoreCommitting, failpoint.StoreCommitted}[s.random.IntN(2)]
			v.start(fmt.Sprintf("%s=kill@%d", point, 1+s.random.IntN(30)))
			awaitKilled(t, v.process, v.logs, func() {})
			v.process = nil
			s.cycles++
		}
		v.up("")
		v.awaitStages()
		answers := makeAnswers(s.random, 1000, time.Now())
		feed(t, v.env, answers)
		s.check(v.env, answers)
		v.stop()
	}
}

// awaitStages waits until every stage has positions: one that never began is behind
// by nothing.
func (v *victim) awaitStages() {
	v.t.Helper()
	require.Eventually(v.t, func() bool {
		var begun int
		require.NoError(v.t, v.tables().Get(v.t.Context(), &begun, `SELECT COUNT(DISTINCT stage) FROM positions`))
		return begun == defaultStages()
	}, time.Minute, 5*time.Millisecond)
}

// TestFaultsFailpointSlowSetup stalls a worker where it knows the positions of its
// partitions and has not begun with them, past the time the group waits for it: its
// partitions are given to another worker meanwhile.
func TestFaultsFailpointSlowSetup(t *testing.T) {
	s := newScenario(t, fmt.Sprintf("stalled at `%s` past the rebalance timeout", failpoint.StageAssigned), servicesStack)
	if !s.isLong() {
		t.Skip("takes most of a minute each time: the rebalance timeout is 23 s")
	}
	const stall = 35 * time.Second
	env := newSharedStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	fast := newWorker(t, "fast", env)
	fast.start() // makes the topics
	look := newObserver(t, env)
	fed := s.feed(env)
	for range 3 {
		armed := fmt.Sprintf("%s=stall:%v@%d", failpoint.StageAssigned, stall, 1+s.random.IntN(defaultStages()))
		slow := newWorker(t, "slow", env.with(environment{failpoint.Variable: armed}))
		began := time.Now()
		slow.start()
		slow.logs.await(t, failpoint.Message)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		held, err := look.backlog(ctx)
		require.NoError(t, err)
		require.NoError(t, look.awaitTables(ctx, held))
		s.recovered(time.Since(began))
		// And what is there when the stalled one wakes up to its old positions.
		pause(time.Until(began.Add(stall + 5*time.Second)))
		held, err = look.backlog(ctx)
		require.NoError(t, err)
		require.NoError(t, look.awaitTables(ctx, held))
		cancel()
		slow.stop()
	}
	s.check(env, fed.end())
	fast.stop()
}
