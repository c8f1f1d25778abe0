package cmd_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fleetRate is how many answers a second are fed to a fleet: enough that all of its
// processes are at work at any moment, and few enough that what a quarter of an
// hour of it leaves can be recomputed in the memory of the test.
const fleetRate = 300

// fleet are the processes of one installation, put under faults while answers come
// in and clients ask.
type fleet struct {
	*scenario
	env     environment
	workers []*worker // those that answer clients as well
	server  *worker   // the one that clients ask
	look    *observer
	clients *client
	load    *load
	before  map[*worker]footprint
}

// newFleet prepares a stack whose processes do not run yet.
func newFleet(s *scenario, settings environment) *fleet {
	s.t.Helper()
	env := newStack(s.t, environment{"MOVING_AVERAGE_WINDOW": "5,20"}.with(settings))
	return &fleet{scenario: s, env: env, before: map[*worker]footprint{}}
}

// add describes a process of the fleet. The database knows its sessions by its name.
func (c *fleet) add(roles, name string, settings environment) *worker {
	c.t.Helper()
	env := c.env.with(settings)
	if database := env["DATABASE_URL"]; database != "" {
		address, err := url.Parse(database)
		require.NoError(c.t, err)
		query := address.Query()
		query.Set("application_name", name)
		address.RawQuery = query.Encode()
		env["DATABASE_URL"] = address.String()
	}
	w := newWorkerAs(c.t, roles, name, env)
	c.workers = append(c.workers, w)
	return w
}

// addServer describes the process that clients ask.
func (c *fleet) addServer(roles string) *worker {
	c.t.Helper()
	// It has the same address when it comes back.
	address := freeAddress(c.t, c.random)
	c.server = c.add(roles, "server", environment{"HTTP_ADDR": address})
	c.clients = newClient("http://" + address)
	return c.server
}

// mayRefuse allows answers of 503 with Retry-After: a process that is stopped keeps
// the rows that its transactions have locked until the database ends its session,
// and a command that must write one of them is refused after five seconds.
func (c *fleet) mayRefuse() { c.clients.refusable = true }

// freeAddress is one that no one listens at, below the ports that systems take for
// connections.
func freeAddress(t testing.TB, random *rand.Rand) string {
	t.Helper()
	for range 100 {
		listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(20000+random.IntN(10000)))
		if err == nil {
			require.NoError(t, listener.Close())
			return listener.Addr().String()
		}
	}
	require.Fail(t, "no free port")
	return ""
}

// begin starts the processes that are given, the load and the clients, and notes
// what the processes hold of what they might leak. It returns when all of it is
// under way.
func (c *fleet) begin(first ...*worker) {
	c.t.Helper()
	for _, w := range first {
		w.start()
	}
	c.look = newObserver(c.t, c.env)
	// Some at once, for the clients to have something to ask for.
	const ahead = 2000
	c.load = c.feedAt(fleetRate, c.env, time.Now().Add(-ahead*time.Second/fleetRate))
	awaitSymbols(c.t, c.look)
	c.clients.askAll()
	c.t.Cleanup(c.clients.close)
	c.awaitMoves(c.standing())
	c.awaitShares()
	for _, w := range first {
		c.note(w)
	}
}

// awaitShares waits until each stage's partitions are shared evenly among the
// processes that have it: what a process holds grows with its partitions.
func (c *fleet) awaitShares() {
	c.t.Helper()
	// By stage and topic, what each process has.
	shares := func() (map[[2]string][]int, error) {
		found := map[[2]string][]int{}
		for _, w := range c.running() {
			gauges, err := gauges(c.t.Context(), w.url())
			if err != nil {
				return nil, err
			}
			here := map[[2]string]int{}
			for name := range gauges {
				if m := positionGauge.FindStringSubmatch(name); m != nil {
					here[[2]string(m[1:])]++
				}
			}
			for of, n := range here {
				found[of] = append(found[of], n)
			}
		}
		return found, nil
	}
	broker, partitions, err := reach(c.env)
	require.NoError(c.t, err)
	require.NoError(c.t, broker.Close())
	var found map[[2]string][]int
	require.Eventually(c.t, func() bool {
		var err error
		if found, err = shares(); err != nil || len(found) == 0 {
			return false
		}
		most := 0
		for _, at := range found {
			most = max(most, len(at))
		}
		for _, at := range found {
			all := 0
			for _, n := range at {
				all += n
			}
			if len(at) < most || all != int(partitions) || slices.Max(at)-slices.Min(at) > 1 {
				return false
			}
		}
		return true
	}, stallLimit, 100*time.Millisecond, "each stage's partitions are shared evenly")
}

