package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/pricemill/pricemill/httpapi"
)

// maxCall bounds a call of a tool, in bytes.
const maxCall = 1 << 20

// serveMCP answers at /mcp of an address by the streamable HTTP transport, until ctx is
// done. It keeps no sessions: each request stands for itself.
// Source: https://modelcontextprotocol.io/specification/2025-06-18/basic/transports
func (a *app) serveMCP(ctx context.Context, server *mcp.Server, address string) error {
	// What holds for the address of the service holds for this one.
	here := *a
	here.flags = maps.Clone(a.flags)
	here.flags["http_addr"] = address
	c, err := here.load()
	if err != nil {
		return fmt.Errorf("--listen as HTTP_ADDR: %w", err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	log := a.logger(c)
	answering, _ := httpapi.NewServer(address, handlerOfMCP(server, httpapi.Config{
		Hosts: c.HTTPHosts, RateLimitPerMinute: c.RateLimit, LimitLoopback: c.LimitLoopback, Logger: log, Now: time.Now}), c.Connections, log)
	return serveHTTP(ctx, c, answering, listener, log, func(url string) { log.Info("listening", "url", url+mcpPath) })
}

const mcpPath = "/mcp"

// handlerOfMCP is the server over HTTP, after the checks of the API.
func handlerOfMCP(server *mcp.Server, limits httpapi.Config) http.Handler {
	transport := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server },
		&mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true})
	routes := http.NewServeMux()
	routes.HandleFunc("POST "+mcpPath, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCall))
		if err != nil {
			status := http.StatusBadRequest
			if errors.As(err, new(*http.MaxBytesError)) {
				status = http.StatusRequestEntityTooLarge
			}
			http.Error(w, "reading the body: "+err.Error(), status)
			return
		}
		if bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
			// The protocol has none since 2025-06-18, and the rate limit counts calls.
			http.Error(w, "a batch: send one call at a time", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if httpapi.IsOfThisMachine(r) {
			r.Header.Del(headerForwarded)
		} else {
			r.Header.Set(headerForwarded, "for=unknown") // RFC 7239, section 6
		}
		transport.ServeHTTP(w, r)
	})
	return httpapi.Guard(limits, routes)
}

// headerForwarded tells the service that a call is not of this machine.
const headerForwarded = "Forwarded"

// asCaller makes a request that of the client who called a tool: with its key, and from
// where it is. Over standard input and output there is only the key of the settings.
func asCaller(call *mcp.CallToolRequest, header http.Header) {
	if call.Extra == nil {
		return
	}
	for _, name := range []string{"Authorization", headerForwarded} {
		if values := call.Extra.Header.Values(name); len(values) > 0 {
			header[name] = values
		}
	}
}
