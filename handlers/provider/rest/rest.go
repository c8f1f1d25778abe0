// Package rest asks market data services over HTTP. It holds what their
// providers share: limits on connections, redirects and answers, and what each
// failure is called. It neither retries nor logs: both are for its callers, and
// a secret that is not logged cannot leak.
package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// Config describes a service.
type Config struct {
	// BaseURL is as remote.ParseBaseURL wants it. Required.
	BaseURL string
	// KeyHeader is the header that carries Key. Either is empty where the
	// service takes no key, or where there is none.
	KeyHeader, Key string
	// Secrets are texts that no answer may repeat, besides Key.
	Secrets []string
	// Headers are further headers of each request. They, the query and the path may hold
	// Key too.
	Headers map[string]string
	// ResetHeader is the header by which the service says, in seconds since
	// 1970, when it answers again after 429. Empty: there is none.
	ResetHeader string
	// UnknownSymbol reports whether the body of an answer with status 404 says
	// that there is no such symbol. Nil: such an answer is a bad response.
	UnknownSymbol func(body []byte) bool
	// Version is of the program, for the header User-Agent. Empty means dev.
	Version string
	// Now is the clock, against which a date in Retry-After is held. Nil means
	// time.Now.
	Now func() time.Time
}

// Client asks one service. It is safe for concurrent use.
type Client struct {
	config Config
	base   *url.URL
	http   *http.Client
}

const (
	// ceiling is how long an answer may take, whatever the context allows.
	ceiling = 30 * time.Second
	// connectTimeout is for connecting, and again for the TLS handshake.
	connectTimeout = 5 * time.Second
	// maxConns bounds the connections to a service: one for each request that the
	// fetch handler has under way, unless it was told otherwise.
	maxConns = 16
	// maxHeader bounds the headers of an answer, in bytes.
	maxHeader = 64 << 10
	// maxRedirects is how many redirects an answer may take.
	maxRedirects = 3
)

// New makes a client, and reports all faults of cfg at once; no key is in the
// error.
func New(cfg Config) (*Client, error) {
	if cfg.Version == "" {
		cfg.Version = "dev"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	base, err := remote.ParseBaseURL(cfg.BaseURL)
	if err != nil {
		err = fmt.Errorf("base_url: %w", err)
	}
	if strings.ContainsFunc(cfg.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		err = errors.Join(err, errors.New("api_key: holds characters that no key has"))
	}
	if err != nil {
		return nil, err
	}
	return &Client{config: cfg, base: base, http: &http.Client{
		CheckRedirect: stayOn(base),
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    connectTimeout,
			ForceAttemptHTTP2:      true,
			MaxConnsPerHost:        maxConns,
			MaxIdleConnsPerHost:    maxConns,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxHeader,
			// What is kept is what was sent, and its size what it seems.
			DisableCompression: true,
		},
	}}, nil
}

// stayOn follows redirects within scheme and host of base only: net/http would
// take the header with the key along to wherever an answer points.
func stayOn(base *url.URL) func(*http.Request, []*http.Request) error {
	return func(next *http.Request, asked []*http.Request) error {
		if next.URL.Scheme != base.Scheme || !strings.EqualFold(next.URL.Host, base.Host) || len(asked) > maxRedirects {
			return remote.ErrRedirect
		}
		return nil
	}
}

// Get asks for a path below the base URL and returns the body of an answer with
// status 200. Its errors are *pipeline.QuoteError and hold nothing that the
// service sent, which might be our own key. A path that no URL can have, because
// a symbol in it is "..", is CodeUnknownSymbol.
func (c *Client) Get(ctx context.Context, query url.Values, path ...string) (schema.RawResponse, error) {
	for _, segment := range path {
		if !isSegment(segment) {
			return nil, pipeline.Quotef(schema.CodeUnknownSymbol, "%q cannot be asked for", segment)
		}
	}
	return c.get(ctx, query, path, nil)
}

// GetJudged is Get for a service whose answers say in their bodies what they mean. judge
// is asked about each complete answer, of whatever status, and returns nil where only the
// status counts; RetryAfter is filled in. The error that it returns must hold nothing that
// the service sent. A last step of the path may be empty: the URL then ends in a slash.
func (c *Client) GetJudged(ctx context.Context, query url.Values, path []string,
	judge func(status int, body []byte) *pipeline.QuoteError) (schema.RawResponse, error) {
	for i, segment := range path {
		if last := i == len(path)-1 && i > 0; !isSegment(segment) && (!last || segment != "") {
			return nil, pipeline.Quotef(schema.CodeUnknownSymbol, "this symbol cannot be asked for")
		}
	}
	return c.get(ctx, query, path, judge)
}

func (c *Client) get(ctx context.Context, query url.Values, path []string,
	judge func(status int, body []byte) *pipeline.QuoteError) (schema.RawResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, ceiling)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, below(c.base, query, path).String(), nil)
	if err != nil {
		// Without the cause, which repeats the URL.
		return nil, pipeline.Quotef(schema.CodeInternal, "no request can be made")
	}
	request.Header.Set("User-Agent", "pricemill/"+c.config.Version)
	request.Header.Set("Accept", "application/json")
	for name, value := range c.config.Headers {
		request.Header.Set(name, value)
	}
	if c.config.KeyHeader != "" && c.config.Key != "" {
		request.Header.Set(c.config.KeyHeader, c.config.Key)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, remote.NoAnswer(ctx, err)
	}
	defer func() { _ = response.Body.Close() }() // all that was wanted of it has been read
	if judge == nil {
		if response.StatusCode != http.StatusOK {
			return nil, c.failed(ctx, response)
		}
		return c.read(ctx, response)
	}
	return c.judged(ctx, response, judge)
}

