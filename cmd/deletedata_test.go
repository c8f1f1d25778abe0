package cmd_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/deletion"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// newForDeletion starts a service with data of two providers: answers of jobs, a stream's and
// files', corrections, dead letters, alerts and indicators. It returns the stopped program, and
// the id of the job.
func newForDeletion(t *testing.T, prices int) (*program, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "settings.yaml")
	require.NoError(t, os.WriteFile(file, []byte("modules:\n  price-alerts:\n    alerts: [S1 above 50000, S2 below 50000, csv/T above 101]\n"), 0o600))
	p := start(t, environment{"CONFIG_FILE": file, "PLUGINS": "price-alerts,candles,ema,vwap,bollinger,instruments", "MIN_POLL_INTERVAL": "1s"})
	random := rand.New(rand.NewPCG(7, 7))
	answers := makeAnswers(random, prices, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	p.feed(answers)
	p.feed(answers[:20]) // again
	id := p.newJob(`{"symbols":["AAPL","MSFT"],"interval":1,"provider":"simulated"}`)
	p.runs(id, 2)
	p.command(http.MethodDelete, id)
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=NVDA&provider=simulated").status)
	ingestedCorrections(t, p)
	p.correctLatest("S1")
	for _, key := range []string{"simulated/S1", "csv/T"} {
		records := []log.OutgoingRecord{{Key: []byte(key), Value: []byte(key + " no event"), Timestamp: time.Now()}}
		withLog(t, p.env, func(l eventLog) {
			for _, err := range l.Send(t.Context(), []log.PartitionBatch{{TopicPartition: pipeline.TopicPartition{Topic: schema.RawQuotes, Partition: 1}, Records: records}}) {
				require.NoError(t, err)
			}
		})
	}
	p.awaitLetters("raw-store", 2)
	awaitDrained(t, p.env)
	p.stopped()
	proven(t, p.env)
	return p, id
}

// correctLatest corrects the latest price of a symbol of the provider simulated.
func (p *program) correctLatest(symbol string) {
	p.t.Helper()
	var found struct {
		Items []struct{ Timestamp string }
	}
	got := p.get("/api/v1/prices/history?limit=1&provider=simulated&symbol=" + symbol)
	require.NoError(p.t, json.Unmarshal([]byte(got.body), &found), got.body)
	status, _, stderr := p.asClient("correct", symbol, found.Items[0].Timestamp, "--price", "7", "--provider", "simulated", "--reason", "a test")
	require.Zero(p.t, status, stderr)
}

// contents are the rows of all tables, each as a text.
type contents map[string]map[string]bool

func readContents(t *testing.T, env environment) contents {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	view, err := db.Snapshot(t.Context())
	require.NoError(t, err)
	defer view.Close()
	tables, err := view.Tables(t.Context())
	require.NoError(t, err)
	all := contents{}
	for _, name := range tables {
		if name != "goose_db_version" {
			all[name] = readRows(t, view, name)
		}
	}
	return all
}

func readRows(t *testing.T, view *store.Snapshot, name string) map[string]bool {
	t.Helper()
	table, err := view.Table(t.Context(), name)
	require.NoError(t, err)
	rows, err := view.Rows(t.Context(), table)
	require.NoError(t, err)
	defer func() { assert.NoError(t, rows.Close()) }()
	all := map[string]bool{}
	for {
		values, err := rows.Next()
		require.NoError(t, err)
		if values == nil {
			return all
		}
		var row strings.Builder
		for i, c := range table.Columns {
			if c.Name != "topic_id" && c.Name != "origin" { // a topic on Kafka is written again
				fmt.Fprintf(&row, "%s=%v;", c.Name, values[i])
			}
		}
		all[row.String()] = true
	}
}

