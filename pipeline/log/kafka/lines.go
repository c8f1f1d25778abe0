package kafka

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// lines are the connections of one of sarama's clients. sarama knows no contexts:
// by them alone what it waits for can be ended.
type lines struct {
	dialer net.Dialer
	life   context.Context
	end    context.CancelFunc
	// patience bounds what a broker may take to answer, in nanoseconds, where it is
	// shorter than the limit of the client; 0 does not.
	patience atomic.Int64

	mu   sync.Mutex
	open map[*connection]struct{}
}

// newLines makes connections, within dialling each, that control agrees to.
func newLines(dialling time.Duration, control func(network, address string, c syscall.RawConn) error) *lines {
	l := &lines{open: map[*connection]struct{}{}, dialer: net.Dialer{Timeout: dialling, Control: control,
		// A broker that is gone is noticed within half a minute although nothing is
		// sent to it.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}}
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

// Dial is called by sarama.
func (l *lines) Dial(network, address string) (net.Conn, error) {
	conn, err := l.dialer.DialContext(l.life, network, address)
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, lines: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life.Err() != nil {
		_ = conn.Close() // nothing was sent
		return nil, fmt.Errorf("connecting to %s: %w", address, ErrClosed)
	}
	l.open[c] = struct{}{}
	return c, nil
}

// cut ends all connections, whatever is waited for, and makes no others.
func (l *lines) cut() {
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		_ = c.Conn.Close() // anyone who uses it learns of it
	}
}

// whileOpen is a pause before another attempt, of which there is none worth
// waiting for once the lines are cut.
func (l *lines) whileOpen(pause time.Duration) time.Duration {
	if l.life.Err() != nil {
		return 0
	}
	return pause
}

// connection is one of lines.
type connection struct {
	net.Conn
	lines *lines
}

// SetReadDeadline implements net.Conn. sarama calls it when it begins to read an
// answer.
func (c *connection) SetReadDeadline(t time.Time) error {
	if patience := time.Duration(c.lines.patience.Load()); patience > 0 && !t.IsZero() {
		if sooner := time.Now().Add(patience); sooner.Before(t) {
			t = sooner
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.lines.mu.Lock()
	delete(c.lines.open, c)
	c.lines.mu.Unlock()
	return c.Conn.Close()
}
