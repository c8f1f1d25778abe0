package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/internal/state"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) {
	// Where a subscription is refused, Watermill's router returns the error and
	// leaves this goroutine waiting for handlers that never began.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/ThreeDotsLabs/watermill/message.(*Router).watchAllHandlersStopped.func1"))
}

const Partitions = 4

// ByLastDigit takes the place of murmur2: the tests choose partitions by symbol.
func ByLastDigit(key []byte, n int32) int32 { return int32(key[len(key)-1]-'0') % n }

// Rig is a stage on a database of its own, fed by hand.
type Rig struct {
	T      testing.TB
	path   string
	DB     *store.Store
	Stage  *Stage
	Broker *logtest.Memory

	mu      sync.Mutex
	paused  []pipeline.TopicPartition
	restart int
}

const (
	TestTopicID = "topic-1"
	testOutbox  = "outbox-1"
)

// NewRig makes a stage that takes prices, and declares to give unchanged quotes.
func NewRig(t testing.TB, handler pipeline.Handler) *Rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	engine, err := sqlite.Open(path)
	require.NoError(t, err)
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE effects (id {int} PRIMARY KEY, symbol {text} NOT NULL, price {decimal} NOT NULL)`)
	}))
	r := &Rig{T: t, path: path, DB: db, Broker: newMemory()}
	topics := r.topics()
	price, _ := topics.Topic(schema.PriceEvents)
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE chains SET outbox = $1 WHERE epoch = $2`, testOutbox, price.Epoch)
		return err
	}))
	r.Stage = newStage(StageSpec{Name: "test", Consumes: []schema.EventType{schema.PriceObserved{}.EventType()},
		Produces: []schema.EventType{schema.QuoteUnchanged{}.EventType()}, Handler: handler},
		db, topics, slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})
	return r
}

var RigTopics = []schema.Topic{schema.PriceEvents, schema.QuoteOutcomes}

// topics are what a process that starts now would work with.
func (r *Rig) topics() *topics.Set {
	r.T.Helper()
	topics, err := topics.New(r.T.Context(), r.DB, r.Broker, RigTopics, ByLastDigit)
	require.NoError(r.T, err)
	return topics
}

// Epoch is that of a topic.
func (r *Rig) Epoch(name schema.Topic) int64 {
	topic, _ := r.Stage.topics.Topic(name)
	return topic.Epoch
}

// LogOf holds the records of price-events on a partition.
func (r *Rig) LogOf(partition int32) []pipeline.Record {
	return r.Broker.Log[pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: partition}]
}

func PriceNo(symbol string, n int) schema.PriceObserved {
	at := schema.NewTime(time.Unix(int64(n), 0))
	return schema.PriceObserved{Symbol: schema.Symbol(symbol), Price: schema.MustDecimal(fmt.Sprint(n + 1)), Timestamp: at,
		Source: "simulated", ReceivedAt: at, RawResponseID: "1"}
}

// another is a second consumer of the same stage, as in another process.
func (r *Rig) another(handler pipeline.Handler) *Rig {
	spec := r.Stage.spec
	spec.Handler = handler
	return &Rig{T: r.T, path: r.path, DB: r.DB, Broker: r.Broker,
		Stage: newStage(spec, r.DB, r.topics(), slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()), func() {})}
}

// Append writes a record to the log of a partition, as number seq of its chain;
// 0 is a record from elsewhere.
func (r *Rig) Append(partition int32, seq int64, change func(*pipeline.Record)) {
	r.T.Helper()
	p := PriceNo(fmt.Sprintf("S%d", partition), len(r.LogOf(partition)))
	headers, value, err := schema.Event{ID: fmt.Sprint(partition, "-", len(r.LogOf(partition))), Source: "test", Payload: p}.Encode()
	require.NoError(r.T, err)
	if seq > 0 {
		headers = append(headers, chain.Link{Timeline: testOutbox, Seq: seq}.Headers()...)
		r.give(partition, seq)
	}
	tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: partition}
	record := pipeline.Record{TopicPartition: tp, TopicID: r.Broker.Infos[schema.PriceEvents].ID,
		Offset: int64(len(r.Broker.Log[tp])), Key: []byte(p.Key()), Headers: headers, Value: value}
	if change != nil {
		change(&record)
	}
	r.Broker.Log[tp] = append(r.Broker.Log[tp], record)
}