// logRecords are all records of the log by their places, with all their bytes.
func logRecords(t *testing.T, env environment) map[string]pipeline.Record {
	t.Helper()
	all := map[string]pipeline.Record{}
	withLog(t, env, func(l eventLog) {
		for _, topic := range schema.Topics() {
			ranges, err := l.Offsets(t.Context(), topic)
			require.NoError(t, err)
			for part, held := range ranges {
				require.NoError(t, l.Read(t.Context(), pipeline.TopicPartition{Topic: topic, Partition: int32(part)}, 0, held.End, func(records []pipeline.Record) error {
					for _, r := range records {
						all[fmt.Sprintf("%s@%d", r.TopicPartition, r.Offset)] = r
					}
					return nil
				}))
			}
		}
	})
	return all
}

// Tables that a deletion changes beyond the rows of the provider, and those in which what
// was asked for stays.
var (
	changedByDeletion = []string{"log_segments", "chains", "deletions", "instance", "leases", "streams", "backfills", "letter_retries"}
	keptByDeletion    = []string{"log_segments", "schedules", "polling_jobs", "streams", "deletions", "fetch_budgets"}
)

// checkDeleted holds what is there against what was before: of the data nothing is left, and
// of all else everything, to the byte.
func checkDeleted(t *testing.T, before, after contents, was, is map[string]pipeline.Record, subject schema.Subject, job string) {
	t.Helper()
	ours := func(table, row string) bool {
		switch {
		case subject.Symbol == "":
			return strings.Contains(row, string(subject.Provider)) || strings.Contains(row, job)
		case strings.Contains(row, "quote_key=") || strings.Contains(row, "alert_key="):
			return strings.Contains(row, subject.String()+";")
		case table == "dead_letters":
			return strings.Contains(row, subject.String())
		}
		return strings.Contains(row, "provider="+string(subject.Provider)+";") && strings.Contains(row, "symbol="+string(subject.Symbol)+";")
	}
	deleted := 0
	for table, rows := range before {
		if slices.Contains(changedByDeletion, table) {
			continue
		}
		for row := range rows {
			if !ours(table, row) || slices.Contains(keptByDeletion, table) {
				assert.True(t, after[table][row], "%s lost %s", table, row)
			} else {
				deleted++
			}
		}
	}
	assert.Greater(t, deleted, 50)
	for table, rows := range after {
		if slices.Contains(changedByDeletion, table) {
			continue
		}
		for row := range rows {
			assert.True(t, before[table][row], "%s has now %s", table, row)
			if !slices.Contains(keptByDeletion, table) {
				assert.False(t, ours(table, row), "%s still has %s", table, row)
			}
		}
	}
	replaced := 0
	for place, r := range was {
		now := is[place]
		subjects, _ := schema.SubjectsOf(r.Topic, r.Key, r.Headers, r.Value)
		if !slices.ContainsFunc(subjects, subject.Holds) {
			now.TopicID = r.TopicID // of a topic that was written again
			assert.Equal(t, r, now, place)
			continue
		}
		replaced++
		_, ok := deletion.Replaced(now.Headers, now.Value)
		assert.True(t, ok, "%s: %s", place, now.Value)
		assert.Nil(t, now.Key)
		assert.Equal(t, r.Timestamp, now.Timestamp)
	}
	assert.Greater(t, replaced, 30)
	assert.Len(t, is, len(was)+1, "the event that says so")
}

// deleteData runs delete-data until it has ended.
func deleteData(t *testing.T, env environment, args ...string) (r struct {
	DryRun bool `json:"dry_run"`
	deletion.Result
}) {
	t.Helper()
	status, stdout, stderr := run(t, env, append([]string{"delete-data", "-o", "json"}, args...)...)
	require.Zero(t, status, stderr)
	require.NoError(t, json.Unmarshal([]byte(stdout), &r), stdout)
	return r
}

