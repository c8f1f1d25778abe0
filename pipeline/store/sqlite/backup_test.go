package sqlite_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store/sqlite"
)

func openEngine(t *testing.T, path string) *sqlite.Engine {
	t.Helper()
	engine, err := sqlite.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, engine.Close()) })
	return engine
}

func insert(t *testing.T, engine *sqlite.Engine, n int) {
	t.Helper()
	require.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`INSERT INTO numbers (n) VALUES (?)`, n)
		return err
	}))
}

func numbers(t *testing.T, engine *sqlite.Engine) []int {
	t.Helper()
	var got []int
	require.NoError(t, engine.Reader().Select(&got, `SELECT n FROM numbers ORDER BY n`))
	return got
}

// TestBackupIsOfOneMoment: a writer that is busy all the time is kept waiting
// while still runs, and what it commits afterwards is not in the copy.
func TestBackupIsOfOneMoment(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	service, beside := openEngine(t, path), openEngine(t, path)
	require.NoError(t, service.Write(t.Context(), func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`CREATE TABLE numbers (n INTEGER PRIMARY KEY)`)
		return err
	}))
	insert(t, service, 1)
	begun, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan int, 1)
	go func() {
		n := 1
		defer func() { stopped <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			n++
			err := service.Write(context.Background(), func(tx *sqlx.Tx) error {
				_, err := tx.Exec(`INSERT INTO numbers (n) VALUES (?)`, n)
				return err
			})
			if !assert.NoError(t, err) {
				return
			}
			if n == 10 {
				close(begun)
			}
		}
	}()
	<-begun
	var frozen []int
	copied := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, beside.Backup(t.Context(), copied, func() error {
		frozen = numbers(t, service)
		assert.Equal(t, frozen, numbers(t, service))
		return nil
	}))
	insert(t, beside, 0)
	close(stop)
	written := <-stopped
	assert.Equal(t, frozen, numbers(t, openEngine(t, copied)))
	assert.GreaterOrEqual(t, len(frozen), 10)
	assert.Len(t, numbers(t, service), written+1, "nothing that was written is lost")
}

func TestBackupFaults(t *testing.T) {
	t.Parallel()
	engine := openEngine(t, filepath.Join(t.TempDir(), "db"))
	require.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`CREATE TABLE numbers (n INTEGER PRIMARY KEY)`)
		return err
	}))
	copied := filepath.Join(t.TempDir(), "copy")
	failed := errors.New("no")
	require.ErrorIs(t, engine.Backup(t.Context(), copied, func() error { return failed }), failed)
	_, err := os.Stat(copied)
	require.ErrorIs(t, err, os.ErrNotExist, "nothing was copied")

	// While another process has the lock, the backup waits as long as its caller.
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, engine.Write(t.Context(), func(*sqlx.Tx) error {
		result := make(chan error)
		go func() { result <- engine.Backup(ctx, copied, func() error { return nil }) }()
		cancel()
		assert.ErrorIs(t, <-result, context.Canceled)
		return nil
	}))

	nothing := func() error { return nil }
	require.Error(t, engine.Backup(t.Context(), filepath.Join(t.TempDir(), "no", "such", "folder"), nothing))
	insert(t, engine, 1)
	require.NoError(t, engine.Backup(t.Context(), copied, nothing), "a backup that failed leaves nothing behind")
	assert.Equal(t, []int{1}, numbers(t, openEngine(t, copied)))
}
