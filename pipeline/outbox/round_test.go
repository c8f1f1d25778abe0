package outbox

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// newRounds is a relay whose rounds a test runs itself.
func newRounds(t *testing.T) *working {
	t.Helper()
	w := newWorking(t)
	held, err := w.relay.takeLease(t.Context())
	require.NoError(t, err)
	require.True(t, held)
	return w
}

func (w *working) round() (more bool) {
	w.T.Helper()
	more, err := w.relay.round(w.T.Context())
	require.NoError(w.T, err)
	return more
}

// insert puts events of n bytes into the chain of a partition.
func (w *working) insert(partition int32, events, n int) {
	w.T.Helper()
	rows := make([]store.OutboxRow, events)
	for i := range rows {
		rows[i] = store.OutboxRow{Epoch: w.epoch(schema.PriceEvents), Part: partition, Key: []byte("k"),
			Headers: store.EncodeHeaders([]schema.Header{{Key: "n", Value: []byte{byte(i)}}}), Payload: make([]byte, n)}
	}
	require.NoError(w.T, w.DB.Write(w.T.Context(), func(tx *store.Tx) error { return w.writer.Insert(w.T.Context(), tx, rows) }))
}

// chain is that of a partition, as the database has it.
func (w *working) chain(partition int32) store.Chain {
	w.T.Helper()
	chains, err := store.ChainsAt(w.T.Context(), w.DB, []store.Chain{{Epoch: w.epoch(schema.PriceEvents), Part: partition}})
	require.NoError(w.T, err)
	require.Len(w.T, chains, 1)
	return chains[0]
}

// checkpointedElsewhere is what another relay does that has sent a chain up to a number.
func (w *working) checkpointedElsewhere(partition int32, to int64) {
	w.T.Helper()
	require.NoError(w.T, w.DB.Write(w.T.Context(), func(tx *store.Tx) error {
		chain := w.chain(partition)
		return tx.NoteApplied(w.T.Context(), string(schema.PriceEvents), partition, chain.Timeline, to)
	}))
}

// A round says whether there is more of any chain, and what waits.
func TestARoundSaysWhetherThereIsMore(t *testing.T) {
	t.Parallel()
	w := newRounds(t)
	assert.False(t, w.round())
	assert.Zero(t, w.relay.Age(), "nothing waits")
	assert.Zero(t, w.broker.calls, "the broker is not asked for nothing")

	w.insert(0, log.BatchRecords+3, 1)
	w.insert(1, 1, 1)
	assert.True(t, w.round(), "of the first chain, not of the second")
	assert.Equal(t, 1+log.BatchRecords+1, w.broker.count(), "a bounded batch of the one, all of the other")
	assert.False(t, w.relay.busy.IsZero())
	assert.False(t, w.round())
	assert.Equal(t, log.BatchRecords+3+1, w.broker.count())
	assert.False(t, w.round())
	assert.Zero(t, w.relay.Age(), "what was sent and is not checkpointed yet does not wait")
	assert.NotEmpty(t, w.relay.acked)
	assert.Equal(t, log.BatchRecords+3+1, w.broker.count())
}

func TestARoundSaysWhatFailed(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context())
	end()
	w := newRounds(t)
	w.insert(1, 1, 1)
	_, err := w.relay.takeLease(ended)
	require.ErrorIs(t, err, context.Canceled)
	more, err := w.relay.round(ended)
	require.ErrorIs(t, err, context.Canceled, "the database cannot be asked")
	require.ErrorIs(t, w.relay.Trouble(), context.Canceled)
	assert.False(t, more)

	away := errors.New("the broker is down")
	w.broker.now(func(context.Context) error { return away })
	_, err = w.relay.round(t.Context())
	require.ErrorIs(t, err, away)
	assert.ErrorContains(t, err, "sending to price-events")
	assert.ErrorIs(t, w.relay.Trouble(), away)
	assert.Zero(t, w.relay.sent[idOf(w.chain(1))])

	w.broker.now(sends)
	w.insert(1, 1, 1)
	w.insert(2, 1, 1)
	w.exec(`DELETE FROM outbox WHERE part = 1 AND seq = 1`)
	w.round()
	assert.Equal(t, 1, w.broker.count(), "the other chain need not wait")
	assert.ErrorContains(t, w.relay.Trouble(), "goes from 0 to 2: rows were deleted by hand?")
}

