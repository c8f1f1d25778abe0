package cmd_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// loseDatabase leaves an empty database in the place of that of a stopped program.
func loseDatabase(t testing.TB, env environment) {
	t.Helper()
	if !onPostgres() {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			require.NoError(t, os.RemoveAll(filepath.Join(env["DATA_DIR"], "pricemill.db"+suffix)))
		}
		return
	}
	admin := administerPostgres(t)
	parsed, err := url.Parse(env["DATABASE_URL"])
	require.NoError(t, err)
	name := strings.TrimPrefix(parsed.Path, "/")
	for _, statement := range []string{"DROP DATABASE " + name, "CREATE DATABASE " + name} {
		_, err := admin.Exec(statement)
		require.NoError(t, err)
	}
}

// notRefilled are tables and columns that a refill does not bring back as they were, and why.
var notRefilled = map[string]string{
	"instance": "a database has its own identity", "moves": "says that it was refilled", "leases": "no process works", "goose_db_version": "when it was migrated",
	"chains": "continue, on timelines of their own", "retired_chains": "those that the log shows",
	"outbox": "is sent", "api_keys": "only the database has them", "api_key_version": "as api_keys", "rate_limits": "a minute of requests",
	"fetch_budgets": "calls that were made", "fetch_refused": "a place in a queue", "letter_retries": "orders", "rebuilds": "orders",
	"renormalizations": "orders", "revised_prices": "orders",
	"retention": "deletes again", "forgotten_jobs": "deletes again", "log_groups": "of a table log", "log_segments": "of a table log",
	"failing_jobs":         "the times of warnings",
	"positions.moved_at":   "when it was refilled",
	"positions.retried":    "counts retries",
	"positions.claimed_at": "when it was refilled", "positions.halted": "", "generations.created_at": "when it was refilled",
	"dead_letters.id": "they are numbered as they are met", "dead_letters.created_at": "when it was refilled", "dead_letters.discarded_at": "an order",
	"streams.claimed_by": "no process works", "streams.claimed_until": "no process works",
	"backfills.claimed_by": "no process works", "backfills.claimed_until": "no process works",
}

// keptOf are the contents of the tables that a refill brings back, row by row.
func keptOf(t testing.TB, env environment) map[string][]string {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	view, err := db.Snapshot(t.Context())
	require.NoError(t, err)
	defer view.Close()
	tables, err := view.Tables(t.Context())
	require.NoError(t, err)
	kept := map[string][]string{}
	for _, name := range tables {
		if _, lost := notRefilled[name]; lost {
			continue
		}
		table, err := view.Table(t.Context(), name)
		require.NoError(t, err)
		kept[name] = rowsOf(t, view, table)
	}
	return kept
}

func rowsOf(t testing.TB, view *store.Snapshot, table store.Table) (all []string) {
	rows, err := view.Rows(t.Context(), table)
	require.NoError(t, err)
	defer func() { assert.NoError(t, rows.Close()) }()
	for {
		values, err := rows.Next()
		require.NoError(t, err)
		if values == nil {
			slices.Sort(all) // the key may be a number that is given again
			return all
		}
		var row []string
		for i, c := range table.Columns {
			if _, lost := notRefilled[table.Name+"."+c.Name]; !lost {
				row = append(row, fmt.Sprintf("%s=%q", c.Name, fmt.Sprint(values[i])))
			}
		}
		slices.Sort(row)
		all = append(all, strings.Join(row, ","))
	}
}

// refilledAs is what refill prints.
type refilledAs struct {
	Start string `json:"start"`
	refill.Result
	Tables []struct {
		Table string `json:"table"`
		Rows  int64  `json:"rows"`
	} `json:"tables"`
	NotFilled []string         `json:"not_filled"`
	Checks    []*audit.Finding `json:"checks"`
}

func refillDatabase(t testing.TB, env environment) (r refilledAs) {
	t.Helper()
	status, stdout, stderr := run(t, env, "refill", "database", "-o", "json")
	require.Zero(t, status, stdout+stderr)
	require.NoError(t, json.Unmarshal([]byte(stdout), &r), stdout)
	return r
}

