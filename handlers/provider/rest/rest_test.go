package rest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// What a client does about the answers of a service is in providertest, which
// every provider runs. Here is what it cannot see.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A symbol is one step of a path and one value of a query, whatever it holds.
func TestGetEscapesSymbols(t *testing.T) {
	t.Parallel()
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.RequestURI
		_, _ = io.WriteString(w, "{}")
	}))
	defer server.Close()
	client := newClient(t, Config{BaseURL: server.URL + "/b%2Fase/"})
	for symbol, want := range map[string]string{
		"AAPL":        "/b%2Fase/AAPL/last?s=AAPL",
		"BTC/USD":     "/b%2Fase/BTC%2FUSD/last?s=BTC%2FUSD",
		"../../A":     "/b%2Fase/..%2F..%2FA/last?s=..%2F..%2FA",
		"A?B#C&D%20 ": "/b%2Fase/A%3FB%23C&D%2520%20/last?s=A%3FB%23C%26D%2520+",
		"...":         "/b%2Fase/.../last?s=...",
	} {
		_, err := client.Get(t.Context(), url.Values{"s": {symbol}}, symbol, "last")
		require.NoError(t, err, symbol)
		assert.Equal(t, want, asked)
	}
	asked = ""
	for _, symbol := range []string{"", ".", ".."} {
		_, err := client.Get(t.Context(), nil, "products", symbol, "last")
		assertCode(t, schema.CodeUnknownSymbol, err)
	}
	assert.Empty(t, asked)
}

func TestNewReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := New(Config{BaseURL: "http://service.example", Key: "hunter 2"})
	require.ErrorContains(t, err, "base_url")
	require.ErrorContains(t, err, "api_key")
	assert.NotContains(t, err.Error(), "hunter")
}

// roundTrip is a transport.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A context without a deadline does not make a request without one.
func TestGetHasACeiling(t *testing.T) {
	t.Parallel()
	client := newClient(t, Config{BaseURL: "https://service.example"})
	client.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		deadline, has := r.Context().Deadline()
		assert.True(t, has)
		assert.LessOrEqual(t, time.Until(deadline), ceiling)
		return nil, errors.New("no")
	})
	_, err := client.Get(t.Context(), nil, "a")
	assertCode(t, schema.CodeUnavailable, err)
}

// TLS 1.1 is not spoken, and a certificate must be trusted.
func TestTLS(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version uint16
		trusted bool
		reason  string
	}{
		{tls.VersionTLS11, true, "protocol version"},
		{tls.VersionTLS12, false, "no trust"},
		{tls.VersionTLS12, true, ""},
		{tls.VersionTLS13, true, ""},
	} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that fail as they should
		server.EnableHTTP2 = true
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: c.version}
		server.StartTLS()
		client := newClient(t, Config{BaseURL: server.URL})
		if c.trusted {
			roots := x509.NewCertPool()
			roots.AddCert(server.Certificate())
			client.http.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
		}
		raw, err := client.Get(t.Context(), nil, "a")
		if c.reason == "" {
			require.NoError(t, err)
			assert.Equal(t, "HTTP/2.0", string(raw))
		} else {
			assertCode(t, schema.CodeUnavailable, err)
			assert.ErrorContains(t, err, c.reason)
		}
		client.http.CloseIdleConnections()
		server.Close()
	}
}

func newClient(t testing.TB, cfg Config) *Client {
	t.Helper()
	client, err := New(cfg)
	require.NoError(t, err)
	return client
}

func assertCode(t testing.TB, want schema.Code, err error) {
	t.Helper()
	var quoteErr *pipeline.QuoteError
	if assert.ErrorAs(t, err, &quoteErr) {
		assert.Equal(t, want, quoteErr.Code, "%v", err)
	}
}

// A secret is found however the service writes it.
func TestRepeats(t *testing.T) {
	t.Parallel()
	const secret = `k/e+y="1"`
	for _, text := range []string{secret, `{"a":"k\/e+y=\"1\""}`, `{"a":"k/e\u002by\u003D\u00221\u0022"}`, "a=k%2Fe%2By%3D%221%22", `"\u006b/e+y=\"1\""`} {
		assert.True(t, Repeats([]byte(text), secret), text)
	}
	for _, text := range []string{"", `{"a":"k\\/e"}`, `\`, `"\u00"`, "key"} {
		assert.False(t, Repeats([]byte(text), secret), text)
	}
	assert.False(t, Repeats([]byte("x"), ""))
}