// Events of a topic that is not one of this run's stay, and the others do not wait.
func TestARoundWithEventsOfNoTopic(t *testing.T) {
	t.Parallel()
	w := newRounds(t)
	others, err := w.DB.RegisterTopic(t.Context(), "of-another-binary", "topic-3", 2)
	require.NoError(t, err)
	w.exec(`UPDATE chains SET last = 2 WHERE epoch = $1 AND part = 1`, others.Epoch)
	w.insert(1, 1, 1)
	assert.False(t, w.round(), "to try again at once would not help")
	assert.Equal(t, 1, w.broker.count())
	assert.ErrorContains(t, w.relay.Trouble(), "has 2 events for a topic that is no more: the topic is not one of this run's")
	assert.False(t, w.relay.busy.IsZero(), "it waits")

	ended, end := context.WithCancel(t.Context())
	end()
	assert.ErrorIs(t, w.relay.carryOver(ended, store.Chain{Epoch: others.Epoch, Part: 1}), context.Canceled)
}

// Events of a topic that was created again are carried over by one round, and sent by
// the next.
func TestARoundCarriesEventsOver(t *testing.T) {
	t.Parallel()
	w := newRounds(t)
	w.emit("1")
	former := w.chain(1)
	w.Broker.Infos[schema.PriceEvents] = log.TopicInfo{ID: "topic-9", Partitions: partitions}
	require.NoError(t, w.relay.topics.Refresh(t.Context()))
	assert.True(t, w.round(), "there is something to send now")
	assert.Empty(t, w.relay.sent, "the former chain is none of those that are sent")
	assert.Zero(t, w.broker.count())
	assert.False(t, w.round())
	assert.Equal(t, 1, w.broker.count())
	assert.NoError(t, w.relay.Trouble())
	assert.Error(t, w.relay.carryOver(t.Context(), store.Chain{Epoch: former.Epoch, Part: partitions + 1}), "there is no such chain")
}

// Another relay may have checkpointed some, or all, of what this one has sent.
func TestARelayWhoseEventsAnotherHasNoted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		checkpointed int64
		more         int // events that come then
	}{{0, 1}, {1, 1}, {2, 1}, {3, 1}, {0, 0}, {1, 0}, {2, 0}} {
		w := newRounds(t)
		w.insert(1, 3, 1)
		w.round()
		w.checkpointedElsewhere(1, test.checkpointed)
		w.insert(1, test.more, 1)
		w.round()
		assert.Equal(t, 3+test.more, w.broker.count(), "%v", test)
		require.NoError(t, w.relay.checkpoint(), "%v", test)
		assert.Zero(t, w.pending(), "%v", test)
		assert.True(t, w.relay.ready, "%v", test)
	}
}

// What can follow on what was sent and is not checkpointed.
func TestRowsThatFollow(t *testing.T) {
	t.Parallel()
	chain := store.Chain{Epoch: 1, Part: 1, Timeline: "a", Last: 9}
	row := func(seq int64, headers string) store.OutboxRow {
		return store.OutboxRow{Epoch: 1, Part: 1, Seq: seq, Headers: []byte(headers)}
	}
	relay := &Relay{acked: map[chainID]store.Sent{idOf(chain): {Chain: chain, Now: 3, Headers: []byte("h")}}}
	for name, test := range map[string]struct {
		rows, own []store.OutboxRow
	}{
		"the last one sent, and more":             {[]store.OutboxRow{row(3, "h"), row(4, "x")}, []store.OutboxRow{row(4, "x")}},
		"another relay checkpointed all":          {nil, nil},
		"another relay checkpointed the last one": {[]store.OutboxRow{row(4, "x")}, nil},
	} {
		own, err := relay.following(chain, test.rows)
		require.NoError(t, err, name)
		assert.Equal(t, len(test.own), len(own), name)
	}
	_, err := relay.following(chain, []store.OutboxRow{row(3, "x")})
	assert.ErrorContains(t, err, "the database was set back", "another event has the number")
	clear(relay.acked)
	own, err := relay.following(chain, []store.OutboxRow{row(4, "x")})
	require.NoError(t, err)
	assert.Len(t, own, 1)
}

