package cmd_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	_ "github.com/lib/pq" // creates and drops databases
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/kafkatest"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

// The tests of this package run on SQLite, which holds the log too. With
// servicesVariable set they run on PostgreSQL and Apache Kafka, where DATABASE_URL and
// KAFKA_BOOTSTRAP_SERVERS say, and with tableVariable on PostgreSQL alone. There each test
// has a database and topics of its own.
const (
	servicesVariable = "PRICEMILL_TEST_SERVICES"
	tableVariable    = "PRICEMILL_TEST_TABLE"
)

func onServices() bool { return os.Getenv(servicesVariable) != "" }

// onPostgres reports whether the tests run on PostgreSQL, whatever the log is.
func onPostgres() bool { return onServices() || os.Getenv(tableVariable) != "" }

// newStack returns the settings of a stack that holds nothing yet, with those of
// env before them. Where env names a database, it is a stack already.
func newStack(t testing.TB, env environment) environment {
	t.Helper()
	// Tests of faults post jobs all the time.
	full := environment{"DATA_DIR": t.TempDir(), "HTTP_ADDR": "127.0.0.1:0", "MAX_ACTIVE_JOBS": "100000", "DEMO": "off"}
	if _, shared := env["DATABASE_URL"]; onPostgres() && !shared {
		id := strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
		full["DATABASE_URL"] = newDatabase(t, "test_"+id)
		if onServices() {
			full.name(id)
			full["KAFKA_BOOTSTRAP_SERVERS"] = os.Getenv("KAFKA_BOOTSTRAP_SERVERS")
			require.NotEmpty(t, full["KAFKA_BOOTSTRAP_SERVERS"], "%s is set, but KAFKA_BOOTSTRAP_SERVERS is not", servicesVariable)
			t.Cleanup(func() { deleteTopics(t, full, "test-"+id+".") })
		}
	}
	return full.with(env)
}

// name gives a stack topics and groups of its own.
func (e environment) name(id string) {
	e["KAFKA_TOPIC_PREFIX"] = "test-" + id + "."
	e["KAFKA_GROUP_ID"] = "test-" + id
	e["KAFKA_PARTITIONS"] = "4"
}

// newKafkaStack is newStack for what only Kafka has. Without the services it is SQLite and
// a broker in this process.
func newKafkaStack(t testing.TB, env environment) environment {
	t.Helper()
	if onServices() {
		return newStack(t, env)
	}
	broker, err := kafkatest.Start(kafkatest.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	full := environment{"DATA_DIR": t.TempDir(), "HTTP_ADDR": "127.0.0.1:0", "DATABASE_URL": "sqlite", "KAFKA_BOOTSTRAP_SERVERS": broker.Addr(), "DEMO": "off"}
	full.name("kafka")
	return full.with(env)
}

// onKafka reports whether the log of a stack is Kafka.
func (e environment) onKafka() bool { return e["KAFKA_BOOTSTRAP_SERVERS"] != "" }

// newSharedStack is newStack for processes that share the work, which needs Kafka and
// PostgreSQL.
func newSharedStack(t testing.TB, env environment) environment {
	t.Helper()
	if !onServices() {
		t.Skip("several processes that share the work need PostgreSQL and Apache Kafka: make test-services")
	}
	return newStack(t, env)
}

// deleteTopics leaves the cluster as it was found.
func deleteTopics(t testing.TB, env environment, prefix string) {
	administer(t, env, func(admin sarama.ClusterAdmin) {
		topics, err := admin.ListTopics()
		require.NoError(t, err)
		for name := range topics {
			if !strings.HasPrefix(name, prefix) {
				continue
			}
			// What the program deleted itself may be listed for a moment yet.
			if err := admin.DeleteTopic(name); !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
				assert.NoError(t, err)
			}
		}
	})
}

// newDatabase creates a database, which goes with the test.
func newDatabase(t testing.TB, name string) string {
	t.Helper()
	admin := administerPostgres(t)
	_, err := admin.Exec("CREATE DATABASE " + name)
	require.NoError(t, err)
	t.Cleanup(func() {
		// Anyone who used it has gone by now, the killed as well, and took the
		// sessions along.
		var sessions int
		assert.Eventually(t, func() bool {
			err := admin.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'`, name).Scan(&sessions)
			return err == nil && sessions == 0
		}, 10*time.Second, 50*time.Millisecond, "sessions that are left")
		_, err := admin.Exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)")
		assert.NoError(t, err)
	})
	address, err := url.Parse(os.Getenv("DATABASE_URL"))
	require.NoError(t, err)
	address.Path = "/" + name
	return address.String()
}

