package cmd_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestTheMainJob(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	assert.JSONEq(t, `{"status":"healthy"}`, p.get("/health").body)
	p.eventually("/readyz", http.StatusOK)

	began := time.Now()
	first := p.get("/api/v1/prices/latest?symbol=tsla")
	require.Equal(t, http.StatusOK, first.status, first.body)
	t.Logf("the first price of a symbol took %v", time.Since(began))
	assert.Equal(t, "TSLA", first.field(t, "symbol"))
	assert.Equal(t, "simulated", first.field(t, "provider"))

	accepted := p.post("/api/v1/prices/poll", `{"symbols":["aapl","MSFT"],"interval":60}`)
	require.Equal(t, http.StatusAccepted, accepted.status, accepted.body)
	assert.Regexp(t, `^poll_[0-9a-z]{8}$`, accepted.field(t, "job_id"))
	assert.Equal(t, "accepted", accepted.field(t, "status"))
	began = time.Now()
	average := p.eventually("/api/v1/prices/moving-average?symbol=AAPL&window=5", http.StatusOK)
	t.Logf("the first average of a new job took %v", time.Since(began))
	assert.Equal(t, json.Number("5"), average.field(t, "window_size"))

	status, stdout, stderr := run(t, p.env, "stages", "list", "-o", "json")
	require.Zero(t, status, stderr)
	var stages []operator.StageStatus
	require.NoError(t, json.Unmarshal([]byte(stdout), &stages))
	assert.NotEmpty(t, stages)
	status, stdout, stderr = run(t, p.env, "replay", "price-events")
	require.Zero(t, status, stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Len(t, lines, 3)
	for _, line := range lines {
		var record struct{ Value schema.PriceObserved }
		require.NoError(t, json.Unmarshal([]byte(line), &record))
		assert.Equal(t, schema.Provider("simulated"), record.Value.Source)
		if record.Value.Symbol == "AAPL" {
			assert.Equal(t, json.Number(record.Value.Price.String()), average.field(t, "value"), "one price is its own average")
		}
	}
}

// Each fault has the stated status, and nothing stops.
func TestBadInputStopsNothing(t *testing.T) {
	t.Parallel()
	p := start(t, environment{
		"SIMULATED_FAULTS": "DOWN=fail,HANG=hang,NOPE=unknown,JUNK=garbage,ZERO=zero,HUGE=too_large",
		"FETCH_TIMEOUT":    "2s",
	})
	p.eventually("/readyz", http.StatusOK)
	for name, test := range map[string]struct {
		got  answer
		want int
	}{
		"missing symbol":   {p.get("/api/v1/prices/latest"), 422},
		"unknown provider": {p.get("/api/v1/prices/latest?symbol=AAPL&provider=acme"), 400},
		"interval 30":      {p.post("/api/v1/prices/poll", `{"symbols":["AAPL"],"interval":30}`), 422},
		"eleven symbols":   {p.post("/api/v1/prices/poll", `{"symbols":["A","B","C","D","E","F","G","H","I","J","K"],"interval":60}`), 422},
		"malformed JSON":   {p.post("/api/v1/prices/poll", `{"symbols":`), 422},
		"a body of 1 MB":   {p.post("/api/v1/prices/poll", `{"symbols":["`+strings.Repeat("A", 1<<20)+`"]}`), 413},
		"no average":       {p.get("/api/v1/prices/moving-average?symbol=NEVER"), 404},
		"provider fails":   {p.get("/api/v1/prices/latest?symbol=DOWN"), 502},
		"provider hangs":   {p.get("/api/v1/prices/latest?symbol=HANG"), 504},
		"no such symbol":   {p.get("/api/v1/prices/latest?symbol=NOPE"), 404},
		"garbage":          {p.get("/api/v1/prices/latest?symbol=JUNK"), 502},
		"price zero":       {p.get("/api/v1/prices/latest?symbol=ZERO"), 502},
		"huge answer":      {p.get("/api/v1/prices/latest?symbol=HUGE"), 502},
	} {
		assert.Equal(t, test.want, test.got.status, "%s: %s", name, test.got.body)
		assert.NotNil(t, test.got.field(t, "detail"), name)
	}
	good := p.get("/api/v1/prices/latest?symbol=GOOD")
	assert.Equal(t, http.StatusOK, good.status, good.body)
	p.eventually("/readyz", http.StatusOK)
}

func TestAPoisonRecordIsADeadLetterWithItsBytes(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	broker := connect(t, p.env)
	poison := []byte("{\"price\": NaN, \xff\xfe")
	errs := broker.Send(t.Context(), []log.PartitionBatch{{TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 1},
		Records: []log.OutgoingRecord{{Key: []byte("k"), Headers: []schema.Header{{Key: "h", Value: []byte{0, 1}}}, Value: poison}}}})
	require.NoError(t, errs[0])
	const readers = 4 // processed-prices, moving-averages, latest-prices, requests
	var letters []store.DeadLetterSummary
	require.Eventually(t, func() bool {
		status, stdout, stderr := run(t, p.env, "dead-letters", "list", "-o", "json")
		require.Zero(t, status, stderr)
		letters = nil
		require.NoError(t, json.Unmarshal([]byte(stdout), &letters))
		return len(letters) == readers
	}, 20*time.Second, 20*time.Millisecond)
	for _, l := range letters {
		assert.Equal(t, int64(len(poison)), l.Bytes)
		assert.Contains(t, l.Reason, "UTF-8")
		status, stdout, stderr := run(t, p.env, "dead-letters", "show", strconv.FormatInt(l.ID, 10), "-o", "json")
		require.Zero(t, status, stderr)
		var shown struct {
			Stage      string
			Partition  int32
			Key, Value []byte
			Headers    []schema.Header
		}
		require.NoError(t, json.Unmarshal([]byte(stdout), &shown))
		assert.Equal(t, l.Stage, shown.Stage)
		assert.Equal(t, int32(1), shown.Partition)
		assert.Equal(t, "k", string(shown.Key))
		// A table log numbers the record when it is read.
		own := slices.DeleteFunc(shown.Headers, func(h schema.Header) bool { return strings.HasPrefix(h.Key, "ce_outbox") })
		assert.Equal(t, []schema.Header{{Key: "h", Value: []byte{0, 1}}}, own)
		assert.Equal(t, poison, shown.Value)
	}
	for _, output := range []string{"table", "json"} {
		status, stdout, _ := run(t, p.env, "dead-letters", "show", strconv.FormatInt(letters[0].ID, 10), "-o", output)
		assert.Zero(t, status)
		assert.NotContains(t, stdout, "\xff", "a terminal must not get the bytes")
	}
	for id, want := range map[string]int{"999999": 1, "0": 2, "x": 2} {
		status, _, stderr := run(t, p.env, "dead-letters", "show", id)
		assert.Equal(t, want, status, stderr)
	}
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=AAPL").status)
	p.eventually("/readyz", http.StatusOK)
}