// A note that was overtaken has the chains held against the log; one that failed is
// made again.
func TestANote(t *testing.T) {
	t.Parallel()
	w := newRounds(t)
	w.insert(1, 2, 1)
	w.round()
	id := idOf(w.chain(1))
	ended, end := context.WithCancel(t.Context())
	end()
	w.relay.marking = ended
	require.ErrorIs(t, w.relay.checkpoint(), context.Canceled)
	assert.True(t, w.relay.ready, "nothing is wrong with the chains")
	assert.Len(t, w.relay.acked, 1)
	w.relay.marking = t.Context()
	require.NoError(t, w.relay.checkpoint())
	assert.True(t, w.relay.ready)
	assert.Empty(t, w.relay.acked)
	assert.Equal(t, int64(2), w.relay.checkpointed[id])

	w.insert(1, 2, 1)
	w.round()
	w.checkpointedElsewhere(1, 3)
	require.ErrorIs(t, w.relay.checkpoint(), store.ErrOvertaken)
	assert.False(t, w.relay.ready)
	assert.Equal(t, int64(2), w.relay.checkpointed[id])
}

// A batch ends before the event that makes it too large, but has one in any case.
func TestABatchOfAChain(t *testing.T) {
	t.Parallel()
	headers := store.EncodeHeaders([]schema.Header{{Key: "h", Value: []byte("v")}})
	key := []byte("key")
	row := func(seq int64, size int) store.OutboxRow {
		return store.OutboxRow{Epoch: 1, Part: 1, Seq: seq, Key: key, Headers: headers, Payload: make([]byte, size-len(key)-len(headers)-chain.LinkBytes)}
	}
	of := store.Chain{Epoch: 1, Part: 1, Timeline: "a"}
	const half = log.BatchBytes / 2
	for name, test := range map[string]struct {
		sizes []int
		sent  int
	}{
		"what fits to the byte": {[]int{half, half, half}, 2},
		"a byte too much":       {[]int{half, half + 1, half}, 1},
		"a large one first":     {[]int{log.BatchBytes + 1, 1000}, 1},
		"small ones":            {[]int{1000, 1000, 1000}, 3},
	} {
		var rows []store.OutboxRow
		for i, size := range test.sizes {
			rows = append(rows, row(int64(8+i), size))
		}
		batch, err := outgoing(rows, of, 7)
		require.NoError(t, err, name)
		require.Len(t, batch, test.sent, name)
		for i, record := range batch {
			link, _, err := chain.LinkOf(record.Headers)
			require.NoError(t, err)
			assert.Equal(t, chain.Link{Timeline: "a", Seq: int64(8 + i)}, link, name)
			assert.Equal(t, "v", string(record.Headers[0].Value), name)
			assert.Equal(t, rows[i].Payload, record.Value, name)
		}
	}
	damaged := row(8, 1000)
	damaged.Headers = []byte{0xFF}
	_, err := outgoing([]store.OutboxRow{damaged}, of, 7)
	assert.ErrorIs(t, err, store.ErrHeaders)
}

// failingReads is a broker whose records can be read a number of times.
type failingReads struct {
	*logtest.Memory
	reads int
}

