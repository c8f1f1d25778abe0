package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofrs/flock"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func openWithTable(t *testing.T) *Engine {
	t.Helper()
	engine, err := Open(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, engine.Close()) })
	require.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error {
		_, err := tx.Exec(`CREATE TABLE numbers (n INTEGER PRIMARY KEY)`)
		return err
	}))
	return engine
}

func insert(tx *sqlx.Tx, n int) error {
	_, err := tx.Exec(`INSERT INTO numbers VALUES ($1)`, n)
	return err
}

func numbers(t *testing.T, engine *Engine) []int {
	t.Helper()
	all := []int{}
	require.NoError(t, engine.Reader().Select(&all, `SELECT n FROM numbers ORDER BY n`))
	return all
}

// Of many writers at once, some of which fail or panic after their insert, what
// is there is what those that succeeded wrote.
func TestWritersShareACommitAndNothingElse(t *testing.T) {
	t.Parallel()
	engine := openWithTable(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	var want []int
	var wait sync.WaitGroup
	for writer := range 16 {
		random := rand.New(rand.NewPCG(seed, uint64(writer)))
		wait.Go(func() {
			for i := range 40 {
				n := writer*1000 + i
				switch failure := errors.New("no"); random.IntN(4) {
				case 0:
					assert.ErrorIs(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error { return errors.Join(insert(tx, n), failure) }), failure)
				case 1:
					assert.PanicsWithValue(t, n, func() {
						_ = engine.Write(t.Context(), func(tx *sqlx.Tx) error {
							assert.NoError(t, insert(tx, n))
							panic(n)
						})
					})
				default:
					assert.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error { return insert(tx, n) }))
					mu.Lock()
					want = append(want, n)
					mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
	slices.Sort(want)
	assert.Equal(t, want, numbers(t, engine))
}

// together runs writers that are all inside one transaction: each enters only
// when the next one waits.
func together(engine *Engine, writers ...func(tx *sqlx.Tx) error) []error {
	errs := make([]error, len(writers))
	entered := make([]chan struct{}, len(writers))
	var wait sync.WaitGroup
	for i := range writers {
		entered[i] = make(chan struct{})
	}
	for i, f := range writers {
		wait.Go(func() {
			if i > 0 {
				<-entered[i-1]
			}
			errs[i] = engine.Write(context.Background(), func(tx *sqlx.Tx) error {
				close(entered[i])
				if i+1 < len(writers) {
					for engine.group.waiting.Load() == 0 {
						continue // the next one is on its way
					}
				}
				return f(tx)
			})
		})
	}
	wait.Wait()
	return errs
}

func TestAFailureUndoesItsOwnWorkOnly(t *testing.T) {
	t.Parallel()
	engine := openWithTable(t)
	failure := errors.New("no")
	errs := together(engine,
		func(tx *sqlx.Tx) error { return insert(tx, 1) },
		func(tx *sqlx.Tx) error { return errors.Join(insert(tx, 2), failure) },
		func(tx *sqlx.Tx) error { return insert(tx, 3) })
	assert.NoError(t, errs[0])
	assert.ErrorIs(t, errs[1], failure)
	assert.NoError(t, errs[2])
	assert.Equal(t, []int{1, 3}, numbers(t, engine))
}

// A statement that is interrupted makes SQLite roll back the transaction: all
// of its members learn that nothing happened.
func TestAnInterruptionFailsAllMembers(t *testing.T) {
	t.Parallel()
	engine := openWithTable(t)
	errs := together(engine,
		func(tx *sqlx.Tx) error { return insert(tx, 1) },
		func(tx *sqlx.Tx) error {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			_, err := tx.ExecContext(ctx, `WITH RECURSIVE c(x) AS (SELECT 10 UNION ALL SELECT x + 1 FROM c)
				INSERT INTO numbers SELECT x FROM c`)
			return err
		})
	require.Error(t, errs[1])
	got := numbers(t, engine)
	if errs[0] == nil {
		assert.Equal(t, []int{1}, got)
	} else {
		assert.ErrorIs(t, errs[0], errUndone)
		assert.Empty(t, got)
	}
	require.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error { return insert(tx, 5) }), "and it continues")
	assert.Contains(t, numbers(t, engine), 5)
}

func TestAWriterThatIsLateForItsContextDoesNotWrite(t *testing.T) {
	t.Parallel()
	engine := openWithTable(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, engine.Write(ctx, func(tx *sqlx.Tx) error { return insert(tx, 1) }), context.Canceled)
	assert.Empty(t, numbers(t, engine))
}

// While a writer waits for the turn of its process, and others for it, the clock goes
// on: none of them keeps the others from the time that they wait for.
func TestWaitingForTheTurnLetsTheClockGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		engine := openWithTable(t)
		other := turnstile{flock.New(engine.path + ".turn")}
		taken, err := other.file.TryLock()
		require.NoError(t, err)
		require.True(t, taken)
		began := time.Now()
		var wait sync.WaitGroup
		for n := range 3 {
			wait.Go(func() {
				assert.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error { return insert(tx, n) }))
			})
		}
		time.Sleep(5 * time.Second) // less than patience
		require.NoError(t, other.file.Unlock())
		wait.Wait()
		assert.Equal(t, []int{0, 1, 2}, numbers(t, engine))
		assert.Less(t, time.Since(began), patience)
	})
}

