package table_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// row is an event for a partition, whose payload is a text.
func row(epoch int64, part int32, text string) store.OutboxRow {
	return store.OutboxRow{Epoch: epoch, Part: part, Key: []byte("k"), Headers: store.EncodeHeaders([]schema.Header{{Key: "a", Value: []byte("1")}}), Payload: []byte(text)}
}

func epochOf(t testing.TB, db *store.Store, topic schema.Topic) int64 {
	t.Helper()
	topics, err := db.Topics(t.Context())
	require.NoError(t, err)
	for _, known := range topics {
		if known.Name == string(topic) {
			return known.Epoch
		}
	}
	require.Fail(t, "no such topic", topic)
	return 0
}

// values are the texts of all records of a partition.
func values(t testing.TB, l *table.Log, tp pipeline.TopicPartition) []string {
	t.Helper()
	ranges, err := l.Offsets(t.Context(), tp.Topic)
	require.NoError(t, err)
	var all []string
	require.NoError(t, l.Read(t.Context(), tp, 0, ranges[tp.Partition].End, func(records []pipeline.Record) error {
		for _, r := range records {
			all = append(all, string(r.Value))
		}
		return nil
	}))
	return all
}

func TestAppendTxIsOfItsTransaction(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		db := open(t)
		l, other := openLog(t, db), openLog(t, open(t))
		topic, second := newTopic(t, l), newTopic(t, l)
		epoch := epochOf(t, db, topic)
		rows := []store.OutboxRow{row(epoch, 2, "a"), row(epochOf(t, db, second), 2, "other"), row(epoch, 0, "b"), row(epoch, 2, "c")}
		cause := errors.New("rolled back")
		require.ErrorIs(t, db.Write(t.Context(), func(tx *store.Tx) error {
			if err := l.AppendTx(t.Context(), tx, rows); err != nil {
				return err
			}
			return cause
		}), cause)
		assert.Empty(t, values(t, l, at(topic, 2)))
		require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
			if err := l.AppendTx(t.Context(), tx, rows); err != nil {
				return err
			}
			assert.Empty(t, values(t, other, at(topic, 2)), "before the commit")
			return nil
		}))
		var numbers []int64
		for _, r := range rows {
			numbers = append(numbers, r.Seq)
		}
		assert.Equal(t, []int64{1, 1, 1, 2}, numbers, "none was taken before")
		for _, l := range []*table.Log{l, other} {
			assert.Equal(t, []string{"a", "c"}, values(t, l, at(topic, 2)))
			assert.Equal(t, []string{"b"}, values(t, l, at(topic, 0)))
			assert.Equal(t, []string{"other"}, values(t, l, at(second, 2)))
		}
		assert.ErrorIs(t, db.Write(t.Context(), func(tx *store.Tx) error {
			return l.AppendTx(t.Context(), tx, []store.OutboxRow{row(epoch, 0, string(make([]byte, 40<<20)))})
		}), table.ErrTooLarge)
		assert.Error(t, db.Write(t.Context(), func(tx *store.Tx) error {
			return l.AppendTx(t.Context(), tx, []store.OutboxRow{row(99, 0, "no such topic")})
		}))
		require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
			none := row(epoch, 3, "without headers")
			none.Headers = nil
			return errors.Join(l.AppendTx(t.Context(), tx, nil), l.AppendTx(t.Context(), tx, []store.OutboxRow{none}))
		}))
		assert.Equal(t, []string{"without headers"}, values(t, l, at(topic, 3)))
	})
}

