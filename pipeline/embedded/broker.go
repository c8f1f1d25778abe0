package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/gofrs/flock"
	"github.com/twmb/franz-go/pkg/kfake"
)

// Config describes a broker.
type Config struct {
	// Dir holds the log and the files that guard it. It is created where it
	// does not exist. Required.
	Dir string
	// SyncWrites makes each batch durable before it is acknowledged, at the
	// price of two fsyncs a batch. Nil means true. With false, what the
	// operating system had not yet written is lost with the machine's power,
	// and the log ends before positions that are already in SQL.
	SyncWrites *bool
	// Port is where to listen on the loopback interface. 0, the default, takes
	// a free port, another one each time.
	Port int
	// Logger receives the broker's lines. Nil drops them.
	Logger *slog.Logger
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("directory: required"))
	}
	if c.Port < 0 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("port: %d is not within 0 and 65535", c.Port))
	}
	return errors.Join(errs...)
}

// Broker is a running broker. Its methods are safe for concurrent use.
type Broker struct {
	dir     string
	log     *slog.Logger
	logger  *logger
	lock    *flock.Flock
	cluster *kfake.Cluster
	address string

	stopWatch context.CancelFunc
	watch     sync.WaitGroup
	closing   sync.Once
	closed    error
}

// Open takes the directory, replays what is in it and serves. It returns once
// clients can connect. An error that wraps ErrLocked means that another broker
// has the directory. When ctx is done first, Open returns at once and the
// directory is freed as soon as the replay has ended.
func Open(ctx context.Context, cfg Config) (*Broker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuring the embedded broker: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("opening the embedded broker in %s: %w", cfg.Dir, err)
	}
	type result struct {
		broker *Broker
		err    error
	}
	opened := make(chan result, 1)
	go func() {
		broker, err := open(cfg)
		opened <- result{broker, err}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("opening the embedded broker in %s: %w", cfg.Dir, r.err)
		}
		return r.broker, nil
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				_ = r.broker.Close()
			}
		}()
		return nil, fmt.Errorf("opening the embedded broker in %s: %w", cfg.Dir, ctx.Err())
	}
}

func open(cfg Config) (*Broker, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	held, err := lock(cfg.Dir)
	if err != nil {
		return nil, err
	}
	lines := &logger{to: cfg.Logger}
	cluster, err := kfake.NewCluster(options(cfg, lines)...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting: %w", err), held.Close())
	}
	b := &Broker{dir: cfg.Dir, log: cfg.Logger, logger: lines, lock: held, cluster: cluster, address: cluster.ListenAddrs()[0]}
	if err := writeHolder(cfg.Dir, holder{addressVersion, b.address, os.Getpid()}); err != nil {
		cluster.Close()
		return nil, errors.Join(err, held.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	b.stopWatch = stop
	b.watch.Go(func() { b.watchSize(ctx, sizeInterval) })
	return b, nil
}

func options(cfg Config, lines *logger) []kfake.Opt {
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("pricemill"),
		kfake.DataDir(filepath.Join(cfg.Dir, logDir)),
		kfake.WithLogger(lines),
		// The topics say the same of themselves. Both are needed: one topic
		// with a retention of its own starts a sweep that trims every topic by
		// the broker's, seven days.
		kfake.BrokerConfigs(map[string]string{"log.retention.ms": "-1"}),
		// Whatever address kfake would choose, this one is loopback.
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			return net.Listen(network, net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Port)))
		}),
	}
	if cfg.SyncWrites == nil || *cfg.SyncWrites {
		opts = append(opts, kfake.SyncWrites())
	}
	return opts
}

// Addr is the host:port that clients connect to.
func (b *Broker) Addr() string { return b.address }

// Close writes what the broker remembers, ends its connections and frees the
// directory. Later calls return what the first did.
func (b *Broker) Close() error {
	b.closing.Do(func() {
		b.stopWatch()
		b.watch.Wait()
		// The record goes before the broker and the lock after it, so that
		// neither names a broker that another process is about to replace.
		removed := removeHolder(b.dir)
		b.cluster.Close()
		b.closed = errors.Join(removed, b.lock.Close())
	})
	return b.closed
}
