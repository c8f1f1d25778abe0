package redis

import (
	"context"
	"crypto/x509"
)

// TakeAt is Take, and says when that was by the clock of Redis, in microseconds.
func (c *Client) TakeAt(ctx context.Context, client string, perMinute int, carried int64, overrule bool) (level int64, allowed bool, at int64, err error) {
	return c.take(ctx, client, perMinute, carried, overrule)
}

// Keys are those of the installation.
func (c *Client) Keys(ctx context.Context) ([]string, error) {
	return c.redis.Keys(ctx, c.prefix+"*").Result()
}

// ExpiresIn is how many milliseconds a client's bucket is kept for.
func (c *Client) ExpiresIn(ctx context.Context, client string) (int64, error) {
	d, err := c.redis.PTTL(ctx, c.prefix+"rate:"+client).Result()
	return d.Milliseconds(), err
}

// Trusting has TLS trust these authorities.
func (a Address) Trusting(pool *x509.CertPool) Address {
	a.tls.RootCAs = pool
	return a
}

// Patience bounds what Redis is asked.
const Patience = defaultPatience