// give notes that the numbers of a chain were given and sent up to seq.
func (r *Rig) give(partition int32, seq int64) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(r.T.Context(), `UPDATE chains SET last = $1, sent = $1 WHERE epoch = $2 AND part = $3 AND last < $1`,
			seq, r.Epoch(schema.PriceEvents), partition)
		return err
	}))
}

func (r *Rig) fill(partition int32, n int) {
	for i := range n {
		r.Append(partition, int64(len(r.LogOf(partition))-i)+int64(i)+1, nil)
	}
}

func (r *Rig) claims() []log.Claim {
	var claims []log.Claim
	for p := range int32(Partitions) {
		tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: p}
		claims = append(claims, log.Claim{TopicPartition: tp, TopicInfo: r.Broker.Infos[schema.PriceEvents], OffsetRange: r.Broker.Held(tp)})
	}
	return claims
}

func (r *Rig) assign() map[pipeline.TopicPartition]int64 {
	r.T.Helper()
	starts, err := r.Stage.Assign(r.T.Context(), r.claims(), func() { r.mu.Lock(); r.restart++; r.mu.Unlock() })
	require.NoError(r.T, err)
	return starts
}

// Deliver hands records to the stage as one batch.
func (r *Rig) Deliver(ctx context.Context, records ...pipeline.Record) error {
	batch := &log.Batch{Lane: 0, Records: records,
		Pause: func(tp pipeline.TopicPartition) { r.mu.Lock(); r.paused = append(r.paused, tp); r.mu.Unlock() }}
	msg := message.NewMessage("batch", nil)
	msg.SetContext(log.WithBatch(ctx, batch))
	return r.Stage.deliver(msg)
}

func (r *Rig) letters() []store.DeadLetter {
	r.T.Helper()
	listed, err := store.DeadLetters(r.T.Context(), r.DB, "", 1000)
	require.NoError(r.T, err)
	letters := make([]store.DeadLetter, len(listed))
	for i, l := range listed {
		letters[i], err = store.ReadDeadLetter(r.T.Context(), r.DB, l.ID)
		require.NoError(r.T, err)
	}
	return letters
}

func (r *Rig) effects() []int64 {
	r.T.Helper()
	var ids []int64
	require.NoError(r.T, r.DB.Select(r.T.Context(), &ids, `SELECT id FROM effects ORDER BY id`))
	return ids
}

func (r *Rig) position(partition int32) store.Position {
	r.T.Helper()
	positions, err := store.Positions(r.T.Context(), r.DB, "test")
	require.NoError(r.T, err)
	for _, p := range positions {
		if p.Part == partition {
			return p
		}
	}
	require.Fail(r.T, "no position")
	return store.Position{}
}

// Recorder inserts a row a record, and gives an event for each.
type Recorder struct {
	// before runs first; an error ends the attempt.
	before func(in []pipeline.Record) error
}

func (h *Recorder) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	if h.before != nil {
		if err := h.before(in); err != nil {
			return nil, err
		}
	}
	rows := store.Rows{Table: "effects", Columns: []string{"id", "symbol", "price"}}
	var events []schema.Event
	for i := range in {
		p := in[i].Event.Payload.(schema.PriceObserved)
		id, err := in[i].RowID(0)
		if err != nil {
			return nil, err
		}
		rows.Add(id, p.Symbol, p.Price)
		events = append(events, in[i].Derive(schema.QuoteUnchanged{Quote: schema.Quote{Provider: p.Source, Symbol: p.Symbol},
			RawResponseID: "1", Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: p.ReceivedAt}))
	}
	return events, tx.Insert(ctx, rows)
}

func TestABatchDeliveredAgainIsAppliedOnce(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 5)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:3]...))
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:3]...))
	r.assign() // a new session, whose first batch overlaps
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Len(t, r.effects(), 5)
	assert.Equal(t, int64(5), r.position(1).Next)
	assert.Equal(t, int64(5), r.position(1).Reached.Seq)
	rows, err := r.DB.ReadOutbox(t.Context(), 100, 1<<20, store.Behind{Epoch: r.Epoch(schema.QuoteOutcomes), Part: 1})
	require.NoError(t, err)
	assert.Len(t, rows, 5, "one event a record")
	assert.Empty(t, r.letters())
}