// refillPrices is how many prices the test of a refill has, and refillKills how often it is
// killed.
const (
	refillPrices = 3_000
	refillKills  = 3
)

// TestRefillDatabase loses the database of an installation with all kinds of records, and fills
// another one from Kafka, with three kills on the way. Every row is as it was, and work continues.
func TestRefillDatabase(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	env := newKafkaStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20", "MIN_POLL_INTERVAL": "1s", "DEFAULT_PROVIDER": "csv",
		"PLUGINS": "price-alerts,candles,vwap,ema"})
	file := filepath.Join(t.TempDir(), "alerts.yaml")
	require.NoError(t, os.WriteFile(file, []byte("modules:\n  price-alerts:\n    alerts: [simulated/S1 above 50000]\n"), 0o600))
	env["CONFIG_FILE"] = file
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	id := p.newJob(`{"symbols":["AAPL","MSFT"],"interval":1,"provider":"simulated"}`)
	stopped := p.newJob(`{"symbols":["TSLA"],"interval":1,"provider":"simulated"}`)
	paused := p.newJob(`{"symbols":["IBM"],"interval":1,"provider":"simulated"}`)
	p.runs(paused, 1)
	p.command(http.MethodDelete, stopped)
	p.command(http.MethodPost, paused+"/pause")
	p.runs(id, 2)
	answers := makeAnswers(random, refillPrices, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	p.feed(answers)
	p.feed(answers[:200]) // a stream repeats itself
	ingestedCorrections(t, p)
	makeDeadLetters(t, p, schema.RawQuotes, 3, "raw-store")
	makeDeadLetters(t, p, schema.PriceEvents, 2, "moving-averages.g1", "latest-prices.g1", "price-alerts")
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?provider=simulated&symbol=ASKED").status, "a request of a client")
	p.get("/api/v1/prices/latest?provider=csv&symbol=REFUSED")
	p.command(http.MethodPost, id+"/pause")
	awaitDrained(t, env)
	status, _, stderr := run(t, env, "refill", "database")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "a service consumes the log: stop it first")
	p.stopped()
	status, _, stderr = run(t, env, "refill", "database")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "is not empty")
	proven(t, env)
	before, ends := keptOf(t, env), endsOfAll(t, env)
	for _, table := range []string{"raw_market_data", "processed_prices", "processed_prices_corrections", "moving_averages", "latest_prices", "polling_jobs",
		"schedules", "dead_letters", "adjustments", "candles", "price_alerts", "normalized_quotes", "requests"} {
		assert.NotEmpty(t, before[table], table)
	}

	loseDatabase(t, env)
	for range refillKills {
		killRefill(t, env, 2+random.IntN(16), time.Duration(random.IntN(60))*time.Millisecond)
	}
	for _, args := range [][]string{{"serve"}, {"verify"}, {"migrate"}, {"stages", "list"}} {
		status, _, stderr = run(t, env, args...)
		assert.Equal(t, 1, status, args)
		assert.Contains(t, stderr, "is being filled again", args)
	}
	r := refillDatabase(t, env)
	assert.Equal(t, "continued", r.Start)
	assert.Zero(t, r.Published, "the log has all")
	assert.Empty(t, r.Breaks)
	assert.Equal(t, "finished", refillDatabase(t, env).Start, "another run")
	sameRows(t, before, keptOf(t, env))
	assert.Equal(t, ends, endsOfAll(t, env), "nothing was written to the log")
	proven(t, env)

	// A job continues with its next slot, nothing that was asked is asked again, and nothing is
	// stored twice.
	p = start(t, env)
	p.eventually("/readyz", http.StatusOK)
	p.feed(answers[:500])
	runs := p.job(id).Counts.Runs
	p.command(http.MethodPost, id+"/resume")
	p.runs(id, runs+2)
	p.command(http.MethodPost, id+"/pause")
	more := makeAnswers(random, refillPrices+500, time.Date(2025, 6, 15, 15, 0, 0, 0, time.UTC))[refillPrices:]
	p.feed(more)
	awaitDrained(t, env)
	p.stopped()
	assert.Len(t, keptOf(t, env)["raw_market_data"], len(before["raw_market_data"])+500+2*(p2runs(t, env, id)-runs))
	proven(t, env)
}

