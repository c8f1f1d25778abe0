package postgres_test

import (
	"net/url"
	"path/filepath"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/tlstest"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
)

// authority is the file of the authority that issued the server's certificate,
// as the server names it; client.crt and client.key lie next to it.
func authority(t *testing.T, address string) string {
	t.Helper()
	var file string
	require.NoError(t, connect(t, address).QueryRowContext(t.Context(), `SHOW ssl_ca_file`).Scan(&file))
	require.NotEmpty(t, file, "this server has no TLS; `.ci/services up postgres` starts one that has")
	return file
}

// at moves a URL to a server that says it is host, on this machine.
func at(t *testing.T, address, host string) string {
	t.Helper()
	u, err := url.Parse(with(t, address, "hostaddr", "127.0.0.1"))
	require.NoError(t, err)
	u.Host = host + ":" + u.Port()
	return u.String()
}

// TestTLS: what the server itself says of our sessions.
func TestTLS(t *testing.T) {
	t.Parallel()
	address := freshDatabase(t, "")
	ca := authority(t, address)
	type session struct {
		SSL    bool
		Client *string `db:"client_dn"`
	}
	for name, test := range map[string]struct {
		address string
		want    bool
		client  string
	}{
		"by default":              {address, true, ""},
		"prefer":                  {with(t, address, "sslmode", "prefer"), true, ""},
		"disable":                 {with(t, address, "sslmode", "disable"), false, ""},
		"require":                 {with(t, address, "sslmode", "require"), true, ""},
		"require, verified":       {with(t, address, "sslmode", "require", "sslrootcert", ca), true, ""},
		"verify-ca, another name": {with(t, at(t, address, "db.example"), "sslmode", "verify-ca", "sslrootcert", ca), true, ""},
		"verify-full":             {with(t, address, "sslmode", "verify-full", "sslrootcert", ca), true, ""},
		"verify-full, by name":    {with(t, at(t, address, "localhost"), "sslmode", "verify-full", "sslrootcert", ca), true, ""},
		"a certificate of ours": {with(t, address, "sslmode", "verify-full", "sslrootcert", ca,
			"sslcert", filepath.Join(filepath.Dir(ca), "client.crt"), "sslkey", filepath.Join(filepath.Dir(ca), "client.key")),
			true, "/CN=pricemill"},
	} {
		engine, err := postgres.Open(t.Context(), postgres.Config{URL: test.address, MaxConns: 2})
		require.NoError(t, err, name)
		check := func(get func(any, string, ...any) error) error {
			var got session
			err := get(&got, `SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()`)
			assert.Equal(t, test.want, got.SSL, name)
			if test.client != "" && assert.NotNil(t, got.Client, name) {
				assert.Equal(t, test.client, *got.Client, name)
			}
			return err
		}
		assert.NoError(t, check(engine.Reader().Get), name)
		assert.NoError(t, engine.Write(t.Context(), func(tx *sqlx.Tx) error { return check(tx.Get) }), name)
		assert.NoError(t, engine.Close())
	}
}

// TestTLSRefusals: what cannot be verified is an error that says why, and never
// a reason to continue without.
func TestTLSRefusals(t *testing.T) {
	t.Parallel()
	address := serverURL(t)
	u, err := url.Parse(address)
	require.NoError(t, err)
	password, _ := u.User.Password()
	require.NotEmpty(t, password)
	ca, other := authority(t, address), tlstest.New(t).File
	for name, test := range map[string]struct {
		address string
		want    string
	}{
		"verify-full, another authority": {with(t, address, "sslmode", "verify-full", "sslrootcert", other), "signed by unknown authority"},
		"verify-ca, another authority":   {with(t, address, "sslmode", "verify-ca", "sslrootcert", other), "signed by unknown authority"},
		"require, another authority":     {with(t, address, "sslmode", "require", "sslrootcert", other), "signed by unknown authority"},
		"prefer, another authority":      {with(t, address, "sslrootcert", other), "signed by unknown authority"},
		"those of the system":            {with(t, address, "sslmode", "verify-full", "sslrootcert", "system"), "signed by unknown authority"},
		"another name":                   {with(t, at(t, address, "db.example"), "sslmode", "verify-full", "sslrootcert", ca), "not db.example"},
	} {
		_, err := postgres.Open(t.Context(), postgres.Config{URL: test.address})
		require.ErrorContains(t, err, test.want, name)
		assert.NotContains(t, err.Error(), password, name)
		assert.ErrorContains(t, err, "connecting to PostgreSQL at ", name)
	}
}
