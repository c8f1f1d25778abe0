package cmd_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rawClient speaks HTTP by hand over a connection of its own.
type rawClient struct {
	t    testing.TB
	conn *net.TCPConn
	in   *bufio.Reader
}

func dialRaw(t testing.TB, url string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // the test may have closed it
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return &rawClient{t, conn.(*net.TCPConn), bufio.NewReader(conn)}
}

// get asks for a path, and keeps the connection.
func (c *rawClient) get(path string) answer {
	c.t.Helper()
	_, err := io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(c.t, err)
	response, err := http.ReadResponse(c.in, nil)
	require.NoError(c.t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	require.NoError(c.t, response.Body.Close())
	return answer{response.StatusCode, response.Header, string(body)}
}

// TestConnectionsAreLimited: those inside are served while others are refused, and
// the metrics tell of both.
func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	const most = 64
	p := start(t, environment{"HTTP_MAX_CONNECTIONS": "64"})
	inside := make([]*rawClient, most)
	for i := range inside {
		inside[i] = dialRaw(t, p.url)
		require.Equal(t, http.StatusOK, inside[i].get("/livez").status)
	}
	outside, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err == nil { // else it was reset before Dial returned
		_, err = outside.Read(make([]byte, 1))
		require.NoError(t, outside.Close())
	}
	require.Error(t, err, "it is closed without an answer")
	p.logs.await(t, "connections are refused: all places are taken")
	told := inside[0].get("/metrics").body
	for _, want := range []string{"pricemill_http_connections 64", `pricemill_http_connections_refused_total{limit="total"} 1`,
		`pricemill_http_connections_refused_total{limit="per_client"} 0`} {
		assert.Contains(t, told, "\n"+want+"\n")
	}
	require.NoError(t, inside[1].conn.Close())
	require.Eventually(t, func() bool {
		response, err := http.Get(p.url + "/livez")
		return err == nil && assert.NoError(t, response.Body.Close())
	}, 20*time.Second, 5*time.Millisecond, "the place that became free is taken")
}
