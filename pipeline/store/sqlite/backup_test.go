package sqlite_test

import (
	"context"
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

// TestBackupIsOfOneMoment: while a writer is busy all the time, the copy holds what was
// committed up to one moment: a prefix of what it wrote, without a gap.
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
	copied := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, beside.Backup(t.Context(), copied))
	close(stop)
	written := <-stopped
	got := numbers(t, openEngine(t, copied))
	assert.GreaterOrEqual(t, len(got), 10)
	for i, n := range got {
		require.Equal(t, i+1, n)
	}
	assert.Len(t, numbers(t, service), written, "nothing that was written is lost")
}

func TestBackupFaults(t *testing.T) {
	t.Parallel()
	engine := openEngine(t, filepath.Join(t.TempDir(), "db"))
	require.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`CREATE TABLE numbers (n INTEGER PRIMARY KEY)`)
		return err
	}))
	copied := filepath.Join(t.TempDir(), "copy")
	require.Error(t, engine.Backup(t.Context(), filepath.Join(t.TempDir(), "no", "such", "folder")))
	insert(t, engine, 1)
	require.NoError(t, engine.Backup(t.Context(), copied), "a backup that failed leaves nothing behind")
	assert.Equal(t, []int{1}, numbers(t, openEngine(t, copied)))
}
