package postgres_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/internal/proxytest"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
)

// The tests that need a server run where urlVariable names one whose role may
// create databases; `.ci/services up postgres` starts such a one. Without it they
// are skipped, so that the tests need nothing but Go, unless mustVariable is 1:
// then the run is meant to cover them, and they fail.
const (
	urlVariable  = "PRICEMILL_TEST_DATABASE_URL"
	mustVariable = "PRICEMILL_TEST_SERVICES"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, proxytest.Left()...) }

// serverURL is the server's database for all. What it says about TLS is left
// out: the tests say it.
func serverURL(t testing.TB) string {
	t.Helper()
	address := os.Getenv(urlVariable)
	switch {
	case address != "":
		u, err := url.Parse(address)
		require.NoError(t, err)
		query := u.Query()
		query.Del("sslmode")
		u.RawQuery = query.Encode()
		return u.String()
	case os.Getenv(mustVariable) == "1":
		require.Fail(t, urlVariable+" is not set", "%s=1 asks for the tests that need a server", mustVariable)
	}
	t.Skip("needs PostgreSQL: set " + urlVariable)
	return ""
}

// freshSchema creates a schema for this test, which takes milliseconds.
func freshSchema(t testing.TB) string {
	t.Helper()
	address := serverURL(t)
	admin := connect(t, address)
	name := "test_" + strings.ToLower(rand.Text())
	_, err := admin.ExecContext(t.Context(), "CREATE SCHEMA "+name)
	require.NoError(t, err)
	t.Cleanup(func() {
		// t's context is done by now.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err := admin.ExecContext(ctx, "DROP SCHEMA "+name+" CASCADE")
		assert.NoError(t, err)
	})
	return with(t, address, "search_path", name)
}

// freshDatabase creates a database for this test, for settings that are those of
// a database, or to end all sessions of one. options stand after CREATE DATABASE.
func freshDatabase(t testing.TB, options string) string {
	t.Helper()
	address := serverURL(t)
	admin := connect(t, address)
	name := "pricemill_test_" + strings.ToLower(rand.Text())
	_, err := admin.ExecContext(t.Context(), "CREATE DATABASE "+name+" "+options)
	require.NoError(t, err)
	t.Cleanup(func() {
		// FORCE: some tests leave sessions behind.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err := admin.ExecContext(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
		assert.NoError(t, err)
	})
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.Path = "/" + name
	return u.String()
}

// connect opens a plain connection, without what the engine sets.
func connect(t testing.TB, address string) *sql.DB {
	t.Helper()
	cfg, err := pq.NewConfig(address)
	require.NoError(t, err)
	if cfg.SSLMode == "" {
		cfg.SSLMode = pq.SSLModePrefer
	}
	connector, err := pq.NewConnectorConfig(cfg)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { _ = db.Close() }) // some tests end all sessions, and TLS cannot say farewell then
	return db
}

// with adds parameters to a URL.
func with(t testing.TB, address string, parameters ...string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	query := u.Query()
	for i := 0; i < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	u.RawQuery = query.Encode()
	return u.String()
}

func openEngine(t testing.TB, cfg postgres.Config) *postgres.Engine {
	t.Helper()
	engine, err := postgres.Open(t.Context(), cfg)
	require.NoError(t, err)
	return engine
}
