package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/IBM/sarama"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
)

// Failures that callers tell apart.
var (
	// ErrClosed is returned by everything that was closed.
	ErrClosed = errors.New("closed")
	// ErrTooLarge is wrapped where a batch passes what is allowed. Sending it
	// again is no use.
	ErrTooLarge = errors.New("batch too large")
	// ErrOutOfRange is wrapped where the log does not hold the offsets that
	// were asked for, or no longer.
	ErrOutOfRange = errors.New("offset out of range")
	// ErrUnknownTopic is wrapped where the cluster has no such topic.
	ErrUnknownTopic = errors.New("unknown topic")
)

// TooLargeError says how large a batch is; it wraps ErrTooLarge.
type TooLargeError struct {
	pipeline.TopicPartition
	// Records is their number in the batch.
	Records int
	// Bytes is the size of the batch, uncompressed.
	Bytes int
	// Limit is the configured one. Where it is not passed, the broker's is lower.
	Limit int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%v: %d records for %s are %d bytes, the limit is %d (or the topic's max.message.bytes, if lower)",
		ErrTooLarge, e.Records, e.TopicPartition, e.Bytes, e.Limit)
}

// Unwrap makes it an ErrTooLarge.
func (e *TooLargeError) Unwrap() error { return ErrTooLarge }

// OutOfRangeError says what was asked for and what there is; it wraps
// ErrOutOfRange.
type OutOfRangeError struct {
	pipeline.TopicPartition
	// From and To bound the offsets asked for; To is not included.
	From, To int64
	// OffsetRange is what the partition holds.
	log.OffsetRange
}

func (e *OutOfRangeError) Error() string {
	return fmt.Sprintf("%v: %s holds %d to %d, not %d to %d",
		ErrOutOfRange, e.TopicPartition, e.Oldest, e.End, e.From, e.To)
}

// Unwrap makes it an ErrOutOfRange.
func (e *OutOfRangeError) Unwrap() error { return ErrOutOfRange }

// remedy is what may help against a failure.
type remedy int

const (
	hopeless  remedy = iota // trying again gives the same
	again                   // it passes by itself
	refresh                 // another broker leads the partition now
	reconnect               // the connection is of no more use
)

// classify says what may help. Each case is a failure that brokers really give.
func classify(err error) remedy {
	if distrust(err) {
		return hopeless // only other settings help
	}
	var kerr sarama.KError
	if errors.As(err, &kerr) {
		return classifyAnswer(kerr)
	}
	var network net.Error
	var decoding sarama.PacketDecodingError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return hopeless // the latter is a net.Error too, but nothing the connection did
	case errors.Is(err, sarama.ErrOutOfBrokers), errors.Is(err, sarama.ErrControllerNotAvailable):
		return refresh // no broker could be asked; all of them are tried again
	case errors.Is(err, sarama.ErrNotConnected), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), errors.As(err, &network), errors.As(err, &decoding):
		// A timeout leaves an answer unread, which the next request would take
		// for its own: sarama then fails every request of the connection.
		return reconnect
	case errors.Is(err, sarama.ErrIncompleteResponse):
		return again // a broker that has just started leaves partitions out
	}
	return hopeless
}

// distrust says whether a broker and this process do not trust each other. sarama
// wraps what happened in ErrOutOfBrokers, which would be tried again.
func distrust(err error) bool {
	var verification *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var network *net.OpError
	return errors.Is(err, sarama.ErrSASLAuthenticationFailed) ||
		errors.Is(err, errCleartext) ||
		errors.As(err, &verification) || // their certificate
		errors.As(err, &record) || // no TLS at all
		errors.As(err, &network) && network.Op == "remote error" // ours: crypto/tls so names an alert of theirs
}

// hungUp says whether the other side closed a connection, or talks another
// protocol: to plain text on a TLS port, sarama takes the alert for a length.
func hungUp(err error) bool {
	var decoding sarama.PacketDecodingError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.As(err, &decoding)
}

func classifyAnswer(kerr sarama.KError) remedy {
	switch kerr {
	case sarama.ErrNotLeaderForPartition, // leadership moved
		sarama.ErrLeaderNotAvailable,      // an election is on
		sarama.ErrUnknownTopicOrPartition, // created a moment ago, not yet known everywhere
		sarama.ErrFencedLeaderEpoch,       // our metadata is old
		sarama.ErrUnknownLeaderEpoch,      // theirs is
		sarama.ErrReplicaNotAvailable,     // reassignment
		sarama.ErrKafkaStorageError,       // the leader's disk failed; another will lead
		sarama.ErrNotController,           // the controller moved
		sarama.ErrNetworkException,        // the broker lost its controller
		sarama.ErrOffsetNotAvailable,      // the new leader does not know the end yet
		sarama.ErrPreferredLeaderNotAvailable:
		return refresh
	case sarama.ErrRequestTimedOut, // the replicas did not answer in time
		sarama.ErrNotEnoughReplicas,            // too few in sync
		sarama.ErrNotEnoughReplicasAfterAppend, // the same, noticed too late: a repeat follows
		sarama.ErrThrottlingQuotaExceeded:
		return again
	}
	return hopeless
}

// backoff is the pause before attempt number n, from 1: 20 ms, doubling up to 1 s.
func backoff(n int) time.Duration {
	return min(20*time.Millisecond<<min(n-1, 6), time.Second)
}
