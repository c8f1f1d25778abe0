package cmd_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/kafkatest"
	"github.com/pricemill/pricemill/pipeline/move"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/schema"
)

// How many prices are moved; the longer target sets 200,000. moveKills is how often each
// move is killed.
const (
	moveVariable   = "PRICEMILL_TEST_MOVE"
	standardPrices = 5_000
	moveKills      = 2
)

// TestMoveGrows takes an installation from SQLite to PostgreSQL, and from there to Kafka,
// with polling jobs and dead letters. Each move is killed twice, at random moments; what
// is there then is what was there before, row by row, and works on.
func TestMoveGrows(t *testing.T) {
	t.Parallel()
	small := newSmall(t)
	prices := standardPrices
	if text := os.Getenv(moveVariable); text != "" {
		var err error
		prices, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d prices", seed, prices)
	random := rand.New(rand.NewPCG(seed, 0))
	answers := makeAnswers(random, prices, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))

	p := start(t, small)
	id := p.newJob(`{"symbols":["AAPL","MSFT"],"interval":1}`)
	stopped := p.newJob(`{"symbols":["TSLA"],"interval":1}`)
	p.command(http.MethodDelete, stopped)
	p.runs(id, 2)
	p.feed(answers)
	makeDeadLetters(t, p, schema.RawQuotes, 3, "raw-store")
	makeDeadLetters(t, p, schema.PriceEvents, 2, "moving-averages.g1", "latest-prices.g1")
	awaitDrained(t, p.env)
	letters := p.letters()
	require.Equal(t, http.StatusOK, p.do(http.MethodDelete, fmt.Sprintf("/api/v1/dead-letters/%d", p.awaitLetters("raw-store", 3)[0].ID), "").status)

	large := small.with(environment{"DATABASE_URL": newDatabase(t, uniqueName())})
	moveKilled(t, random, p, large, id, prices/50)
	p = p.works(large, id)

	kafka := large.with(environment{"DATABASE_URL": newDatabase(t, uniqueName())}).withKafka(t)
	moveKilled(t, random, p, kafka, id, prices/50)
	p = p.works(kafka, id)
	p.command(http.MethodDelete, id)
	awaitDrained(t, kafka)
	p.stopped()
	checkTablesBeside(t, kafka, answers, letters)
}

// newSmall returns the settings of an installation on SQLite, where there is a PostgreSQL
// to move it to.
func newSmall(t *testing.T) environment {
	if !onPostgres() {
		t.Skip("moves go to PostgreSQL: make test-postgres")
	}
	return environment{"DATA_DIR": t.TempDir(), "HTTP_ADDR": "127.0.0.1:0", "DATABASE_URL": "sqlite", "KAFKA_BOOTSTRAP_SERVERS": "",
		"MOVING_AVERAGE_WINDOW": "5,20", "MIN_POLL_INTERVAL": "1s", "KAFKA_PARTITIONS": "4", "PLUGINS": "price-alerts,vwap"}
}

func uniqueName() string { return fmt.Sprintf("test_move_%x", rand.Uint64()) }

// withKafka adds a cluster: that of the services, or one in this process.
func (e environment) withKafka(t *testing.T) environment {
	e = e.with(nil)
	e.name(fmt.Sprintf("move%x", rand.Uint64()))
	if e["KAFKA_BOOTSTRAP_SERVERS"] = os.Getenv("KAFKA_BOOTSTRAP_SERVERS"); onServices() {
		t.Cleanup(func() { deleteTopics(t, e, e["KAFKA_TOPIC_PREFIX"]) })
		return e
	}
	broker, err := kafkatest.Start(kafkatest.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	e["KAFKA_BOOTSTRAP_SERVERS"] = broker.Addr()
	return e
}

// letters is how many dead letters there are, with those that were discarded.
func (p *program) letters() (n int) {
	p.t.Helper()
	db := openTables(p.t, p.env)
	defer func() { assert.NoError(p.t, db.Close()) }()
	require.NoError(p.t, db.Get(p.t.Context(), &n, `SELECT COUNT(*) FROM dead_letters`))
	return n
}

// runs waits until a job has run so often.
func (p *program) runs(id string, n int) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return p.job(id).Counts.Runs >= n }, time.Minute, 50*time.Millisecond)
}

// topicID is what topics have another one of in Kafka.
var topicID = regexp.MustCompile(`"topic_id":"[^"]*",?`)

