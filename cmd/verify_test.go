package cmd_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// verdict is what verify prints as JSON.
type verdict struct {
	OK      bool             `json:"ok"`
	Checks  []*audit.Finding `json:"checks"`
	Lost    int64            `json:"lost"`
	Doubled int64            `json:"doubled"`
	Behind  int64            `json:"behind"`
	Seconds float64          `json:"seconds"`
}

// finding is one of the checks.
func (v verdict) finding(t testing.TB, name string) *audit.Finding {
	t.Helper()
	at := slices.IndexFunc(v.Checks, func(f *audit.Finding) bool { return f.Name == name })
	require.GreaterOrEqual(t, at, 0, "there is a check %q", name)
	return v.Checks[at]
}

// String is all of it, for people.
func (v verdict) String() string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// verify runs "pricemill verify" next to whatever runs.
func verify(t testing.TB, env environment, args ...string) (verdict, int) {
	t.Helper()
	status, stdout, stderr := run(t, env, append([]string{"verify", "-o", "json"}, args...)...)
	var v verdict
	require.NoError(t, json.Unmarshal([]byte(stdout), &v), "status %d\n%s\n%s", status, stdout, stderr)
	return v, status
}

// proven runs verify, and wants everything to hold.
func proven(t testing.TB, env environment) verdict {
	t.Helper()
	v, status := verify(t, env)
	require.True(t, status == 0 && v.OK && v.Lost == 0 && v.Doubled == 0, "everything holds: status %d: %s", status, v)
	noScratch(t, env)
	return v
}

// noScratch looks whether verify left anything.
func noScratch(t testing.TB, env environment) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	for _, query := range []string{
		`SELECT COUNT(*) FROM generations WHERE scratch = 1`,
		`SELECT COUNT(*) FROM positions WHERE stage LIKE 'scratch%'`,
		`SELECT COUNT(*) FROM dead_letters WHERE stage LIKE 'scratch%'`,
		`SELECT COUNT(*) FROM leases WHERE name = 'scratch'`,
	} {
		var n int
		require.NoError(t, db.Get(t.Context(), &n, query))
		assert.Zero(t, n, query)
	}
}

// append brings a record straight into the log, as another producer might.
func appendRecord(t testing.TB, env environment, tp pipeline.TopicPartition, key, value string, headers ...schema.Header) {
	t.Helper()
	withLog(t, env, func(logger eventLog) {
		errs := logger.Send(t.Context(), []log.PartitionBatch{{TopicPartition: tp,
			Records: []log.OutgoingRecord{{Key: []byte(key), Headers: headers, Value: []byte(value)}}}})
		require.NoError(t, errs[0])
	})
}

// live gives a service something of each kind: prices of a stream, some of them
// twice, a price that was asked for, one that no provider has, a job, and a record
// that no one can read.
func live(t testing.TB, p *program) {
	t.Helper()
	answers := oneEach(0, 10)
	feed(t, p.env, answers)
	feed(t, p.env, answers[:12])
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=ASKED").status)
	require.NotEqual(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=X&provider=csv").status)
	require.Equal(t, http.StatusAccepted, p.post("/api/v1/prices/poll", `{"symbols":["POLLED"],"interval":60}`).status)
	for partition := range int32(partitionsInTests) {
		appendRecord(t, p.env, pipeline.TopicPartition{Topic: schema.RawQuotes, Partition: partition}, "k", "\xffno answer")
		appendRecord(t, p.env, pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: partition}, "k", "{}")
	}
	require.Eventually(t, func() bool { return p.get("/api/v1/prices/latest?symbol=POLLED&stale=allow").status == http.StatusOK },
		20*time.Second, 20*time.Millisecond)
	awaitDrained(t, p.env)
}

