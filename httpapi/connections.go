package httpapi

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// What a zero field of ConnectionLimits means.
const (
	DefaultMaxConnections          = 4096
	DefaultMaxConnectionsPerClient = 128
)

// reservedConnections are for clients on this machine: anyone who runs "pricemill
// health" here gets an answer although others hold all places that they can get.
const reservedConnections = 16

// MinMaxConnections is the smallest ConnectionLimits.Total: it leaves others than
// this machine some places.
const MinMaxConnections = 4 * reservedConnections

// ConnectionLimits bound the connections that are open at one time. One too many
// is closed at once, without an answer: anyone who holds a place for long does not
// send anything that could be answered.
type ConnectionLimits struct {
	// Total is for all clients together. It bounds memory and open files, of which
	// each connection takes one. Sixteen of them are for clients on this machine. 0
	// means 4,096; at least MinMaxConnections.
	Total int
	// PerClient is for one client address, by which Config.RateLimitPerMinute goes
	// too. It keeps one client from taking the places of all. This machine has no
	// such limit: a proxy on it stands for many clients. 0 means 128.
	PerClient int
}

// Refusals counts the connections that were closed because of a limit.
type Refusals struct{ Total, PerClient uint64 }

// Connections keeps the connections of a server within their limits. It is safe
// for concurrent use.
type Connections struct {
	limits ConnectionLimits
	logger *slog.Logger

	mu       sync.Mutex
	open     map[net.Conn]clientAddress
	byClient map[clientAddress]int
	refused  Refusals
	told     time.Time // when the log was last told of a refusal
}

func newConnections(limits ConnectionLimits, logger *slog.Logger) *Connections {
	setDefault(&limits.Total, DefaultMaxConnections)
	setDefault(&limits.PerClient, DefaultMaxConnectionsPerClient)
	return &Connections{limits: limits, logger: logger, open: map[net.Conn]clientAddress{}, byClient: map[clientAddress]int{}}
}

// Open is how many connections there are.
func (c *Connections) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// Refused is how many connections were refused so far.
func (c *Connections) Refused() Refusals {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

// observe is the server's ConnState. It runs before anything is read from a new
// connection, and once more when it is closed.
func (c *Connections) observe(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if reason := c.admit(conn); reason != "" {
			c.refuse(conn, reason)
		}
	case http.StateClosed, http.StateHijacked:
		c.release(conn)
	case http.StateActive, http.StateIdle:
	}
}

// admit counts a connection, or says which limit it would pass.
func (c *Connections) admit(conn net.Conn) (reason string) {
	from := clientOf(conn.RemoteAddr().String())
	total := c.limits.Total
	if !from.isLoopback() {
		total -= reservedConnections
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(c.open) >= total:
		c.refused.Total++
		return "all places are taken"
	case c.byClient[from] >= c.limits.PerClient && !from.isLoopback():
		c.refused.PerClient++
		return "the client has as many as one may have"
	}
	c.open[conn] = from
	c.byClient[from]++
	return ""
}

func (c *Connections) release(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from, counted := c.open[conn]
	if !counted { // it was refused
		return
	}
	delete(c.open, conn)
	if c.byClient[from]--; c.byClient[from] == 0 {
		delete(c.byClient, from)
	}
}

// refusalsQuiet is how long the log is spared after it was told of a refusal.
const refusalsQuiet = time.Minute

func (c *Connections) refuse(conn net.Conn, reason string) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset: the kernel keeps nothing of it for a while
	}
	_ = conn.Close() // the server notices, and ends its goroutine
	c.mu.Lock()
	now := time.Now()
	tell := now.Sub(c.told) >= refusalsQuiet
	if tell {
		c.told = now
	}
	c.mu.Unlock()
	if tell {
		c.logger.Warn("connections are refused: "+reason, "client", conn.RemoteAddr().String())
	}
}
