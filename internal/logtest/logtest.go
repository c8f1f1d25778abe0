// Package logtest holds a log to what the pipeline expects of it.
package logtest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// Partitions is how many partitions a log of the suite gives its topics.
const Partitions = 4

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// Log is what the suite needs of a log.
type Log interface {
	log.Broker
	log.Follower
	// OffsetsAt returns, for each partition of a topic, the offset of the first record
	// written at or after a moment, or the end.
	OffsetsAt(ctx context.Context, topic schema.Topic, moment time.Time) ([]int64, error)
	Close() error
}

// Opener opens a log whose sessions wait so long for batches in flight, and closes it
// when the test ends. Called again, it opens the same log, as another process would.
type Opener func(t testing.TB, grace time.Duration) Log

// Config describes the log under test.
type Config struct {
	// Fresh is called once a test. The log may have topics and groups of other tests.
	Fresh func(t testing.TB) Opener
	// Unique makes a name that no other test and no other run uses.
	Unique func(kind string) string
	// OwnHeaders are the keys of headers that the log adds to records.
	OwnHeaders []string
	// UnknownTopic, OutOfRange and Closed are what the log wraps where it has no such
	// topic or partition, does not hold the offsets, or was closed.
	UnknownTopic, OutOfRange, Closed error
}

// Run runs the suite.
func Run(t *testing.T, cfg Config) {
	t.Parallel()
	for name, test := range map[string]func(*rig){
		"topics are created once":                 testTopics,
		"an unknown topic is not described":       testUnknownTopics,
		"records come back as they were sent":     testValues,
		"records keep their order":                testOrder,
		"records of any size up to the largest":   testLarge,
		"a batch that fails leaves others alone":  testSendErrors,
		"offsets are the ranges of partitions":    testOffsets,
		"offsets at a time":                       testOffsetsAt,
		"a reader reads between any bounds":       testReadBounds,
		"a reader is refused what is not there":   testReadOutOfRange,
		"a reader ends when it is told":           testReadEnds,
		"a reader next to writers sees no gap":    testReadGrowing,
		"a follower sees what is and what comes":  testFollow,
		"a follower follows another process":      testFollowOther,
		"a follower is refused what is not there": testFollowOutOfRange,
		"a follower ends when it is told":         testFollowEnds,
		"a subscriber starts where it is told":    testStarts,
		"a start outside of the log is refused":   testStartsOutside,
		"an assignor that fails is asked again":   testAssignorFails,
		"a claim without an answer is left alone": testMissingClaims,
		"a restart assigns again":                 testRestart,
		"a paused partition is not delivered":     testPause,
		"a nack delivers the same batch again":    testNack,
		"a session waits for a batch in flight":   testStraggler,
		"a lane has one batch in flight":          testLanes,
		"topics share the lanes":                  testSharedLanes,
		"batches are of any size":                 testBatchSizes,
		"batches are bounded in bytes":            testBatchBytes,
		"a batch of one is its record":            testSingle,
		"a group continues where it acked":        testGroup,
		"groups do not disturb each other":        testGroups,
		"a subscriber follows a log that grows":   testGrowth,
		"a subscriber follows another process":    testOtherProcess,
		"a subscriber ends with its context":      testContext,
		"what was closed does nothing":            testClose,
		"faults of a subscriber are all named":    testFaults,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(&rig{T: t, cfg: cfg, open: cfg.Fresh(t)})
		})
	}
}

// rig is a test with its log.
type rig struct {
	*testing.T
	cfg  Config
	open Opener
}

// log opens the log.
func (r *rig) log() Log { return r.open(r.T, 10*time.Second) }

// topic creates a topic that no other test uses.
func (r *rig) topic(l Log) schema.Topic {
	r.Helper()
	topic := schema.Topic(r.cfg.Unique("topic"))
	_, err := l.EnsureTopics(r.Context(), []schema.Topic{topic})
	require.NoError(r, err)
	return topic
}

func (r *rig) send(l Log, tp pipeline.TopicPartition, records ...log.OutgoingRecord) {
	r.Helper()
	require.NoError(r, l.Send(r.Context(), []log.PartitionBatch{{TopicPartition: tp, Records: records}})[0])
}

// read returns what a partition holds.
func (r *rig) read(l Log, tp pipeline.TopicPartition) []pipeline.Record {
	r.Helper()
	ranges, err := l.Offsets(r.Context(), tp.Topic)
	require.NoError(r, err)
	var all []pipeline.Record
	held := ranges[tp.Partition]
	require.NoError(r, l.Read(r.Context(), tp, held.Oldest, held.End, func(records []pipeline.Record) error {
		all = append(all, records...)
		return nil
	}))
	return all
}

