package cmd_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
)

// TestFaultsZombieWorkers stops a worker with SIGSTOP in the middle of a
// transaction, for longer than its session in the group lasts, and lets it continue
// when another one has its partitions. Two times in three that is when the other
// one has gone past what the zombie held, once the database ended its session; then
// its transaction must be undone. Else it is while the other one waits for the
// zombie's rows: its transaction still is good, and the other's must fail.
func TestFaultsZombieWorkers(t *testing.T) {
	s := newScenario(t, "a worker stopped in a transaction, taken over, woken up", servicesStack)
	cycles := pick(s, 2, 10)
	c := newFleet(s, environment{"KAFKA_SESSION_TIMEOUT": "6s"})
	one, two := c.add(workerRoles, "worker-1", nil), c.add(workerRoles, "worker-2", nil)
	c.addServer("api")
	c.mayRefuse()
	c.begin(c.workers...)
	z := zombies{fleet: c, kinds: map[string][]time.Duration{}}
	for n := range cycles {
		c.awaitLoad()
		victim := []*worker{one, two}[s.random.IntN(2)]
		if n%3 == 1 {
			z.wakeWaited(victim)
		} else {
			z.wakeLate(victim)
		}
	}
	c.end()
	t.Logf("of the transactions in which a worker was stopped %d were undone and %d committed; when it was awake again, %d of its batches failed at the fence and %d by their session%s",
		z.undone, z.committed, z.fenced, z.ended, summary(z.kinds))
}

// zombies counts what became of workers that were stopped.
type zombies struct {
	*fleet
	undone, committed int // transactions
	fenced, ended     int // batches
	kinds             map[string][]time.Duration
}

const (
	untilMoves       = "from the stop until all partitions moved"
	transactionsOpen = "from the stop until its transactions had ended"
	othersWaited     = "others waited for its rows"
)

// wakeLate wakes the worker when the others have continued without it.
func (z *zombies) wakeLate(victim *worker) {
	z.t.Helper()
	open, stopped := z.freezeInTransaction(victim)
	stood := z.standing()
	waiting := z.watchWaiting(open, stopped)
	z.awaitMoves(stood)
	z.noteMoves(stopped)
	for _, o := range open {
		assert.Equal(z.t, "aborted", z.outcome(o), "the transaction that held what others went past")
	}
	waiting()
	failed := len(victim.logs.all(batchFailed))
	victim.thaw()
	// What it had in hand when it was stopped fails now.
	require.Eventually(z.t, func() bool { return len(victim.logs.all(batchFailed)) > failed }, time.Minute, 5*time.Millisecond,
		"%s says that its batch failed:\n%s", victim.name, victim.logs)
	z.settled(victim, open, failed)
}

// wakeWaited wakes the worker when another one waits for rows that it holds.
func (z *zombies) wakeWaited(victim *worker) {
	z.t.Helper()
	open, stopped := z.freezeInTransaction(victim)
	stood := z.standing()
	waiting := z.watchWaiting(open, stopped)
	z.awaitTakeover(open)
	failed := len(victim.logs.all(batchFailed))
	victim.thaw()
	z.awaitMoves(stood)
	z.noteMoves(stopped)
	waiting()
	z.settled(victim, open, failed)
}

func (z *zombies) noteMoves(stopped time.Time) {
	z.recovered(time.Since(stopped))
	z.kinds[untilMoves] = append(z.kinds[untilMoves], time.Since(stopped))
}

// settled waits until the worker that was stopped has work again, and counts what
// became of what it had.
func (z *zombies) settled(victim *worker, open []openTransaction, failed int) {
	z.t.Helper()
	z.awaitMoves(z.standing())
	for _, o := range open {
		z.count(o)
	}
	for _, line := range victim.logs.all(batchFailed)[failed:] {
		if text, _ := line["error"].(string); strings.Contains(text, store.ErrFenced.Error()) {
			z.fenced++
		} else {
			z.t.Logf("%s: %s", victim.name, text)
			z.ended++
		}
	}
}

// count counts what became of a transaction.
func (z *zombies) count(o openTransaction) {
	z.t.Helper()
	switch outcome := z.outcome(o); outcome {
	case "aborted":
		z.undone++
	case "committed":
		z.committed++
	default:
		assert.Fail(z.t, "still open", "transaction %s: %s", o.XID, outcome)
	}
}

// batchFailed is what a stage logs when a batch failed and is tried again.
const batchFailed = "batch failed, trying again"

// openTransaction is one of a process that is stopped.
type openTransaction struct {
	PID int    `db:"pid"`
	XID string `db:"xid"`
}

