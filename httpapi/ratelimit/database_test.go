package ratelimit_test

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi/ratelimit"
	"github.com/pricemill/pricemill/internal/postgrestest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
)

// onEachEngine runs a test on an empty database of each engine. again opens it once more.
func onEachEngine(t *testing.T, test func(t *testing.T, again func() *store.Store)) {
	t.Parallel()
	opener := func(t *testing.T, open func() (store.Engine, error)) func() *store.Store {
		return func() *store.Store {
			engine, err := open()
			require.NoError(t, err)
			s, err := store.Open(t.Context(), engine)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, s.Close()) })
			return s
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "db")
		test(t, opener(t, func() (store.Engine, error) { return sqlite.Open(path) }))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		address := postgrestest.Schema(t)
		test(t, opener(t, func() (store.Engine, error) { return postgres.Open(t.Context(), postgres.Config{URL: address}) }))
	})
}

// TestProcessesShareTheDatabase: of many requests at once over several processes, no more
// are allowed than the limit says, and all of them where no process holds any.
func TestProcessesShareTheDatabase(t *testing.T) {
	onEachEngine(t, func(t *testing.T, again func() *store.Store) {
		const processes, limit = 3, 60
		var limiters [processes]*ratelimit.Limiter
		var stores [processes]*store.Store
		for i := range limiters {
			stores[i] = again()
			limiters[i] = ratelimit.New(ratelimit.Config{DB: stores[i]})
		}
		began := time.Now()
		back := func() int64 { return int64(time.Since(began) / (time.Minute / limit)) } // those that came back meanwhile
		before := stores[0].Writes()
		var allowed atomic.Int64
		var all sync.WaitGroup
		for i := range processes {
			all.Go(func() {
				for range 2 * limit {
					if limiters[i].Ask(t.Context(), "c", limit).Allowed {
						allowed.Add(1)
					}
				}
			})
		}
		all.Wait()
		for _, l := range limiters {
			require.Zero(t, l.Counted(ratelimit.InProcess), "all by the database")
		}
		assert.LessOrEqual(t, allowed.Load(), limit+back())
		assert.GreaterOrEqual(t, allowed.Load(), int64(limit), "each process asked until nothing was left")
		assert.Less(t, stores[0].Writes()-before, int64(limit)+back(), "not each request is a transaction")

		// One that ends gives back what it held.
		one, two := limiters[0], limiters[1]
		require.True(t, one.Ask(t.Context(), "d", limit).Allowed)
		stopped, stop := context.WithCancel(t.Context())
		stop()
		one.Run(stopped)
		began = time.Now()
		n := int64(0)
		for n < 1000 && two.Ask(t.Context(), "d", limit).Allowed {
			n++
		}
		assert.GreaterOrEqual(t, n, int64(limit-1))
		assert.LessOrEqual(t, n, limit+back())
		assert.False(t, one.Ask(t.Context(), "c", limit).Allowed && one.Counted(ratelimit.InProcess) == 0, "it counts by itself now")

		// Another client has its own.
		assert.Equal(t, 9, two.Ask(t.Context(), "e", 10).Remaining)
		two.Forget(t.Context())
		var rows int
		require.NoError(t, stores[0].Get(t.Context(), &rows, `SELECT COUNT(*) FROM rate_limits`))
		assert.Equal(t, 3, rows, "none is old")
		require.NoError(t, stores[0].Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE rate_limits SET at_ms = at_ms - 300000 WHERE client <> 'e'`)
			return err
		}))
		two.Ask(t.Context(), "f", 10)
		two.Forget(t.Context())
		require.NoError(t, stores[0].Get(t.Context(), &rows, `SELECT COUNT(*) FROM rate_limits`))
		assert.Equal(t, 2, rows)
	})
}

// TestTheDatabaseIsGone: requests are counted all the same.
func TestTheDatabaseIsGone(t *testing.T) {
	t.Parallel()
	engine, err := sqlite.Open(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	l := ratelimit.New(ratelimit.Config{DB: db})
	allowed := 0
	for range 20 {
		if l.Ask(t.Context(), "c", 10).Allowed {
			allowed++
		}
	}
	assert.Equal(t, 10, allowed)
	assert.EqualValues(t, 20, l.Counted(ratelimit.InProcess))
}

// BenchmarkAsk is what a request costs that is counted in the database, and in the process.
func BenchmarkAsk(b *testing.B) {
	engine, err := sqlite.Open(filepath.Join(b.TempDir(), "db"))
	require.NoError(b, err)
	db, err := store.Open(b.Context(), engine)
	require.NoError(b, err)
	defer func() { assert.NoError(b, db.Close()) }()
	for name, cfg := range map[string]ratelimit.Config{"database": {DB: db}, "process": {}} {
		b.Run(name, func(b *testing.B) {
			l := ratelimit.New(cfg)
			for b.Loop() {
				l.Ask(b.Context(), "c", ratelimit.MaxPerMinute)
			}
			b.ReportMetric(float64(l.Counted(ratelimit.InProcess))/float64(b.N), "in-process/op")
		})
	}
}