func TestVerifyBesideAServiceAndWithoutOne(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	live(t, p)
	v := proven(t, p.env)
	assert.Equal(t, int64(partitionsInTests), v.finding(t, "stage raw-store").Counts["dead letters"])
	assert.Equal(t, int64(12), v.finding(t, "stage raw-store").Counts["answers that came again"])
	assert.Equal(t, int64(partitionsInTests), v.finding(t, "stage latest-prices.g1").Counts["dead letters"])
	again := proven(t, p.env)
	for _, check := range again.Checks {
		if check.Tables != nil {
			assert.Equal(t, v.finding(t, check.Name).Tables, check.Tables, "the same hashes each time")
		}
	}

	status, stdout, stderr := run(t, p.env, "verify", "--projection", "moving-averages", "--projection", "requests")
	assert.Zero(t, status, stderr)
	assert.Regexp(t, `(?m)^projection moving-averages +ok +`, stdout)
	assert.NotContains(t, stdout, "stage")
	assert.NotContains(t, stdout, "polling-jobs")

	p.stopped()
	assert.Equal(t, v.finding(t, "projection moving-averages").Tables, proven(t, p.env).finding(t, "projection moving-averages").Tables)
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	for hint, args := range map[string][]string{
		`there is no projection "nothing"`:     {"--projection", "nothing"},
		"no such value; known are table, json": {"-o", "xml"},
		"must not be negative":                 {"--differences", "-1"},
		"accepts 0 arg":                        {"everything"},
	} {
		status, _, stderr := run(t, p.env, append([]string{"verify"}, args...)...)
		assert.Equal(t, 2, status, stderr)
		assert.Contains(t, stderr, hint)
	}
	status, stdout, stderr := run(t, newStack(t, nil), "verify")
	assert.Equal(t, 1, status, stdout)
	assert.Regexp(t, "nothing has been written here yet|did the service run since", stderr) // of Kafka the latter
}

// damage is one thing that is wrong in the tables, and what finds it.
type damage struct {
	name string
	// statements do it; each must change a row.
	statements []string
	in, says   string
	// lost and doubled are what is counted; -1 is any number.
	lost, doubled int64
	// onTable is what finds it where the log is a table, if that differs.
	onTable *damage
}

// tableEnds is how a table log shows a number that was given and is not there.
var tableEnds = damage{in: "log", says: "is missing, and the last that was written is", lost: 1}

// each is a statement on one row of a table.
func each(table, key, set string) string {
	return fmt.Sprintf("UPDATE %s SET %s WHERE %s = (SELECT MAX(%s) FROM %s)", table, set, key, key, table)
}

