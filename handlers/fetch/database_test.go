package fetch_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/postgrestest"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
)

// newDatabase makes a database that holds nothing yet, and returns how a process
// opens it: SQLite, or, with PRICEMILL_TEST_SERVICES set, PostgreSQL.
func newDatabase(t *testing.T) (open func(t *testing.T) *store.Store) {
	t.Helper()
	if os.Getenv("PRICEMILL_TEST_SERVICES") == "" {
		path := filepath.Join(t.TempDir(), "db")
		return func(t *testing.T) *store.Store { return pipelinetest.OpenStore(t, path) }
	}
	address := postgrestest.Schema(t)
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