// headers are those of a record that were sent with it.
func (r *rig) headers(record pipeline.Record) []schema.Header {
	return slices.DeleteFunc(slices.Clone(record.Headers), func(h schema.Header) bool { return slices.Contains(r.cfg.OwnHeaders, h.Key) })
}

func (r *rig) subscriber(l Log, cfg log.SubscriberConfig) message.Subscriber {
	r.Helper()
	if cfg.Group == "" {
		cfg.Group = r.cfg.Unique("group")
	}
	subscriber, err := l.Subscriber(cfg)
	require.NoError(r, err)
	return subscriber
}

func (r *rig) subscribe(l Log, cfg log.SubscriberConfig, topics string) <-chan *message.Message {
	r.Helper()
	messages, err := r.subscriber(l, cfg).Subscribe(r.Context(), topics)
	require.NoError(r, err)
	return messages
}

// receive returns the next message with its batch.
func (r *rig) receive(messages <-chan *message.Message) (*message.Message, *log.Batch) {
	r.Helper()
	msg := wait(r, "a message", messages)
	require.NotNil(r, msg, "the channel was closed")
	batch, ok := log.BatchOf(msg)
	require.True(r, ok, "the message carries no batch")
	return msg, batch
}

// follow acks batches until every partition has given its records up to n, and fails
// where one is out of order or missing. next is where partitions start.
func (r *rig) follow(messages <-chan *message.Message, next map[pipeline.TopicPartition]int64, partitions int, n int64) {
	r.Helper()
	for done := 0; done < partitions; {
		msg, batch := r.receive(messages)
		for _, record := range batch.Records {
			tp := record.TopicPartition
			require.Equal(r, next[tp], record.Offset, "of %s", tp)
			require.Equal(r, strconv.FormatInt(record.Offset, 10), string(record.Value))
			if next[tp]++; next[tp] == n {
				done++
			}
		}
		msg.Ack()
	}
}

func wait[T any](r *rig, what string, from <-chan T) (v T) {
	r.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		require.FailNow(r, "waited in vain for "+what)
	}
	return v
}

func at(topic schema.Topic, partition int32) pipeline.TopicPartition {
	return pipeline.TopicPartition{Topic: topic, Partition: partition}
}

// numbered makes n records whose values are first, first+1, …
func numbered(first, n int) []log.OutgoingRecord {
	records := make([]log.OutgoingRecord, n)
	for i := range records {
		records[i] = log.OutgoingRecord{Key: []byte("simulated/AAPL"), Value: fmt.Appendf(nil, "%d", first+i),
			Headers: []schema.Header{{Key: "ce_type", Value: []byte("test")}}}
	}
	return records
}

// positions is an Assignor that starts where it is told.
type positions struct {
	mu     sync.Mutex
	next   map[pipeline.TopicPartition]int64
	before func() error // called first in Assign
	only   func(pipeline.TopicPartition) bool
	called chan []log.Claim
	again  func() // ends the session
}

func newPositions() *positions {
	return &positions{next: map[pipeline.TopicPartition]int64{}, called: make(chan []log.Claim, 1000)}
}

func (p *positions) Assign(_ context.Context, claims []log.Claim, restart func()) (map[pipeline.TopicPartition]int64, error) {
	if p.before != nil {
		if err := p.before(); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.again = restart
	starts := map[pipeline.TopicPartition]int64{}
	for _, claim := range claims {
		if p.only == nil || p.only(claim.TopicPartition) {
			starts[claim.TopicPartition] = p.next[claim.TopicPartition]
		}
	}
	p.called <- claims
	return starts, nil
}

// restart ends the session.
func (p *positions) restart() {
	p.mu.Lock()
	again := p.again
	p.mu.Unlock()
	again()
}

func (p *positions) set(tp pipeline.TopicPartition, next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next[tp] = next
}

// closed fails where a channel is still open, and drains it.
func (r *rig) closed(messages <-chan *message.Message) {
	r.Helper()
	deadline := time.After(patience)
	for {
		select {
		case msg, open := <-messages:
			if !open {
				return
			}
			assert.Fail(r, "a message after the end", msg.UUID)
			msg.Nack()
		case <-deadline:
			require.FailNow(r, "the channel stays open")
		}
	}
}
