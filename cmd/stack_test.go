package cmd_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	_ "github.com/lib/pq" // creates and drops databases
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/embedded"
	"github.com/pricemill/pricemill/pipeline/kafka"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

// The tests of this package run on the embedded default, or, with
// servicesVariable set, on PostgreSQL and Apache Kafka, where DATABASE_URL and
// KAFKA_BOOTSTRAP_SERVERS say. There each test has a database and topics of its
// own.
const servicesVariable = "PRICEMILL_TEST_SERVICES"

func onServices() bool { return os.Getenv(servicesVariable) != "" }

// newStack returns the settings of a stack that holds nothing yet, with those of
// env before them. Where env names a database, it is a stack already.
func newStack(t testing.TB, env environment) environment {
	t.Helper()
	// Tests of faults post jobs all the time.
	full := environment{"DATA_DIR": t.TempDir(), "HTTP_ADDR": "127.0.0.1:0", "MAX_ACTIVE_JOBS": "100000"}
	if _, shared := env["DATABASE_URL"]; onServices() && !shared {
		id := strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
		full["DATABASE_URL"] = newDatabase(t, "test_"+id)
		full["KAFKA_BOOTSTRAP_SERVERS"] = os.Getenv("KAFKA_BOOTSTRAP_SERVERS")
		full["KAFKA_TOPIC_PREFIX"] = "test-" + id + "."
		full["KAFKA_GROUP_ID"] = "test-" + id
		full["KAFKA_PARTITIONS"] = "4"
		require.NotEmpty(t, full["KAFKA_BOOTSTRAP_SERVERS"], "%s is set, but KAFKA_BOOTSTRAP_SERVERS is not", servicesVariable)
		t.Cleanup(func() { deleteTopics(t, full, "test-"+id+".") })
	}
	return full.with(env)
}

// newSharedStack is newStack for processes that share it. The embedded broker and
// its directory belong to one.
func newSharedStack(t testing.TB, env environment) environment {
	t.Helper()
	if !onServices() {
		t.Skip("several processes need PostgreSQL and Apache Kafka: make test-services")
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
		// Whoever used it has gone by now, the killed as well, and took the
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

// openTables opens the tables beside the program.
func openTables(t testing.TB, env environment) *store.Store {
	t.Helper()
	var engine store.Engine
	var err error
	if env["DATABASE_URL"] != "" {
		engine, err = postgres.Open(context.Background(), postgres.Config{URL: env["DATABASE_URL"]})
	} else {
		engine, err = sqlite.Open(filepath.Join(env["DATA_DIR"], "pricemill.db"))
	}
	require.NoError(t, err)
	db, err := store.Open(context.Background(), engine)
	require.NoError(t, err)
	return db
}

// brokerAddress is where the broker of the program listens now.
func brokerAddress(env environment) (string, error) {
	if address := env["KAFKA_BOOTSTRAP_SERVERS"]; address != "" {
		return address, nil
	}
	return embedded.Address(filepath.Join(env["DATA_DIR"], "broker"))
}

// dial reaches the broker of the program as it runs now.
func dial(ctx context.Context, env environment) (*kafka.Broker, error) {
	address, err := brokerAddress(env)
	if err != nil {
		return nil, err
	}
	names := map[schema.Topic]string{}
	for _, topic := range schema.Topics() {
		names[topic] = env["KAFKA_TOPIC_PREFIX"] + string(topic)
	}
	return kafka.New(ctx, kafka.Config{Brokers: []string{address}, Names: names})
}

// connect is dial for as long as the test runs.
func connect(t testing.TB, env environment) *kafka.Broker {
	t.Helper()
	broker, err := dial(context.Background(), env)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	return broker
}

// administer runs f on the broker: that of the services, the one inside the
// program while it runs, or else one on its directory.
func administer(t testing.TB, env environment, f func(sarama.ClusterAdmin)) {
	t.Helper()
	brokers := strings.Split(env["KAFKA_BOOTSTRAP_SERVERS"], ",")
	if !onServices() {
		dir := filepath.Join(env["DATA_DIR"], "broker")
		address, err := embedded.Address(dir)
		if err != nil {
			broker, err := embedded.Open(context.Background(), embedded.Config{Dir: dir})
			require.NoError(t, err)
			defer func() { assert.NoError(t, broker.Close()) }()
			address = broker.Addr()
		}
		brokers = []string{address}
	}
	admin, err := sarama.NewClusterAdmin(brokers, nil)
	require.NoError(t, err)
	defer func() { assert.NoError(t, admin.Close()) }()
	f(admin)
}
