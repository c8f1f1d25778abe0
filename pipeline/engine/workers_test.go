package engine

import (
	"context"
	"database/sql"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// watchWrites tells whether others wrote to the database of the rig since the last
// call.
func (r *Rig) watchWrites() (changed func() bool) {
	r.T.Helper()
	db, err := sql.Open("sqlite", r.path)
	require.NoError(r.T, err)
	db.SetMaxOpenConns(1) // the version is as a connection sees it
	r.T.Cleanup(func() { assert.NoError(r.T, db.Close()) })
	last := -1
	return func() bool {
		r.T.Helper()
		var version int
		require.NoError(r.T, db.QueryRow(`PRAGMA data_version`).Scan(&version))
		was := last
		last = version
		return version != was
	}
}

// TestAnIdleSoleWorkerWritesNothing: it announces its stages once, until what it runs
// changes, and takes them back when it stops. One among several has to renew.
func TestAnIdleSoleWorkerWritesNothing(t *testing.T) {
	t.Parallel()
	for _, sole := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := NewRig(t, &Recorder{})
			r.assign()
			require.NoError(t, r.DB.KeepLeases(t.Context(), runningOwner, []string{runningPrefix + "of one that died"}))
			runtime, err := New(Config{Store: r.DB, Broker: r.Broker, Topics: r.Stage.topics, SoleWorker: sole, Log: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			running := func() []string {
				names, err := RunningStages(t.Context(), r.DB)
				require.NoError(t, err)
				return names
			}
			ctx, stop := context.WithCancel(t.Context())
			stopped := make(chan struct{})
			go func() { runtime.announce(ctx); close(stopped) }()
			synctest.Wait()
			if sole {
				assert.Empty(t, running(), "no other process runs a stage")
			}
			runtime.mu.Lock()
			runtime.stages = []*Stage{r.Stage}
			runtime.mu.Unlock()
			time.Sleep(announcePoll)
			synctest.Wait()
			assert.Contains(t, running(), "test")

			changed := r.watchWrites()
			changed()
			time.Sleep(time.Hour)
			synctest.Wait()
			assert.Equal(t, !sole, changed(), "sole worker: %v", sole)
			assert.Contains(t, running(), "test")

			r.Stage.restart() // it leaves its group
			time.Sleep(announcePoll)
			synctest.Wait()
			assert.Equal(t, !sole, slices.Contains(running(), "test"))
			r.assign()
			time.Sleep(announcePoll)
			synctest.Wait()
			assert.Contains(t, running(), "test")
			stop()
			<-stopped
			assert.Equal(t, !sole, slices.Contains(running(), "test"), "another one's lease runs out later")
		})
	}
}
