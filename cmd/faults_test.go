package cmd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// The tests named TestFaults… put the service under faults, each on its own, and
// then count what was lost and what was doubled. `make test-faults` runs them;
// elsewhere they are skipped.
const (
	// faultsVariable is short or long.
	faultsVariable = "PRICEMILL_TEST_FAULTS"
	// reportVariable names a file to which each scenario appends its row of the
	// table in docs/reliability.md.
	reportVariable = "PRICEMILL_FAULTS_REPORT"
	// seedVariable repeats a run.
	seedVariable = "PRICEMILL_TEST_SEED"
)

// stack is where a scenario runs.
type stack string

const (
	sqliteStack   stack = "SQLite"
	servicesStack stack = "PostgreSQL + Kafka"
	postgresStack stack = "PostgreSQL"
)

// Where a scenario runs: one of faults that only Kafka has runs on SQLite with a broker in
// the process, or on the services.
var (
	everyStack    = []stack{sqliteStack, postgresStack, servicesStack}
	stacksOfKafka = []stack{sqliteStack, servicesStack}
)

func thisStack() stack {
	switch {
	case onServices():
		return servicesStack
	case onPostgres():
		return postgresStack
	}
	return sqliteStack
}

// scenario is one kind of fault, and its outcome.
type scenario struct {
	t      *testing.T
	name   string
	random *rand.Rand

	cycles, events, lost, doubled int
	// letters is how many dead letters there should be; most scenarios have none.
	letters int
	// verifies are further arguments of verify.
	verifies   []string
	recoveries []time.Duration
}

// newScenario begins a scenario, on these stacks; it is skipped on others. At the
// end of the test its row is written, whatever the result of it.
func newScenario(t *testing.T, name string, on ...stack) *scenario {
	t.Helper()
	switch length := os.Getenv(faultsVariable); length {
	case "":
		t.Skip("faults are put in by make test-faults")
	case "short", "long":
	default:
		require.Fail(t, "neither short nor long", "%s=%s", faultsVariable, length)
	}
	if !slices.Contains(on, thisStack()) {
		t.Skipf("this scenario is for %q", on)
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%s on %s: %s=%d", name, thisStack(), seedVariable, seed)
	s := &scenario{t: t, name: name, random: rand.New(rand.NewPCG(seed, 0))}
	t.Cleanup(s.report)
	files := openFiles(t)
	t.Cleanup(func() {
		// By now all that the scenario had opened is closed again: databases,
		// brokers, the ends of pipes to its processes.
		assert.Eventually(t, func() bool {
			http.DefaultClient.CloseIdleConnections()
			return openFiles(t) <= files
		}, 10*time.Second, 50*time.Millisecond, "this process has %d files open, and had %d", openFiles(t), files)
	})
	return s
}

// openFiles is how many files this process has open; 0 where the system does not
// say.
func openFiles(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	require.NoError(t, err)
	return len(files)
}

func (s *scenario) isLong() bool { return os.Getenv(faultsVariable) == "long" }

// pick is one of two sizes, by the length of the run.
func pick[T any](s *scenario, short, long T) T {
	if s.isLong() {
		return long
	}
	return short
}

// recovered notes how long it took after a fault until the service worked again.
func (s *scenario) recovered(after time.Duration) {
	s.cycles++
	s.recoveries = append(s.recoveries, after)
	s.t.Logf("cycle %d: recovered after %v", s.cycles, after.Round(time.Millisecond))
}

// check waits until all that was fed has gone through the chain, counts what was
// lost and doubled of it, holds every table against a recomputation, and has the
// program do the same.
func (s *scenario) check(env environment, answers []fedAnswer) {
	s.t.Helper()
	awaitDrained(s.t, env)
	s.events += len(answers)
	lost, doubled := count(s.t, env, answers)
	s.lost += lost
	s.doubled += doubled
	assert.Zero(s.t, lost, "answers that were lost")
	assert.Zero(s.t, doubled, "answers with more than one effect")
	checkTablesBeside(s.t, env, answers, s.letters)
	s.verify(env)
}

// verify has the program prove, next to the service, that everything it keeps is
// what the log says.
func (s *scenario) verify(env environment) {
	s.t.Helper()
	status, stdout, stderr := run(s.t, env, append([]string{"verify", "-o", "json"}, s.verifies...)...)
	var verdict struct {
		OK            bool
		Lost, Doubled int
		Checks        []struct {
			Name, State           string
			Differences, Unproven []string
		}
	}
	require.NoError(s.t, json.Unmarshal([]byte(stdout), &verdict), "status %d: %s%s", status, stdout, stderr)
	s.lost += verdict.Lost
	s.doubled += verdict.Doubled
	for _, c := range verdict.Checks {
		assert.Empty(s.t, append(c.Differences, c.Unproven...), "pricemill verify: %s: %s", c.Name, c.State)
	}
	assert.True(s.t, verdict.OK, "pricemill verify")
	assert.Zero(s.t, status, stderr)
	assert.NotEmpty(s.t, verdict.Checks)
}

// count tells how many of the answers have no raw row or no price, and how many
// have more than one price or were priced more than once in a table.
func count(t testing.TB, env environment, answers []fedAnswer) (lost, doubled int) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var rows []struct {
		EventID string `db:"event_id"`
		Prices  int    `db:"prices"`
	}
	require.NoError(t, db.Select(t.Context(), &rows, `SELECT r.event_id, COUNT(p.id) AS prices FROM raw_market_data r
		LEFT JOIN processed_prices p ON p.raw_response_id = r.event_id GROUP BY r.event_id`))
	prices := make(map[string]int, len(rows))
	for _, row := range rows {
		prices[row.EventID] = row.Prices
	}
	for _, a := range answers {
		switch n := prices[a.id]; {
		case n == 0:
			lost++
		case n > 1:
			doubled++
		}
	}
	// The log must not have two events for one answer either, nor a table two rows
	// for one event.
	logged := map[string]int{}
	readLog(t, env, schema.PriceEvents, func(_ int32, _ int64, event schema.Event) {
		logged[event.Payload.(schema.PriceObserved).RawResponseID]++
	})
	for _, n := range logged {
		if n > 1 {
			doubled++
		}
	}
	return lost, doubled
}

