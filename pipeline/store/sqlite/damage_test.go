package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
)

// fullFile is a database of some 2 MB whose write-ahead log is empty.
func fullFile(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	engine, err := Open(path)
	require.NoError(t, err)
	require.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`CREATE TABLE a (id INTEGER PRIMARY KEY, txt TEXT NOT NULL)`)
		require.NoError(t, err)
		_, err = tx.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
			INSERT INTO a SELECT i, printf('%0100d', i) FROM n`)
		return err
	}))
	require.NoError(t, engine.Close())
	return path
}

func zero(t testing.TB, path string, at, n int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.WriteAt(make([]byte, n), at)
	require.NoError(t, err)
	require.NoError(t, file.Close())
}

// TestDamageIsFound: whether a look through the file meets it, or a statement. Each
// error says what to do.
func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(path string, size int64){
		"4 kB of zeros in the middle": func(path string, size int64) { zero(t, path, size/2/4096*4096, 4096) },
		"4 kB of zeros at the start":  func(path string, _ int64) { zero(t, path, 0, 4096) },
		"half of the file":            func(path string, size int64) { require.NoError(t, os.Truncate(path, size/2)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fullFile(t)
			info, err := os.Stat(path)
			require.NoError(t, err)
			harm(path, info.Size())
			for way, read := range map[string]func(*Engine) error{
				"a look": func(e *Engine) error { return e.Check(t.Context()) },
				"a query": func(e *Engine) error {
					var n int
					return e.Reader().Get(&n, `SELECT COUNT(txt) FROM a WHERE txt <> ''`)
				},
				"a write": func(e *Engine) error {
					return e.Write(t.Context(), func(tx *sqlx.Tx) error {
						_, err := tx.Exec(`UPDATE a SET txt = 'x'`)
						return err
					})
				},
			} {
				engine, err := Open(path)
				require.NoError(t, err)
				err = read(engine)
				require.ErrorIs(t, err, store.ErrDamaged, way)
				assert.ErrorContains(t, err, path+" is damaged", way)
				assert.ErrorContains(t, err, `"pricemill backup"`, way)
				assert.ErrorContains(t, err, "docs/operations-reference.md", way)
				assert.Equal(t, 1, strings.Count(err.Error(), "docs/operations-reference.md"), "%s: said once: %v", way, err)
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				assert.ErrorIs(t, engine.Check(ended), store.ErrDamaged, "it is known from now on")
				require.NoError(t, engine.Close())
			}
		})
	}
	engine, err := Open(fullFile(t))
	require.NoError(t, err)
	assert.NoError(t, engine.Check(t.Context()))
	_, err = engine.Reader().Exec(`SELECT nothing FROM nowhere`)
	require.Error(t, err)
	assert.NotErrorIs(t, err, store.ErrDamaged)
	assert.NoError(t, engine.Check(t.Context()))
	require.NoError(t, engine.Close())
}

// TestLooksThroughTheFile: they share one look, none waits longer than it was told to, and
// a look that takes long is not repeated soon. Time is virtual.
func TestLooksThroughTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		var result atomic.Pointer[error]
		result.Store(new(error))
		d := newDamage("file")
		d.look = func(ctx context.Context) error {
			looks.Add(1)
			select {
			case <-time.After(10 * time.Second):
				return *result.Load()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		check := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return d.check(ctx)
		}
		began := time.Now()
		require.NoError(t, check())
		require.NoError(t, check())
		assert.Equal(t, 2*time.Second, time.Since(began), "it is not waited for to the end")
		time.Sleep(9 * time.Second)
		require.NoError(t, check())
		assert.EqualValues(t, 1, looks.Load())
		time.Sleep(lookShare*10*time.Second - time.Minute)
		require.NoError(t, check())
		assert.EqualValues(t, 1, looks.Load(), "it took ten seconds")

		damaged := fmt.Errorf("page 7: %w", store.ErrDamaged)
		result.Store(&damaged)
		time.Sleep(time.Minute)
		require.NoError(t, check(), "nothing is found yet")
		assert.EqualValues(t, 2, looks.Load())
		time.Sleep(10 * time.Second)
		require.ErrorIs(t, check(), store.ErrDamaged)
		time.Sleep(24 * time.Hour)
		require.ErrorIs(t, check(), store.ErrDamaged)
		assert.EqualValues(t, 2, looks.Load(), "it is known")

		d = newDamage("file")
		d.look = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		require.NoError(t, check())
		d.close() // a look under way ends
		require.NoError(t, check())
	})
}

// BenchmarkQuickCheck is the time of a look, by the size of the file.
func BenchmarkQuickCheck(b *testing.B) {
	path := fullFile(b)
	engine, err := Open(path)
	require.NoError(b, err)
	defer func() { require.NoError(b, engine.Close()) }()
	for range 7 { // 128 times as much
		require.NoError(b, engine.Write(b.Context(), func(tx *sqlx.Tx) error {
			_, err := tx.Exec(`INSERT INTO a (txt) SELECT txt FROM a`)
			return err
		}))
	}
	info, err := os.Stat(path)
	require.NoError(b, err)
	b.SetBytes(info.Size())
	for b.Loop() {
		require.NoError(b, engine.damage.quickCheck(b.Context()))
	}
}