// judged asks judge what an answer means. One that cannot be read means what its status
// does.
func (c *Client) judged(ctx context.Context, response *http.Response, judge func(int, []byte) *pipeline.QuoteError) (schema.RawResponse, error) {
	success := response.StatusCode == http.StatusOK
	body, err := c.readAny(ctx, response)
	if err != nil && success {
		return nil, err
	}
	if err == nil { // some services say whose limit is reached, and repeat the key
		if failure := judge(response.StatusCode, body); failure != nil {
			if failure.Code == schema.CodeRateLimited || failure.Code == schema.CodeUnavailable {
				failure.RetryAfter = remote.RetryAfter(response.Header, c.config.ResetHeader, c.config.Now())
			}
			return nil, failure
		}
	}
	if !success {
		return nil, Refused(response, c.config.ResetHeader, c.config.Now())
	}
	if c.repeatsKey(body) {
		return nil, errRepeatsKey()
	}
	return body, nil
}

// read returns the body, which must be complete.
func (c *Client) read(ctx context.Context, response *http.Response) (schema.RawResponse, error) {
	body, err := c.readAny(ctx, response)
	if err == nil && c.repeatsKey(body) {
		err = errRepeatsKey()
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

// errRepeatsKey is for an answer such as a page that shows what it was asked. Answers are
// kept, and the key must not be.
func errRepeatsKey() error {
	return pipeline.Quotef(schema.CodeBadResponse, "the answer repeats the key")
}

func (c *Client) repeatsKey(body []byte) bool {
	return Repeats(body, c.config.Key) || slices.ContainsFunc(c.config.Secrets, func(secret string) bool { return Repeats(body, secret) })
}

// Repeats says that what a service sent holds a secret: plain, as in a URL, or with escapes
// of JSON. An empty secret is none.
func Repeats(body []byte, secret string) bool {
	if secret == "" {
		return false
	}
	holds := func(text []byte) bool {
		return bytes.Contains(text, []byte(secret)) || bytes.Contains(text, []byte(url.QueryEscape(secret)))
	}
	return holds(body) || (bytes.IndexByte(body, '\\') >= 0 && holds(unescape(body)))
}

var jsonEscape = regexp.MustCompile(`\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])`)

// unescape replaces the escapes of JSON texts, wherever they are.
func unescape(body []byte) []byte {
	return jsonEscape.ReplaceAllFunc(body, func(escape []byte) []byte {
		var text string
		if err := json.Unmarshal(slices.Concat([]byte{'"'}, escape, []byte{'"'}), &text); err != nil {
			return escape
		}
		return []byte(text)
	})
}

// readAny is read for a body that may hold the key.
func (c *Client) readAny(ctx context.Context, response *http.Response) ([]byte, error) {
	// It was not asked for, and would be kept as it is.
	if coding := response.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		if known := strings.ToLower(coding); slices.Contains([]string{"br", "compress", "deflate", "gzip", "x-gzip", "zstd"}, known) {
			return nil, pipeline.Quotef(schema.CodeBadResponse, "the answer is compressed (%s)", known)
		}
		return nil, pipeline.Quotef(schema.CodeBadResponse, "the answer has a content encoding, which was not asked for")
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, schema.MaxRawResponse+1))
	switch {
	case len(body) > schema.MaxRawResponse:
		return nil, pipeline.Quotef(schema.CodeTooLarge, "the answer has more than %d bytes", schema.MaxRawResponse)
	case err != nil:
		return nil, remote.NoAnswer(ctx, err)
	}
	return body, nil
}

// failed says what a status other than 200 means.
func (c *Client) failed(ctx context.Context, response *http.Response) error {
	failure := Refused(response, c.config.ResetHeader, c.config.Now())
	if response.StatusCode == http.StatusNotFound && c.config.UnknownSymbol != nil {
		body, err := c.read(ctx, response)
		if err != nil {
			return err
		}
		if c.config.UnknownSymbol(body) {
			failure.Code = schema.CodeUnknownSymbol
		}
	}
	return failure
}

// Refused says what a status means that is not the one of success. resetHeader
// is as in Config.
func Refused(response *http.Response, resetHeader string, now time.Time) *pipeline.QuoteError {
	failure := pipeline.Quotef(codeOf(response.StatusCode), "status %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	if failure.Code == schema.CodeRateLimited || failure.Code == schema.CodeUnavailable {
		failure.RetryAfter = remote.RetryAfter(response.Header, resetHeader, now)
	}
	return failure
}

func codeOf(status int) schema.Code {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return schema.CodeUnauthorized
	case status == http.StatusTooManyRequests:
		return schema.CodeRateLimited
	case status == http.StatusRequestTimeout, status >= 500:
		return schema.CodeUnavailable
	}
	return schema.CodeBadResponse
}