// ingestedCorrections has prices from files corrected and retracted, and a dividend and a split
// recorded, of which one is retracted.
func ingestedCorrections(t *testing.T, p *program) {
	t.Helper()
	assert.Equal(t, 5, ingested(t, p.env, caseFile("before-dividend.csv")).New)
	corrects(t, p.env, "--reason", "a dividend", caseFile("after-dividend.csv"))
	status, _, stderr := p.asClient("retract", "T", "2024-01-01", "--provider", "csv", "--reason", "not a trading day")
	require.Zero(t, status, stderr)
	status, stdout, stderr := p.asClient("adjust", "T", "2024-01-03", "--dividend", "0.5", "--currency", "USD", "--provider", "csv", "-o", "json")
	require.Zero(t, status, stderr)
	status, _, stderr = p.asClient("adjust", "T", "2024-01-04", "--split", "3:2", "--provider", "csv")
	require.Zero(t, status, stderr)
	var dividend struct {
		ID string `json:"adjustment_id"`
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &dividend))
	status, _, stderr = p.asClient("adjust", "--retract", dividend.ID)
	require.Zero(t, status, stderr)
}

// p2runs is how often a job has run, by its read model.
func p2runs(t *testing.T, env environment, id string) (n int) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	require.NoError(t, db.Get(t.Context(), &n, `SELECT runs FROM polling_jobs WHERE job_id = $1`, id[strings.LastIndex(id, "/")+1:]))
	return n
}

func endsOfAll(t *testing.T, env environment) map[schema.Topic][]int64 {
	t.Helper()
	all := map[schema.Topic][]int64{}
	for _, topic := range schema.Topics() {
		for _, held := range endsOf(t, env, topic) {
			all[topic] = append(all[topic], held.End)
		}
	}
	return all
}

func sameRows(t *testing.T, want, got map[string][]string) {
	t.Helper()
	assert.Equal(t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)), "tables")
	for name, rows := range want {
		if !slices.Equal(rows, got[name]) {
			assert.Equal(t, len(rows), len(got[name]), "rows of %s", name)
			for i := range min(len(rows), len(got[name])) {
				if !assert.Equal(t, rows[i], got[name][i], name) {
					break
				}
			}
		}
	}
}

// killRefill kills a refill some time after it has begun a step.
func killRefill(t *testing.T, env environment, step int, delay time.Duration) {
	t.Helper()
	killRefillOf(t, env, "database", step, delay)
}

func killRefillOf(t *testing.T, env environment, what string, step int, delay time.Duration) {
	t.Helper()
	process := command(t, env.with(environment{"DEBUG": "true"}), append([]string{"refill"}, strings.Fields(what)...)...)
	stderr, err := process.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	l := newLogs()
	read := make(chan struct{})
	go func() { defer close(read); l.follow(stderr) }()
	require.Eventually(t, func() bool { return len(l.all("refilling")) >= step }, time.Minute, time.Millisecond, "step %d:\n%s", step, l)
	pause(delay)
	require.NoError(t, process.Process.Kill())
	<-read
	_ = process.Wait() // killed
	t.Logf("killed %v after step %d: %v", delay, step, l.last("refilling"))
}

// TestRefillWhatWasNotSent: events that still waited in the outbox of the lost database are
// derived again, and sent.
func TestRefillWhatWasNotSent(t *testing.T) {
	t.Parallel()
	env := newKafkaStack(t, nil)
	p := start(t, env)
	p.feed(oneEach(0, 10))
	p.stopped()
	p = start(t, env.with(environment{"ROLES": "api,handlers,projections"}))
	feed(t, env, oneEach(10, 30))
	require.Eventually(t, func() bool { return counted(t, env)["answers"] == 40*partitionsInTests }, time.Minute, 50*time.Millisecond)
	p.stopped()
	assert.Equal(t, 30*partitionsInTests, counted(t, env)["outbox"])
	loseDatabase(t, env)
	assert.EqualValues(t, 30*partitionsInTests, refillDatabase(t, env).Published)
	p = start(t, env)
	p.feed(oneEach(40, 10))
	expect(t, env, 50*partitionsInTests, 50*partitionsInTests)
	p.stopped()
	proven(t, env)
}