// All data of a provider go, with three kills on the way, and nothing else does: in the
// tables, in the log, for verify, and after rebuilds. The bytes are in no file any more. The service works
// on, and takes the provider's answers again.
func TestDeleteDataOfAProvider(t *testing.T) {
	t.Parallel()
	p, job := newForDeletion(t, 600)
	before, was := readContents(t, p.env), logRecords(t, p.env)
	require.NotEmpty(t, before["price_alerts"])
	require.NotEmpty(t, before["processed_prices_corrections"])
	const marker = `"simulated":true`
	require.Equal(t, !onPostgres(), filesHold(t, p.env, marker))

	planned := deleteData(t, p.env, "--provider", "simulated", "--dry-run")
	assert.True(t, planned.DryRun)
	assert.Empty(t, planned.Asking)
	assert.Equal(t, before, readContents(t, p.env), "a dry run changes nothing")
	files := filesOfTables(t, p.env)
	args := []string{"--provider", "simulated", "--reason", "the contract ended", "--by", "ada", "--yes"}
	steps := []string{"deleting from ema", "replacing records of raw-quotes/1", "writing the files again"}
	if onServices() {
		copied := string(schema.RawQuotes)
		steps = []string{"deleting from ema", "writing " + deletion.CopyOf(topicName(p.env, schema.RawQuotes)), "deleting " + copied, "creating " + copied, "writing " + copied,
			"comparing " + copied, "adopting " + copied, "deleting " + deletion.CopyOf(topicName(p.env, schema.RawQuotes)), "sending the event", "writing the files again"}
	}
	for _, step := range steps {
		killDeletion(t, p.env, step, args...)
	}
	status, _, stderr := run(t, p.env, "verify")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "data are being deleted from this database")
	status, _, stderr = run(t, p.env, append([]string{"delete-data"}, "--provider", "csv", "--reason", "r", "--yes")...)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "another deletion was interrupted: finish that of simulated first")
	done := deleteData(t, p.env, args...)
	assert.True(t, done.Resumed)
	assert.Equal(t, planned.Records, done.Records)
	assert.Equal(t, planned.Rows, done.Rows)

	checkDeleted(t, before, readContents(t, p.env), was, logRecords(t, p.env), schema.Subject{Provider: "simulated"}, job)
	assert.False(t, filesHold(t, p.env, marker), "the bytes are gone")
	for name, file := range filesOfTables(t, p.env) {
		assert.NotEqual(t, files[name], file, "%s is written again, whether it has rows or not", name)
	}
	assert.Equal(t, !onPostgres(), filesHold(t, p.env, "the contract ended"))
	found := proven(t, p.env)
	assert.Equal(t, map[string]int64{"deletions": 1, "records replaced": total(done.Records)}, found.finding(t, "deletions").Counts)
	for _, projection := range []string{"processed-prices", "moving-averages", "candles", "requests", "latest-prices"} {
		last, status := rebuild(t, p.env, projection, "--promote", "if-equal")
		require.Zero(t, status, "%+v", last)
	}

	again := start(t, p.env)
	again.eventually("/readyz", http.StatusOK)
	assert.Equal(t, http.StatusOK, again.get("/api/v1/prices/poll/"+job).status, "the job is the user's")
	assert.NotContains(t, again.get("/api/v1/symbols").body, "S1")
	assert.Equal(t, http.StatusOK, again.get("/api/v1/prices/latest?symbol=S1&provider=simulated").status)
	again.stopped()
	proven(t, p.env)

	status, stdout, stderr := run(t, p.env, "deletions")
	require.Zero(t, status, stderr)
	if onServices() {
		defer refilledAsBefore(t, p.env)
	}
	assert.Regexp(t, fmt.Sprintf(`(?m)^simulated +all +%d +%d +ada +the contract ended +20\S+Z +%s$`, total(done.Records), total(done.Rows), done.DeletionID), stdout)
}

