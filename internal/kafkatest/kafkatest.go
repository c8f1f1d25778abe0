// Package kafkatest is a broker for tests that need one and have neither Java nor Docker:
// kfake, of the franz-go project, which speaks Kafka's protocol on a loopback port.
package kafkatest

import (
	"fmt"
	"net"
	"strconv"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Config describes a broker.
type Config struct {
	// Dir keeps the log, so that a broker started later on the same directory has it.
	// Empty: the log is kept in memory.
	Dir string
	// Port is where to listen on 127.0.0.1. 0 takes a free one.
	Port int
}

// Broker is a running broker. Its methods are safe for concurrent use.
type Broker struct{ cluster *kfake.Cluster }

// Start starts a broker.
func Start(cfg Config) (*Broker, error) {
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		// By default it trims topics after seven days.
		kfake.BrokerConfigs(map[string]string{"log.retention.ms": "-1"}),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			return net.Listen(network, net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Port)))
		}),
	}
	if cfg.Dir != "" {
		opts = append(opts, kfake.DataDir(cfg.Dir))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return nil, fmt.Errorf("starting a broker for tests: %w", err)
	}
	return &Broker{cluster}, nil
}

// Addr is the host:port that clients connect to.
func (b *Broker) Addr() string { return b.cluster.ListenAddrs()[0] }

// Close ends its connections.
func (b *Broker) Close() error {
	b.cluster.Close()
	return nil
}
