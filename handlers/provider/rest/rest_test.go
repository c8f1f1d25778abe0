package rest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
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

func TestParseBaseURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://service.example":         "https://service.example",
		"https://service.example/":        "https://service.example",
		"https://service.example/a/b//":   "https://service.example/a/b",
		"https://service.example:8443/a":  "https://service.example:8443/a",
		"HTTPS://service.example/%2Fa%2F": "https://service.example/%2Fa%2F",
		"http://127.0.0.1:8080":           "http://127.0.0.1:8080",
		"http://127.1.2.3":                "http://127.1.2.3",
		"http://[::1]:8080/a":             "http://[::1]:8080/a",
		"http://localhost":                "http://localhost",
	} {
		u, err := ParseBaseURL(text)
		if assert.NoError(t, err, text) {
			assert.Equal(t, want, u.String(), text)
		}
	}
	for text, reason := range map[string]string{
		"":                                  "not a URL",
		"service.example":                   "not a URL",
		"localhost:8080":                    "not a URL",
		"https://":                          "not a URL",
		"https://:443":                      "not a URL",
		"https://service example":           "not a URL",
		"https://service.example:hunter2":   "not a URL",
		"http://service.example":            "want https",
		"http://10.0.0.1":                   "want https",
		"http://0.0.0.0":                    "want https",
		"http://127.0.0.1.example":          "want https",
		"ftp://127.0.0.1":                   "want https",
		"https://u:hunter2@service.example": "has no user",
		"https://service.example?k=hunter2": "has no user, query",
		"https://service.example/?":         "has no user, query",
		"https://service.example#hunter2":   "fragment",
	} {
		_, err := ParseBaseURL(text)
		if assert.ErrorContains(t, err, reason, text) {
			assert.NotContains(t, err.Error(), "hunter2")
		}
	}
}

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

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		retryAfter, reset string
		want              time.Duration
	}{
		{"", "", 0},
		{"", "1700000030", 30 * time.Second},
		{"", "1600000000", 0},
		{"", "1700000000000", time.Hour}, // milliseconds
		{"", "18446744073709551615", time.Hour},
		{"", "18446744073709551616", 0},
		{"", "soon", 0},
		{"5", "1700000030", 5 * time.Second},
		{"soon", "1700000030", 30 * time.Second},
		{"3600", "", time.Hour},
		{"3601", "", time.Hour},
		{"18446744073709551615", "", time.Hour},
		{"1.5", "", 0},
		{"+5", "", 0},
		{now.Add(time.Minute).UTC().Format(time.RFC850), "", time.Minute},
		{now.Add(time.Minute).UTC().Format(time.ANSIC), "", time.Minute},
	} {
		header := http.Header{}
		header.Set("Retry-After", c.retryAfter)
		header.Set("X-Reset", c.reset)
		assert.Equal(t, c.want, RetryAfter(header, "X-Reset", now), "%+v", c)
	}
	header := http.Header{}
	header.Set("X-Reset", "1700000030")
	assert.Zero(t, RetryAfter(header, "", now), "a service without such a header")
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

// Whatever net/http says, the reason names the cause where it is ours to tell.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	done, cancel := context.WithCancel(t.Context())
	cancel()
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for name, c := range map[string]struct {
		ctx    context.Context
		err    error
		code   schema.Code
		reason string
	}{
		"end of ctx":       {done, io.EOF, schema.CodeTimeout, "no answer in time"},
		"dial timeout":     {t.Context(), dial(os.ErrDeadlineExceeded), schema.CodeTimeout, "no answer in time"},
		"redirect":         {t.Context(), errRedirect, schema.CodeBadResponse, "it redirects to another host, or in a circle"},
		"cut off":          {t.Context(), io.ErrUnexpectedEOF, schema.CodeUnavailable, "the answer was cut off"},
		"refused":          {t.Context(), dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), schema.CodeUnavailable, "no connection: connect: connection refused"},
		"no such host":     {t.Context(), dial(&net.DNSError{Err: "no such host", Name: "secret", Server: "10.0.0.1"}), schema.CodeUnavailable, "no address: no such host"},
		"certificate":      {t.Context(), &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, schema.CodeUnavailable, "no trust: x509: certificate signed by unknown authority"},
		"a long one":       {t.Context(), dial(errors.New(strings.Repeat("x", 10_000))), schema.CodeUnavailable, schema.CutReason("no connection: " + strings.Repeat("x", 10_000))},
		"of the service":   {t.Context(), errors.New("malformed: secret"), schema.CodeUnavailable, "the connection broke, or what came is not HTTP"},
		"of the service 2": {t.Context(), fmt.Errorf("http2: %w", errors.New("GOAWAY secret")), schema.CodeUnavailable, "the connection broke, or what came is not HTTP"},
	} {
		err := NoAnswer(c.ctx, &url.Error{Op: "Get", URL: "https://service.example/secret", Err: c.err})
		assertCode(t, c.code, err)
		assert.Equal(t, string(c.code)+": "+c.reason, strings.TrimSuffix(err.Error(), ": context canceled"), name)
		assert.NotContains(t, err.Error(), "secret", name)
	}
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