func TestRepeatsOfTheRelayAreDropped(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	for _, seq := range []int64{1, 2, 3, 2, 3, 4, 1, 2, 3, 4, 5} {
		r.Append(2, seq, nil)
	}
	r.assign()
	for _, record := range r.LogOf(2) {
		require.NoError(t, r.Deliver(t.Context(), record))
	}
	assert.Len(t, r.effects(), 5)
	assert.Equal(t, int64(11), r.position(2).Next)
}

func TestAGapHaltsItsPartitionOnly(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	for _, seq := range []int64{1, 2, 4, 5} {
		r.Append(0, seq, nil)
	}
	r.fill(1, 3)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), append(append([]pipeline.Record{}, r.LogOf(0)...), r.LogOf(1)...)...))
	assert.Equal(t, []pipeline.TopicPartition{{Topic: schema.PriceEvents, Partition: 0}}, r.paused)
	assert.Len(t, r.effects(), 2+3)
	halted := r.position(0)
	assert.Equal(t, int64(2), halted.Next, "it stands before the record after the gap")
	assert.Contains(t, halted.Halted, "goes from number 2 of outbox-1 to 4 of outbox-1")
	assert.NotContains(t, r.assign(), pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 0}, "it stays halted in the next session")
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(0)...))
	assert.Len(t, r.effects(), 2+3)
}

func TestPoisonBecomesADeadLetter(t *testing.T) {
	t.Parallel()
	broken := map[int]func(*pipeline.Record){
		1: func(r *pipeline.Record) { r.Value = []byte(`{"symbol":`) },
		3: func(r *pipeline.Record) { r.Value = append(r.Value, 0xff, 0xfe) },
		4: func(r *pipeline.Record) { r.Headers = r.Headers[len(r.Headers)-2:] }, // only its place in the chain
		6: func(r *pipeline.Record) { r.Key = []byte("simulated/S2") },           // is on another partition than its key's
	}
	elsewhere := map[int]func(*pipeline.Record){ // records of another producer
		14: func(r *pipeline.Record) { *r = ofAnother(r, "S2") }, // on partition 1
		15: func(r *pipeline.Record) { // null is not empty, and a header may occur twice
			r.Key, r.Value = nil, nil
			r.Headers = []schema.Header{{Key: "a", Value: nil}, {Key: "a", Value: []byte{}}, {Key: "", Value: []byte{0xff}}}
		},
		16: func(r *pipeline.Record) { r.Key, r.Value = []byte{}, []byte{} },
		18: func(r *pipeline.Record) { // an event of another topic
			headers, value, err := schema.Event{ID: "x", Source: "test", Payload: schema.PollingJobStopped{
				JobID: "1", StoppedAt: schema.NewTime(time.Unix(1, 0))}}.Encode()
			require.NoError(t, err)
			r.Headers, r.Value = headers, value
		},
		17: func(r *pipeline.Record) { // a reason that quotes it is cut
			*r = ofAnother(r, "S2")
			r.Value = []byte(strings.Replace(string(r.Value), `"price":`, `"price":{"`+strings.Repeat("x", 9000)+`":0},"p":`, 1))
		},
		19: func(r *pipeline.Record) { // half a place in a chain is none
			r.Headers = append(r.Headers, schema.Header{Key: chain.HeaderTimeline, Value: []byte(testOutbox)})
		},
	}
	maps.Copy(broken, elsewhere)
	refused := map[string]bool{"9": true, "13": true} // prices: the handler refuses one and panics at one
	r := NewRig(t, &Recorder{before: func(in []pipeline.Record) error {
		for i := range in {
			switch p := in[i].Event.Payload.(schema.PriceObserved); {
			case p.Price.String() == "9":
				return pipeline.Permanent(errors.New("nine is refused"))
			case p.Price.String() == "13":
				panic("thirteen")
			}
		}
		return nil
	}})
	const n = 20
	seq := int64(0)
	for i := range n {
		if _, unlinked := elsewhere[i]; unlinked {
			r.Append(1, 0, broken[i])
			continue
		}
		seq++
		r.Append(1, seq, broken[i])
	}
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	letters := r.letters()
	require.Len(t, letters, len(broken)+len(refused))
	assert.Len(t, r.effects(), n-len(letters))
	assert.Equal(t, int64(n), r.position(1).Next)
	for _, letter := range letters {
		original := r.LogOf(1)[letter.Offset]
		assert.Equal(t, original.Value, letter.Payload)
		assert.Equal(t, original.Key, letter.Key)
		headers, err := store.DecodeHeaders(letter.Headers)
		require.NoError(t, err)
		assert.Equal(t, original.Headers, headers)
		assert.NotEmpty(t, letter.Reason)
		assert.LessOrEqual(t, len(letter.Reason), maxReason+len("…"))
	}
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Len(t, r.letters(), len(letters), "once")
}

