package cmd_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/kafkatest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// TestOneDatabaseOneLog: a process whose settings name another log than the one that a
// database belongs to is refused before it writes, joins a group or answers, and what runs
// is not disturbed.
func TestOneDatabaseOneLog(t *testing.T) {
	t.Parallel()
	refused := func(env environment, names ...string) {
		t.Helper()
		for _, args := range [][]string{{"serve"}, {"verify"}, {"stages", "list"}, {"replay", "price-events"}} {
			status, stdout, stderr := run(t, env.with(environment{"HTTP_ADDR": "127.0.0.1:0"}), args...)
			assert.Equal(t, 1, status, args)
			assert.Empty(t, stdout, args)
			for _, name := range append(names, "belongs to another log") {
				assert.Contains(t, stderr, name, args)
			}
		}
	}
	broker, err := kafkatest.Start(kafkatest.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, broker.Close()) })

	t.Run("a database that holds its log", func(t *testing.T) {
		p := start(t, newStack(t, environment{"KAFKA_BOOTSTRAP_SERVERS": ""}))
		p.feed(oneEach(0, 10))
		p.stopped()
		env := p.env.with(environment{"KAFKA_BOOTSTRAP_SERVERS": broker.Addr()})
		if env["DATABASE_URL"] == "" {
			env["DATABASE_URL"] = "sqlite"
		}
		refused(env, "holds its log itself", "KAFKA_BOOTSTRAP_SERVERS")
		p = start(t, p.env)
		p.feed(oneEach(10, 10))
		expect(t, p.env, 20*partitionsInTests, 20*partitionsInTests)
		proven(t, p.env)
	})
	t.Run("a database of a Kafka cluster", func(t *testing.T) {
		p := start(t, newKafkaStack(t, nil))
		p.feed(oneEach(0, 10))
		// While it runs: KAFKA_BOOTSTRAP_SERVERS is forgotten, or another cluster's.
		refused(p.env.with(environment{"KAFKA_BOOTSTRAP_SERVERS": "", "DATA_DIR": p.env["DATA_DIR"]}),
			"its log is the Kafka cluster", "KAFKA_BOOTSTRAP_SERVERS is not set")
		p.feed(oneEach(10, 10))
		expect(t, p.env, 20*partitionsInTests, 20*partitionsInTests)
		proven(t, p.env)
	})
	t.Run("a database of an earlier version", func(t *testing.T) {
		env := environment{"DATA_DIR": t.TempDir()}
		db, err := openDatabase(env.with(environment{"KAFKA_BOOTSTRAP_SERVERS": "none"})) // records no log
		require.NoError(t, err)
		require.NoError(t, db.EnsureTopic(t.Context(), "price-events", 4))
		require.NoError(t, db.Close())
		refused(env, "an earlier version", filepath.Join(env["DATA_DIR"], "broker"))
	})
	t.Run("DATABASE_URL is forgotten", func(t *testing.T) {
		env := environment{"DATA_DIR": t.TempDir(), "KAFKA_BOOTSTRAP_SERVERS": broker.Addr()}
		status, _, stderr := run(t, env, "serve")
		assert.Equal(t, 2, status)
		assert.Contains(t, stderr, "DATABASE_URL: KAFKA_BOOTSTRAP_SERVERS is set, and DATABASE_URL is not")
		entries, err := os.ReadDir(env["DATA_DIR"])
		require.NoError(t, err)
		assert.Empty(t, entries, "nothing was written")
	})
}