// administerPostgres reaches the server that DATABASE_URL names.
func administerPostgres(t testing.TB) *sql.DB {
	t.Helper()
	address := os.Getenv("DATABASE_URL")
	require.NotEmpty(t, address, "%s is set, but DATABASE_URL is not", servicesVariable)
	parsed, err := url.Parse(address)
	require.NoError(t, err)
	query := parsed.Query()
	query.Set("sslmode", "disable") // on this machine
	parsed.RawQuery = query.Encode()
	admin, err := sql.Open("postgres", parsed.String())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, admin.Close()) })
	return admin
}

// openTables opens the tables next to the program.
func openTables(t testing.TB, env environment) *store.Store {
	t.Helper()
	db, err := openDatabase(env)
	require.NoError(t, err)
	return db
}

func openDatabase(env environment) (*store.Store, error) {
	var engine store.Engine
	var err error
	if address := env["DATABASE_URL"]; address != "" && address != "sqlite" {
		engine, err = postgres.Open(context.Background(), postgres.Config{URL: address})
	} else {
		engine, err = sqlite.Open(filepath.Join(env["DATA_DIR"], "pricemill.db"))
	}
	if err != nil {
		return nil, err
	}
	db, err := store.Open(context.Background(), engine)
	if err != nil {
		return nil, errors.Join(err, engine.Close())
	}
	if !env.onKafka() {
		err = db.RecordLog(context.Background(), store.TableLog)
	}
	return db, err
}

// eventLog is the log of a stack.
type eventLog interface {
	log.Broker
	OffsetsAt(ctx context.Context, topic schema.Topic, moment time.Time) ([]int64, error)
	Close() error
}

// tableLog closes its database too.
type tableLog struct {
	*table.Log
	db *store.Store
}

func (l tableLog) Close() error { return errors.Join(l.Log.Close(), l.db.Close()) }

// dial opens the log of a stack, whether the program runs or not.
func dial(ctx context.Context, env environment) (eventLog, error) {
	if !env.onKafka() {
		db, err := openDatabase(env)
		if err != nil {
			return nil, err
		}
		return tableLog{table.Open(table.Config{Store: db, Partitions: partitionsInTests, Partitioner: kafka.Partition}), db}, nil
	}
	names := map[schema.Topic]string{}
	for _, topic := range schema.Topics() {
		names[topic] = env["KAFKA_TOPIC_PREFIX"] + string(topic)
	}
	return kafka.New(ctx, kafka.Config{Brokers: strings.Split(env["KAFKA_BOOTSTRAP_SERVERS"], ","), Names: names})
}

// connect is dial for as long as the test runs.
func connect(t testing.TB, env environment) eventLog {
	t.Helper()
	log, err := dial(context.Background(), env)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, log.Close()) })
	return log
}

// withLog runs f on the log of a stack.
func withLog(t testing.TB, env environment, f func(eventLog)) {
	t.Helper()
	log, err := dial(context.Background(), env)
	require.NoError(t, err)
	defer func() { assert.NoError(t, log.Close()) }()
	f(log)
}

// administer runs f on the brokers of a stack.
func administer(t testing.TB, env environment, f func(sarama.ClusterAdmin)) {
	t.Helper()
	admin, err := sarama.NewClusterAdmin(strings.Split(env["KAFKA_BOOTSTRAP_SERVERS"], ","), nil)
	require.NoError(t, err)
	defer func() { assert.NoError(t, admin.Close()) }()
	f(admin)
}

// createTopic returns once the brokers show the topic: their answer to its creation says that it
// will be there.
func createTopic(t testing.TB, env environment, name string, partitions int32, settings map[string]string) {
	t.Helper()
	administer(t, env, func(admin sarama.ClusterAdmin) {
		require.NoError(t, admin.CreateTopic(name,
			&sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1, ConfigEntries: pointers(settings)}, false))
		require.Eventually(t, func() bool {
			described, err := admin.DescribeTopics([]string{name})
			return err == nil && len(described) == 1 && described[0].Err == sarama.ErrNoError && len(described[0].Partitions) == int(partitions) &&
				!slices.ContainsFunc(described[0].Partitions, func(p *sarama.PartitionMetadata) bool { return p.Err != sarama.ErrNoError })
		}, time.Minute, 20*time.Millisecond)
	})
}

// deleteTopic returns once the topic is gone.
func deleteTopic(t testing.TB, env environment, topic schema.Topic) {
	t.Helper()
	administer(t, env, func(admin sarama.ClusterAdmin) {
		name := topicName(env, topic)
		require.NoError(t, admin.DeleteTopic(name))
		require.Eventually(t, func() bool {
			described, err := admin.DescribeTopics([]string{name})
			return err == nil && len(described) == 1 && described[0].Err == sarama.ErrUnknownTopicOrPartition
		}, time.Minute, 20*time.Millisecond)
	})
}
