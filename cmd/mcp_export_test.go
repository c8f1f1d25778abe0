package cmd

import (
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/pricemill/pricemill/httpapi"
)

// MCPServer is the server of "pricemill mcp" for the service at url.
func MCPServer(env func(string) (string, bool), url string, commands bool) *mcp.Server {
	return newMCPServer(&client{app: &app{env: env, stdout: io.Discard, stderr: io.Discard, flags: map[string]string{}}, url: url}, commands)
}

// MCPHandler is that server over HTTP, on loopback.
func MCPHandler(server *mcp.Server) http.Handler {
	return handlerOfMCP(server, httpapi.Config{Hosts: []string{}, RateLimitPerMinute: 60, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
}
