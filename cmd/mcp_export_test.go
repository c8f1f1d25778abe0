package cmd

import (
	"io"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// MCPServer is the server of "pricemill mcp" for the service at url.
func MCPServer(env func(string) (string, bool), url string, commands bool) *mcp.Server {
	return newMCPServer(&client{app: &app{env: env, stdout: io.Discard, stderr: io.Discard, flags: map[string]string{}}, url: url}, commands)
}
