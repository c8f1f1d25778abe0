package httpapi

import "net"

// firstRead is how much of a connection is read at once: as much as net/http reads.
const firstRead = 4096

// ReadAhead returns a listener for a server that speaks HTTP/2 without TLS. To tell that
// from HTTP/1.1, net/http reads the first 14 bytes alone. If those are no request, it answers
// and closes the connection with the rest unread, upon which the system resets it, and the
// client may lose the answer. So here the first read takes all that came.
func ReadAhead(listener net.Listener) net.Listener { return readAheadListener{listener} }

type readAheadListener struct{ net.Listener }

func (l readAheadListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, is := conn.(*net.TCPConn); is && err == nil {
		return &readAheadConn{TCPConn: tcp}, nil
	}
	return conn, err
}

// readAheadConn is read by one goroutine at a time, as every connection of net/http is.
type readAheadConn struct {
	*net.TCPConn
	begun bool
	ahead []byte // read, and not taken yet
}

func (c *readAheadConn) Read(p []byte) (int, error) {
	if !c.begun && len(p) > 0 && len(p) < firstRead {
		first := make([]byte, firstRead)
		n, err := c.TCPConn.Read(first)
		if n == 0 {
			return 0, err // such as the deadline of a first byte, after which there may be another
		}
		c.begun, c.ahead = true, first[:n]
	}
	c.begun = true
	if len(c.ahead) == 0 {
		return c.TCPConn.Read(p)
	}
	n := copy(p, c.ahead)
	if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
		c.ahead = nil
	}
	return n, nil
}
