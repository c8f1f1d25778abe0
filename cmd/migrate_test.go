package cmd_test

import (
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMigrate: of several at once one does the work, none needs a log, and what
// serves afterwards finds the tables done.
func TestMigrate(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	alone := environment{}
	for name, value := range env {
		alone[name] = value
	}
	if onServices() {
		alone["KAFKA_BOOTSTRAP_SERVERS"] = "127.0.0.1:1" // no one
	}
	var outputs [3]string
	var all sync.WaitGroup
	for i := range outputs {
		all.Go(func() {
			status, stdout, stderr := run(t, alone, "migrate")
			assert.Zero(t, status, stderr)
			outputs[i] = stdout
		})
	}
	all.Wait()
	pattern := regexp.MustCompile(`^tables of the pipeline: version (\d+), was (\d+)\n(?:tables of [a-z-]+: (?:made|there)\n)+$`)
	fresh, made := 0, 0
	for _, output := range outputs {
		versions := pattern.FindStringSubmatch(output)
		require.NotNil(t, versions, output)
		now, err := strconv.Atoi(versions[1])
		require.NoError(t, err)
		assert.Positive(t, now)
		if versions[2] == "0" {
			fresh++
		} else {
			assert.Equal(t, versions[1], versions[2])
		}
		made += strings.Count(output, ": made")
	}
	assert.Equal(t, 1, fresh)
	const projections = 6
	assert.Equal(t, projections, made, "each is made once")

	p := start(t, env)
	assert.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=AAPL").status)
	status, stdout, stderr := run(t, p.env, "migrate")
	if onPostgres() {
		assert.Zero(t, status, "others run meanwhile: %s", stderr)
		assert.NotContains(t, stdout, ": made")
	} else {
		assert.Equal(t, 1, status)
		assert.Contains(t, stderr, "pricemill runs on "+env["DATA_DIR"])
		assert.Empty(t, stdout)
	}
	require.Zero(t, p.stop())
}

// Tables of another fold are not for migrate to throw away.
func TestMigrateLeavesOtherFolds(t *testing.T) {
	t.Parallel()
	env := newStack(t, environment{"MOVING_AVERAGE_WINDOW": "3"})
	p := start(t, env)
	assert.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=AAPL").status)
	p.eventually("/api/v1/prices/moving-average?symbol=AAPL&window=3", http.StatusOK)
	require.Zero(t, p.stop())
	env["MOVING_AVERAGE_WINDOW"] = "5"
	status, stdout, stderr := run(t, env, "migrate")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "tables of moving-averages: there\n")
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var window int
	require.NoError(t, db.Get(t.Context(), &window, `SELECT window_size FROM moving_averages`))
	assert.Equal(t, 3, window)
}

func TestMigrateNeedsADatabase(t *testing.T) {
	t.Parallel()
	status, _, stderr := run(t, environment{"DATA_DIR": filepath.Join(t.TempDir(), "new"),
		"DATABASE_URL": "postgres://u:hunter2@127.0.0.1:1/db?connect_timeout=1", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "migrate")
	assert.Equal(t, 1, status)
	assert.NotEmpty(t, stderr)
	assert.NotContains(t, stderr, "hunter2")
}
