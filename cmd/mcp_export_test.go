package cmd

import (
	"io"
	"log/slog"
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// MCPServer is the server of "pricemill mcp" for the service at url.
func MCPServer(env func(string) (string, bool), url string, commands bool) *mcp.Server {
	return newMCPServer(&client{app: &app{env: env, stdout: io.Discard, stderr: io.Discard, flags: map[string]string{}}, url: url}, commands)
}

// MCPHandler is that server over HTTP, on loopback.
func MCPHandler(server *mcp.Server) http.Handler {
	return handlerOfMCP(server, []string{}, slog.New(slog.DiscardHandler))
}
