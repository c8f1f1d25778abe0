package claim_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/claim"
	"github.com/pricemill/pricemill/internal/postgrestest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table has the form that each table of claims has.
var table = claim.Table{Name: "backfills", ID: "backfill_id", Open: `status IN ('active', 'failing')`, Order: "started_at", Lasts: 3 * time.Second}

// clock is the one of a database.
type clock struct{ millis atomic.Int64 }

func (c *clock) pass(d time.Duration) { c.millis.Add(d.Milliseconds()) }

// clocked is an engine with a clock of the test.
type clocked struct {
	store.Engine
	clock *clock
}

func (c clocked) NowMillis() string { return strconv.FormatInt(c.clock.millis.Load(), 10) }

// newDatabase makes a database that holds nothing yet, and returns its clock, and how a process
// opens it: SQLite, or, with PRICEMILL_TEST_SERVICES set, PostgreSQL.
func newDatabase(t *testing.T) (*clock, func() *pipelinetest.Rig) {
	t.Helper()
	c := &clock{}
	c.pass(time.Hour)
	engine := func(path string) (store.Engine, error) { return sqlite.Open(path) }
	at := filepath.Join(t.TempDir(), "db")
	if os.Getenv("PRICEMILL_TEST_SERVICES") != "" {
		at = postgrestest.Schema(t)
		engine = func(url string) (store.Engine, error) {
			return postgres.Open(context.Background(), postgres.Config{URL: url, MaxConns: 8})
		}
	}
	return c, func() *pipelinetest.Rig {
		e, err := engine(at)
		require.NoError(t, err)
		db, err := store.Open(context.Background(), clocked{e, c})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		return pipelinetest.On(t, db)
	}
}

// enter enters rows, each a second later than the one before.
func enter(t *testing.T, rig *pipelinetest.Rig, ids ...string) {
	t.Helper()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rows := store.Rows{Table: "backfills", Columns: []string{"backfill_id", "provider", "symbol", "from_time", "to_time", "status", "started_at"}}
	for i, id := range ids {
		at := schema.NewTime(begin.Add(time.Duration(i) * time.Second))
		rows.Add(id, "p", "A", at, at, "active", at)
	}
	in(t, rig, func(tx *pipeline.Tx) error { return tx.Insert(t.Context(), rows) })
}

func in(t *testing.T, rig *pipelinetest.Rig, f func(tx *pipeline.Tx) error) {
	t.Helper()
	_, err := rig.Emitter().Emit(t.Context(), func(tx *pipeline.Tx) ([]schema.Event, error) { return nil, f(tx) })
	require.NoError(t, err)
}

// owner is a process, and its claims.
type owner struct {
	*pipelinetest.Rig
	claim.Claims
}

func newOwner(t *testing.T, rig *pipelinetest.Rig) owner {
	t.Helper()
	claims, err := table.Claims()
	require.NoError(t, err)
	return owner{rig, claims}
}

func (o owner) take(t *testing.T, most int) (taken []string) {
	t.Helper()
	in(t, o.Rig, func(tx *pipeline.Tx) (err error) {
		taken, err = claim.Take[string](t.Context(), tx, o.Claims, most, table.ID)
		return err
	})
	return slices.Sorted(slices.Values(taken))
}

func (o owner) renew(t *testing.T, ids ...string) (ours []string) {
	t.Helper()
	in(t, o.Rig, func(tx *pipeline.Tx) (err error) {
		ours, err = claim.Renew[string](t.Context(), tx, o.Claims, ids, table.ID)
		return err
	})
	return slices.Sorted(slices.Values(ours))
}

func (o owner) release(t *testing.T, ids ...string) {
	t.Helper()
	in(t, o.Rig, func(tx *pipeline.Tx) error { return o.Release(t.Context(), tx, ids) })
}