// TestRefillIsRefused where it could not bring back what there was.
func TestRefillIsRefused(t *testing.T) {
	t.Parallel()
	refused := func(env environment, wanted int, sentence string, args ...string) {
		t.Helper()
		status, stdout, stderr := run(t, env, append([]string{"refill", "database"}, args...)...)
		assert.Equal(t, wanted, status, stderr)
		assert.Contains(t, stdout+stderr, sentence)
	}
	refused(environment{"DATA_DIR": t.TempDir()}, 2, "KAFKA_BOOTSTRAP_SERVERS is not set: without Kafka, the log is lost with the database")
	env := newKafkaStack(t, nil)
	refused(env, 1, "the cluster has no topic "+topicName(env, schema.RawQuotes))
	p := start(t, env)
	p.feed(oneEach(0, 10))
	p.stopped()
	restore := copyDatabase(t, env)
	p = start(t, env)
	p.feed(oneEach(10, 10))
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=ASKED").status, "an event that no stage derives")
	awaitDrained(t, env)
	p.stopped()
	restore()
	p = start(t, env)
	p.halts("was it restored from a copy?", "pricemill stages skip")
	p.resolveWith("skip")
	p.feed(oneEach(20, 10))
	p.stopped()
	proven(t, env)

	// What an operator decided is gone: the events of the later state are there, and those
	// derived again.
	loseDatabase(t, env)
	refused(env, 1, "does not hold against the log")
	refused(env, 1, "is there under another number as well")
	refused(env, 0, "the database can be used; it does not hold against the log: the differences above were accepted", "--accept-differences")

	loseDatabase(t, env)
	administer(t, env, func(admin sarama.ClusterAdmin) {
		require.NoError(t, admin.DeleteRecords(topicName(env, schema.StoredQuotes), map[int32]int64{2: 3}))
	})
	refused(env, 1, "stored-quotes/2 begins at offset 3")
	p = start(t, env) // the database is not marked
	p.halts("are gone", "pricemill stages skip")
	p.stopped()
}

// TestRefillRefusesALogWithoutATopic, which would be taken for an empty one, and writes nothing.
func TestRefillRefusesALogWithoutATopic(t *testing.T) {
	t.Parallel()
	env := newKafkaStack(t, nil)
	p := start(t, env)
	p.feed(oneEach(0, 10))
	p.stopped()
	loseDatabase(t, env)
	exists := func(topic schema.Topic) (there bool) {
		administer(t, env, func(admin sarama.ClusterAdmin) {
			all, err := admin.ListTopics()
			require.NoError(t, err)
			_, there = all[topicName(env, topic)]
		})
		return there
	}
	refused := func(sentence string, args ...string) {
		t.Helper()
		status, stdout, stderr := run(t, env, append([]string{"refill", "database"}, args...)...)
		assert.NotZero(t, status, stdout)
		assert.Contains(t, stderr, sentence)
	}
	deleteTopic(t, env, schema.QuoteOutcomes)
	refused("the cluster lacks " + topicName(env, schema.QuoteOutcomes) + ", and has other topics")
	refused("which is none of the topics", "--allow-missing-topic", "mistyped")
	deleteTopic(t, env, schema.RawQuotes)
	refused("the cluster lacks "+topicName(env, schema.RawQuotes)+", and", "--allow-missing-topic", topicName(env, schema.QuoteOutcomes))
	assert.False(t, exists(schema.RawQuotes))
	assert.False(t, exists(schema.QuoteOutcomes), "a refused refill creates nothing")
	if !onPostgres() {
		assert.NoFileExists(t, filepath.Join(env["DATA_DIR"], "pricemill.db"))
	}
}

