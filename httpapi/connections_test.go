package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pricemill/pricemill/httpapi"
)

// fakeConn is a connection as far as its limits are concerned.
type fakeConn struct {
	net.Conn
	remote string
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr { return remoteAddr(c.remote) }
func (c *fakeConn) Close() error         { c.closed = true; return nil }

type remoteAddr string

func (remoteAddr) Network() string  { return "tcp" }
func (a remoteAddr) String() string { return string(a) }

// door is a server that knows only who comes and goes.
type door struct {
	*httpapi.Connections
	server *http.Server
	logged strings.Builder
}

func newDoor(limits httpapi.ConnectionLimits) *door {
	d := &door{}
	d.server, d.Connections = httpapi.NewServer("", http.NotFoundHandler(), limits, slog.New(slog.NewTextHandler(&d.logged, nil)))
	return d
}

// enter reports whether a connection of this client may stay.
func (d *door) enter(remote string) (conn *fakeConn, stays bool) {
	conn = &fakeConn{remote: remote}
	d.server.ConnState(conn, http.StateNew)
	if conn.closed {
		d.leave(conn)
	}
	return conn, !conn.closed
}

func (d *door) leave(conn *fakeConn) { d.server.ConnState(conn, http.StateClosed) }

func TestConnectionsPerClient(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, first, second string
		limited             bool // the second after the first has its share
	}{
		{"loopback is exempt", "127.0.0.1:1", "127.0.0.1:2", false},
		{"so is that of version 6", "[::1]:1", "[::1]:2", false},
		{"and the mapped one", "[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2", false},
		{"the same address, another port", "192.0.2.1:1", "192.0.2.1:2", true},
		{"another address", "192.0.2.1:1", "192.0.2.2:1", false},
		{"a network of version 6 is one client", "[2001:db8::1]:1", "[2001:db8::ffff]:1", true},
		{"what has no address shares", "@", "/run/socket", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDoor(httpapi.ConnectionLimits{PerClient: 3})
			var first *fakeConn
			for range 3 {
				var stays bool
				if first, stays = d.enter(test.first); !stays {
					t.Fatal("a connection within the limit is refused")
				}
			}
			if _, stays := d.enter(test.second); stays == test.limited {
				t.Errorf("stays: %v", stays)
			}
			d.leave(first)
			if _, stays := d.enter(test.second); !stays {
				t.Error("a place that became free is not given away")
			}
		})
	}
}

// TestConnectionsInAll: no crowd takes the places that are kept for this machine.
func TestConnectionsInAll(t *testing.T) {
	t.Parallel()
	const total, kept = httpapi.MinMaxConnections, 16
	d := newDoor(httpapi.ConnectionLimits{Total: total})
	var last *fakeConn
	for i := range total {
		conn, stays := d.enter(fmt.Sprintf("192.0.2.%d:1", i))
		if stays != (i < total-kept) {
			t.Fatalf("connection %d stays: %v", i, stays)
		}
		if stays {
			last = conn
		}
	}
	for i := range kept + 1 {
		if _, stays := d.enter("127.0.0.1:1"); stays != (i < kept) {
			t.Errorf("connection %d of this machine stays: %v", i, stays)
		}
	}
	d.leave(last)
	if _, stays := d.enter("192.0.2.200:1"); stays {
		t.Error("a place that is kept for this machine is given away")
	}
	if _, stays := d.enter("127.0.0.1:1"); !stays {
		t.Error("this machine does not get the place that became free")
	}
	if open, refused := d.Open(), d.Refused(); open != total || refused != (httpapi.Refusals{Total: kept + 2}) {
		t.Errorf("%d are open, refused %+v", open, refused)
	}
}

// TestDefaultConnections: so many a client, and so many in all, meet no limit.
func TestDefaultConnections(t *testing.T) {
	t.Parallel()
	d := newDoor(httpapi.ConnectionLimits{})
	for i := range 128 * 31 {
		if _, stays := d.enter(fmt.Sprintf("192.0.2.%d:%d", i%31, i)); !stays {
			t.Fatalf("connection %d is refused: %+v", i, d.Refused())
		}
	}
	if _, stays := d.enter("192.0.2.1:1"); stays || d.Refused().PerClient != 1 {
		t.Errorf("one client has 129 connections: %+v", d.Refused())
	}
}

// TestRefusalsAreLogged: once a minute, so that a flood does not fill the disk.
func TestRefusalsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(httpapi.ConnectionLimits{PerClient: 1})
		for i := range 10 {
			for range 100 {
				d.enter("192.0.2.1:1")
			}
			if got := strings.Count(d.logged.String(), "connections are refused"); got != 1+i/2 {
				t.Errorf("%d lines after %d half minutes:\n%s", got, i, &d.logged)
			}
			time.Sleep(30 * time.Second) // of the clock of the bubble
		}
		if !strings.Contains(d.logged.String(), "client=192.0.2.1:1") {
			t.Errorf("no client in %s", &d.logged)
		}
	})
}

// elsewhere has every connection come from another machine.
type elsewhere struct{ net.Listener }

func (l elsewhere) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return connElsewhere{conn}, err
}

type connElsewhere struct{ net.Conn }

func (connElsewhere) RemoteAddr() net.Addr { return remoteAddr("192.0.2.1:1") }

// TestRefusedOverTCP: the client learns at once, and those inside continue.
func TestRefusedOverTCP(t *testing.T) {
	t.Parallel()
	listener := listenTCP(t)
	connections := serveLimited(t, elsewhere{listener}, newAPI(t, nil), httpapi.ConnectionLimits{PerClient: 1})
	const ask = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
	address := listener.Addr().String()
	inside := dialTCP(t, address, ask)
	answers := bufio.NewReader(inside)
	readAnswer(t, answers)
	outside := dialTCP(t, address, "")
	if n, err := outside.Read(make([]byte, 1)); err == nil {
		t.Errorf("one too many reads %d bytes", n)
	}
	if _, err := inside.Write([]byte(ask)); err != nil {
		t.Fatal(err)
	}
	readAnswer(t, answers)
	if refused := connections.Refused(); refused.PerClient != 1 {
		t.Errorf("refused %+v", refused)
	}
}

func readAnswer(t testing.TB, from *bufio.Reader) {
	t.Helper()
	answer, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("status %d (%v)", answer.StatusCode, err)
	}
}