// refilledAsBefore loses the database, and fills another one from the log, which does not bring
// back what was deleted, nor gives any event again.
func refilledAsBefore(t *testing.T, env environment) {
	t.Helper()
	before := endsOfAll(t, env)
	other := env.with(environment{"DATABASE_URL": newDatabase(t, uniqueName())})
	refillDatabase(t, other)
	proven(t, other)
	want, got := readContents(t, env), readContents(t, other)
	for _, table := range []string{"raw_market_data", "processed_prices", "latest_prices", "normalized_quotes", "polling_jobs"} {
		assert.Equal(t, want[table], got[table], table) // of the provider, what came after the deletion
	}
	again := start(t, other)
	again.eventually("/readyz", http.StatusOK)
	awaitDrained(t, other)
	again.stopped()
	assert.Equal(t, before, endsOfAll(t, other), "no event was derived again")
}

// The data of one symbol go, and those of the provider's others stay.
func TestDeleteDataOfASymbol(t *testing.T) {
	t.Parallel()
	p, job := newForDeletion(t, 2000)
	before, was := readContents(t, p.env), logRecords(t, p.env)
	done := deleteData(t, p.env, "--provider", "simulated", "--symbol", "s1", "--reason", "a request", "--yes")
	assert.Empty(t, done.Refilled)
	checkDeleted(t, before, readContents(t, p.env), was, logRecords(t, p.env), schema.Subject{Provider: "simulated", Symbol: "S1"}, job)
	proven(t, p.env)

	// A job's counts are of all its symbols: they are made again of those that stay.
	done = deleteData(t, p.env, "--provider", "simulated", "--symbol", "AAPL", "--reason", "a request", "--yes")
	assert.Equal(t, []string{"requests.g1"}, done.Refilled)
	again := start(t, p.env)
	again.eventually("/readyz", http.StatusOK)
	awaitDrained(t, p.env)
	again.stopped()
	proven(t, p.env)
}

// total is the sum of counts.
func total[K comparable](counts map[K]int64) (n int64) {
	for _, count := range counts {
		n += count
	}
	return n
}

// filesOfTables are the files on PostgreSQL of tables of which rows were deleted before; none on
// SQLite.
func filesOfTables(t *testing.T, env environment) map[string]int64 {
	t.Helper()
	files := map[string]int64{}
	if !onPostgres() {
		return files
	}
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	for _, name := range []string{"dead_letters", "fetch_queue", "fetch_refused", "failing_jobs"} {
		var file int64
		require.NoError(t, db.Get(t.Context(), &file, `SELECT pg_relation_filenode(to_regclass($1))`, name))
		files[name] = file
	}
	return files
}

// filesHold reports whether a text is in the files of a SQLite database; false on PostgreSQL.
func filesHold(t *testing.T, env environment, text string) bool {
	t.Helper()
	if onPostgres() {
		return false
	}
	holds := false
	require.NoError(t, filepath.WalkDir(env["DATA_DIR"], func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		holds = holds || strings.Contains(string(content), text)
		return err
	}))
	return holds
}

// killDeletion kills a deletion as it begins a step.
func killDeletion(t *testing.T, env environment, step string, args ...string) {
	t.Helper()
	process := command(t, env.with(environment{"DEBUG": "true"}), append([]string{"delete-data"}, args...)...)
	stderr, err := process.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	l := newLogs()
	go l.follow(stderr)
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(l.all("deleting"), func(line map[string]any) bool { return line["step"] == step })
	}, 5*time.Minute, time.Millisecond, "%s:\n%s", step, l)
	require.NoError(t, process.Process.Kill())
	_ = process.Wait() // killed
	t.Logf("killed at %q: after %v", step, l.last("deleting"))
	require.False(t, process.ProcessState.Success())
}