// asked are answers of a process that does nothing but answer.
func asked(t *testing.T, env environment, job string) map[string]string {
	t.Helper()
	p := start(t, env.with(environment{"ROLES": "api"}))
	defer p.stopped()
	answers := map[string]string{}
	for _, path := range []string{"/api/v1/prices/poll", "/api/v1/dead-letters", "/api/v1/symbols", "/api/v1/prices/moving-average?symbol=S1&window=20",
		"/api/v1/prices/history?symbol=S1", "/api/v1/prices/moving-average/history?symbol=S1&window=5", "/api/v1/prices/poll/" + job, "/api/v1/rebuilds"} {
		answers[path] = topicID.ReplaceAllString(p.eventually(path, http.StatusOK).body, "")
	}
	return answers
}

// moving are the arguments that move an installation to another one.
func moving(to environment) []string {
	args := []string{"move", "-o", "json", "--to-database", to["DATABASE_URL"]}
	if to.onKafka() {
		args = append(args, "--to-kafka", to["KAFKA_BOOTSTRAP_SERVERS"])
	}
	return args
}

// moveKilled stops an installation and moves it, with kills on the way: up to longest
// milliseconds after a step has begun.
func moveKilled(t *testing.T, random *rand.Rand, p *program, to environment, job string, longest int) {
	t.Helper()
	p.stopped()
	from := p.env.with(environment{"KAFKA_TOPIC_PREFIX": to["KAFKA_TOPIC_PREFIX"]})
	said, before := asked(t, p.env, job), contentsOf(t, from)
	if !to.onKafka() {
		before[databaseBytes] = fileHash(t, from)
	}
	for range moveKills {
		// Each step is a table or a topic: there are more than twice as many.
		killMove(t, from, to, 4+random.IntN(50), time.Duration(random.IntN(longest))*time.Millisecond)
	}
	moved := runMove(t, from, to)
	assert.Contains(t, []move.Start{move.Resumed, move.Finished}, moved.Start)
	assert.Equal(t, move.Finished, runMove(t, from, to).Start, "another run")

	assert.Equal(t, before[databaseBytes], map[bool]string{false: fileHash(t, from)}[to.onKafka()], "the file of the source")
	delete(before, databaseBytes)
	compareContents(t, before, contentsOf(t, from), false)
	compareContents(t, before, contentsOf(t, to), to.onKafka())
	assert.Equal(t, said, asked(t, to, job))
	proven(t, to)
}

// killMove kills a move some time after it has begun a step.
func killMove(t *testing.T, from, to environment, step int, delay time.Duration) {
	t.Helper()
	process := command(t, from.with(environment{"DEBUG": "true"}), moving(to)...)
	stderr, err := process.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	l := newLogs()
	go l.follow(stderr)
	require.Eventually(t, func() bool { return len(l.all("moving")) >= step }, 5*time.Minute, time.Millisecond, "step %d:\n%s", step, l)
	pause(delay)
	require.NoError(t, process.Process.Kill())
	_ = process.Wait() // killed, or as it happens finished
	t.Logf("killed %v after step %d: %v; finished: %v", delay, step, l.last("moving"), process.ProcessState.Success())
}

func (l *logs) last(message string) map[string]any {
	all := l.all(message)
	return all[len(all)-1]
}

// movedTo is what move prints.
type movedTo struct {
	move.Result
	DryRun bool `json:"dry_run"`
}

func runMove(t *testing.T, from, to environment, more ...string) (m movedTo) {
	t.Helper()
	status, stdout, stderr := run(t, from, append(moving(to), more...)...)
	require.Zero(t, status, stderr)
	require.NoError(t, json.Unmarshal([]byte(stdout), &m), stdout)
	return m
}

// works starts an installation where it was moved to, and looks whether it says what it
// said before, and goes about its work.
func (p *program) works(env environment, job string) *program {
	p.t.Helper()
	t := p.t.(*testing.T)
	moved := start(t, env)
	moved.eventually("/readyz", http.StatusOK)
	runs := moved.job(job).Counts.Runs
	moved.runs(job, runs+2)
	assert.Len(t, moved.awaitLetters("raw-store", 2), 2)
	return moved
}

// databaseBytes is the hash of the file of a SQLite database among its contents.
const databaseBytes = "(the file)"

func fileHash(t *testing.T, env environment) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(env["DATA_DIR"], "pricemill.db"))
	require.NoError(t, err)
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// differing are columns and tables that are not the same after a move: a database has its
// own identity, and topics of Kafka have other ids.
var differing = struct{ tables, inKafka, columns []string }{
	tables:  []string{"instance", "moves", "leases", "goose_db_version"},
	inKafka: []string{"log_segments", "log_groups"},
	columns: []string{"topic_id", "origin"},
}

