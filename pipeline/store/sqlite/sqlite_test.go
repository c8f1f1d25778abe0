package sqlite_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/pipeline/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEngine(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Opener {
		path := filepath.Join(t.TempDir(), "a path?#% with all sorts.db")
		return func(t *testing.T) store.Engine {
			engine, err := sqlite.Open(path)
			require.NoError(t, err)
			return engine
		}
	})
}

func TestCommitsAreDurable(t *testing.T) {
	t.Parallel()
	engine, err := sqlite.Open(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, engine.Close()) })
	_, err = engine.Migrate(t.Context())
	require.NoError(t, err)
	require.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error {
		for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal"} {
			var got string
			require.NoError(t, tx.Get(&got, "PRAGMA "+pragma))
			assert.Equal(t, want, got, pragma)
		}
		return nil
	}))
	_, err = engine.Reader().Exec("CREATE TABLE x (y)")
	assert.Error(t, err, "readers do not write")
}

// A command next to a service is not to wait for the only writer before it has
// anything to write.
func TestOpensBesideAWriter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	open := func() (*store.Store, error) {
		engine, err := sqlite.Open(path)
		require.NoError(t, err)
		return store.Open(t.Context(), engine)
	}
	service, err := open()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, service.Close()) })
	require.NoError(t, service.Write(t.Context(), func(*store.Tx) error {
		command, err := open()
		if assert.NoError(t, err) {
			assert.NoError(t, command.Close())
		}
		return nil
	}))
}

// TestReadOnly: a file that was not closed is read, with all that was committed, and stays
// as it is.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	_, err := os.Stat(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	missing, err := sqlite.Open(path, sqlite.ReadOnly)
	require.NoError(t, err)
	require.Error(t, missing.Reader().Ping(), "it is not created")
	require.NoError(t, missing.Close())

	engine, err := sqlite.Open(path)
	require.NoError(t, err)
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	require.NoError(t, db.EnsureTopic(t.Context(), "prices", 3)) // in the write-ahead log
	left := filepath.Join(t.TempDir(), "db")
	before := map[string][]byte{}
	for _, suffix := range []string{"", "-wal"} { // as after a kill
		before[suffix], err = os.ReadFile(path + suffix)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(left+suffix, before[suffix], 0o600))
	}
	read, err := sqlite.Open(left, sqlite.ReadOnly)
	require.NoError(t, err)
	topics, err := store.Reader(read).Topics(t.Context())
	require.NoError(t, err)
	assert.Len(t, topics, 1)
	assert.Error(t, store.Reader(read).EnsureTopic(t.Context(), "other", 3))
	require.NoError(t, read.Close())
	for suffix, content := range before {
		after, err := os.ReadFile(left + suffix)
		require.NoError(t, err)
		assert.Equal(t, content, after, suffix)
	}
}
