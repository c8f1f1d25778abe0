package cmd_test

import (
	"database/sql"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/engine"
)

// TestAnIdleServiceWritesNothing: once its stages run, SQLite sees no write of it.
func TestAnIdleServiceWritesNothing(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"DATABASE_URL": "", "KAFKA_BOOTSTRAP_SERVERS": ""})
	tables := openTables(t, p.env)
	defer func() { assert.NoError(t, tables.Close()) }()
	all := []string{"adjustments.g1", "backfill", "fetch", "latest-prices.g1", "moving-averages.g1", "normalize", "polling-jobs.g1", "processed-prices.g1",
		"raw-store", "requests.g1", "schedule", "stream"}
	running := func() []string {
		names, err := engine.RunningStages(t.Context(), tables)
		require.NoError(t, err)
		return names
	}
	require.Eventually(t, func() bool { return slices.Equal(all, running()) }, time.Minute, 20*time.Millisecond)

	db, err := sql.Open("sqlite", filepath.Join(p.env["DATA_DIR"], "pricemill.db"))
	require.NoError(t, err)
	db.SetMaxOpenConns(1) // the version is as a connection sees it
	defer func() { assert.NoError(t, db.Close()) }()
	version := func() (v int) {
		require.NoError(t, db.QueryRow(`PRAGMA data_version`).Scan(&v))
		return v
	}
	before := version()
	assert.Never(t, func() bool { return version() != before }, 6*time.Second, 20*time.Millisecond)
	assert.Equal(t, all, running())
	p.stopped()
	assert.Empty(t, running(), "it takes back what it announced")
}

// TestTheStagesOfAWorkerThatDied: what it announced stays in the database of SQLite
// until a process finds that it is gone.
func TestTheStagesOfAWorkerThatDied(t *testing.T) {
	t.Parallel()
	env := newStack(t, environment{"DATABASE_URL": "", "KAFKA_BOOTSTRAP_SERVERS": ""})
	tables := openTables(t, env)
	defer func() { assert.NoError(t, tables.Close()) }()
	worker := flock.New(filepath.Join(env["DATA_DIR"], "serve.lock"))
	held, err := worker.TryLock()
	require.NoError(t, err)
	require.True(t, held)
	require.NoError(t, tables.KeepLeases(t.Context(), "any", []string{"running/normalize"}))
	running := func() bool {
		names, err := engine.RunningStages(t.Context(), tables)
		require.NoError(t, err)
		return len(names) > 0
	}
	api := start(t, env.with(environment{"ROLES": "api"}))
	_, checks := api.readiness()
	assert.Contains(t, checks["workers"], "stage fetch")
	assert.NotContains(t, checks["workers"], "stage normalize")
	assert.Never(t, func() bool { return !running() }, 2500*time.Millisecond, 20*time.Millisecond, "the worker lives")
	require.NoError(t, worker.Close())
	require.Eventually(t, func() bool { return !running() }, 30*time.Second, 20*time.Millisecond)
	_, checks = api.readiness()
	assert.Contains(t, checks["workers"], "stage normalize")
}

// TestALookKeepsNoServiceFromStarting: a process that looks whether another one works
// holds the lock for that moment.
func TestALookKeepsNoServiceFromStarting(t *testing.T) {
	t.Parallel()
	for range 5 {
		env := newStack(t, environment{"DATABASE_URL": "", "KAFKA_BOOTSTRAP_SERVERS": ""})
		lock := flock.New(filepath.Join(env["DATA_DIR"], "serve.lock"))
		started, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			pause := time.NewTicker(10 * time.Millisecond)
			defer pause.Stop()
			for looking := true; ; looking = !looking {
				select {
				case <-started:
					assert.NoError(t, lock.Close())
					return
				case <-pause.C:
				}
				var err error
				if looking {
					_, err = lock.TryRLock()
				} else {
					err = lock.Unlock()
				}
				assert.NoError(t, err)
			}
		}()
		p := start(t, env)
		close(started)
		<-ended
		p.stopped()
	}
}