// notLocked are those of ids that no transaction has locked, which SQLite does not tell.
func (o owner) notLocked(t *testing.T, ids ...string) (unlocked []string) {
	t.Helper()
	if o.DB.EngineName() == "sqlite" {
		return nil
	}
	in(t, o.Rig, func(tx *pipeline.Tx) (err error) {
		unlocked, err = store.SelectIn[string](t.Context(), tx, `SELECT backfill_id FROM backfills WHERE backfill_id IN (?) `+tx.LockFreeRows("backfills"), ids)
		return err
	})
	return unlocked
}

func (o owner) anyFree(t *testing.T) bool {
	t.Helper()
	some, err := table.AnyFree(t.Context(), o.Emitter())
	require.NoError(t, err)
	return some
}

func end(t *testing.T, rig *pipelinetest.Rig, id string) {
	t.Helper()
	in(t, rig, func(tx *pipeline.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE backfills SET status = 'stopped' WHERE backfill_id = $1`, id)
		return err
	})
}

func TestClaims(t *testing.T) {
	t.Parallel()
	clock, open := newDatabase(t)
	rig := open()
	a, b := newOwner(t, rig), newOwner(t, open())
	assert.False(t, a.anyFree(t))
	assert.Empty(t, a.take(t, 10))
	enter(t, rig, "3", "2", "1", "4")
	assert.True(t, a.anyFree(t))
	assert.Equal(t, []string{"2", "3"}, a.take(t, 2), "those first in the order")
	assert.Equal(t, []string{"1", "4"}, b.take(t, 10))
	assert.False(t, b.anyFree(t))
	assert.Empty(t, b.take(t, 10))

	// A claim lasts until its time is up, by the clock of the database, and then belongs to
	// its owner for as long as no other takes it.
	clock.pass(3 * time.Second)
	assert.Empty(t, b.take(t, 10), "the last millisecond counts")
	assert.Equal(t, []string{"1"}, b.renew(t, "1", "2"), "not those of others, and not the others of its own")
	clock.pass(time.Millisecond)
	assert.True(t, a.anyFree(t))
	assert.Equal(t, []string{"2", "3"}, a.renew(t, "2", "3"), "late, and before all others")
	assert.Equal(t, []string{"4"}, a.take(t, 10))
	assert.Equal(t, []string{"1"}, b.renew(t, "1", "4"), "one that was lost is lost")
	assert.Equal(t, []string{"2", "3", "4"}, a.renew(t, "2", "3", "4"))

	// One that is given up is free at once, and only its owner gives it up.
	b.release(t, "2", "3")
	assert.False(t, b.anyFree(t))
	a.release(t, "2", "4")
	assert.Equal(t, []string{"2", "4"}, b.take(t, 10))
	assert.Equal(t, []string{"3"}, a.renew(t, "2", "3", "4"))
	a.release(t)
	assert.False(t, b.anyFree(t))

	// One that has ended is free for no one, and its owner hears of it.
	end(t, rig, "3")
	assert.Empty(t, a.renew(t, "3"))
	clock.pass(time.Hour)
	assert.Equal(t, []string{"1", "2", "4"}, a.take(t, 10))
}

// A claim whose commit was not answered is renewed by no one, so the row is free in the end.
func TestAClaimThatIsNotKnownEnds(t *testing.T) {
	t.Parallel()
	clock, open := newDatabase(t)
	rig := open()
	a := newOwner(t, rig)
	enter(t, rig, "1", "2")
	require.Equal(t, []string{"1"}, a.take(t, 1))
	require.Equal(t, []string{"2"}, a.take(t, 1), "which a never hears of")
	for range 3 {
		clock.pass(2 * time.Second)
		require.Equal(t, []string{"1"}, a.renew(t, "1"))
	}
	assert.Equal(t, []string{"2"}, a.take(t, 10))
}

// Of processes that claim at once, each row has one.
func TestClaimsAtOnce(t *testing.T) {
	t.Parallel()
	const all, processes = 200, 4
	_, open := newDatabase(t)
	rig := open()
	ids := make([]string, all)
	for i := range ids {
		ids[i] = fmt.Sprintf("%03d", i)
	}
	enter(t, rig, ids...)
	taken := make([][]string, processes)
	var working sync.WaitGroup
	for i := range taken {
		o := newOwner(t, open())
		working.Go(func() {
			for o.anyFree(t) {
				taken[i] = append(taken[i], o.take(t, 3)...)
				o.renew(t, taken[i]...)
			}
		})
	}
	working.Wait()
	assert.Equal(t, ids, slices.Sorted(slices.Values(slices.Concat(taken...))))
}

// A claim that is not committed yet keeps no other process waiting.
func TestAClaimUnderWay(t *testing.T) {
	t.Parallel()
	if os.Getenv("PRICEMILL_TEST_SERVICES") == "" {
		t.Skip("on SQLite a transaction that writes is alone")
	}
	_, open := newDatabase(t)
	rig := open()
	a, b := newOwner(t, rig), newOwner(t, open())
	enter(t, rig, "1", "2", "3")
	in(t, rig, func(tx *pipeline.Tx) error {
		taken, err := claim.Take[string](t.Context(), tx, a.Claims, 2, table.ID)
		assert.ElementsMatch(t, []string{"1", "2"}, taken)
		assert.Equal(t, []string{"3"}, b.take(t, 10))
		return err
	})
	assert.Equal(t, []string{"1", "2"}, a.renew(t, "1", "2"))
}

func TestCountsAndConditions(t *testing.T) {
	t.Parallel()
	clock, open := newDatabase(t)
	rig := open()
	a := newOwner(t, rig)
	enter(t, rig, "1", "2", "3")
	end(t, rig, "2")
	n, known, err := table.Count(t.Context(), rig.DB, []string{"2", "3", "4"})
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	assert.ElementsMatch(t, []string{"2", "3"}, known)
	require.Equal(t, []string{"1"}, a.take(t, 1))
	which := func(condition string) (ids []string) {
		require.NoError(t, rig.DB.Select(t.Context(), &ids, `SELECT backfill_id FROM backfills WHERE `+condition+` ORDER BY 1`))
		return ids
	}
	assert.Equal(t, []string{"1"}, which(table.Held(rig.DB)))
	assert.Equal(t, []string{"3"}, which(table.Free(rig.DB)))
	clock.pass(time.Minute)
	assert.Empty(t, which(table.Held(rig.DB)))
	assert.Equal(t, []string{"1", "3"}, which(table.Free(rig.DB)))
}

type status string

func stopped(id string) schema.BackfillStopped {
	return schema.BackfillStopped{BackfillID: id, StoppedAt: schema.NewTime(time.Unix(1, 0))}
}

// Commands about rows hold them until they are applied: an owner that renews meanwhile waits,
// and sees what became of them.
func TestStatusesAreHeld(t *testing.T) {
	t.Parallel()
	_, open := newDatabase(t)
	rig := open()
	a := newOwner(t, open())
	enter(t, rig, "1", "2")
	require.Equal(t, []string{"1", "2"}, a.take(t, 10))
	records := rig.AppendAll(t, stopped("1"), stopped("unknown"))
	ours := make(chan []string, 1)
	in(t, rig, func(tx *pipeline.Tx) error {
		statuses, err := claim.Statuses[status](t.Context(), tx, table, records)
		assert.Equal(t, map[string]status{"1": "active"}, statuses)
		if err != nil {
			return err
		}
		assert.Empty(t, a.notLocked(t, "1"))
		go func() { ours <- a.renew(t, "1", "2") }()
		_, err = tx.Exec(t.Context(), `UPDATE backfills SET status = 'stopped' WHERE backfill_id = '1'`)
		return err
	})
	assert.Equal(t, []string{"2"}, <-ours)
}