// contentsOf are the hashes of all tables of a stack, and the numbers of their rows.
func contentsOf(t *testing.T, env environment) map[string]string {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	view, err := db.Snapshot(t.Context())
	require.NoError(t, err)
	defer view.Close()
	tables, err := view.Tables(t.Context())
	require.NoError(t, err)
	contents := map[string]string{}
	for _, name := range tables {
		if slices.Contains(differing.tables, name) {
			continue
		}
		table, err := view.Table(t.Context(), name)
		require.NoError(t, err)
		contents[name] = hashOf(t, view, table)
	}
	return contents
}

func hashOf(t *testing.T, view *store.Snapshot, table store.Table) string {
	t.Helper()
	rows, err := view.Rows(t.Context(), table)
	require.NoError(t, err)
	defer func() { assert.NoError(t, rows.Close()) }()
	sum := sha256.New()
	for n := 0; ; n++ {
		values, err := rows.Next()
		require.NoError(t, err)
		if values == nil {
			return fmt.Sprintf("%d rows %x", n, sum.Sum(nil))
		}
		var row []string
		for i, c := range table.Columns {
			if !slices.Contains(differing.columns, c.Name) {
				row = append(row, fmt.Sprintf("%s=%q", c.Name, fmt.Sprint(values[i])))
			}
		}
		slices.Sort(row)
		sum.Write([]byte(strings.Join(row, ",")))
	}
}

func compareContents(t *testing.T, want, got map[string]string, inKafka bool) {
	t.Helper()
	assert.Greater(t, len(want), 20)
	for name, hash := range want {
		if !inKafka || !slices.Contains(differing.inKafka, name) {
			assert.Equal(t, hash, got[name], name)
		}
	}
}

// TestMoveIsRefused where it would lose something, disturb a service, or mix two logs; and
// nothing works with a target that is not complete.
func TestMoveIsRefused(t *testing.T) {
	t.Parallel()
	small := newSmall(t)
	large := small.with(environment{"DATABASE_URL": newDatabase(t, uniqueName())})
	refused := func(wanted int, env environment, sentence string, args ...string) {
		t.Helper()
		status, stdout, stderr := run(t, env, args...)
		assert.Equal(t, wanted, status, stderr)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, sentence)
	}
	refused(2, small, "--to-database is required", "move", "--to-kafka", "127.0.0.1:1")
	refused(2, small, "not a URL of PostgreSQL", "move", "--to-database", "sqlite")
	refused(1, small, "there is nothing to move", moving(large)...)

	p := start(t, small)
	p.feed(oneEach(0, 10))
	refused(1, small, "pricemill runs on", moving(large)...)
	p.stopped()
	planned := runMove(t, small, large, "--dry-run")
	assert.True(t, planned.DryRun)
	assert.Contains(t, planned.Tables, move.TableCount{Table: "raw_market_data", Rows: 10 * partitionsInTests})
	assert.Contains(t, planned.Topics, move.TopicCount{Topic: schema.PriceEvents, Partitions: partitionsInTests, Records: 10 * partitionsInTests})
	engine, err := postgres.Open(t.Context(), postgres.Config{URL: large["DATABASE_URL"]})
	require.NoError(t, err)
	tables, err := engine.Tables(t.Context(), engine.Reader())
	require.NoError(t, errors.Join(err, engine.Close()))
	assert.Empty(t, tables, "a dry run changes nothing")
	refused(2, small.with(environment{"DATABASE_URL": "sqlite", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}), "in Kafka already", moving(large)...)

	killMove(t, small, large, 10, 0)
	for _, args := range [][]string{{"serve"}, {"verify"}, {"migrate"}, {"stages", "list"}, {"replay", "price-events"}} {
		refused(1, large, "a move into this database is under way", args...)
	}
	p = start(t, small)
	p.feed(oneEach(10, 10))
	p.stopped()
	assert.Equal(t, move.Restarted, runMove(t, small, large).Start)
	compareContents(t, contentsOf(t, small), contentsOf(t, large), false)
	proven(t, large)

	refused(1, large, "it is the source", moving(large)...)
	other := small.with(environment{"DATABASE_URL": newDatabase(t, uniqueName())})
	p = start(t, large)
	refused(1, large, "a service works on it", moving(other)...)
	p.feed(oneEach(20, 10))
	p.stopped()
	refused(1, small.with(environment{"DATA_DIR": t.TempDir()}), "there is nothing to move", moving(large)...)
	second := start(t, small.with(environment{"DATA_DIR": t.TempDir()}))
	second.feed(oneEach(0, 1))
	second.stopped()
	refused(1, second.env, "another installation", moving(large)...)
	proven(t, large)
}
