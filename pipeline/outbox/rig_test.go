package outbox

import (
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	partitions  = 4
	testTopicID = "topic-1"
	testOutbox  = "outbox-1"
)

// byLastDigit takes the place of murmur2: the tests choose partitions by symbol.
func byLastDigit(key []byte, n int32) int32 { return int32(key[len(key)-1]-'0') % n }

// rig is a database with an outbox, and a log.
type rig struct {
	T      testing.TB
	path   string
	DB     *store.Store
	Broker *logtest.Memory
	known  *topics.Set
	writer Writer
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{T: t, path: filepath.Join(t.TempDir(), "db"), Broker: logtest.NewMemory(map[schema.Topic]log.TopicInfo{
		schema.PriceEvents: {ID: testTopicID, Partitions: partitions}, schema.QuoteOutcomes: {ID: "topic-2", Partitions: partitions}})}
	r.open()
	r.exec4(`UPDATE chains SET outbox = $1 WHERE epoch = $2`, testOutbox, r.epoch(schema.PriceEvents))
	return r
}

// open opens the database at the rig's path.
func (r *rig) open() {
	r.T.Helper()
	engine, err := sqlite.Open(r.path)
	require.NoError(r.T, err)
	r.DB, err = store.Open(r.T.Context(), engine)
	require.NoError(r.T, err)
	db := r.DB
	r.T.Cleanup(func() { assert.NoError(r.T, db.Close()) })
	r.known = r.topicsOf(r.Broker)
	r.writer = NewWriter(r.known)
}

// topicsOf are the topics as a process knows them that starts now.
func (r *rig) topicsOf(broker log.Broker) *topics.Set {
	r.T.Helper()
	known, err := topics.New(r.T.Context(), r.DB, broker, []schema.Topic{schema.PriceEvents, schema.QuoteOutcomes}, byLastDigit)
	require.NoError(r.T, err)
	return known
}

// relay is one of a process that starts now.
func (r *rig) relay() *Relay {
	r.T.Helper()
	return NewRelay(r.DB, r.Broker, r.topicsOf(r.Broker), "test", slog.New(slog.DiscardHandler))
}

func (r *rig) epoch(name schema.Topic) int64 {
	topic, _ := r.known.Topic(name)
	return topic.Epoch
}

func at(partition int32) pipeline.TopicPartition {
	return pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: partition}
}

func (r *rig) logOf(partition int32) []pipeline.Record { return r.Broker.Log[at(partition)] }

// exec runs a statement that concerns one row, and exec4 one that concerns a row of
// each partition.
func (r *rig) exec(query string, args ...any) { r.T.Helper(); r.execOn(1, query, args...) }

func (r *rig) exec4(query string, args ...any) { r.T.Helper(); r.execOn(partitions, query, args...) }

func (r *rig) execOn(rows int64, query string, args ...any) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		n, err := tx.Exec(r.T.Context(), query, args...)
		assert.Equal(r.T, rows, n, "rows of %q", query)
		return err
	}))
}

func priceNo(symbol string, n int) schema.PriceObserved {
	at := schema.NewTime(time.Unix(int64(n), 0))
	return schema.PriceObserved{Symbol: schema.Symbol(symbol), Price: schema.MustDecimal(fmt.Sprint(n + 1)), Timestamp: at,
		Source: "simulated", ReceivedAt: at, RawResponseID: "1"}
}

// emit publishes prices through the outbox.
func (r *rig) emit(partition int32, n int) {
	r.T.Helper()
	events := make([]schema.Event, n)
	for i := range events {
		events[i] = schema.Event{ID: uuid.NewString(), Source: "test", Payload: priceNo(fmt.Sprint("S", partition), i)}
	}
	r.publish(events...)
}

// publish writes events into the outbox, in one transaction.
func (r *rig) publish(events ...schema.Event) {
	r.T.Helper()
	r.publishBy(r.writer, events...)
}

func (r *rig) publishBy(writer Writer, events ...schema.Event) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		_, err := writer.Append(r.T.Context(), tx, events)
		return err
	}))
}

// append writes a record to the log of a partition, of no chain.
func (r *rig) append(partition int32, headers ...schema.Header) {
	r.T.Helper()
	n := len(r.logOf(partition))
	own, value, err := schema.Event{ID: fmt.Sprint(partition, "-", n), Source: "test", Payload: priceNo(fmt.Sprint("S", partition), n)}.Encode()
	require.NoError(r.T, err)
	r.Broker.Send(r.T.Context(), []log.PartitionBatch{{TopicPartition: at(partition),
		Records: []log.OutgoingRecord{{Key: []byte("k"), Headers: append(own, headers...), Value: value}}}})
}

// as appends a record at a link.
func (r *rig) as(partition int32, link chain.Link) {
	r.T.Helper()
	r.append(partition, link.Headers()...)
}

// ofNoChain appends records from elsewhere.
func (r *rig) ofNoChain(partition int32, n int) {
	for range n {
		r.append(partition)
	}
}

// fill appends the first records of a chain, as its relay would.
func (r *rig) fill(partition int32, n int64) {
	r.T.Helper()
	for seq := range n {
		r.as(partition, chain.Link{Timeline: testOutbox, Seq: seq + 1})
	}
	r.exec(`UPDATE chains SET last = $1, sent = $1 WHERE epoch = $2 AND part = $3`, n, r.epoch(schema.PriceEvents), partition)
}

// halt makes a stage one that halted before an offset.
func (r *rig) halt(partition int32, offset int64) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		return tx.CreatePositions(r.T.Context(), []store.Position{{Stage: "test", Topic: string(schema.PriceEvents), Part: partition,
			TopicID: testTopicID, Next: offset, Halted: "by hand", MovedAt: schema.NewTime(time.Unix(1, 0))}})
	}))
}

// copyTo copies the database as it is.
func (r *rig) copyTo(path string) {
	r.T.Helper()
	db, err := sql.Open("sqlite", r.path)
	require.NoError(r.T, err)
	_, err = db.Exec(`VACUUM INTO ?`, path)
	require.NoError(r.T, err)
	require.NoError(r.T, db.Close())
}