func (b *failingReads) Read(ctx context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error {
	if b.reads--; b.reads < 0 {
		return logtest.ErrUnreadable
	}
	return b.Memory.Read(ctx, tp, from, to, f)
}

// A relay that keeps its lease holds all chains against the log where a stage has
// halted before a number of ours that was not sent, and only there.
func TestWhatIsStrange(t *testing.T) {
	t.Parallel()
	halted := func(link chain.Link) *working {
		w := newRounds(t)
		w.insert(1, 4, 1)
		w.round()
		require.NoError(t, w.relay.checkpoint())
		w.as(1, link)
		w.halt(1, 0)
		return w
	}
	for link, strange := range map[chain.Link]bool{{Timeline: testOutbox, Seq: 5}: true, {Timeline: testOutbox, Seq: 4}: false, {Timeline: testOutbox, Seq: 3}: false, {Timeline: "another", Seq: 5}: false} {
		w := halted(link)
		found, err := w.relay.strange(t.Context())
		require.NoError(t, err)
		assert.Equal(t, strange, found, "%v", link)
	}

	w := halted(chain.Link{Timeline: testOutbox, Seq: 5})
	w.relay.broker = logtest.Unreadable{Memory: w.Broker}
	found, err := w.relay.strange(t.Context())
	require.ErrorIs(t, err, logtest.ErrUnreadable)
	assert.False(t, found)
	_, err = w.relay.takeLease(t.Context())
	require.ErrorIs(t, err, logtest.ErrUnreadable)
	before := w.names()
	w.relay.broker = &failingReads{w.Broker, 1} // of the record, not of the ends
	_, err = w.relay.takeLease(t.Context())
	require.ErrorIs(t, err, logtest.ErrUnreadable)
	assert.False(t, w.relay.ready, "the next turn tries again")
	w.relay.broker = w.Broker
	_, err = w.relay.takeLease(t.Context())
	require.NoError(t, err)
	assert.True(t, w.relay.ready)
	assert.NotEqual(t, before, w.names(), "the chains have other names")
}

// What was sent does not wait, checkpointed or not.
func TestWhatWasSentIsNotLate(t *testing.T) {
	t.Parallel()
	w := newRounds(t)
	chain := store.Chain{Epoch: 1, Part: 1, Timeline: "a", Last: 3}
	w.relay.mark([]store.Chain{chain})
	assert.Len(t, w.relay.late, 1)
	w.relay.sent[idOf(chain)] = 2
	w.relay.mark([]store.Chain{chain})
	assert.Len(t, w.relay.late, 1)
	w.relay.sent[idOf(chain)] = 3
	w.relay.mark([]store.Chain{chain})
	assert.Empty(t, w.relay.late)

	chain.Last = 4
	w.relay.mark([]store.Chain{chain})
	assert.Equal(t, int64(4), w.relay.late[idOf(chain)].seq)
	w.relay.sent[idOf(chain)], chain.Last = 4, 6
	w.relay.mark([]store.Chain{chain})
	assert.Equal(t, int64(6), w.relay.late[idOf(chain)].seq, "other events wait than those of the mark")
}

// restored is the rig of a process that works on with a copy of the database.
func (r *rig) restored(copied string) *rig {
	r.T.Helper()
	restored := &rig{T: r.T, path: copied, Broker: r.Broker}
	restored.open()
	return restored
}

// A relay whose database goes back while it works must not send numbers again: the
// chains get another name, however many numbers were given meanwhile. The relay notices
// by what was checkpointed, or, where that was not yet, by the event that was sent last.
func TestARelayNoticesThatTheDatabaseWentBack(t *testing.T) {
	t.Parallel()
	for _, since := range []int{1, 2, 6} {
		for _, checkpointed := range []bool{true, false} {
			r := newRig(t)
			relay := r.relay()
			round := func() {
				held, err := relay.takeLease(t.Context())
				require.True(t, held)
				require.NoError(t, err)
				_, err = relay.round(t.Context())
				if !errors.Is(err, store.ErrOvertaken) { // a note that was due already
					require.NoError(t, err)
				}
			}
			r.emit(1, 4)
			round()
			require.NoError(t, relay.checkpoint())
			copied := filepath.Join(t.TempDir(), "copy")
			r.copyTo(copied)
			r.emit(1, 4)
			round()
			if checkpointed {
				require.NoError(t, relay.checkpoint())
			}

			restored := r.restored(copied)
			relay.db, relay.topics = restored.DB, restored.known // what a connection leads to
			restored.emit(1, since)
			round()
			require.ErrorContains(t, relay.Trouble(), "was set back")
			round()
			require.NoError(t, relay.checkpoint())
			require.NoError(t, relay.Trouble())

			now := restored.names()[[2]int64{restored.epoch(schema.PriceEvents), 1}]
			assert.NotEqual(t, testOutbox, now)
			var want, got []chain.Link
			for seq := range int64(4 + 4) {
				want = append(want, chain.Link{Timeline: testOutbox, Seq: seq + 1})
			}
			for seq := range int64(since) {
				want = append(want, chain.Link{Timeline: now, Seq: seq + 1})
			}
			for _, record := range r.logOf(1) {
				link, _, err := chain.LinkOf(record.Headers)
				require.NoError(t, err)
				got = append(got, link)
			}
			assert.Equal(t, want, got, "checkpointed %v, %d since", checkpointed, since)
		}
	}
}
