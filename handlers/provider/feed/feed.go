// Package feed connects to the WebSocket feeds of market data services. As package rest
// does for requests, it holds what their providers share: limits on handshakes and frames,
// and what each failure is called. It neither retries nor logs.
package feed

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/pricemill/pricemill/handlers/provider/rest"
	"github.com/pricemill/pricemill/handlers/remote"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// ConnectTimeout is how long a connection, its handshake and what is sent at once may take
// together.
const ConnectTimeout = 5 * time.Second

// maxHeader bounds the headers of the answer to a handshake, in bytes.
const maxHeader = 32 << 10

// Config describes a feed.
type Config struct {
	// MaxFrame bounds a frame, in bytes. Required.
	MaxFrame int64
	// Headers are further headers of the handshake, which may hold a key.
	Headers map[string]string
	// Version is of the program, for the header User-Agent. Empty means dev.
	Version string
	// Now is the clock, against which a date in Retry-After is held. Nil means time.Now.
	Now func() time.Time
}

// Client opens connections to a feed. It is safe for concurrent use.
type Client struct {
	config Config
	http   *http.Client
}

// NewClient makes a client. It follows no redirect: a feed has one address.
func NewClient(cfg Config) *Client {
	if cfg.Version == "" {
		cfg.Version = "dev"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Client{config: cfg, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			DisableKeepAlives:      true, // each connection is one stream's
			MaxResponseHeaderBytes: maxHeader,
		},
	}}
}

// Dial connects to a URL, which may hold a key, and shakes hands. Its errors are
// *pipeline.QuoteError and hold neither the URL nor anything that the service sent.
func (c *Client) Dial(ctx context.Context, url string) (*Conn, error) {
	header := http.Header{"User-Agent": {"pricemill/" + c.config.Version}}
	for name, value := range c.config.Headers {
		header.Set(name, value)
	}
	conn, response, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: header})
	switch {
	case err != nil && response != nil && response.StatusCode != http.StatusSwitchingProtocols:
		return nil, rest.Refused(response, "", c.config.Now())
	case err != nil && response != nil:
		return nil, pipeline.Quotef(schema.CodeBadResponse, "what answers is no WebSocket")
	case err != nil:
		return nil, remote.NoAnswer(ctx, err)
	}
	conn.SetReadLimit(c.config.MaxFrame)
	return &Conn{conn: conn, maxFrame: c.config.MaxFrame}, nil
}

// Conn is an open connection. One goroutine may read while others write and ping.
type Conn struct {
	conn     *websocket.Conn
	maxFrame int64
}

// Close ends the connection without a word: nothing more is expected of it.
func (c *Conn) Close() { _ = c.conn.CloseNow() }

// Read returns the next frame, and whether it is one of text. Its errors are
// *pipeline.QuoteError. After one the connection is of no more use.
func (c *Conn) Read(ctx context.Context) (isText bool, frame []byte, err error) {
	kind, frame, err := c.conn.Read(ctx)
	if err != nil {
		return false, nil, c.broken(ctx, err)
	}
	return kind == websocket.MessageText, frame, nil
}

// Write sends a frame of text. Its errors are *pipeline.QuoteError.
func (c *Conn) Write(ctx context.Context, text []byte) error {
	if err := c.conn.Write(ctx, websocket.MessageText, text); err != nil {
		return c.broken(ctx, err)
	}
	return nil
}

// Ping sends a ping of the protocol and waits for its answer, which is noticed only while
// another goroutine is in Read. Its errors are *pipeline.QuoteError.
func (c *Conn) Ping(ctx context.Context) error {
	if err := c.conn.Ping(ctx); err != nil {
		return c.broken(ctx, err)
	}
	return nil
}

// broken says why a connection ended. The text of a close frame may hold anything, so only
// its number is repeated.
func (c *Conn) broken(ctx context.Context, err error) error {
	var closed websocket.CloseError
	switch {
	case ctx.Err() != nil:
		return &pipeline.QuoteError{Code: schema.CodeTimeout, Reason: "no answer in time", Err: ctx.Err()}
	case errors.As(err, &closed):
		return pipeline.Quotef(schema.CodeUnavailable, "the service closed the connection with status %d", closed.Code)
	case errors.Is(err, websocket.ErrMessageTooBig):
		return pipeline.Quotef(schema.CodeTooLarge, "a frame has more than %d bytes", c.maxFrame)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return pipeline.Quotef(schema.CodeUnavailable, "the connection was cut off")
	}
	return remote.NoAnswer(ctx, err)
}