var damages = []damage{
	{"a price by one unit of its last digit", []string{each("processed_prices", "id", "price = {price} + 0.000000000000000001")},
		"projection processed-prices", "price is ", 0, 0, nil},
	{"an average", []string{each("moving_averages", "id", "value = {value} + 0.000000000000000001")},
		"projection moving-averages", "value is ", 0, 0, nil},
	{"an average of another symbol", []string{each("moving_averages", "id", "symbol = 'OTHER'")},
		"projection moving-averages", "symbol is OTHER", 0, 0, nil},
	{"a window", []string{each("moving_average_windows", "quote_key", "entries = '{}'")},
		"projection moving-averages", "entries is {}", 0, 0, nil},
	{"an event time by a microsecond", []string{each("processed_prices", "id", "timestamp = {later}")},
		"projection processed-prices", "timestamp is ", 0, 0, nil},
	{"an event's id", []string{each("processed_prices", "id", "event_id = 'another'")},
		"projection processed-prices", "event_id is another", 0, 0, nil},
	{"a row too few", []string{"DELETE FROM processed_prices WHERE id = (SELECT MIN(id) FROM processed_prices)"},
		"projection processed-prices", "is missing; by the log it is", 1, 0, nil},
	{"a row too many", []string{"INSERT INTO moving_averages SELECT id + 5, symbol, window_size, value, timestamp, provider FROM moving_averages WHERE id = (SELECT MAX(id) FROM moving_averages)"},
		"projection moving-averages", "is there, and by the log it is not", 0, 1, nil},
	{"a symbol too few", []string{"DELETE FROM latest_prices WHERE symbol = 'ASKED'"},
		"projection latest-prices", "symbol=ASKED is missing", 1, 0, nil},
	{"a count", []string{each("latest_prices", "symbol", "prices = prices + 1")}, "projection latest-prices", "prices is ", 0, 0, nil},
	{"a job", []string{each("polling_jobs", "id", "runs = runs + 1")}, "projection polling-jobs", "runs is ", 0, 0, nil},
	{"a request's outcome", []string{each("requests", "request_id", "state = 'pending'")}, "projection requests", "state is pending", 0, 0, nil},
	{"a job's outcomes", []string{each("job_counts", "job_id", "prices = prices - 1")}, "projection requests", "prices is ", 0, 0, nil},

	{"a byte of an answer", []string{each("raw_market_data", "id", "raw_response = {byte}")},
		"stage raw-store", "raw_response is not that of the answer", 1, 0, nil},
	{"an answer too few", []string{"DELETE FROM raw_market_data WHERE id = (SELECT MIN(id) FROM raw_market_data)"},
		"stage raw-store", "is not kept in raw_market_data", 1, 0, nil},
	{"an answer too many", []string{"INSERT INTO raw_market_data SELECT id + 1, 'another', symbol, provider, raw_response, raw_bytes, timestamp, request_id, definition FROM raw_market_data WHERE id = (SELECT MIN(id) FROM raw_market_data)"},
		"stage raw-store", "where no answer was applied", 0, 1, nil},
	{"an answer of no topic", []string{"INSERT INTO raw_market_data SELECT 7, 'another', symbol, provider, raw_response, raw_bytes, timestamp, request_id, definition FROM raw_market_data WHERE id = (SELECT MIN(id) FROM raw_market_data)"},
		"stage raw-store", "1 rows of raw_market_data are of no record", 0, 1, nil},
	{"an answer kept as another's", []string{each("raw_market_data", "id", "symbol = 'OTHER'")},
		"stage raw-store", "symbol is not that of the answer", 1, 0, nil},
	{"an open request that was answered", []string{"INSERT INTO fetch_queue (request_id, provider, symbol, requested_at, deadline, traceparent, claimed_by, claimed_until) SELECT request_id, provider, symbol, received_at, received_at, '', '', 0 FROM requests WHERE state = 'observed' AND symbol = 'POLLED' ORDER BY request_id LIMIT 1"},
		"stage fetch", "has more than one outcome, or has one and waits for another", 0, 1, nil},
	{"an open request of no one", []string{"INSERT INTO fetch_queue (request_id, provider, symbol, requested_at, deadline, traceparent, claimed_by, claimed_until) SELECT 'orphan', provider, symbol, received_at, received_at, '', '', 0 FROM requests WHERE state = 'observed' AND symbol = 'POLLED' ORDER BY request_id LIMIT 1"},
		"stage fetch", "request orphan waits in fetch_queue, and no record asks for it", 0, 1, nil},

	{"a dead letter too few", []string{"DELETE FROM dead_letters WHERE stage = 'raw-store' AND part = 1"},
		"stage raw-store", "should be a dead letter, and is not", 1, 0, nil},
	{"a dead letter of a projection too few", []string{"DELETE FROM dead_letters WHERE stage = 'moving-averages.g1' AND part = 1"},
		"projection moving-averages", "is no dead letter, and the fold refuses it", 1, 0, nil},
	{"a dead letter's bytes", []string{"UPDATE dead_letters SET payload = headers WHERE stage = 'raw-store' AND part = 1"},
		"stage raw-store", "does not have the value of the record", 1, 0, nil},
	{"a dead letter of a record that was applied", []string{"UPDATE dead_letters SET log_offset = 0 WHERE stage = 'raw-store' AND part = 1"},
		"stage raw-store", "and it was not applied: dead letters", 2, 2, nil},
	{"a dead letter of a projection of a record that was applied", []string{"UPDATE dead_letters SET log_offset = 0 WHERE stage = 'moving-averages.g1' AND part = 1"},
		"projection moving-averages", "is a dead letter, and the fold takes it", 2, 0, nil},

	{"a position beyond the log", []string{"UPDATE positions SET next_offset = next_offset + 1000 WHERE stage = 'normalize' AND part = 1"},
		"positions", "and the log ends at", 0, 0, nil},
	{"a position that left records out", []string{"UPDATE positions SET next_offset = 0 WHERE stage = 'raw-store' AND part = 1"},
		"stage raw-store", "where no answer was applied", -1, -1, nil},
	{"a halted position", []string{"UPDATE positions SET halted = 'by hand' WHERE stage = 'normalize' AND part = 1"},
		"positions", "normalize has halted", 0, 0, nil},
	{"a number of a chain", []string{"UPDATE chains SET last = last + 1 WHERE part = 1 AND epoch = (SELECT MAX(epoch) FROM topics WHERE name = 'price-events')"},
		"log", "are neither in the log nor in the outbox", 1, 0, &tableEnds},
	{"a number checkpointed as sent", []string{"UPDATE chains SET last = last + 1, sent = sent + 1 WHERE part = 1 AND epoch = (SELECT MAX(epoch) FROM topics WHERE name = 'price-events')"},
		"log", "lost 1 records at its end", 1, 0, &tableEnds},
	{"an event that no one sends", []string{
		"UPDATE chains SET last = last + 1 WHERE part = 1 AND epoch = (SELECT MAX(epoch) FROM topics WHERE name = 'price-events')",
		"INSERT INTO outbox (epoch, part, seq, msg_key, headers, payload) SELECT c.epoch, 1, c.last, l.payload, l.headers, l.payload FROM chains c, dead_letters l WHERE c.part = 1 AND c.epoch = (SELECT MAX(epoch) FROM topics WHERE name = 'price-events') AND l.stage = 'raw-store' AND l.part = 1"},
		"outbox", "1 events wait for a relay", 0, 0, &tableEnds},
	{"a projection of another fold", []string{"UPDATE generations SET fold = 'v0' WHERE projection = 'requests'"},
		"projection requests", "built by the fold", 0, 0, nil},
}