func TestReasonsAreTextOfABoundedLength(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("x", maxReason)
	for text, want := range map[string]string{
		"":                           "",
		"a\x00b\xffc":                "a\uFFFDb\uFFFDc",
		longest:                      longest,
		longest + "y":                longest + "…",
		longest[1:] + "ä":            longest[1:] + "…", // half of a letter is none
		longest[1:] + "\x00 is long": longest[1:] + "…",
	} {
		assert.Equal(t, want, printable(text), "%.20q", text)
	}
	r := NewRig(t, &Recorder{before: func([]pipeline.Record) error { return pipeline.Permanent(errors.New(longest + longest)) }})
	r.fill(1, 1)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	require.Len(t, r.letters(), 1)
	assert.Equal(t, longest+"…", r.letters()[0].Reason)
}

// ofAnother is the record with an event of another symbol.
func ofAnother(r *pipeline.Record, symbol schema.Symbol) pipeline.Record {
	other := *r
	other.Value = []byte(strings.Replace(string(r.Value), `"S1"`, `"`+string(symbol)+`"`, 1))
	return other
}

func TestValuesThatTheDatabaseRefusesAreTheRecordsFault(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 6)
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error { // the row of offset 3 is there already
		id, err := rowid.Of(r.Epoch(schema.PriceEvents), 1, 3, 0)
		require.NoError(t, err)
		return tx.Insert(t.Context(), store.Rows{Table: "effects", Columns: []string{"id", "symbol", "price"}, Values: []any{id, "X", "1"}})
	}))
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	letters := r.letters()
	require.Len(t, letters, 1)
	assert.Equal(t, int64(3), letters[0].Offset)
	assert.Len(t, r.effects(), 6)
}

func TestAnUndeclaredEventIsRefused(t *testing.T) {
	t.Parallel()
	r := NewRig(t, handlerFunc(func(_ context.Context, _ *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
		return []schema.Event{in[0].Derive(PriceNo("S1", 1))}, nil
	}))
	r.fill(1, 1)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	require.Len(t, r.letters(), 1)
	assert.Contains(t, r.letters()[0].Reason, "does not declare")
}

type handlerFunc func(context.Context, *pipeline.Tx, []pipeline.Record) ([]schema.Event, error)

func (f handlerFunc) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	return f(ctx, tx, in)
}

func TestAFaultThatPassesIsTriedAgain(t *testing.T) {
	t.Parallel()
	failures := 3
	var seen []string
	r := NewRig(t, &Recorder{before: func(in []pipeline.Record) error {
		seen = append(seen, in[0].Derive(PriceNo("S1", 1)).ID)
		if failures--; failures >= 0 {
			return pipeline.RetryAfter(time.Microsecond, errors.New("the database is down"))
		}
		return nil
	}})
	r.fill(1, 2)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Len(t, r.effects(), 2)
	assert.Empty(t, r.letters())
	require.Len(t, seen, 4)
	for _, id := range seen {
		assert.Equal(t, seen[0], id, "every attempt gives the same ids")
	}
	assert.NoError(t, r.Stage.Trouble())
}

func TestAStageStopsTryingWhenItsSessionEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	down := errors.New("the database is down")
	r := NewRig(t, &Recorder{before: func([]pipeline.Record) error { cancel(); return pipeline.RetryAfter(time.Hour, down) }})
	r.fill(1, 1)
	r.assign()
	err := r.Deliver(ctx, r.LogOf(1)...)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, down)
	assert.Empty(t, r.effects())
	assert.NoError(t, r.Stage.Trouble(), "the next session tries again")
}

// asker prepares an answer for each record, and refuses some.
type asker struct {
	Recorder
	outages  int
	prepared []string
}