// TestNumbersBecomeVisibleInOrder: eight writers of two processes, which commit or roll
// back at random, take dense numbers in the order of their commits; a reader that sees
// number n sees all below it, and each record as its writer numbered it.
func TestNumbersBecomeVisibleInOrder(t *testing.T) {
	onEngines(t, func(t *testing.T, open opener) {
		const writers, rounds = 8, 25
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		dbs := []*store.Store{open(t), open(t)}
		logs := []*table.Log{openLog(t, dbs[0]), openLog(t, dbs[1])}
		topic := newTopic(t, logs[0])
		epoch := epochOf(t, dbs[0], topic)
		var mu sync.Mutex
		given := map[pipeline.TopicPartition]map[int64]string{}
		var writing sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(w)))
				for round := range rounds {
					var rows []store.OutboxRow
					for range 1 + random.IntN(20) {
						rows = append(rows, row(epoch, random.Int32N(4), fmt.Sprintf("%d-%d-%d", w, round, len(rows))))
					}
					undone := errors.New("rolled back")
					roll := random.IntN(4) == 0
					err := dbs[w%2].Write(t.Context(), func(tx *store.Tx) error {
						err := logs[w%2].AppendTx(t.Context(), tx, rows)
						if err == nil && roll {
							err = undone
						}
						return err
					})
					if roll {
						assert.ErrorIs(t, err, undone)
						continue
					}
					if !assert.NoError(t, err) {
						return
					}
					mu.Lock()
					for _, r := range rows {
						tp := at(topic, r.Part)
						if given[tp] == nil {
							given[tp] = map[int64]string{}
						}
						assert.Empty(t, given[tp][r.Seq], "number %d was given twice", r.Seq)
						given[tp][r.Seq] = string(r.Payload)
					}
					mu.Unlock()
				}
			})
		}
		done := make(chan struct{})
		go func() { writing.Wait(); close(done) }()
		reader := openLog(t, open(t))
		seen := map[pipeline.TopicPartition][]string{}
		for finished := false; !finished; {
			select {
			case <-done:
				finished = true // and look once more
			default:
			}
			ranges, err := reader.Offsets(t.Context(), topic)
			require.NoError(t, err)
			for part, held := range ranges {
				tp := at(topic, int32(part))
				require.GreaterOrEqual(t, held.End, int64(len(seen[tp])))
				require.NoError(t, reader.Read(t.Context(), tp, int64(len(seen[tp])), held.End, func(records []pipeline.Record) error {
					for _, r := range records {
						require.EqualValues(t, len(seen[tp]), r.Offset)
						seen[tp] = append(seen[tp], string(r.Value))
					}
					return nil
				}))
				require.EqualValues(t, held.End, len(seen[tp]))
			}
		}
		for part := range int32(4) {
			tp := at(topic, part)
			require.Len(t, seen[tp], len(given[tp]), "dense")
			for i, text := range seen[tp] {
				require.Equal(t, given[tp][int64(i+1)], text)
			}
			assert.Equal(t, seen[tp], values(t, logs[0], tp), "and stays so")
		}
	})
}

// TestACommitWakesConsumers of its process, which do not look by themselves here.
func TestACommitWakesConsumers(t *testing.T) {
	t.Parallel()
	db := onSQLite(t)(t)
	l := openLog(t, db, func(c *table.Config) { c.Poll = time.Hour })
	topic := newTopic(t, l)
	epoch := epochOf(t, db, topic)
	subscriber, err := l.Subscriber(log.SubscriberConfig{Group: unique("group")})
	require.NoError(t, err)
	messages, err := subscriber.Subscribe(t.Context(), string(topic))
	require.NoError(t, err)
	for i := range 20 {
		text := strconv.Itoa(i)
		cause := errors.New("rolled back")
		require.ErrorIs(t, db.Write(t.Context(), func(tx *store.Tx) error {
			return errors.Join(l.AppendTx(t.Context(), tx, []store.OutboxRow{row(epoch, int32(i%4), "rolled back")}), cause)
		}), cause)
		if i%2 == 0 {
			require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
				return l.AppendTx(t.Context(), tx, []store.OutboxRow{row(epoch, int32(i%4), text)})
			}))
		} else {
			send(t, l, at(topic, int32(i%4)), log.OutgoingRecord{Value: []byte(text)})
		}
		msg := wait(t, "a message", messages)
		batch, _ := log.BatchOf(msg)
		require.Len(t, batch.Records, 1)
		assert.Equal(t, text, string(batch.Records[0].Value))
		msg.Ack()
	}
}