// positionGauge is what a process says of each partition that it has.
var positionGauge = regexp.MustCompile(`^pricemill_stage_position\{partition="\d+",stage="([^"]+)",topic="([^"]+)"\}$`)

// note notes what a process holds, once it holds what its share needs.
func (c *fleet) note(w *worker) {
	c.t.Helper()
	c.before[w] = c.level(c.env, w.url())
}

// end stops load and clients, and checks their results and what the processes hold.
func (c *fleet) end() {
	c.t.Helper()
	fed := c.load.end()
	c.clients.close()
	checkClient(c.t, c.look, c.clients)
	c.awaitFetched()
	c.check(c.env, fed)
	c.awaitShares()
	for _, w := range c.running() {
		if before, there := c.before[w]; there {
			c.t.Logf("%s:", w.name)
			c.checkLevel(c.env, w.url(), before)
		}
	}
}

// awaitFetched waits until each request to a provider has an outcome.
func (c *fleet) awaitFetched() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		var open int
		return c.look.db.Get(c.t.Context(), &open, `SELECT count(*) FROM fetch_queue`) == nil && open == 0
	}, time.Minute, 20*time.Millisecond)
}

func (c *fleet) running() []*worker {
	return slices.DeleteFunc(slices.Clone(c.workers), func(w *worker) bool { return w.process == nil })
}

func (c *fleet) standing() standing {
	c.t.Helper()
	s, err := c.look.standing(c.t.Context())
	require.NoError(c.t, err)
	return s
}

// stallLimit is when something counts as standing still forever.
const stallLimit = 3 * time.Minute

// awaitMoves waits until all partitions move again.
func (c *fleet) awaitMoves(since standing) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), stallLimit)
	defer cancel()
	require.NoError(c.t, c.look.awaitMoves(ctx, since))
}

// applied is how many prices have become averages.
func (c *fleet) applied() int {
	c.t.Helper()
	n, err := applied(c.t.Context(), c.look.db)
	require.NoError(c.t, err)
	return n
}

// awaitLoad waits until a number of further records is applied, drawn at random.
func (c *fleet) awaitLoad() {
	c.t.Helper()
	to := c.applied() + c.random.IntN(fleetRate)
	require.Eventually(c.t, func() bool { return c.applied() >= to }, stallLimit, 5*time.Millisecond)
}

// kill kills a process, and returns when it is gone, how far the stages were then,
// and when that was.
func (c *fleet) kill(w *worker) (standing, time.Time) {
	c.t.Helper()
	if w == c.server {
		c.clients.died()
	}
	w.kill()
	killed := time.Now()
	// The server may still be at the last it was asked: that is no move of
	// someone who took over.
	c.awaitNoSessions(w)
	return c.standing(), killed
}

// start starts a process that was killed.
func (c *fleet) start(w *worker) {
	c.t.Helper()
	w.start()
	if w == c.server {
		w.url() // once it listens
		c.clients.lives()
	}
}

// awaitNoSessions waits until the database has no session of a process any more.
func (c *fleet) awaitNoSessions(w *worker) {
	c.t.Helper()
	if !onPostgres() {
		return
	}
	require.Eventually(c.t, func() bool {
		var n int
		err := c.look.db.Get(c.t.Context(), &n, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = $1`, w.name)
		return err == nil && n == 0
	}, time.Minute, 5*time.Millisecond)
}

// summary is the median and the longest of each kind.
func summary(kinds map[string][]time.Duration) string {
	text := ""
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		took := slices.Sorted(slices.Values(kinds[kind]))
		text += fmt.Sprintf("\n%s: %d, median %v, longest %v", kind, len(took), took[len(took)/2].Round(10*time.Millisecond),
			took[len(took)-1].Round(10*time.Millisecond))
	}
	return text
}