func (a *asker) Prepare(_ context.Context, in []pipeline.Record) error {
	if a.outages--; a.outages >= 0 {
		return pipeline.RetryAfter(time.Microsecond, errors.New("no answer"))
	}
	for i := range in {
		price := in[i].Event.Payload.(schema.PriceObserved).Price.String()
		if price == "3" {
			return pipeline.Permanent(errors.New("three is refused"))
		}
		in[i].Prepared = "answer to " + price
	}
	return nil
}

func (a *asker) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	for i := range in {
		a.prepared = append(a.prepared, in[i].Prepared.(string))
	}
	return a.Recorder.Handle(ctx, tx, in)
}

// ending is a stage that is ended, by anyone who deletes its positions, while a session
// is being assigned.
type ending struct{ Recorder }

func (h *ending) CheckAlive(ctx context.Context, q store.Querier) error {
	_, err := q.(*store.Tx).Exec(ctx, `DELETE FROM positions WHERE stage = 'test' AND part = 2`)
	return err
}

func TestAStageThatEndsWhileItIsAssignedHaltsNowhere(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &ending{})
	var log strings.Builder
	r.Stage.log = slog.New(slog.NewTextHandler(&log, nil))
	_, err := r.Stage.Assign(t.Context(), r.claims(), func() {})
	require.ErrorIs(t, err, errNoPosition)
	require.ErrorContains(t, err, "price-events/2 of test")
	assert.Empty(t, log.String())
}

func TestPrepareRunsBeforeTheTransaction(t *testing.T) {
	t.Parallel()
	handler := &asker{outages: 2}
	r := NewRig(t, handler)
	r.fill(1, 5)
	r.Append(1, 6, func(r *pipeline.Record) { r.Value = []byte("{") })
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	assert.Equal(t, []string{"answer to 1", "answer to 2", "answer to 4", "answer to 5"}, handler.prepared)
	letters := r.letters()
	require.Len(t, letters, 2, "what Prepare refused, and what could not be decoded")
	assert.Equal(t, "three is refused", letters[1].Reason)
	assert.Equal(t, int64(6), r.position(1).Next)
}

// moveByHand is another consumer.
func (r *Rig) moveByHand(partition int32, next, seq int64) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(r.T.Context(), `UPDATE positions SET next_offset = $1, chain_outbox = $2, chain_seq = $3 WHERE part = $4`,
			next, testOutbox, seq, partition)
		return err
	}))
}

func TestAZombieSkipsWhatAnotherApplied(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 6)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:2]...))
	r.moveByHand(1, 4, 4)
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[2:]...))
	assert.Len(t, r.effects(), 2+2, "offsets 2 and 3 are the other one's")
	assert.Equal(t, int64(6), r.position(1).Next)
	assert.Zero(t, r.restart)
}

func TestAPositionThatWentBackStartsOver(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.fill(1, 6)
	r.fill(2, 1)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:4]...))
	r.moveByHand(1, 1, 1) // the database lost its end
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `DELETE FROM effects WHERE id NOT IN (SELECT min(id) FROM effects)`)
		return err
	}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Deliver(ctx, slices.Concat(r.LogOf(1)[4:], r.LogOf(2))...) }() // and a position that did not move
	require.Eventually(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.restart == 1 }, 5*time.Second, time.Millisecond)
	assert.Nil(t, r.Stage.current(), "nothing is applied before the next session")
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	assert.Equal(t, int64(1), r.assign()[pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 1}])
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[1:]...))
	assert.Len(t, r.effects(), 6)
}

// counter keeps the number of records of each symbol in memory, and in SQL.
type counter struct{ fail func() bool }

func (c *counter) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	cache := pipeline.CacheFor[schema.Symbol, int](tx, c)
	for i := range in {
		symbol := in[i].Event.Payload.(schema.PriceObserved).Symbol
		n, known := cache.Get(symbol)
		if !known {
			if err := tx.Get(ctx, &n, `SELECT COALESCE(MAX(price), 0) FROM effects WHERE symbol = $1`, symbol); err != nil {
				return nil, err
			}
		}
		cache.Put(symbol, n+1)
		if _, err := tx.Exec(ctx, `INSERT INTO effects (id, symbol, price) VALUES ($1, $2, $3)
			ON CONFLICT (id) DO UPDATE SET price = excluded.price`, in[i].Partition, symbol, n+1); err != nil {
			return nil, err
		}
	}
	if c.fail() {
		return nil, pipeline.RetryAfter(time.Microsecond, errors.New("late failure"))
	}
	return nil, nil
}