// TestRefillRefusesATopicThatWasEmptied: one that was deleted and created again has its name, and
// none of its records.
func TestRefillRefusesATopicThatWasEmptied(t *testing.T) {
	t.Parallel()
	for _, topic := range []schema.Topic{schema.RawQuotes, schema.StoredQuotes, schema.PriceEvents} {
		t.Run(string(topic), func(t *testing.T) {
			t.Parallel()
			env := newKafkaStack(t, nil)
			p := start(t, env)
			p.feed(oneEach(0, 10))
			p.stopped()
			loseDatabase(t, env)
			recreateTopic(t, env, topic)
			status, stdout, stderr := run(t, env, "refill", "database")
			assert.Equal(t, 1, status, stdout)
			assert.Contains(t, stderr, "nothing is on "+string(topic))
			assert.Contains(t, stderr, "deleted, and created again empty")
		})
	}
}

// TestRefillCreatesATopicThatThereNeverWas, if it is told so.
func TestRefillCreatesATopicThatThereNeverWas(t *testing.T) {
	t.Parallel()
	env := newKafkaStack(t, nil)
	p := start(t, env)
	p.feed(oneEach(0, 10))
	p.stopped()
	loseDatabase(t, env)
	name := topicName(env, schema.QuoteOutcomes)
	deleteTopic(t, env, schema.QuoteOutcomes)
	status, _, stderr := run(t, env, "refill", "database", "--allow-missing-topic", name)
	require.Zero(t, status, stderr)
	p = start(t, env)
	p.feed(oneEach(10, 10))
	expect(t, env, 20*partitionsInTests, 20*partitionsInTests)
	p.stopped()
	proven(t, env)
}

// TestRefillAfterAServiceBegan on the empty database: it derived events again, which the refill
// says. The database of that service has everything once, after a skip.
func TestRefillAfterAServiceBegan(t *testing.T) {
	t.Parallel()
	env := newKafkaStack(t, nil)
	p := start(t, env)
	p.feed(oneEach(0, 10))
	p.stopped()
	loseDatabase(t, env)
	p = start(t, env)
	p.halts("was it restored from a copy?", "pricemill stages skip")
	p.resolveWith("skip")
	expect(t, env, 10*partitionsInTests, 10*partitionsInTests)
	p.stopped()
	loseDatabase(t, env)
	status, stdout, stderr := run(t, env, "refill", "database")
	assert.Equal(t, 1, status, stdout)
	assert.Regexp(t, `The log has \d+ events of stages twice: a service was started after the database was lost`, stderr)
	status, stdout, stderr = run(t, env, "refill", "database", "--accept-differences")
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, "differences above were accepted")
	assert.Equal(t, 20*partitionsInTests, counted(t, env)["prices"], "as the document says")
}

// TestRefillDoesNotPostAgain what a webhook has posted; what it had not yet, the service posts.
func TestRefillDoesNotPostAgain(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	posted := map[string]int{}
	down := false
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		mu.Lock()
		defer mu.Unlock()
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var event struct{ ID string }
		assert.NoError(t, json.Unmarshal(body, &event))
		posted[event.ID]++
	}))
	t.Cleanup(receiver.Close)
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(posted) }
	file := filepath.Join(t.TempDir(), "webhook.yaml")
	require.NoError(t, os.WriteFile(file, []byte("modules:\n  price-webhook:\n    url: "+receiver.URL+"\n"), 0o600))
	p := start(t, newKafkaStack(t, environment{"CONFIG_FILE": file, "PLUGINS": "price-webhook"}))
	p.feed(oneEach(0, 10))
	require.Eventually(t, func() bool { return count() == 10*partitionsInTests }, time.Minute, 20*time.Millisecond)
	p.stopped()
	mu.Lock()
	down = true
	mu.Unlock()
	p = start(t, p.env)
	feed(t, p.env, oneEach(10, 5))
	require.Eventually(t, func() bool { return counted(t, p.env)["prices"] == 15*partitionsInTests }, time.Minute, 50*time.Millisecond)
	p.stopped()
	loseDatabase(t, p.env)
	status, stdout, stderr := run(t, p.env.with(environment{"PLUGINS": ""}), "refill", "database")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `(?m)^warning +price-webhook +not filled: it has a consumer group on Kafka`, stdout)
	assert.Equal(t, 1, strings.Count(stdout, "not filled"), stdout)
	loseDatabase(t, p.env)
	assert.Empty(t, refillDatabase(t, p.env).NotFilled, "all are on")
	mu.Lock()
	down = false
	mu.Unlock()
	assert.Equal(t, 10*partitionsInTests, count(), "a refill posts nothing")
	p = start(t, p.env)
	require.Eventually(t, func() bool { return count() == 15*partitionsInTests }, time.Minute, 20*time.Millisecond)
	p.stopped()
	for id, times := range posted {
		assert.Equal(t, 1, times, id)
	}
	proven(t, p.env)
}

