package httpapi_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pricemill/pricemill/httpapi"
)

// pipes are connections within a test's bubble, whose clock they go by.
type pipes struct {
	dialed chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.dialed:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return remoteAddr("192.0.2.1:1") }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.dialed <- server
	return client
}

// TestSlowClientsAreEnded: however a client takes its time, the server has an end
// to it.
func TestSlowClientsAreEnded(t *testing.T) {
	mustContract(t)
	const post = "POST /api/v1/prices/poll HTTP/1.1\r\nHost: localhost\r\n"
	for _, test := range []struct {
		name string
		// sent at once; then more every second, as long as the server takes it
		sent, more string
		reads      bool
		after      time.Duration
		answer     string // what the answer begins with, if there is one
	}{
		{"says nothing", "", "", true, 5 * time.Second, ""},
		{"headers byte by byte", "GET /version HTTP/1.1\r\nHost: localhost\r\nX: ", "x", true, 5 * time.Second, ""},
		{"header after header", "GET /version HTTP/1.1\r\n", "X: y\r\n", true, 5 * time.Second, ""},
		{"a body byte by byte", post + "Content-Length: 60000\r\n\r\n", " ", true, 15 * time.Second, "HTTP/1.1 400 "},
		{"a body in small chunks", post + "Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n", true, 15 * time.Second, "HTTP/1.1 400 "},
		{"a body that no one asked for", "GET /version HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n", " ", true,
			15 * time.Second, "HTTP/1.1 200 "},
		{"never reads", "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n", "", false, time.Minute, ""},
		{"never reads, and asks on", strings.Repeat("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 50), "", false, time.Minute, ""},
		{"is idle", "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n", "", true, 2 * time.Minute, "HTTP/1.1 200 "},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				served, connections := servePipes(t, newAPI(t, func(s *setup) { s.OpenCommands = true })) // pipes have no address
				conn := served.dial()
				var sending sync.WaitGroup
				sending.Go(func() {
					_, err := io.WriteString(conn, test.sent)
					for err == nil && test.more != "" {
						time.Sleep(time.Second) // of the bubble
						_, err = io.WriteString(conn, test.more)
					}
				})
				var answer []byte
				reading := make(chan struct{})
				go func() {
					if test.reads {
						answer, _ = io.ReadAll(conn) // the end is an error, or none
					}
					close(reading)
				}()
				time.Sleep(test.after - time.Millisecond)
				if open := connections.Open(); open != 1 {
					t.Errorf("%d connections a moment before", open)
				}
				time.Sleep(time.Second) // half of it for the client to read the answer
				if open := connections.Open(); open != 0 {
					t.Errorf("%d connections a moment after", open)
				}
				_ = conn.Close() // it may be closed
				sending.Wait()
				<-reading
				if !strings.HasPrefix(string(answer), test.answer) || test.answer == "" && len(answer) > 0 {
					t.Errorf("answer %.200q", answer)
				}
			})
		})
	}
}

// servePipes serves within a bubble, until its test ends.
func servePipes(t *testing.T, api http.Handler) (*pipes, *httpapi.Connections) {
	t.Helper()
	p := &pipes{make(chan net.Conn), make(chan struct{})}
	server, connections := httpapi.NewServer("", api, httpapi.ConnectionLimits{}, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- server.Serve(p) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	return p, connections
}

// TestAPanicEndsNothing: neither the process nor the connection.
func TestAPanicEndsNothing(t *testing.T) {
	t.Parallel()
	address := serveTCP(t, newAPI(t, func(s *setup) {
		s.Readiness = func(context.Context) []httpapi.Check { panic("no such memory") }
	}))
	const host = " HTTP/1.1\r\nHost: localhost\r\n\r\n"
	in := bufio.NewReader(dialTCP(t, address, "GET /readyz"+host+"GET /version"+host))
	for _, want := range []int{http.StatusInternalServerError, http.StatusOK} {
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body) // the next answer tells whether it was whole
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("status %d, want %d", answer.StatusCode, want)
		}
	}
}