// count is what a counter has counted of the records of a partition.
func (r *Rig) count(partition int32) (n int64) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Get(r.T.Context(), &n, `SELECT price FROM effects WHERE id = $1`, partition))
	return n
}

func never() bool { return false }

// A consumer that was overtaken and has partitions still counts on from what the
// other one left, not from what it remembers of the time before.
func TestWhatAnOvertakenConsumerRemembersIsDropped(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &counter{fail: never})
	other := r.another(&counter{fail: never})
	r.fill(1, 6)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[:2]...))
	other.assign()
	require.NoError(t, other.Deliver(t.Context(), r.LogOf(1)[2:4]...))
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)[2:]...))
	assert.Equal(t, int64(6), r.count(1))
}

// Whatever the cuts, the failures, the repeats, the new sessions and the other
// consumers, the count of each partition is the number of its records.
func TestRandomRunsEqualTheSequentialFold(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range 12 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			fail := func() bool { return random.IntN(4) == 0 }
			r := NewRig(t, &counter{fail: fail})
			for p := range int32(Partitions) {
				seq := int64(0)
				for range 30 + random.IntN(30) {
					if seq > 0 && random.IntN(4) == 0 {
						seq -= random.Int64N(seq) // the relay sends a run again
					}
					seq++
					r.Append(p, seq, nil)
				}
			}
			for p := range int32(Partitions) {
				high := int64(0)
				for _, record := range r.LogOf(p) {
					link, _, err := chain.LinkOf(record.Headers)
					require.NoError(t, err)
					high = max(high, link.Seq)
				}
				t.Logf("partition %d: %d records, %d numbers", p, len(r.LogOf(p)), high)
			}
			runRandomly(t, random, r, r.another(&counter{fail: fail}), r.another(&counter{fail: fail}))
			for p := range int32(Partitions) {
				assert.Equal(t, r.position(p).Reached.Seq, r.count(p))
				assert.Equal(t, int64(len(r.LogOf(p))), r.position(p).Next)
			}
		})
	}
}

// runRandomly has consumers deliver the log until each has come to its end. They
// have the same partitions and know nothing of each other, so most of the time all
// but one are overtaken.
func runRandomly(t *testing.T, random *rand.Rand, consumers ...*Rig) {
	starts := make([]map[pipeline.TopicPartition]int64, len(consumers))
	for i, r := range consumers {
		starts[i] = r.assign()
	}
	for left := slices.Clone(consumers); len(left) > 0; {
		i := random.IntN(len(consumers))
		r := consumers[i]
		if random.IntN(20) == 0 {
			starts[i] = r.assign()
		}
		var batch []pipeline.Record
		unfinished := false
		for p := range int32(Partitions) {
			tp := pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: p}
			rest := r.LogOf(p)[starts[i][tp]:]
			if len(rest) == 0 {
				continue
			}
			unfinished = true
			n := random.IntN(min(len(rest), 16) + 1)
			batch = append(batch, rest[:n]...)
			if random.IntN(5) > 0 { // sometimes the batch comes again
				starts[i][tp] += int64(n)
			}
		}
		if !unfinished {
			left = slices.DeleteFunc(left, func(one *Rig) bool { return one == r })
		}
		require.NoError(t, r.Deliver(t.Context(), batch...))
	}
}

func TestDerivedIDsAreStable(t *testing.T) {
	t.Parallel()
	record := pipeline.Record{TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: 3}, TopicID: "id", Offset: 42, State: state.Record{Stage: "normalize"}}
	again := record
	first, second := record.Derive(PriceNo("S1", 1)), record.Derive(PriceNo("S1", 1))
	assert.NotEqual(t, first.ID, second.ID)
	assert.Equal(t, first.ID, again.Derive(PriceNo("S1", 1)).ID)
	assert.Equal(t, "pricemill/normalize", first.Source)
	other := record
	other.State.Stage = "another"
	other.State.Derived = 0
	assert.NotEqual(t, first.ID, other.Derive(PriceNo("S1", 1)).ID)
	moved := record
	moved.TopicID, moved.State.Lineage, moved.State.Derived = "in Kafka", "id", 0
	assert.Equal(t, first.ID, moved.Derive(PriceNo("S1", 1)).ID, "as before the log was moved")
}