// report appends the row of the scenario to the report.
func (s *scenario) report() {
	if s.t.Skipped() {
		return
	}
	recovery := "–"
	if len(s.recoveries) > 0 {
		slices.Sort(s.recoveries)
		recovery = fmt.Sprintf("%s / %s", seconds(s.recoveries[len(s.recoveries)/2]), seconds(s.recoveries[len(s.recoveries)-1]))
	}
	name := s.name
	if s.t.Failed() {
		name += " **failed**"
	}
	row := fmt.Sprintf("| %s | %s | %d | %d | %d | %d | %s |", name, thisStack(), s.cycles, s.events, s.lost, s.doubled, recovery)
	s.t.Log(row)
	writeRow(s.t, row)
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) + " s" }

// writeRow appends to the report, if there is one.
func writeRow(t testing.TB, row string) {
	path := os.Getenv(reportVariable)
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if !assert.NoError(t, err) {
		return
	}
	_, err = file.WriteString(row + "\n")
	assert.NoError(t, err)
	assert.NoError(t, file.Close())
}

// footprint is what a process holds of what it might leak.
type footprint struct{ goroutines, files, connections int }

// footprintOf asks a process for its goroutines and open files by /metrics, and the
// database for the connections of all processes of the stack.
func footprintOf(ctx context.Context, t testing.TB, env environment, url string) (footprint, error) {
	t.Helper()
	found, err := gauges(ctx, url)
	if err != nil {
		return footprint{}, err
	}
	f := footprint{goroutines: int(found["go_goroutines"]), files: int(found["process_open_fds"])}
	if database := env["DATABASE_URL"]; database != "" {
		db := openTables(t, env)
		defer func() { assert.NoError(t, db.Close()) }()
		err := db.Get(ctx, &f.connections, `SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()`)
		if err != nil {
			return footprint{}, err
		}
	}
	return f, nil
}

// footprintSlack is by how much a process that has become quiet again may differ
// from before: pools keep connections for a while. What leaks, leaks with every
// cycle.
const footprintSlack = 30

// level is the footprint of a process once it no longer grows: consumers take a
// while until each has its connections and goroutines.
func (s *scenario) level(env environment, url string) footprint {
	s.t.Helper()
	const still = 5 // looks in a row
	var level footprint
	for same := 0; same < still; pause(200 * time.Millisecond) {
		now, err := footprintOf(s.t.Context(), s.t, env, url)
		require.NoError(s.t, err)
		same++
		if now.goroutines > level.goroutines || now.files > level.files || now.connections > level.connections {
			level = footprint{max(now.goroutines, level.goroutines), max(now.files, level.files), max(now.connections, level.connections)}
			same = 0
		}
	}
	return level
}

// checkLevel waits until a process holds no more than before, but for the slack.
func (s *scenario) checkLevel(env environment, url string, before footprint) {
	s.t.Helper()
	var now footprint
	assert.Eventually(s.t, func() bool {
		var err error
		now, err = footprintOf(s.t.Context(), s.t, env, url)
		return err == nil && now.goroutines <= before.goroutines+footprintSlack &&
			now.files <= before.files+footprintSlack && now.connections <= before.connections+footprintSlack
	}, time.Minute, 200*time.Millisecond, "goroutines, files and connections go back to what they were")
	s.t.Logf("before %+v, after %+v", before, now)
}
