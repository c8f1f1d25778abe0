package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// defaultPatience is what a zero Config.Patience means.
	defaultPatience = 500 * time.Millisecond
	// probeEvery is how often a Redis that is down is tried, and restEvery one that is up.
	probeEvery = 500 * time.Millisecond
	restEvery  = 5 * time.Second
	// maxConnections bounds the connections of a process.
	maxConnections = 32
)

// ErrDown is wrapped by errors about a Redis that is known not to answer.
var ErrDown = errors.New("redis is down")

// Config describes a client. Address, Installation and Logger are required.
type Config struct {
	Address Address
	// Installation keeps apart what several installations have in one Redis.
	Installation string
	Logger       *slog.Logger
	// Patience bounds each thing that Redis is asked. Whatever would take longer is done
	// without it. 0 means 500 ms.
	Patience time.Duration
}

// Client is a connection to Redis that is given up, and taken up again, without those who
// use it. It is safe for concurrent use.
type Client struct {
	cfg    Config
	redis  *redis.Client
	prefix string
	id     string // of this process
	log    *slog.Logger
	down   atomic.Pointer[Outage]
	failed atomic.Uint64

	fallen chan struct{} // tells Run that Redis has gone down
	told   sync.Mutex    // keeps what the log says in order
}

// Outage says since when Redis does not answer, and why.
type Outage struct {
	Since time.Time
	Err   error
}

// silence is for a library that writes to stderr by itself.
var silence sync.Once

// Open returns a client, whether Redis answers or not: the log says so. Run keeps looking.
// The caller closes it.
func Open(ctx context.Context, cfg Config) *Client {
	silence.Do(func() { redis.SetLogger(&logging.VoidLogger{}) })
	cfg.Patience = cmp.Or(cfg.Patience, defaultPatience)
	a, patience := cfg.Address, cfg.Patience
	c := &Client{cfg: cfg, prefix: "pricemill:" + cfg.Installation + ":", log: cfg.Logger.With(slog.String("component", "redis")),
		id: rand.Text(), fallen: make(chan struct{}, 1)}
	c.redis = redis.NewClient(&redis.Options{
		Addr: a.hostPort, Username: a.username, Password: a.password, DB: a.db, TLSConfig: a.tls, Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		DialTimeout:              patience, ReadTimeout: patience, WriteTimeout: patience, PoolTimeout: patience,
		ContextTimeoutEnabled: true, PoolSize: maxConnections,
		// What is tried again may be done twice.
		MaxRetries: -1, DialerRetries: 1,
	})
	if err := c.probe(ctx); err == nil {
		c.log.Info("redis shares limits and wake-ups between processes", "address", a.String())
	}
	return c
}

// Close ends all connections.
func (c *Client) Close() error { return c.redis.Close() }

// Down is the outage that there is now, or nil.
func (c *Client) Down() *Outage { return c.down.Load() }

// Failed is how often Redis did not do what it was asked.
func (c *Client) Failed() uint64 { return c.failed.Load() }

// Run looks whether Redis answers, until ctx is done.
func (c *Client) Run(ctx context.Context) {
	for {
		wait := restEvery
		if c.Down() != nil {
			wait = probeEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-c.fallen:
			continue
		case <-time.After(wait):
		}
		_ = c.probe(ctx) // it has told the log
	}
}

// probe tries what everything else needs: to write.
func (c *Client) probe(ctx context.Context) error {
	return c.try(ctx, func(ctx context.Context) error {
		return c.redis.Set(ctx, c.prefix+"probe", 1, time.Second).Err()
	})
}

// do is try, unless Redis is down.
func (c *Client) do(ctx context.Context, f func(context.Context) error) error {
	if outage := c.Down(); outage != nil {
		return fmt.Errorf("%w: %w", ErrDown, outage.Err)
	}
	return c.try(ctx, f)
}

// try asks Redis for something in bounded time, and notes whether it answered.
func (c *Client) try(ctx context.Context, f func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	err := f(bounded)
	if err != nil && ctx.Err() != nil {
		return err // it is not Redis that failed
	}
	c.answered(err)
	return err
}

func (c *Client) answered(err error) {
	if err != nil {
		c.failed.Add(1)
	}
	if (err != nil) == (c.Down() != nil) {
		return
	}
	c.told.Lock()
	defer c.told.Unlock()
	outage := c.Down()
	switch {
	case err != nil && outage == nil:
		c.down.Store(&Outage{time.Now(), err})
		c.log.Warn("redis does not answer: the database shares the limits until it does", "address", c.cfg.Address.String(), "error", err)
		select {
		case c.fallen <- struct{}{}:
		default:
		}
	case err == nil && outage != nil:
		c.down.Store(nil)
		c.log.Info("redis answers again", "address", c.cfg.Address.String(), "after", time.Since(outage.Since).Round(time.Millisecond).String())
	}
}

//go:embed take.lua
var takeSource string

var takeScript = redis.NewScript(takeSource)

// errAnswer says that the script answered what it does not answer.
var errAnswer = errors.New("redis answered something else than two numbers")

// Take implements ratelimit.Remote.
func (c *Client) Take(ctx context.Context, client string, perMinute int, carried int64, overrule bool) (level int64, allowed bool, err error) {
	level, allowed, _, err = c.take(ctx, client, perMinute, carried, overrule)
	return level, allowed, err
}

// take is Take, and says when that was by the clock of Redis, in microseconds.
func (c *Client) take(ctx context.Context, client string, perMinute int, carried int64, overrule bool) (level int64, allowed bool, at int64, err error) {
	force := 0
	if overrule {
		force = 1
	}
	err = c.do(ctx, func(ctx context.Context) error {
		answer, err := takeScript.Run(ctx, c.redis, []string{c.prefix + "rate:" + client}, perMinute, carried, force).Int64Slice()
		if err != nil {
			return err
		}
		if len(answer) != 3 {
			return errAnswer
		}
		allowed, level, at = answer[0] == 1, answer[1], answer[2]
		return nil
	})
	return level, allowed, at, err
}
