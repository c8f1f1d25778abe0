package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

// connector opens connections to the first host that has what is wanted.
//
// It does for sslmode=prefer what lib/pq does too loosely: there, every fault on
// the way to TLS leads to plain text, be it a lost packet or a certificate that
// does not verify. Here only the server's own word does. Against somebody who can
// speak in the server's name only verify-full helps.
type connector struct {
	hosts   []host
	shuffle bool
}

// host is one server, and the ways to it.
type host struct {
	address string
	first   *pq.Connector
	// plain is taken where the server answers that it has no TLS; nil where
	// that is an error.
	plain *pq.Connector
}

var _ driver.Connector = (*connector)(nil)

// newConnector takes a configuration of one or more hosts. A server that says
// nothing for so long as silence counts as gone; 0 waits for ever.
func newConnector(cfg pq.Config, silence time.Duration) (*connector, error) {
	c := &connector{shuffle: cfg.LoadBalanceHosts == pq.LoadBalanceHostsRandom}
	all := append([]pq.ConfigMultihost{{Host: cfg.Host, Hostaddr: cfg.Hostaddr, Port: cfg.Port}}, cfg.Multi...)
	for _, address := range all {
		one := cfg.Clone()
		one.Multi, one.Host, one.Hostaddr, one.Port = nil, address.Host, address.Hostaddr, address.Port
		h := host{address: net.JoinHostPort(address.Host, strconv.Itoa(int(address.Port)))}
		var err error
		if one.SSLMode == pq.SSLModePrefer {
			one.SSLMode = pq.SSLModeDisable
			if h.plain, err = open(one, silence); err != nil {
				return nil, err
			}
			one.SSLMode = pq.SSLModeRequire
		}
		if h.first, err = open(one, silence); err != nil {
			return nil, err
		}
		c.hosts = append(c.hosts, h)
	}
	return c, nil
}

func open(cfg pq.Config, silence time.Duration) (*pq.Connector, error) {
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	c.Dialer(dialer{silence: silence})
	return c, nil
}

// Connect implements driver.Connector.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	order := make([]int, len(c.hosts))
	for i := range order {
		order[i] = i
	}
	if c.shuffle {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	var errs []error
	for _, i := range order {
		conn, err := c.hosts[i].connect(ctx)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("connecting to PostgreSQL at %s: %w", c.hosts[i].address, err))
	}
	return nil, errors.Join(errs...)
}

func (h host) connect(ctx context.Context) (driver.Conn, error) {
	conn, err := h.first.Connect(ctx)
	if h.plain != nil && errors.Is(err, pq.ErrSSLNotSupported) {
		return h.plain.Connect(ctx)
	}
	return conn, err
}

// Driver implements driver.Connector.
func (c *connector) Driver() driver.Driver { return &pq.Driver{} }

// dialer makes connections that notice when the other side is gone.
type dialer struct{ silence time.Duration }

var (
	_ pq.Dialer        = dialer{}
	_ pq.DialerContext = dialer{}
)

// Dial implements pq.Dialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout implements pq.Dialer.
func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext implements pq.DialerContext.
func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	// As in Config.settings, for the other direction.
	keepAlive := net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
	conn, err := (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, network, address)
	if err != nil || d.silence == 0 {
		return conn, err
	}
	return &watchedConn{Conn: conn, silence: d.silence}, nil
}

// watchedConn fails a read or write that hangs. Keepalives do not cover bytes
// that were sent and never acknowledged: those the system sends again for a
// quarter of an hour, and all that time a transaction would neither go on nor
// end, whatever its context says, since lib/pq waits for the server's answer to
// a cancellation.
type watchedConn struct {
	net.Conn
	silence time.Duration
	// set is true while a deadline of lib/pq's own holds: that of the start.
	set atomic.Bool
}

// Read implements net.Conn. lib/pq reads only while it waits for an answer, so
// an idle connection meets no deadline.
func (c *watchedConn) Read(b []byte) (int, error) {
	if !c.set.Load() {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// Write implements net.Conn.
func (c *watchedConn) Write(b []byte) (int, error) {
	if !c.set.Load() {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(c.silence)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// SetDeadline implements net.Conn.
func (c *watchedConn) SetDeadline(t time.Time) error {
	c.set.Store(!t.IsZero())
	return c.Conn.SetDeadline(t)
}
