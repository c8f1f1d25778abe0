package cmd_test

import (
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// TestBackupUnderLoad backs a service up while answers go through it. The copy
// is a service of its own: nothing halts, its tables are what its log says, and
// after all answers were fed to it, its tables hold each of them once. The
// original is none the worse for it.
func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	if onPostgres() {
		refusesServices(t)
		return
	}
	const share = killEvents / 24
	const fed = 4 * share
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	answers := makeAnswers(rand.New(rand.NewPCG(seed, 0)), fed, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	p := start(t, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	p.eventually("/readyz", http.StatusOK)

	var copies []environment
	for i := range 2 {
		feed(t, p.env, answers[2*i*share:][:share])
		dir := filepath.Join(t.TempDir(), "copy")
		type result struct {
			status         int
			stdout, stderr string
		}
		done := make(chan result, 1)
		go func() {
			status, stdout, stderr := run(t, p.env, "backup", dir)
			done <- result{status, stdout, stderr}
		}()
		feed(t, p.env, answers[(2*i+1)*share:][:share])
		got := <-done
		require.Zero(t, got.status, got.stderr)
		assert.Contains(t, got.stdout, dir)
		t.Log(got.stdout)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
		assert.Equal(t, "pricemill.db", entries[0].Name())
		copies = append(copies, environment{"DATA_DIR": dir, "MOVING_AVERAGE_WINDOW": "5,20"})
	}
	awaitApplied(t, p.env, fed)
	awaitDrained(t, p.env)
	checkTables(t, p.env, answers)
	p.eventually("/readyz", http.StatusOK)
	require.Zero(t, p.stop())

	for i, env := range copies {
		checkFits(t, env["DATA_DIR"])
		second := start(t, env)
		second.eventually("/readyz", http.StatusOK) // each stage has positions now
		awaitDrained(t, second.env)
		there := fedIn(t, second.env, answers)
		t.Logf("copy %d has %d of %d answers", i+1, len(there), fed)
		assert.GreaterOrEqual(t, len(there), (2*i+1)*share, "all that was acknowledged before is there")
		checkTables(t, second.env, there)
		feed(t, second.env, answers)
		awaitApplied(t, second.env, fed)
		awaitDrained(t, second.env)
		checkTables(t, second.env, answers)
		require.Zero(t, second.stop())
	}
}

// checkFits: the log of a copy holds every number that its database has given, and no
// other.
func checkFits(t *testing.T, dir string) {
	t.Helper()
	env := environment{"DATA_DIR": dir}
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	log, err := dial(t.Context(), env)
	require.NoError(t, err)
	defer func() { assert.NoError(t, log.Close()) }()
	for _, topic := range schema.Topics() {
		ranges, err := log.Offsets(t.Context(), topic)
		require.NoError(t, err)
		for part, held := range ranges {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			next := int64(0)
			require.NoError(t, log.Read(t.Context(), tp, 0, held.End, func(records []pipeline.Record) error {
				for _, r := range records {
					assert.Equal(t, next, r.Offset, tp)
					next++
				}
				return nil
			}))
			assert.Equal(t, held.End, next, tp)
		}
	}
}

// fedIn returns the answers that are in raw-quotes.
func fedIn(t *testing.T, env environment, answers []fedAnswer) []fedAnswer {
	t.Helper()
	broker := connect(t, env)
	ranges, err := broker.Offsets(t.Context(), schema.RawQuotes)
	require.NoError(t, err)
	there := map[string]bool{}
	for p, r := range ranges {
		tp := pipeline.TopicPartition{Topic: schema.RawQuotes, Partition: int32(p)}
		require.NoError(t, broker.Read(t.Context(), tp, r.Oldest, r.End, func(records []pipeline.Record) error {
			for _, record := range records {
				event, err := schema.DecodeEvent(record.Headers, record.Value)
				if err != nil {
					return err
				}
				there[event.ID] = true
			}
			return nil
		}))
	}
	return slices.DeleteFunc(slices.Clone(answers), func(a fedAnswer) bool { return !there[a.id] })
}

// refusesServices: what others keep has copies of their making.
func refusesServices(t *testing.T) {
	t.Helper()
	status, _, stderr := run(t, newStack(t, nil), "backup", filepath.Join(t.TempDir(), "copy"))
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "DATABASE_URL: backup copies SQLite")
	if onServices() {
		assert.Contains(t, stderr, "KAFKA_BOOTSTRAP_SERVERS: backup copies SQLite")
	}
}

func TestBackupFaults(t *testing.T) {
	t.Parallel()
	if onPostgres() {
		refusesServices(t)
		return
	}
	env := environment{"DATA_DIR": filepath.Join(t.TempDir(), "none"), "HTTP_ADDR": "127.0.0.1:0"}
	parent := t.TempDir()
	status, _, stderr := run(t, env, "backup", filepath.Join(parent, "copy"))
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "nothing to copy")

	// Of a service that was stopped.
	p := start(t, env)
	assert.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=AAPL").status)
	require.Zero(t, p.stop())
	full := filepath.Join(parent, "full")
	require.NoError(t, os.MkdirAll(filepath.Join(full, "something"), 0o700))
	status, _, stderr = run(t, env, "backup", full)
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "not empty")
	file := filepath.Join(parent, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	status, _, _ = run(t, env, "backup", file)
	assert.Equal(t, 2, status)

	// A log that does not read as it was written is not called a backup.
	empty := filepath.Join(parent, "empty")
	require.NoError(t, os.Mkdir(empty, 0o700))
	broken := environment{"DATA_DIR": filepath.Join(parent, "broken"), "HTTP_ADDR": "127.0.0.1:0"}
	status, _, stderr = run(t, env, "backup", broken["DATA_DIR"])
	require.Zero(t, status, stderr)
	db := openTables(t, broken)
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE log_segments SET checksum = checksum + 1`)
		return err
	}))
	require.NoError(t, db.Close())
	status, _, stderr = run(t, broken, "backup", empty)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "the log is damaged")
	left, err := filepath.Glob(filepath.Join(parent, "*unfinished*"))
	require.NoError(t, err)
	assert.Empty(t, left, "half a backup was left behind")

	// An empty directory is as good as none.
	status, _, stderr = run(t, env, "backup", empty)
	require.Zero(t, status, stderr)
	second := start(t, environment{"DATA_DIR": empty})
	assert.Equal(t, http.StatusOK, second.eventually("/api/v1/prices/moving-average?symbol=AAPL", http.StatusOK).status)
}