// TestMetrics: the lag is the end of the log minus the position, and falls to
// zero.
func TestMetrics(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=AAPL").status)
	value := func(body, name, stage, topic, partition string) float64 {
		line := regexp.MustCompile(`(?m)^` + name + `\{partition="` + partition + `",stage="` + stage + `",topic="` + topic + `"\} (.*)$`)
		match := line.FindStringSubmatch(body)
		require.NotNil(t, match, "%s of %s on %s/%s in\n%s", name, stage, topic, partition, body)
		number, err := strconv.ParseFloat(match[1], 64)
		require.NoError(t, err)
		return number
	}
	status, stdout, stderr := run(t, p.env, "stages", "list", "-o", "json")
	require.Zero(t, status, stderr)
	var stages []operator.StageStatus
	require.NoError(t, json.Unmarshal([]byte(stdout), &stages))
	applied := 0.0
	for _, s := range stages {
		var body string
		partition := strconv.Itoa(int(s.Partition))
		require.Eventually(t, func() bool {
			body = p.get("/metrics").body
			return value(body, "pricemill_stage_lag", s.Stage, string(s.Topic), partition) == 0
		}, 10*time.Second, 5*time.Millisecond)
		end := value(body, "pricemill_stage_end", s.Stage, string(s.Topic), partition)
		assert.Equal(t, end, value(body, "pricemill_stage_position", s.Stage, string(s.Topic), partition))
		assert.Zero(t, value(body, "pricemill_stage_halted", s.Stage, string(s.Topic), partition))
		applied += end
	}
	assert.Positive(t, applied)
	body := p.get("/metrics").body
	if p.env.onKafka() {
		assert.Contains(t, body, "pricemill_relay_depth")
	}
	for _, name := range []string{"pricemill_stage_batch_records_bucket", "go_goroutines",
		"pricemill_router_handler_execution_time_seconds_bucket",
		`pricemill_fetch_outcomes_total{code="ok",provider="simulated"} 1`} {
		assert.Contains(t, body, name)
	}
}