// TestADamagedLog: a flipped byte is named by its partition and number, by the service, by
// verify and by replay; the other partitions are consumed as before, and what was
// acknowledged there is served.
func TestADamagedLog(t *testing.T) {
	t.Parallel()
	p := start(t, newStack(t, environment{"KAFKA_BOOTSTRAP_SERVERS": ""}))
	p.feed(oneEach(0, 10))
	p.stopped()
	feed(t, p.env, oneEach(10, 10)) // waits in the log
	db := openTables(t, p.env)
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		topics, err := store.Topics(t.Context(), db)
		if err != nil {
			return err
		}
		for _, topic := range topics {
			if topic.Name != string(schema.RawQuotes) {
				continue
			}
			// The last segment of partition 1; its checksum is off by one bit.
			n, err := tx.Exec(t.Context(), `UPDATE log_segments SET checksum = checksum + 1 WHERE id = (SELECT MAX(id) FROM log_segments
				WHERE id > $1 AND id < $2)`, topic.Epoch<<50|1<<38, topic.Epoch<<50|2<<38)
			assert.EqualValues(t, 1, n)
			return err
		}
		return nil
	}))
	require.NoError(t, db.Close())

	p = start(t, p.env)
	named := regexp.MustCompile(`reading raw-quotes/1 from offset \d+: the log is damaged: the checksum of numbers \d+ to \d+`)
	require.Eventually(t, func() bool { return named.MatchString(p.get("/readyz").body) }, 20*time.Second, 20*time.Millisecond)
	assert.Equal(t, http.StatusServiceUnavailable, p.get("/readyz").status)
	require.Eventually(t, func() bool {
		return counted(t, p.env)["answers"] >= 10*partitionsInTests+10*(partitionsInTests-1)
	}, 20*time.Second, 20*time.Millisecond, "the other partitions")
	v, status := verify(t, p.env, "--wait", "0s")
	assert.Equal(t, 1, status)
	assert.Contains(t, strings.Join(v.finding(t, "log").Differences, "\n"), "raw-quotes/1")
	status, _, stderr := run(t, p.env, "replay", "raw-quotes", "--partition", "1")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "the log is damaged")
}

// TestAStandbyTakesOver: on PostgreSQL alone one process consumes, another stands by, is
// ready and answers, and takes over when the first one is killed, or stops.
func TestAStandbyTakesOver(t *testing.T) {
	t.Parallel()
	if !onPostgres() || onServices() {
		t.Skip("needs PostgreSQL without Kafka: make test-postgres")
	}
	env := newStack(t, nil)
	process, l := spawn(t, env)
	l.await(t, "pipeline running")
	feed(t, env, oneEach(0, 10))
	awaitDrained(t, env)

	standby := start(t, env)
	ready := standby.eventually("/readyz", http.StatusOK)
	assert.Contains(t, ready.body, log.ErrStandby.Error())
	standby.eventually("/api/v1/prices/latest?symbol=AAPL", http.StatusOK)
	require.NoError(t, process.Process.Kill())
	_ = process.Wait() // killed
	began := time.Now()
	feed(t, env, oneEach(10, 10))
	awaitDrained(t, env)
	t.Logf("taken over %v after a kill", time.Since(began))
	expectAtLeast := 20 * partitionsInTests
	rows := counted(t, env)
	assert.GreaterOrEqual(t, rows["prices"], expectAtLeast)
	assert.Zero(t, rows["twice"])

	third := start(t, env)
	third.eventually("/readyz", http.StatusOK)
	standby.stopped()
	began = time.Now()
	feed(t, env, oneEach(20, 10))
	awaitDrained(t, env)
	t.Logf("taken over %v after a stop", time.Since(began))
	assert.GreaterOrEqual(t, counted(t, env)["prices"], 30*partitionsInTests)
	proven(t, env)
}

// TestReplayOfATable: bounds by offset and by time, on a log that is a table.
func TestReplayOfATable(t *testing.T) {
	t.Parallel()
	env := newStack(t, environment{"KAFKA_BOOTSTRAP_SERVERS": ""})
	withLog(t, env, func(logger eventLog) {
		_, err := logger.EnsureTopics(t.Context(), schema.Topics())
		require.NoError(t, err)
		for i := range 6 {
			record := log.OutgoingRecord{Key: []byte("k"), Value: []byte("{}"), Timestamp: noon.Add(time.Duration(i) * time.Minute)}
			require.NoError(t, logger.Send(t.Context(), []log.PartitionBatch{{TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents},
				Records: []log.OutgoingRecord{record, record}}})[0])
		}
	})
	at := func(minutes int) string { return noon.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339) }
	for flags, want := range map[string]string{
		"--from 10":                          "0/10 0/11",
		"--from 3 --to 5":                    "0/3 0/4",
		"--from " + at(5):                    "0/10 0/11",
		"--from " + at(1) + " --to " + at(2): "0/2 0/3",
	} {
		status, stdout, stderr := run(t, env, append([]string{"replay", "price-events"}, strings.Fields(flags)...)...)
		assert.Zero(t, status, "%s: %s", flags, stderr)
		assert.Equal(t, strings.Fields(want), replayed(t, stdout), flags)
	}
	status, _, stderr := run(t, env, "replay", "price-events", "--to-topic", "a-copy")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "--to-topic copies within a Kafka cluster")
}
