package cmd_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/cmd"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
)

// newBenchStack is newStack where everything is found that a benchmark might
// leave behind.
func newBenchStack(t *testing.T) environment {
	return newStack(t, environment{"DATA_DIR": filepath.Join(t.TempDir(), "data"), "KAFKA_PARTITIONS": "2"})
}

// leftBehind lists what a benchmark left: files next to DATA_DIR, tables with
// rows, topics, groups.
func leftBehind(t *testing.T, env environment) []string {
	t.Helper()
	var left []string
	files, err := os.ReadDir(filepath.Dir(env["DATA_DIR"]))
	require.NoError(t, err)
	for _, file := range files {
		left = append(left, file.Name())
	}
	if !onPostgres() {
		return left
	}
	table, err := postgres.TableWithData(t.Context(), postgres.Config{URL: env["DATABASE_URL"]})
	require.NoError(t, err)
	if table != "" {
		left = append(left, table)
	}
	if !env.onKafka() {
		return left
	}
	administer(t, env, func(admin sarama.ClusterAdmin) {
		topics, err := admin.ListTopics()
		require.NoError(t, err)
		groups, err := admin.ListConsumerGroups()
		require.NoError(t, err)
		for _, name := range slices.Concat(slices.Collect(maps.Keys(topics)), slices.Collect(maps.Keys(groups))) {
			if strings.HasPrefix(name, env["KAFKA_GROUP_ID"]+".") {
				left = append(left, name)
			}
		}
	})
	return left
}

// TestBench runs each scenario with small numbers.
func TestBench(t *testing.T) {
	t.Parallel()
	rate := []string{"events", "seconds", "events_per_second"}
	limit := []string{"limit_per_second", "ratio"}
	latencies := []string{"p50_ms", "p99_ms", "max_ms"}
	all := slices.Concat(rate, limit, latencies)
	for name, test := range map[string]struct {
		args     []string
		headline []string
		also     map[string][]string
	}{
		"chain": {[]string{"--events", "500", "--rate", "50,200", "--for", "500ms"}, all,
			map[string][]string{"at_50_per_second": slices.Concat(rate, latencies), "at_200_per_second": slices.Concat(rate, latencies)}},
		"rebuild": {[]string{"--events", "500"}, slices.Concat(rate, limit), map[string][]string{"latest_only": rate, "bare_consume": rate}},
		"reads": {[]string{"--events", "500", "--clients", "3"}, all, map[string][]string{"moving_average": all, "latest_of_100": all,
			"moving_average_of_100": all, "latest_of_100_costs": {"time"}, "moving_average_of_100_costs": {"time"}}},
		"api":    {[]string{"--events", "500", "--clients", "10"}, all, map[string][]string{"post_poll": slices.Concat(rate, latencies)}},
		"push":   {[]string{"--events", "100", "--clients", "5", "--rate", "200"}, slices.Concat(rate, latencies), nil},
		"memory": {[]string{"--events", "500"}, slices.Concat(rate, latencies), map[string][]string{"steady": slices.Concat(rate, latencies)}},
		"start":  {[]string{"--events", "500", "--starts", "1"}, slices.Concat(rate, latencies), map[string][]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newBenchStack(t)
			args := append([]string{"bench", name, "--symbols", "20", "-o", "json"}, test.args...)
			status, stdout, stderr := run(t, env, args...)
			require.Zero(t, status, stderr)
			var got map[string]any
			require.NoError(t, json.Unmarshal([]byte(stdout), &got), stdout)
			assert.InDelta(t, 500, got["events"], 0)
			also, _ := got["also"].(map[string]any)
			delete(got, "also")
			checkFigures(t, got, test.headline)
			for name, figures := range test.also {
				require.Contains(t, also, name)
				delete(also[name].(map[string]any), "cpu") // too short to be told
				checkFigures(t, also[name].(map[string]any), figures)
			}
			if name != "start" {
				checkFigures(t, also["process"].(map[string]any), []string{"cpu_seconds", "cpu_seconds_per_100000_events",
					"allocated_mb", "allocations_per_event", "peak_rss_mb"})
			}
			// Kafka lists a topic for a moment after it was deleted.
			assert.EventuallyWithT(t, func(c *assert.CollectT) { assert.Empty(c, leftBehind(t, env)) }, 20*time.Second, 50*time.Millisecond)
		})
	}
}

// checkFigures wants these fields, each with a figure, and no other.
func checkFigures(t *testing.T, got map[string]any, fields []string) {
	t.Helper()
	assert.ElementsMatch(t, fields, slices.Collect(maps.Keys(got)))
	for name, value := range got {
		assert.Positive(t, value, name)
	}
}