// A record of a chain that no one knows halts its partition. All who look can see
// it, the lag stays, and the other partitions continue.
func TestAHaltIsSeen(t *testing.T) {
	t.Parallel()
	p := start(t, newKafkaStack(t, nil))
	p.eventually("/readyz", http.StatusOK)
	broker := connect(t, p.env)
	const partition = 3
	record := log.OutgoingRecord{Key: []byte("k"), Value: []byte("{}"), Headers: []schema.Header{
		{Key: "ce_outboxid", Value: []byte("another")}, {Key: "ce_outboxseq", Value: []byte("7")}}}
	errs := broker.Send(t.Context(), []log.PartitionBatch{{
		TopicPartition: pipeline.TopicPartition{Topic: schema.StoredQuotes, Partition: partition},
		Records:        []log.OutgoingRecord{record, record}}})
	require.NoError(t, errs[0])
	notReady := p.eventually("/readyz", http.StatusServiceUnavailable)
	assert.Contains(t, notReady.body, "stage normalize on stored-quotes/3")
	assert.Contains(t, notReady.body, "number 7 of chain another, was written by another database")
	assert.Contains(t, p.get("/metrics").body, `pricemill_stage_lag{partition="3",stage="normalize",topic="stored-quotes"} 2`)
	assert.Contains(t, p.get("/metrics").body, `pricemill_stage_halted{partition="3",stage="normalize",topic="stored-quotes"} 1`)
	status, stdout, stderr := run(t, p.env, "stages", "list")
	require.Zero(t, status, stderr)
	assert.Regexp(t, `normalize +stored-quotes +3 +0 +2 +2 +the record at offset 0, number 7`, stdout)
	served := 0
	for _, symbol := range []string{"A", "B", "C", "D", "E", "F"} {
		if kafka.Partition([]byte("simulated/"+symbol), 4) != partition {
			assert.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol="+symbol).status, symbol)
			served++
		}
	}
	assert.Positive(t, served)
}

// Two processes share a cluster and a database; on SQLite, one consumes the log.
func TestASecondProcess(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	if onPostgres() {
		second := start(t, p.env)
		second.eventually("/readyz", http.StatusOK)
		p.eventually("/readyz", http.StatusOK)
		assert.Equal(t, http.StatusOK, second.get("/api/v1/prices/latest?symbol=AAPL").status)
		assert.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=MSFT").status)
		return
	}
	status, _, stderr := run(t, p.env, "serve")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "another pricemill runs on "+p.env["DATA_DIR"])
}

// A process without the role api serves no clients, but those who watch it; the
// work of both is one.
func TestRoles(t *testing.T) {
	t.Parallel()
	if !onServices() {
		status, _, stderr := run(t, environment{"DATA_DIR": t.TempDir(), "ROLES": "handlers"}, "serve")
		assert.Equal(t, 2, status)
		assert.Contains(t, stderr, "ROLES: without Kafka, one process does all the work")
		return
	}
	api := start(t, environment{"ROLES": "api"})
	settings := maps.Clone(api.env)
	settings["ROLES"] = "handlers,projections,relay"
	worker := start(t, settings)
	worker.eventually("/readyz", http.StatusOK)
	api.eventually("/readyz", http.StatusOK)
	assert.Equal(t, http.StatusOK, api.get("/api/v1/prices/latest?symbol=AAPL").status)
	for _, path := range []string{"/api/v1/prices/latest?symbol=AAPL", "/docs", "/openapi.json", "/"} {
		assert.Equal(t, http.StatusNotFound, worker.get(path).status, path)
	}
	assert.Equal(t, http.StatusNotFound, worker.post("/api/v1/prices/poll", `{"symbols":["AAPL"]}`).status)
	assert.Contains(t, worker.get("/metrics").body, `pricemill_stage_lag{`)
	assert.Contains(t, api.get("/metrics").body, "go_goroutines")
	assert.Equal(t, http.StatusOK, worker.get("/version").status)
	status, stdout, stderr := run(t, environment{"HTTP_ADDR": addressOf(worker.url)}, "health")
	assert.Zero(t, status, stderr)
	assert.Equal(t, "ready\n", stdout)
}