// What verify says of deletions that are not what they were.
func TestVerifyHoldsDeletionsAgainstTheLog(t *testing.T) {
	t.Parallel()
	if onServices() {
		t.Skip("with the log on Kafka, ingest waits for a service")
	}
	env := newStack(t, nil)
	ingested(t, env, caseFile("before-dividend.csv"))
	file := filepath.Join(t.TempDir(), "later.csv")
	require.NoError(t, os.WriteFile(file, []byte("symbol,price,time\nT,7,2026-01-01\n"), 0o600))
	deleteData(t, env, "--provider", "csv", "--reason", "r", "--yes")
	proven(t, env)
	differs := func(damage, repair, sentence string) {
		t.Helper()
		damageTables(t, env, damage)
		v, status := verify(t, env)
		assert.Equal(t, 1, status, damage)
		assert.Contains(t, strings.Join(v.finding(t, "deletions").Differences, "\n"), sentence, damage)
		damageTables(t, env, repair)
		proven(t, env)
	}
	differs(`UPDATE deletions SET deleted = replace(deleted, '"price-events":5', '"price-events":6')`, `UPDATE deletions SET deleted = replace(deleted, '"price-events":6', '"price-events":5')`,
		"replaced 6 records of price-events, as it is recorded, and 5 are there")
	differs(`INSERT INTO normalized_quotes (quote_key, price, timestamp) VALUES ('csv/T', '1', '2026-01-01T00:00:00.000000Z')`, `DELETE FROM normalized_quotes`,
		"rows of normalized_quotes are of csv, whose data were deleted by ")

	// What came later is no difference, unless it is said to be from before.
	ingested(t, env, file)
	proven(t, env)
	damageTables(t, env, `UPDATE deletions SET ends = replace(ends, '5', '9')`)
	v, status := verify(t, env)
	assert.Equal(t, 1, status)
	assert.Contains(t, strings.Join(v.finding(t, "deletions").Differences, "\n"), "holds data of csv, which deletion")
	damageTables(t, env, `DELETE FROM deletions`)
	v = proven(t, env)
	assert.Contains(t, strings.Join(v.finding(t, "deletions").Limits, "\n"), "which the log tells of and the database does not")
}

// What is wrong with a call, and where nothing can be deleted.
func TestDeleteDataIsRefused(t *testing.T) {
	t.Parallel()
	refused := func(wanted int, env environment, sentence string, args ...string) {
		t.Helper()
		status, stdout, stderr := run(t, env, append([]string{"delete-data"}, args...)...)
		assert.Equal(t, wanted, status, stderr)
		assert.Empty(t, stdout)
		assert.Contains(t, stderr, sentence)
	}
	empty := environment{"DATA_DIR": t.TempDir(), "HTTP_ADDR": "127.0.0.1:0"}
	refused(2, empty, "--provider is required", "--yes")
	refused(2, empty, "invalid provider name", "--provider", "A B", "--yes")
	refused(2, empty, "give one of them", "--provider", "csv", "--reason", "r")
	refused(2, empty, "give one of them", "--provider", "csv", "--dry-run", "--yes")
	refused(2, empty, "--reason is required", "--provider", "csv", "--yes")
	refused(2, empty, "invalid symbol", "--provider", "csv", "--symbol", "|", "--dry-run")
	refused(1, empty, "nothing has been written here yet", "--provider", "csv", "--dry-run")
	p := start(t, environment{"MIN_POLL_INTERVAL": "1s"})
	id := p.newJob(`{"symbols":["AAPL"],"interval":1,"provider":"simulated"}`)
	p.runs(id, 1)
	awaitDrained(t, p.env)
	status, stdout, stderr := run(t, p.env, "delete-data", "--provider", "simulated", "--dry-run")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `to be stopped +polling job `+id[strings.LastIndex(id, "/")+1:], stdout)
	working := "another process works with the database"
	if !onPostgres() && !onServices() {
		working = "pricemill runs on"
	}
	refused(1, p.env, working, "--provider", "simulated", "--reason", "r", "--yes")
	p.stopped()
	refused(1, p.env, "stop what asks for them first: [polling job ", "--provider", "simulated", "--reason", "r", "--yes")
	refused(1, p.env, "there are no such data: of none", "--provider", "none", "--reason", "r", "--yes")
	proven(t, p.env)
}
