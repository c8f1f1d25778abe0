package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

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
		"redirect":         {t.Context(), ErrRedirect, schema.CodeBadResponse, "it redirects to another host, or in a circle"},
		"cut off":          {t.Context(), io.ErrUnexpectedEOF, schema.CodeUnavailable, "the answer was cut off"},
		"refused":          {t.Context(), dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), schema.CodeUnavailable, "no connection: connect: connection refused"},
		"no such host":     {t.Context(), dial(&net.DNSError{Err: "no such host", Name: "secret", Server: "10.0.0.1"}), schema.CodeUnavailable, "no address: no such host"},
		"certificate":      {t.Context(), &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, schema.CodeUnavailable, "no trust: x509: certificate signed by unknown authority"},
		"a long one":       {t.Context(), dial(errors.New(strings.Repeat("x", 10_000))), schema.CodeUnavailable, schema.CutReason("no connection: " + strings.Repeat("x", 10_000))},
		"of the service":   {t.Context(), errors.New("malformed: secret"), schema.CodeUnavailable, "the connection broke, or what came is not HTTP"},
		"of the service 2": {t.Context(), fmt.Errorf("http2: %w", errors.New("GOAWAY secret")), schema.CodeUnavailable, "the connection broke, or what came is not HTTP"},
	} {
		err := NoAnswer(c.ctx, &url.Error{Op: "Get", URL: "https://service.example/secret", Err: c.err})
		var failure *pipeline.QuoteError
		require.ErrorAs(t, err, &failure, name)
		assert.Equal(t, c.code, failure.Code, name)
		assert.Equal(t, string(c.code)+": "+c.reason, strings.TrimSuffix(err.Error(), ": context canceled"), name)
		assert.NotContains(t, err.Error(), "secret", name)
	}
}