// TestALookSeesOtherProcesses, which say that they have appended, and not that they have not.
func TestALookSeesOtherProcesses(t *testing.T) {
	t.Parallel()
	db := onSQLite(t)(t)
	rarely := func(c *table.Config) { c.Poll = time.Hour }
	one, two := openLog(t, db, rarely), openLog(t, db, rarely)
	topic := newTopic(t, one)
	place := at(topic, 0)
	got := make(chan string, 10)
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		_ = two.Follow(ctx, place, 0, func(records []pipeline.Record) error {
			for _, r := range records {
				got <- string(r.Value)
			}
			return nil
		})
	})
	defer func() { stop(); following.Wait() }()
	for i := range 5 {
		appended, others := one.Appended(), two.Appended()
		cause := errors.New("rolled back")
		require.ErrorIs(t, db.Write(t.Context(), func(tx *store.Tx) error {
			return errors.Join(one.AppendTx(t.Context(), tx, []store.OutboxRow{row(epochOf(t, db, topic), 0, "rolled back")}), cause)
		}), cause)
		select {
		case <-appended:
			assert.Fail(t, "nothing was committed")
		default:
		}
		text := strconv.Itoa(i)
		send(t, one, place, log.OutgoingRecord{Value: []byte(text)})
		wait(t, "that it has appended", appended)
		two.Look()
		assert.Equal(t, text, wait(t, "a record", got))
		select {
		case <-others:
			assert.Fail(t, "it was another process")
		default:
		}
	}
}

// TestIdleProcessesWriteNothing.
func TestIdleProcessesWriteNothing(t *testing.T) {
	t.Parallel()
	db := onSQLite(t)(t)
	l := openLog(t, db, func(c *table.Config) { c.Poll = time.Millisecond })
	topic := newTopic(t, l)
	assigned := make(chan struct{}, 10)
	subscriber, err := l.Subscriber(log.SubscriberConfig{Group: unique("group"), Report: func(error) { assigned <- struct{}{} }})
	require.NoError(t, err)
	_, err = subscriber.Subscribe(t.Context(), string(topic))
	require.NoError(t, err)
	wait(t, "the session", assigned)
	before := db.Writes()
	<-time.After(50 * time.Millisecond) // many looks
	assert.Equal(t, before, db.Writes())
}

// TestFailpointsOfAppend: what fails before the commit is not there, and what fails after
// it is; consumers get it, although nothing told them.
func TestFailpointsOfAppend(t *testing.T) {
	for _, c := range []struct {
		point failpoint.Point
		there bool
	}{{failpoint.StoreInserting, false}, {failpoint.StoreCommitting, false}, {failpoint.StoreCommitted, true}} {
		t.Run(string(c.point), func(t *testing.T) {
			db := onSQLite(t)(t)
			l := openLog(t, db)
			topic := newTopic(t, l)
			subscriber, err := l.Subscriber(log.SubscriberConfig{Group: unique("group"), Assignor: fromStart{}})
			require.NoError(t, err)
			messages, err := subscriber.Subscribe(t.Context(), string(topic))
			require.NoError(t, err)
			injected := errors.New("injected")
			pipelinetest.Fail(t, c.point, 1, func(context.Context) error { return injected })
			errs := l.Send(t.Context(), []log.PartitionBatch{{TopicPartition: at(topic, 1), Records: numbered(0, 1)}})
			require.ErrorIs(t, errs[0], injected)
			assert.Equal(t, c.there, len(values(t, l, at(topic, 1))) == 1)
			send(t, l, at(topic, 1), numbered(1, 1)...)
			want := []string{"1"}
			if c.there {
				want = []string{"0", "1"}
			}
			var got []string
			for len(got) < len(want) {
				msg := wait(t, "a message", messages)
				batch, _ := log.BatchOf(msg)
				for _, r := range batch.Records {
					got = append(got, string(r.Value))
				}
				msg.Ack()
			}
			assert.Equal(t, want, got)
		})
	}
}

// fromStart is an Assignor that has every partition start with its first record.
type fromStart struct{}

func (fromStart) Assign(_ context.Context, claims []log.Claim, _ func()) (map[pipeline.TopicPartition]int64, error) {
	starts := map[pipeline.TopicPartition]int64{}
	for _, c := range claims {
		starts[c.TopicPartition] = c.Oldest
	}
	return starts, nil
}
