package table_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/internal/proxytest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/schema"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// The tests run on SQLite, and on PostgreSQL where urlVariable names a server. Where
// mustVariable is 1, it must.
const (
	urlVariable  = "PRICEMILL_TEST_DATABASE_URL"
	mustVariable = "PRICEMILL_TEST_SERVICES"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, proxytest.Left()...) }

// opener opens a database of the test's own; called again, another connection to it, as
// another process would.
type opener func(t testing.TB) *store.Store

// onEngines runs a test on each engine there is.
func onEngines(t *testing.T, test func(t *testing.T, open opener)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, onSQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, onPostgres(t))
	})
}

func onSQLite(t testing.TB) opener {
	path := filepath.Join(t.TempDir(), "db")
	return func(t testing.TB) *store.Store {
		t.Helper()
		engine, err := sqlite.Open(path)
		require.NoError(t, err)
		return openStore(t, engine)
	}
}

func openStore(t testing.TB, engine store.Engine) *store.Store {
	t.Helper()
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

func onPostgres(t testing.TB) opener {
	t.Helper()
	address := freshSchema(t)
	return func(t testing.TB) *store.Store {
		t.Helper()
		return openStore(t, postgresEngine(t.Context(), t, address))
	}
}

// postgresEngine has few connections, so that tests at once leave the server some.
func postgresEngine(ctx context.Context, t testing.TB, address string) *postgres.Engine {
	t.Helper()
	engine, err := postgres.Open(ctx, postgres.Config{URL: address, MaxConns: 8})
	require.NoError(t, err)
	return engine
}

// freshSchema creates a schema for this test, and returns the URL that leads there.
func freshSchema(t testing.TB) string {
	t.Helper()
	address := os.Getenv(urlVariable)
	if address == "" {
		require.NotEqual(t, "1", os.Getenv(mustVariable), "%s is not set", urlVariable)
		t.Skip("needs PostgreSQL: set " + urlVariable)
	}
	name := "test_" + strings.ToLower(rand.Text())
	u, err := url.Parse(address)
	require.NoError(t, err)
	admin := func(ctx context.Context, statement string) {
		engine := postgresEngine(ctx, t, address)
		assert.NoError(t, store.Reader(engine).Write(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, statement)
			return err
		}))
		assert.NoError(t, engine.Close())
	}
	admin(t.Context(), "CREATE SCHEMA "+name)
	t.Cleanup(func() { admin(context.Background(), "DROP SCHEMA "+name+" CASCADE") })
	query := u.Query()
	query.Set("search_path", name)
	u.RawQuery = query.Encode()
	return u.String()
}

var names atomic.Int64

func unique(kind string) string { return fmt.Sprintf("%s-%d", kind, names.Add(1)) }

// partitioner spreads keys; any function of the key would do.
func partitioner(key []byte, partitions int32) int32 {
	h := fnv.New32a()
	_, _ = h.Write(key) // never fails
	return int32(h.Sum32() % uint32(partitions))
}

// openLog opens the log of a database, and closes it when the test ends.
func openLog(t testing.TB, db *store.Store, change ...func(*table.Config)) *table.Log {
	t.Helper()
	cfg := table.Config{Store: db, Partitions: logtest.Partitions, Partitioner: partitioner, NackPause: 5 * time.Millisecond, Grace: time.Second}
	for _, f := range change {
		f(&cfg)
	}
	l := table.Open(cfg)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

func newTopic(t testing.TB, l *table.Log) schema.Topic {
	t.Helper()
	topic := schema.Topic(unique("topic"))
	_, err := l.EnsureTopics(t.Context(), []schema.Topic{topic})
	require.NoError(t, err)
	return topic
}

func at(topic schema.Topic, partition int32) pipeline.TopicPartition {
	return pipeline.TopicPartition{Topic: topic, Partition: partition}
}

// numbered makes n records whose values are first, first+1, …
func numbered(first, n int) []log.OutgoingRecord {
	records := make([]log.OutgoingRecord, n)
	for i := range records {
		records[i] = log.OutgoingRecord{Key: []byte("simulated/AAPL"), Value: fmt.Appendf(nil, "%d", first+i),
			Headers: []schema.Header{{Key: "ce_type", Value: []byte("test")}}}
	}
	return records
}

func send(t testing.TB, l *table.Log, tp pipeline.TopicPartition, records ...log.OutgoingRecord) {
	t.Helper()
	require.NoError(t, l.Send(t.Context(), []log.PartitionBatch{{TopicPartition: tp, Records: records}})[0])
}

func wait[T any](t testing.TB, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		require.FailNow(t, "waited in vain for "+what)
	}
	return v
}

func TestLog(t *testing.T) {
	for name, fresh := range map[string]func(t testing.TB) opener{"sqlite": onSQLite, "postgres": onPostgres} {
		t.Run(name, func(t *testing.T) {
			if name == "postgres" {
				freshSchema(t)
			}
			logtest.Run(t, logtest.Config{
				Fresh: func(t testing.TB) logtest.Opener {
					open := fresh(t)
					return func(t testing.TB, grace time.Duration) logtest.Log {
						return openLog(t, open(t), func(c *table.Config) { c.Grace = grace })
					}
				},
				Unique:       unique,
				OwnHeaders:   []string{"ce_outboxid", "ce_outboxseq", "ce_outboxdirect"},
				UnknownTopic: table.ErrUnknownTopic, OutOfRange: table.ErrOutOfRange, Closed: table.ErrClosed,
			})
		})
	}
}