func TestSigtermDrainsAndExitsZero(t *testing.T) {
	t.Parallel()
	process, l := spawn(t, newStack(t, nil))
	url := l.await(t, "listening")["url"].(string)
	l.await(t, "pipeline running")
	response, err := http.Get(url + "/api/v1/prices/latest?symbol=AAPL")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	began := time.Now()
	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	require.NoError(t, process.Wait(), "exit status 0:\n%s", l)
	t.Logf("stopped after %v", time.Since(began))
	assert.Less(t, time.Since(began), 10*time.Second)
}

func TestWrongSettingsAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	status, _, stderr := run(t, environment{
		"HTTP_ADDR": "0.0.0.0:80000", "KAFKA_PARTITIONS": "none", "LATEST_MAX_AGE": "5", "ROLES": "chef",
		"DEFAULT_PROVIDER": "acme", "MOVING_AVERAGE_WINDOW": "5,0", "RATE_LIMIT_PER_MINUTE": "-1", "DEBUG": "perhaps",
		"HTTP_MAX_CONNECTIONS": "63", "HTTP_MAX_CONNECTIONS_PER_CLIENT": "0", "KAFKA_INSTANCE_ID": "not a name", "KAFKA_SESSION_TIMEOUT": "1s",
		"KAFKA_TIMEOUT": "1m", "DATABASE_TIMEOUT": "0", "DATABASE_URL": "mysql://u:hunter2@h/db", "DATA_DIR": t.TempDir(),
	}, "serve")
	assert.Equal(t, 2, status)
	for _, name := range []string{"HTTP_ADDR", "HTTP_MAX_CONNECTIONS", "HTTP_MAX_CONNECTIONS_PER_CLIENT", "KAFKA_INSTANCE_ID", "KAFKA_SESSION_TIMEOUT",
		"KAFKA_TIMEOUT", "DATABASE_TIMEOUT", "KAFKA_PARTITIONS", "LATEST_MAX_AGE", "ROLES", "DEFAULT_PROVIDER",
		"MOVING_AVERAGE_WINDOW", "RATE_LIMIT_PER_MINUTE", "DEBUG", "DATABASE_URL"} {
		assert.Contains(t, stderr, name+":")
	}
	assert.NotContains(t, stderr, "hunter2")
}

// TestAStartWithoutAService ends at once, and says which service it is.
func TestAStartWithoutAService(t *testing.T) {
	t.Parallel()
	const nobody = "127.0.0.1:1"
	for name, env := range map[string]environment{
		"PostgreSQL": {"DATABASE_URL": "postgres://me:secret@" + nobody + "/prices"},
		"Kafka":      {"KAFKA_BOOTSTRAP_SERVERS": nobody, "DATABASE_URL": "sqlite"},
	} {
		status, _, stderr := run(t, env.with(environment{"DATA_DIR": t.TempDir(), "HTTP_ADDR": "127.0.0.1:0"}), "serve")
		assert.Equal(t, 1, status, name)
		assert.Contains(t, stderr, "connecting to "+name+" at "+nobody)
		assert.NotContains(t, stderr, "secret")
	}
}

func TestUsageErrorsExitTwo(t *testing.T) {
	t.Parallel()
	env := environment{"DATA_DIR": t.TempDir()}
	for _, args := range [][]string{{"serve", "extra"}, {"serve", "--nonsense"}, {"replay"}, {"replay", "no-such-topic"}} {
		status, _, stderr := run(t, env, args...)
		assert.Equal(t, 2, status, "%q: %s", args, stderr)
		assert.NotEmpty(t, stderr, fmt.Sprint(args))
	}
}
