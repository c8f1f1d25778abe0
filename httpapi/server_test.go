package httpapi_test

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
)

// serveTCP serves api on this machine until the test ends.
func serveTCP(t testing.TB, api http.Handler) (address string) {
	t.Helper()
	listener := listenTCP(t)
	serveLimited(t, listener, api, httpapi.ConnectionLimits{})
	return listener.Addr().String()
}

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// serveLimited serves handler by NewServer until the test ends.
func serveLimited(t testing.TB, listener net.Listener, handler http.Handler, limits httpapi.ConnectionLimits) *httpapi.Connections {
	t.Helper()
	server, connections := httpapi.NewServer(listener.Addr().String(), handler, limits, slog.New(slog.DiscardHandler))
	var open sync.WaitGroup // a connection ends some time after its last answer
	observe := server.ConnState
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		observe(conn, state)
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Done()
		case http.StateActive, http.StateIdle, http.StateHijacked:
		}
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != http.ErrServerClosed {
			t.Error(err)
		}
		open.Wait()
		if n := connections.Open(); n != 0 {
			t.Errorf("%d connections are still counted", n)
		}
	})
	return connections
}

// dialTCP connects and sends text.
func dialTCP(t testing.TB, address, text string) *net.TCPConn {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() }) // the test may have closed it
	if err := connection.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(connection, text); err != nil {
		t.Fatal(err)
	}
	return connection.(*net.TCPConn)
}

// TestServerEndsAConnectionWhoseBodyIsTooLarge: over a real connection the
// client is answered before it has sent its body, and cannot continue sending.
func TestServerEndsAConnectionWhoseBodyIsTooLarge(t *testing.T) {
	t.Parallel()
	address := serveTCP(t, newAPI(t, nil))
	const head = "POST /api/v1/prices/poll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
		"Transfer-Encoding: chunked\r\n\r\n10001\r\n"
	connection := dialTCP(t, address, head+strings.Repeat(" ", httpapi.MaxBody+1))
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusRequestEntityTooLarge || !answer.Close {
		t.Errorf("status %d, close %v", answer.StatusCode, answer.Close)
	}
}

// TestServerSaysNothingToAClientThatLeft: one that closed its own side while its
// price is fetched reads the end, and not a status that is none.
func TestServerSaysNothingToAClientThatLeft(t *testing.T) {
	t.Parallel()
	connection := dialTCP(t, serveTCP(t, newAPI(t, nil)), "GET "+latestAAPL+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if err := connection.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(connection); err != nil || len(answer) > 0 {
		t.Errorf("got %q (%v)", answer, err)
	}
}

// TestChunksEndAConnection: a request that says in two ways how long it is was
// perhaps read in the other way by a proxy; what follows it is not answered.
func TestChunksEndAConnection(t *testing.T) {
	t.Parallel()
	address := serveTCP(t, newAPI(t, nil))
	for _, lengths := range []string{"Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4",
		"Transfer-Encoding: chunked"} {
		connection := dialTCP(t, address, "POST /api/v1/prices/poll HTTP/1.1\r\nHost: localhost\r\n"+lengths+
			"\r\n\r\n0\r\n\r\nGET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
		answers, err := io.ReadAll(connection)
		if err != nil {
			t.Errorf("%s: %v", lengths, err)
		}
		if n := strings.Count(string(answers), "HTTP/1.1 "); n != 1 || !strings.HasPrefix(string(answers), "HTTP/1.1 422 ") {
			t.Errorf("%s: %d answers: %s", lengths, n, answers)
		}
	}
}
