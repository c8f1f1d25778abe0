package pipelinetest

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// TB is what this package needs of *testing.T or *rapid.T.
type TB interface {
	require.TestingT
	Helper()
}

// Partitions is the number of partitions of each topic of a Rig.
const Partitions = 3

// Rig is a database and a log that hold nothing yet. It is safe for concurrent
// use.
type Rig struct {
	DB *store.Store

	topics  *topics.Set
	emitter pipeline.Emitter

	mu   sync.Mutex
	ends map[pipeline.TopicPartition]int64 // of the log
	read map[pipeline.TopicPartition]int64 // numbers in the outbox
	sent []pipeline.Record                 // by Append of the emitter
}

// New returns a rig on a database of its own, which is closed when the test
// ends. The topics are those of all registered events.
func New(t testing.TB) *Rig {
	t.Helper()
	return On(t, OpenStore(t, filepath.Join(t.TempDir(), "db")))
}

// OpenStore opens a SQLite database whose clock is that of Clocked, and closes it
// when the test ends. Two of them on one path are what two processes have.
func OpenStore(t testing.TB, path string) *store.Store {
	t.Helper()
	engine, err := sqlite.Open(path)
	require.NoError(t, err)
	db, err := store.Open(context.Background(), Clocked(engine))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// On is New on a database that is open already.
func On(t TB, db *store.Store) *Rig {
	t.Helper()
	return rigOn(t, db, map[pipeline.TopicPartition]int64{})
}

// Again is a rig of another process: on a database that may have positions, with a log that
// has all records of r.
func (r *Rig) Again(t TB, db *store.Store) *Rig {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	return rigOn(t, db, maps.Clone(r.ends))
}

func rigOn(t TB, db *store.Store, ends map[pipeline.TopicPartition]int64) *Rig {
	t.Helper()
	r := &Rig{DB: db, ends: ends, read: map[pipeline.TopicPartition]int64{}}
	topics, err := topics.New(context.Background(), db, broker{rig: r}, schema.Topics(), partition)
	require.NoError(t, err)
	r.topics = topics
	runtime, err := engine.New(engine.Config{Store: db, Broker: broker{rig: r}, Topics: topics, Log: discard})
	require.NoError(t, err)
	r.emitter = runtime.Emitter()
	return r
}

var discard = slog.New(slog.DiscardHandler)

// Emitter publishes into the outbox of the rig's database, or into its log, as
// that of a Runner does.
func (r *Rig) Emitter() pipeline.Emitter { return r.emitter }

// Append puts events at the end of the log, each on the partition of its key,
// and returns their records. An event without an ID or a Source is given one.
func (r *Rig) Append(t TB, events ...schema.Event) []pipeline.Record {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	records := make([]pipeline.Record, len(events))
	for i, event := range events {
		topic, key := event.Payload.Topic(), []byte(event.Payload.Key())
		partition, err := r.topics.PartitionOf(topic, key)
		require.NoError(t, err)
		tp := pipeline.TopicPartition{Topic: topic, Partition: partition}
		if event.ID == "" {
			event.ID = fmt.Sprintf("%s/%d", tp, r.ends[tp])
		}
		if event.Source == "" {
			event.Source = "pipelinetest"
		}
		headers, value, err := event.Encode()
		require.NoError(t, err)
		records[i] = pipeline.Record{TopicPartition: tp, TopicID: topicID(topic), Offset: r.ends[tp], Key: key,
			Headers: headers, Value: value, Event: event}
		r.ends[tp]++
	}
	return records
}

// AppendAll is Append for payloads.
func (r *Rig) AppendAll(t TB, payloads ...schema.Payload) []pipeline.Record {
	t.Helper()
	events := make([]schema.Event, len(payloads))
	for i, p := range payloads {
		events[i].Payload = p
	}
	return r.Append(t, events...)
}

// Events returns what was published into the outbox on a topic since the last
// call for it: by partition, and in the order of each partition's chain.
func (r *Rig) Events(t TB, topic schema.Topic) []schema.Event {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	topics, err := r.DB.Topics(context.Background())
	require.NoError(t, err)
	var events []schema.Event
	for _, info := range topics {
		if info.Name != string(topic) {
			continue
		}
		for partition := range info.Partitions {
			tp := pipeline.TopicPartition{Topic: topic, Partition: partition}
			rows, err := r.DB.ReadOutbox(context.Background(), 1_000_000, 1<<30, store.Behind{Epoch: info.Epoch, Part: partition, After: r.read[tp]})
			require.NoError(t, err)
			for _, row := range rows {
				r.read[tp] = row.Seq
				headers, err := store.DecodeHeaders(row.Headers)
				require.NoError(t, err)
				event, err := schema.DecodeEvent(headers, row.Payload)
				require.NoError(t, err)
				events = append(events, event)
			}
		}
	}
	return events
}

// Sent returns the records that the rig's Emitter appended to the log since the
// last call, in the order in which they came.
func (r *Rig) Sent() []pipeline.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	sent := r.sent
	r.sent = nil
	return sent
}

// claims are all partitions of some topics.
func (r *Rig) claims(topics []schema.Topic) []log.Claim {
	r.mu.Lock()
	defer r.mu.Unlock()
	var claims []log.Claim
	for _, topic := range topics {
		for partition := range int32(Partitions) {
			tp := pipeline.TopicPartition{Topic: topic, Partition: partition}
			claims = append(claims, log.Claim{TopicPartition: tp,
				TopicInfo:   log.TopicInfo{ID: topicID(topic), Partitions: Partitions},
				OffsetRange: log.OffsetRange{End: r.ends[tp]}})
		}
	}
	return claims
}

// partition spreads keys; any function of the key would do.
func partition(key []byte, partitions int32) int32 {
	h := fnv.New32a()
	_, _ = h.Write(key) // never fails
	return int32(h.Sum32() % uint32(partitions))
}

func topicID(topic schema.Topic) string { return "id-of-" + string(topic) }
