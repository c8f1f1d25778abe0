package cmd_test

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestFaultsRebalanceStorm has a worker join or leave every two seconds, mostly by
// SIGTERM and sometimes by SIGKILL, none by an id of its own. At least one that is
// ready stays at any time.
func TestFaultsRebalanceStorm(t *testing.T) {
	s := newScenario(t, "a worker joins or leaves every 2 s", servicesStack)
	lasting := pick(s, 12*time.Second, time.Minute)
	c := newFleet(s, environment{"KAFKA_SESSION_TIMEOUT": "6s"})
	for i := range 4 {
		c.add(workerRoles, "worker-"+strconv.Itoa(i+1), nil)
	}
	workers := slices.Clone(c.workers)
	c.begin(append(workers[:2:2], c.addServer("api"))...)

	storm := &storm{fleet: c, workers: workers, leaving: map[*worker]<-chan error{}}
	began, before := time.Now(), c.applied()
	storm.progress, storm.at = before, began
	for next := began.Add(stormStep); next.Sub(began) <= lasting; next = next.Add(stormStep) {
		for time.Now().Before(next) {
			storm.watch()
			pause(20 * time.Millisecond)
		}
		storm.step()
	}
	over := time.Now()
	storm.watch()
	applied := c.applied() - before
	t.Logf("%d joined, %d left, %d were killed; %d answers came in, %d averages' worth was applied meanwhile, and nothing for %v at the longest",
		storm.joined, storm.left, storm.killed, int(over.Sub(began).Seconds()*fleetRate), applied, storm.still.Round(10*time.Millisecond))
	assert.Positive(t, applied, "it continues during the storm")

	stood := c.standing()
	c.awaitMoves(stood)
	s.cycles = storm.joined + storm.left + storm.killed - 1
	s.recovered(time.Since(over))
	storm.calm()
	c.end()
}

// stormStep lies between two workers that join or leave.
const stormStep = 2 * time.Second

// storm has workers come and go.
type storm struct {
	*fleet
	workers []*worker
	// leaving are those that were asked to end, with what their ends come to.
	leaving map[*worker]<-chan error

	joined, left, killed int
	// progress is what was applied when something was last, at was that; still is
	// for how long nothing was, at the longest.
	progress int
	at       time.Time
	still    time.Duration
}

// watch looks whether something was applied since.
func (s *storm) watch() {
	applied, now := s.applied(), time.Now()
	s.still = max(s.still, now.Sub(s.at))
	if applied > s.progress {
		s.progress, s.at = applied, now
	}
}

// step has one worker join or leave.
func (s *storm) step() {
	s.t.Helper()
	s.reap()
	var idle, ready []*worker
	for _, w := range s.workers {
		switch {
		case w.process == nil:
			idle = append(idle, w)
		case s.leaving[w] == nil && len(w.logs.all(running)) > 0:
			ready = append(ready, w)
		}
	}
	switch {
	case len(idle) > 0 && (len(ready) < 2 || s.random.IntN(2) == 0):
		w := idle[s.random.IntN(len(idle))]
		s.t.Logf("%s joins", w.name)
		w.launch()
		s.joined++
	case len(ready) < 2:
		s.t.Log("no one may leave yet")
	case s.random.IntN(5) == 0:
		w := ready[s.random.IntN(len(ready))]
		s.t.Logf("%s is killed", w.name)
		w.kill()
		s.killed++
	default:
		w := ready[s.random.IntN(len(ready))]
		s.t.Logf("%s leaves", w.name)
		s.leaving[w] = w.leave()
		s.left++
	}
}

// reap looks which of those that leave are gone.
func (s *storm) reap() {
	s.t.Helper()
	for w, gone := range s.leaving {
		select {
		case err := <-gone:
			s.gone(w, err)
		default:
		}
	}
}

func (s *storm) gone(w *worker, err error) {
	s.t.Helper()
	require.NoError(s.t, err, "%s: exit status 0:\n%s", w.name, w.logs)
	delete(s.leaving, w)
	w.process = nil
}

// calm waits until no one is about to join or leave any more, and ends those that
// were not there at first.
func (s *storm) calm() {
	s.t.Helper()
	for w, gone := range s.leaving {
		s.gone(w, <-gone)
	}
	for i, w := range s.workers {
		switch first := i < 2; {
		case first && w.process == nil:
			w.start()
		case w.process != nil:
			w.logs.await(s.t, running)
			if !first {
				w.stop()
			}
		}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), stallLimit)
	defer cancel()
	held, err := s.look.backlog(ctx)
	require.NoError(s.t, err)
	require.NoError(s.t, s.look.awaitTables(ctx, held))
}
