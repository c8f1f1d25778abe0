package kafka

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/schema"
)

// Config describes how to reach a cluster and how to use it.
type Config struct {
	// Brokers are host:port addresses of some brokers; the others are learned
	// from them. Required.
	Brokers []string
	// Security protects the connections. The zero value is plain text.
	Security Security
	// Names maps the role of a topic to its name in the cluster. A role that
	// is absent is its own name. No two roles may have one name.
	Names map[schema.Topic]string
	// Partitions is the number of partitions of topics that are created. 0
	// means 4. It should be the same for all topics of an installation, since
	// a key has one partition number everywhere.
	Partitions int32
	// Replication is the number of replicas of topics that are created. 0
	// means 1, which a cluster of several brokers should not be content with.
	Replication int16
	// Logger receives what no one else is told of: reconnects, retries,
	// retention that is not forever. Nil drops it.
	Logger *slog.Logger
	// ClientID names this process in the brokers' logs and quotas. Empty means
	// "pricemill".
	ClientID string
	// SessionTimeout is how long the partitions of a dead group member stay
	// with it. 0 means 10 s. Brokers refuse less than 6 s by default.
	SessionTimeout time.Duration
	// Heartbeat is how often a group member says that it is alive, and how
	// soon it learns of a rebalance. 0 means 1 s. At most a third of
	// SessionTimeout.
	Heartbeat time.Duration
	// InstanceID makes the members of this process static: one that comes back
	// within SessionTimeout gets its partitions back without a rebalance. It
	// must be unique among the processes of an installation. Empty, the
	// default, makes them dynamic. A static member does not leave its group on
	// Close: its partitions stay with it until SessionTimeout.
	InstanceID string
	// MaxMessageBytes is the largest batch that is sent, in bytes before
	// compression, and should not exceed max.message.bytes of the topics. 0
	// means 1,040,000, which Kafka takes by default and which has room for the
	// largest event with its frame.
	MaxMessageBytes int
	// Compression of the batches sent: none, gzip, snappy, lz4 or zstd. Empty
	// means none.
	Compression string
	// Timeout bounds each call whose context has no earlier deadline, all its
	// retries included. 0 means 30 s. Read and Subscribe are not bounded.
	Timeout time.Duration
	// AnswerTimeout is how long a broker may take to answer a request, or to take
	// it, before the connection counts as gone, 1 s at least. 0 means 15 s. Only
	// the answer to a member that joins its group may take longer: it comes when
	// all others have left their sessions, or were given up.
	AnswerTimeout time.Duration
	// NackPause is how long a batch waits after a Nack until it is delivered
	// again. 0 means 100 ms.
	NackPause time.Duration
	// Grace is how long the end of a session waits for batches in flight. 0
	// means 10 s. After it the partitions go to other members even so; this
	// member's next session still waits for the batch.
	Grace time.Duration
}

// Bounds and defaults.
const (
	defaultPartitions      = 4
	defaultReplication     = 1
	defaultClientID        = "pricemill"
	defaultSessionTimeout  = 10 * time.Second
	defaultHeartbeat       = time.Second
	defaultMaxMessageBytes = 1_040_000
	defaultTimeout         = 30 * time.Second
	defaultAnswerTimeout   = 15 * time.Second
	defaultNackPause       = 100 * time.Millisecond
	defaultGrace           = 10 * time.Second

	// farewell is what a member has, besides Grace, to tell its group that it
	// leaves.
	farewell = time.Second
	// dialTimeout is how long connecting may take; see Config.AnswerTimeout too.
	dialTimeout = 5 * time.Second
	// rebalanceMargin is what a member has, besides Grace, to leave a session
	// and join the next one before it is put out of the group.
	rebalanceMargin = 20 * time.Second
	// fetchWait is how long a fetch waits for a record. A record that arrives
	// ends the wait at once; heartbeats and Close may have to wait for it.
	fetchWait = 500 * time.Millisecond
	// channelBuffer is the number of records that sarama keeps of a partition,
	// besides one fetch. A number, however large they are: of 900 kB each, 4,096
	// were gigabytes. Measured, more make nothing faster.
	channelBuffer = 1
	// fetchBytes is how much of a partition one fetch asks for. Each stage holds one of
	// all its partitions, and of 1 MiB a stage with a backlog held tens of megabytes
	// more, and was no faster.
	fetchBytes = 256 << 10
)

var legalName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// ValidName reports whether Kafka takes name as that of a topic or an instance:
// 1 to 249 letters, digits, dots, underscores and hyphens, and not dots alone.
func ValidName(name string) bool {
	return legalName.MatchString(name) && strings.Trim(name, ".") != ""
}