func TestBenchPrintsATable(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := run(t, newBenchStack(t), "bench", "reads", "--events", "20", "--symbols", "2", "--partitions", "3")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "2 symbols, 3 partitions, windows 5")
	assert.Regexp(t, `(?m)^headline +20 `, stdout)
	assert.Regexp(t, `(?m)^moving_average +20 `, stdout)
	assert.Regexp(t, `(?m)^latest_of_100_costs: [0-9.]+ times the time of one symbol`, stdout)
	assert.Empty(t, stderr, "a progress bar is for terminals")
}

// TestBenchWritesProfiles: of the run, and not where it cannot.
func TestBenchWritesProfiles(t *testing.T) {
	t.Parallel()
	env := newBenchStack(t)
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "cpu"), filepath.Join(dir, "mem")}
	status, _, stderr := run(t, env, "bench", "memory", "--events", "20", "--symbols", "2", "--cpuprofile", files[0], "--memprofile", files[1])
	require.Zero(t, status, stderr)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, "\x1f\x8b", string(content[:2]), "a profile is compressed")
	}
	for _, flag := range []string{"--cpuprofile", "--memprofile"} {
		status, _, stderr = run(t, env, "bench", "memory", flag, filepath.Join(files[0], "none"))
		assert.Equal(t, 2, status, stderr)
	}
	assert.Empty(t, leftBehind(t, env))
}

func TestBenchRefusesWrongFlags(t *testing.T) {
	t.Parallel()
	env := newBenchStack(t)
	for _, args := range []string{"chain --events 0", "chain --symbols 0", "chain --partitions -1", "chain --partitions 100000",
		"chain --rate 0", "chain --rate often", "chain --for 0s", "chain -o xml", "chain quickly", "reads --clients 0",
		"reads --window 1001", "api --clients 0", "start --starts 0", "memory --events -5"} {
		status, stdout, stderr := run(t, env, append([]string{"bench"}, strings.Fields(args)...)...)
		assert.Equal(t, 2, status, "%s: %s", args, stderr)
		assert.Empty(t, stdout, args)
	}
	assert.Empty(t, leftBehind(t, env))
}

// TestBenchRemovesWhatItMade where it is interrupted, at once or at work.
func TestBenchRemovesWhatItMade(t *testing.T) {
	t.Parallel()
	for name, reached := range map[string]func(t *testing.T, env environment) bool{
		"at once": func(t *testing.T, env environment) bool { return len(leftBehind(t, env)) > 0 },
		"at work": func(t *testing.T, env environment) bool {
			if onServices() {
				return slices.ContainsFunc(leftBehind(t, env), func(left string) bool { return strings.HasSuffix(left, ".moving-averages.g1") })
			}
			found, err := filepath.Glob(filepath.Join(filepath.Dir(env["DATA_DIR"]), ".pricemill_bench_*", "pricemill.db-wal"))
			return err == nil && len(found) > 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newBenchStack(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			exit := make(chan int, 1)
			var stderr bytes.Buffer
			go func() {
				exit <- cmd.Main(ctx, []string{"bench", "chain", "--events", "50000000"}, env.lookup, io.Discard, &stderr)
			}()
			require.Eventually(t, func() bool { return reached(t, env) }, time.Minute, 5*time.Millisecond)
			cancel()
			assert.Equal(t, 1, <-exit)
			assert.Empty(t, leftBehind(t, env), &stderr)
		})
	}
}

// TestBenchRemovesWhatItMadeWhereItFails: half of the stack is there, and the
// other half is not.
func TestBenchRemovesWhatItMadeWhereItFails(t *testing.T) {
	t.Parallel()
	env := newBenchStack(t)
	status, _, stderr := run(t, env.with(environment{"DATABASE_URL": cmp.Or(env["DATABASE_URL"], "sqlite"), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}), "bench", "chain")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "127.0.0.1:1")
	assert.Empty(t, leftBehind(t, env))
}

// TestBenchRefusesADatabaseWithData unless it is told that this is meant; then
// the data stay as they are.
func TestBenchRefusesADatabaseWithData(t *testing.T) {
	t.Parallel()
	if !onPostgres() {
		t.Skip("on SQLite, a benchmark's database is a file of its own")
	}
	env := newBenchStack(t)
	status, _, stderr := run(t, env, "migrate")
	require.Zero(t, status, stderr)
	before := leftBehind(t, env)
	require.NotEmpty(t, before, "the version of the tables is a row")
	args := []string{"bench", "memory", "--events", "20", "--symbols", "2"}
	status, _, stderr = run(t, env, args...)
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "--beside-data")
	status, _, stderr = run(t, env, append(args, "--beside-data")...)
	assert.Zero(t, status, stderr)
	assert.Equal(t, before, leftBehind(t, env))
}