// unreadable are values that only SQLite keeps in such columns. Each is a difference,
// and no end of the rest.
var unreadable = []damage{
	{"a timestamp of an answer that is none", []string{each("raw_market_data", "id", "timestamp = 'yesterday'")},
		"stage raw-store", "timestamp is not that of the answer", 1, 0, nil},
	{"a timestamp of a price that is none", []string{each("processed_prices", "id", "timestamp = 'yesterday'")},
		"projection processed-prices", "timestamp is yesterday", 0, 0, nil},
	{"a count that is no whole number", []string{each("latest_prices", "symbol", "prices = 1.5")},
		"projection latest-prices", "prices is 1.5", 0, 0, nil},
	{"a price that is bytes", []string{each("processed_prices", "id", "price = x'00ff'")},
		"projection processed-prices", "price is ", 0, 0, nil},
	{"a time of a dead letter that is none", []string{"UPDATE dead_letters SET created_at = 'yesterday' WHERE stage = 'raw-store' AND part = 1"},
		"stage raw-store", "a row cannot be read", 0, 0, nil},
	{"a time of a position that is none", []string{"UPDATE positions SET moved_at = 'yesterday' WHERE stage = 'normalize' AND part = 1"},
		"positions", "a row cannot be read", 0, 0, nil},
	{"a time of a projection's position that is none", []string{"UPDATE positions SET moved_at = 'yesterday' WHERE stage = 'moving-averages.g1' AND part = 1"},
		"projection moving-averages", "a row cannot be read", 0, 0, nil},
}

// TestVerifyFindsDamage damages the tables of a service that is stopped, in one
// way at a time.
func TestVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	env := p.env
	p.eventually("/readyz", http.StatusOK)
	live(t, p)
	p.stopped()
	proven(t, env)
	all := damages
	if !onPostgres() {
		all = append(slices.Clone(damages), unreadable...)
	}
	for _, d := range all {
		t.Run(d.name, func(t *testing.T) {
			restore := copyDatabase(t, env)
			defer restore()
			for _, statement := range d.statements {
				damageTables(t, env, statement)
			}
			if !env.onKafka() && d.onTable != nil {
				d = *d.onTable
			}
			v, status := verify(t, env, "--wait", "0s")
			assert.Equal(t, 1, status)
			assert.False(t, v.OK)
			f := v.finding(t, d.in)
			assert.NotEqual(t, audit.Holds, f.State)
			assert.True(t, slices.ContainsFunc(append(f.Differences, f.Unproven...), func(text string) bool { return strings.Contains(text, d.says) }),
				"one says %q: %s", d.says, v)
			if d.lost >= 0 {
				assert.Equal(t, []int64{d.lost, d.doubled}, []int64{v.Lost, v.Doubled}, "lost and doubled: %s", v)
			}
			noScratch(t, env)
		})
	}
	proven(t, env)
}

// damageTables runs a statement that changes one row. What engines write
// differently is in braces.
func damageTables(t testing.TB, env environment, statement string) {
	t.Helper()
	words := map[string]string{"{price}": "price", "{value}": "value", "{later}": "timestamp + interval '1 microsecond'",
		"{byte}": "overlay(raw_response placing 'x' from 2)"}
	if env["DATABASE_URL"] == "" {
		// Decimals and times are texts there.
		words = map[string]string{"{price} + 0.000000000000000001": "price || '.000000000000000001'",
			"{value} + 0.000000000000000001": "value || '.000000000000000001'",
			"{later}":                        "substr(timestamp, 1, 20) || '000001Z'", "{byte}": "substr(raw_response, 1, 1) || 'x' || substr(raw_response, 3)"}
	}
	for word, sql := range words {
		statement = strings.ReplaceAll(statement, word, sql)
	}
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		n, err := tx.Exec(t.Context(), statement)
		assert.Equal(t, int64(1), n, statement)
		return err
	}))
}