// TestRefillKeepsDefinitions by which answers are read, of those providers that still have them.
func TestRefillKeepsDefinitions(t *testing.T) {
	t.Parallel()
	directory := declare(t, acmeDefinition)
	p := start(t, newKafkaStack(t, environment{"PROVIDERS_DIR": directory, "ACME_API_KEY": canaryKey, "ACME_BASE_URL": acmeService(t).URL}))
	p.eventually("/readyz", http.StatusOK)
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=AAPL&provider=acme").status)
	awaitDrained(t, p.env)
	p.stopped()
	before := keptOf(t, p.env)
	assert.Len(t, before["provider_definitions"], 1)
	loseDatabase(t, p.env)
	refillDatabase(t, p.env)
	sameRows(t, before, keptOf(t, p.env))
	proven(t, p.env)

	require.NoError(t, os.WriteFile(filepath.Join(directory, "0.yaml"), []byte(strings.Replace(acmeDefinition, ".c,", ".other,", 1)), 0o600))
	loseDatabase(t, p.env)
	status, stdout, stderr := run(t, p.env, "refill", "database")
	assert.Equal(t, 1, status)
	assert.Contains(t, stdout, "and it was not applied: dead letters")
	assert.Contains(t, stderr, "does not hold against the log")
}

// TestTheRefillDocument runs the commands of docs/refill.md after the database was lost, in
// their order, and compares what they print.
func TestTheRefillDocument(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	p.feed(oneEach(0, 20))
	p.stopped()
	loseDatabase(t, p.env)
	text, err := os.ReadFile("../docs/refill.md")
	require.NoError(t, err)
	database, _, found := strings.Cut(string(text), "\n## A log that was lost\n")
	require.True(t, found)
	runsRefill(t, p, database)
}

// TestTheRefillLogDocument does so after the topics were lost.
func TestTheRefillLogDocument(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	p.feed(oneEach(0, 20))
	p.stopped()
	loseTopics(t, p.env)
	text, err := os.ReadFile("../docs/refill.md")
	require.NoError(t, err)
	_, log, found := strings.Cut(string(text), "\n## A log that was lost\n")
	require.True(t, found)
	runsRefill(t, p, log)
}

// runsRefill runs the commands of a part of docs/refill.md, the last of which starts the service.
func runsRefill(t *testing.T, p *program, text string) *program {
	t.Helper()
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?").FindAllStringSubmatch(text, -1) {
		args := arguments(strings.TrimSpace(block[1]))
		ran++
		if args[0] == "serve" {
			p = start(t, p.env)
			p.eventually("/readyz", http.StatusOK)
			continue
		}
		status, stdout, stderr := run(t, p.env, args...)
		require.Zero(t, status, stdout+stderr)
		if block[2] != "" {
			assert.Equal(t, block[2], regexp.MustCompile(`(?m) +$`).ReplaceAllString(stdout, ""), args)
		}
	}
	assert.Equal(t, 3, ran)
	p.feed(oneEach(20, 10))
	expect(t, p.env, 30*partitionsInTests, 30*partitionsInTests)
	return p
}