func BenchmarkWriters(b *testing.B) {
	for _, writers := range []int{1, 4, 16} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			engine, err := Open(filepath.Join(b.TempDir(), "db"))
			require.NoError(b, err)
			defer func() { assert.NoError(b, engine.Close()) }()
			require.NoError(b, engine.Write(b.Context(), func(tx *sqlx.Tx) error {
				_, err := tx.Exec(`CREATE TABLE numbers (n INTEGER PRIMARY KEY)`)
				return err
			}))
			var wait sync.WaitGroup
			for w := range writers {
				wait.Go(func() {
					for i := w; i < b.N; i += writers {
						assert.NoError(b, engine.Write(b.Context(), func(tx *sqlx.Tx) error { return insert(tx, i) }))
					}
				})
			}
			wait.Wait()
		})
	}
}

// Where the file may not grow, the engine rolls back what others wrote in the same
// transaction, too. Anyone who was told that it is written finds it, and no one else.
func TestAFullDatabaseTellsEachWriter(t *testing.T) {
	t.Parallel()
	engine := openWithTable(t)
	_, err := engine.writer.Exec(`CREATE TABLE blobs (n INTEGER PRIMARY KEY, bytes BLOB NOT NULL)`)
	require.NoError(t, err)
	_, err = engine.writer.Exec(`PRAGMA max_page_count = 200`)
	require.NoError(t, err)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	want := []int{}
	refused := 0
	var wait sync.WaitGroup
	for writer := range 8 {
		random := rand.New(rand.NewPCG(seed, uint64(writer)))
		wait.Go(func() {
			for i := range 60 {
				n, size := writer*1000+i, random.IntN(20_000)
				err := engine.Write(t.Context(), func(tx *sqlx.Tx) error {
					if _, err := tx.Exec(`INSERT INTO blobs VALUES ($1, zeroblob($2))`, n, size); err != nil {
						return err
					}
					return insert(tx, n)
				})
				mu.Lock()
				if err == nil {
					want = append(want, n)
				} else {
					refused++
					assert.False(t, engine.IsDataError(err), "%v", err)
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	slices.Sort(want)
	assert.Positive(t, refused)
	assert.Equal(t, want, numbers(t, engine))
	var blobs []int
	require.NoError(t, engine.Reader().Select(&blobs, `SELECT n FROM blobs ORDER BY n`))
	assert.Equal(t, want, blobs)
	_, err = engine.writer.Exec(`PRAGMA max_page_count = 100000`)
	require.NoError(t, err)
	require.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error { return insert(tx, -1) }), "once there is room")
}
