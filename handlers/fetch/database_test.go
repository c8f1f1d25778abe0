package fetch_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/lib/pq" // creates and drops schemas
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
)

// newDatabase makes a database that holds nothing yet, and returns how a process
// opens it: SQLite, or, with PRICEMILL_TEST_SERVICES set, the PostgreSQL server of
// DATABASE_URL.
func newDatabase(t *testing.T) (open func(t *testing.T) *store.Store) {
	t.Helper()
	if os.Getenv("PRICEMILL_TEST_SERVICES") == "" {
		path := filepath.Join(t.TempDir(), "db")
		return func(t *testing.T) *store.Store { return pipelinetest.OpenStore(t, path) }
	}
	address := newSchema(t)
	return func(t *testing.T) *store.Store {
		t.Helper()
		engine, err := postgres.Open(context.Background(), postgres.Config{URL: address, MaxConns: 8})
		require.NoError(t, err)
		db, err := store.Open(context.Background(), pipelinetest.Clocked(engine))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		return db
	}
}

// newSchema creates a schema, which goes with the test, and returns the address
// that leads there.
func newSchema(t *testing.T) string {
	t.Helper()
	parsed, err := url.Parse(os.Getenv("DATABASE_URL"))
	require.NoError(t, err)
	query := parsed.Query()
	query.Set("sslmode", "disable") // on this machine
	parsed.RawQuery = query.Encode()
	admin, err := sql.Open("postgres", parsed.String())
	require.NoError(t, err)
	name := "test_" + strings.ToLower(rand.Text())
	_, err = admin.Exec("CREATE SCHEMA " + name)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := admin.Exec("DROP SCHEMA " + name + " CASCADE")
		assert.NoError(t, err)
		assert.NoError(t, admin.Close())
	})
	query.Set("search_path", name)
	parsed.RawQuery = query.Encode()
	return parsed.String()
}