// freezeInTransaction stops a worker while a stage of it is in a transaction that
// has moved positions and waits for what the worker says next, and returns those
// transactions.
func (c *fleet) freezeInTransaction(w *worker) ([]openTransaction, time.Time) {
	c.t.Helper()
	deadline := time.Now().Add(stallLimit)
	for tries := 1; ; tries++ {
		w.freeze()
		stopped := time.Now()
		if open := c.openTransactions(w, "positions"); len(open) > 0 {
			c.t.Logf("%s stopped at the %d. try, in %d transactions", w.name, tries, len(open))
			return open, stopped
		}
		w.thaw()
		require.True(c.t, time.Now().Before(deadline), "%s is never in a transaction", w.name)
		pause(time.Duration(1+c.random.IntN(20)) * time.Millisecond)
	}
}

// openTransactions are those of a stopped process that have written to a table and
// wait for the process.
func (c *fleet) openTransactions(w *worker, table string) []openTransaction {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for {
		// What it had asked for before it was stopped is still done, a COMMIT too.
		var busy int
		require.NoError(c.t, c.look.db.Get(ctx, &busy, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = $1 AND state = 'active'`, w.name))
		if busy == 0 {
			break
		}
		pause(time.Millisecond)
	}
	var open []openTransaction
	require.NoError(c.t, c.look.db.Select(ctx, &open, `SELECT pid, CAST(backend_xid AS TEXT) AS xid FROM pg_stat_activity a
		WHERE datname = current_database() AND application_name = $1 AND backend_xid IS NOT NULL AND EXISTS (
			SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.relation = CAST($2 AS regclass) AND l.mode = 'RowExclusiveLock')`, w.name, table))
	return open
}

// outcome is what became of a transaction: in progress, committed, or aborted.
func (c *fleet) outcome(o openTransaction) string {
	c.t.Helper()
	// What a session shows of it counts to 2^32 and then again.
	var outcome string
	require.NoError(c.t, c.look.db.Get(c.t.Context(), &outcome, `SELECT pg_xact_status(CAST(CAST(
			CAST(next AS NUMERIC) - CAST(next AS NUMERIC) % 4294967296 + CAST($1 AS NUMERIC) AS TEXT) AS xid8))
		FROM (SELECT CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS next) s`, o.XID))
	return outcome
}

// siege is how transactions of a stopped process hold up others.
type siege struct {
	Holders int `db:"holders"` // of the transactions, those that are open
	Waiters int `db:"waiters"` // sessions that wait for their rows
	Fenced  int `db:"fenced"`  // of these, those that want to move a position
}

// siege looks for those who wait for transactions. What a session says of a
// statement is its beginning.
func (c *fleet) siege(ctx context.Context, open []openTransaction) (siege, error) {
	var pids, xids []string
	for _, o := range open {
		pids, xids = append(pids, strconv.Itoa(o.PID)), append(xids, o.XID)
	}
	var s siege
	err := c.look.db.Get(ctx, &s, `SELECT COUNT(*) FILTER (WHERE CAST(backend_xid AS TEXT) = ANY(CAST($2 AS TEXT[]))) AS holders,
			COUNT(*) FILTER (WHERE waits) AS waiters, COUNT(*) FILTER (WHERE waits AND query LIKE 'WITH v (stage, topic, part, topic_id, expected%') AS fenced
		FROM (SELECT *, wait_event_type = 'Lock' AND pg_blocking_pids(pid) && CAST($1 AS INTEGER[]) AS waits
			FROM pg_stat_activity WHERE datname = current_database()) a`,
		"{"+strings.Join(pids, ",")+"}", "{"+strings.Join(xids, ",")+"}")
	return s, err
}

// awaitTakeover waits until another process wants to move a position that a stopped
// one holds, or holds no more.
func (c *fleet) awaitTakeover(open []openTransaction) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		s, err := c.siege(c.t.Context(), open)
		return err == nil && (s.Fenced > 0 || s.Holders == 0)
	}, time.Minute, 5*time.Millisecond)
}

// watchWaiting notes for how long others wait for the transactions of a process
// that is stopped, and when those have ended, until they have and the function that
// it returns is called.
func (z *zombies) watchWaiting(open []openTransaction, stopped time.Time) (await func()) {
	ctx, cancel := context.WithTimeout(z.t.Context(), stallLimit)
	var first, last, ended time.Time
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			var s siege
			s, err = z.siege(ctx, open)
			if ended = time.Now(); err != nil || s.Holders == 0 {
				return
			}
			if s.Waiters > 0 {
				if last = time.Now(); first.IsZero() {
					first = last
				}
			}
			pause(10 * time.Millisecond)
		}
	}()
	return func() {
		z.t.Helper()
		<-done
		cancel()
		require.NoError(z.t, err)
		z.kinds[transactionsOpen] = append(z.kinds[transactionsOpen], ended.Sub(stopped))
		z.kinds[othersWaited] = append(z.kinds[othersWaited], last.Sub(first))
	}
}
