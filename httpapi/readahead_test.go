package httpapi_test

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/httpapi"
)

// TestAnswersToWhatIsNoRequest: a client that sends no HTTP sees why, however little of what
// it sent was looked at.
func TestAnswersToWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	listener := listenTCP(t)
	server, _ := httpapi.NewServer("", http.NotFoundHandler(), httpapi.ConnectionLimits{}, slog.New(slog.DiscardHandler))
	go func() { _ = server.Serve(httpapi.ReadAhead(listener)) }()
	t.Cleanup(func() { _ = server.Close() })
	for _, sent := range []string{"\x16\x03\x01\n", "no\r\n", "GET /\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"} {
		for range 20 {
			conn, err := net.Dial("tcp", listener.Addr().String())
			require.NoError(t, err)
			_, err = io.WriteString(conn, sent+strings.Repeat("x", 3000))
			require.NoError(t, err)
			answer, err := io.ReadAll(conn)
			assert.NoError(t, err, "%q", sent)
			assert.Contains(t, string(answer), "400 Bad Request", "%q", sent)
			require.NoError(t, conn.Close())
		}
	}
}

// TestRefusalsReadTheBody: over HTTP/2, an answer before the body was read is followed by a
// reset of the stream, for which some clients throw it away.
func TestRefusalsReadTheBody(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for path, status := range map[string]int{"/api/v1/nothing": http.StatusNotFound, "/api/v1/prices/latest": http.StatusMethodNotAllowed} {
		body := strings.NewReader(strings.Repeat("x", 5000))
		r := request(http.MethodPost, path, "")
		r.Body, r.ContentLength, r.ProtoMajor = io.NopCloser(body), 5000, 2
		assert.Equal(t, status, serve(t, api, r).Code)
		assert.Zero(t, body.Len(), "%s: bytes left unread", path)
	}
}
