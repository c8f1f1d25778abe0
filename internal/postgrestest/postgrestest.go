// Package postgrestest makes an empty place in a PostgreSQL server for a test.
package postgrestest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"net/url"
	"os"
	"strings"
	"testing"

	_ "github.com/lib/pq" // creates and drops schemas
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// urlVariable names the server, and servicesVariable says that there has to be one.
const (
	urlVariable      = "PRICEMILL_TEST_DATABASE_URL"
	servicesVariable = "PRICEMILL_TEST_SERVICES"
)

// Schema creates a schema, which goes with the test, and returns the URL that leads there.
// Without a server it skips the test, or fails it where PRICEMILL_TEST_SERVICES is set.
func Schema(t testing.TB) string {
	t.Helper()
	address := os.Getenv(urlVariable)
	if address == "" {
		require.Empty(t, os.Getenv(servicesVariable), "%s is not set", urlVariable)
		t.Skip("needs PostgreSQL: set " + urlVariable)
	}
	at, err := url.Parse(address)
	require.NoError(t, err)
	admin, err := sql.Open("postgres", address)
	require.NoError(t, err)
	name := "test_" + strings.ToLower(rand.Text())
	_, err = admin.ExecContext(t.Context(), "CREATE SCHEMA "+name)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := admin.ExecContext(context.Background(), "DROP SCHEMA "+name+" CASCADE")
		assert.NoError(t, err)
		assert.NoError(t, admin.Close())
	})
	query := at.Query()
	query.Set("search_path", name)
	at.RawQuery = query.Encode()
	return at.String()
}
