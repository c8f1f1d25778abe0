package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"github.com/lib/pq"
)

// connector opens connections to the first host that has what is wanted.
//
// It does for sslmode=prefer what lib/pq does too loosely: there, every fault on
// the way to TLS leads to plain text, be it a lost packet or a certificate that
// does not verify. Here only the server's own word does. Against someone who can
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
// nothing for so long as silence counts as gone; 0 waits forever.
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
	conn, err := openLine(ctx, h.first)
	if h.plain != nil && errors.Is(err, pq.ErrSSLNotSupported) {
		return openLine(ctx, h.plain)
	}
	return conn, err
}

// Driver implements driver.Connector.
func (c *connector) Driver() driver.Driver { return &pq.Driver{} }