func (c Config) withDefaults() Config {
	setDefault(&c.Partitions, defaultPartitions)
	setDefault(&c.Replication, defaultReplication)
	setDefault(&c.ClientID, defaultClientID)
	setDefault(&c.SessionTimeout, defaultSessionTimeout)
	setDefault(&c.Heartbeat, defaultHeartbeat)
	setDefault(&c.MaxMessageBytes, defaultMaxMessageBytes)
	setDefault(&c.Compression, sarama.CompressionNone.String())
	setDefault(&c.Timeout, defaultTimeout)
	setDefault(&c.AnswerTimeout, defaultAnswerTimeout)
	setDefault(&c.NackPause, defaultNackPause)
	setDefault(&c.Grace, defaultGrace)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports all faults at once. Zero values are their defaults.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(len(c.Brokers) == 0, "brokers: required")
	fault(slices.Contains(c.Brokers, ""), "brokers: an address is empty")
	fault(c.Partitions < 1, "partitions: %d is less than 1", c.Partitions)
	fault(c.Replication < 1, "replication: %d is less than 1", c.Replication)
	fault(c.SessionTimeout < 0, "session timeout: %v is negative", c.SessionTimeout)
	fault(c.Heartbeat < time.Millisecond, "heartbeat: %v is less than 1 ms", c.Heartbeat)
	fault(c.Heartbeat > c.SessionTimeout/3, "heartbeat: %v is more than a third of the session timeout, %v",
		c.Heartbeat, c.SessionTimeout)
	fault(c.InstanceID != "" && !ValidName(c.InstanceID),
		"instance id: %q is not of 1 to 249 letters, digits, dots, underscores and hyphens", c.InstanceID)
	fault(c.MaxMessageBytes < batchOverhead, "max message bytes: %d is less than %d", c.MaxMessageBytes, batchOverhead)
	fault(c.Timeout < 0, "timeout: %v is negative", c.Timeout)
	fault(c.AnswerTimeout < time.Second, "answer timeout: %v is less than 1 s", c.AnswerTimeout)
	fault(c.NackPause < 0, "nack pause: %v is negative", c.NackPause)
	fault(c.Grace < 0, "grace: %v is negative", c.Grace)
	_, err := c.codec()
	fault(err != nil, "compression: %q is not none, gzip, snappy, lz4 or zstd", c.Compression)
	for _, f := range c.Security.Faults(c.Brokers) {
		faults = append(faults, f)
	}
	return errors.Join(append(faults, c.validateNames()...)...)
}

func (c Config) validateNames() []error {
	var faults []error
	taken := map[string]schema.Topic{}
	roles := make([]schema.Topic, 0, len(c.Names))
	for role := range c.Names {
		roles = append(roles, role)
	}
	slices.Sort(roles) // the same faults in the same order each time
	for _, role := range roles {
		name := c.Names[role]
		if !ValidName(name) {
			faults = append(faults, fmt.Errorf("names: %q of %s is no name for a topic", name, role))
		}
		if other, used := taken[name]; used {
			faults = append(faults, fmt.Errorf("names: %s and %s are both %q", other, role, name))
		}
		taken[name] = role
	}
	return faults
}

// name is a topic's name in the cluster.
func (c Config) name(role schema.Topic) string {
	if name, renamed := c.Names[role]; renamed {
		return name
	}
	return string(role)
}

func (c Config) codec() (sarama.CompressionCodec, error) {
	var codec sarama.CompressionCodec
	err := codec.UnmarshalText([]byte(c.Compression))
	return codec, err
}

// lines makes the connections of one client.
func (c Config) lines() *lines {
	var control func(network, address string, c syscall.RawConn) error
	if c.Security.sendsCleartext() {
		// The brokers that were configured name the others, and a name may lead
		// anywhere: what counts is the address that is really dialled.
		control = refuseRemote
	}
	return newLines(min(dialTimeout, c.AnswerTimeout), control)
}

// client is the configuration that all clients share.
func (c Config) client(l *lines) *sarama.Config {
	conf := sarama.NewConfig()
	// Topic ids come with 2.8. An older version also makes sarama misread the
	// group answers of the broker of package kafkatest.
	conf.Version = sarama.V2_8_0_0
	conf.ClientID = c.ClientID
	conf.ChannelBufferSize = channelBuffer
	conf.Net.Proxy.Enable = true
	conf.Net.Proxy.Dialer = l
	conf.Net.ReadTimeout = c.AnswerTimeout
	conf.Net.WriteTimeout = c.AnswerTimeout
	conf.Metadata.Full = false
	conf.Metadata.AllowAutoTopicCreation = false
	// sarama's retries sleep whatever the context says; ours do not.
	conf.Metadata.Retry.Max = 0
	conf.Producer.RequiredAcks = sarama.WaitForAll
	c.Security.apply(conf)
	return conf
}

// member is the configuration of one member of a consumer group.
func (c Config) member(l *lines, instanceID string, ownOffsets bool) *sarama.Config {
	conf := c.client(l)
	rebalance := c.Grace + rebalanceMargin
	// The answer to a join comes when all members have left their sessions. Within
	// a session the lines are less patient.
	conf.Net.ReadTimeout = max(rebalance+10*time.Second, c.AnswerTimeout)
	conf.Metadata.Retry.Max = 3
	conf.Metadata.Retry.BackoffFunc = func(int, int) time.Duration { return l.whileOpen(100 * time.Millisecond) }
	conf.Consumer.Return.Errors = true
	conf.Consumer.Retry.BackoffFunc = func(int) time.Duration { return l.whileOpen(250 * time.Millisecond) }
	conf.Consumer.MaxWaitTime = fetchWait
	// A lane that is not emptied for this long no longer holds up the
	// fetching of the others.
	conf.Consumer.MaxProcessingTime = 2 * time.Second
	conf.Consumer.Fetch.Default = fetchBytes
	conf.Consumer.Offsets.Initial = sarama.OffsetOldest
	conf.Consumer.Group.InstanceId = instanceID
	conf.Consumer.Group.Session.Timeout = c.SessionTimeout
	conf.Consumer.Group.Heartbeat.Interval = c.Heartbeat
	conf.Consumer.Group.Rebalance.Timeout = rebalance
	conf.Consumer.Group.Rebalance.Retry.Backoff = 100 * time.Millisecond
	// The range strategy gives one member the same partition numbers of every
	// topic with as many partitions, so that a key's events stay together.
	conf.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	// Where an Assignor keeps the positions, one that the log no longer has is
	// for it to judge, never to be replaced in silence.
	conf.Consumer.Group.ResetInvalidOffsets = !ownOffsets
	return conf
}
