package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// sentNumbers are the numbers in the log of a partition.
func (r *rig) sentNumbers(partition int32) (numbers []int64) {
	r.T.Helper()
	for _, record := range r.logOf(partition) {
		link, _, err := chain.LinkOf(record.Headers)
		require.NoError(r.T, err)
		numbers = append(numbers, link.Seq)
	}
	return numbers
}

// handing is a relay that has sent number 1 of partition 1, and whose next step need not
// look at the database.
type handing struct {
	*rig
	relay    *Relay
	sessions int64
}

func newHanding(t *testing.T) *handing {
	t.Helper()
	h := &handing{rig: newRig(t)}
	h.relay = NewRelay(h.DB, h.Broker, h.known, "me", slog.New(slog.DiscardHandler))
	h.relay.handover.sessions = func() int64 { return h.sessions }
	held, err := h.relay.takeLease(t.Context())
	require.NoError(t, err)
	require.True(t, held)
	h.here(1)
	h.step()
	require.Equal(t, []int64{1}, h.sentNumbers(1))
	return h
}

// here publishes n events in the relay's process, and elsewhere in another.
func (h *handing) here(n int) { h.T.Helper(); h.by(h.relay.Writer(), n) }

func (h *handing) elsewhere(n int) { h.T.Helper(); h.by(h.writer, n) }

func (h *handing) by(writer Writer, n int) {
	h.T.Helper()
	events := make([]schema.Event, n)
	for i := range events {
		events[i] = schema.Event{ID: fmt.Sprint(h.T.Name(), time.Now().UnixNano(), i), Source: "test", Payload: priceNo("S1", i)}
	}
	h.publishBy(writer, events...)
}

// step is one that is not due to look at the database by the clock.
func (h *handing) step() {
	h.T.Helper()
	require.NoError(h.T, h.tryStep())
}

func (h *handing) tryStep() error {
	if !h.relay.lookedAt.IsZero() {
		h.relay.lookedAt = time.Now()
	}
	_, err := h.relay.step(h.T.Context())
	return err
}

// What was handed over is sent without a look at the outbox.
func TestWhatIsHandedOverIsNotRead(t *testing.T) {
	t.Parallel()
	h := newHanding(t)
	h.here(2)
	h.here(1)
	h.exec4noMatter(`DELETE FROM outbox WHERE seq > 1`)
	h.step()
	assert.Equal(t, []int64{1, 2, 3, 4}, h.sentNumbers(1))
	assert.Empty(t, h.relay.handover.waitingAfter(4))
}

// exec4noMatter runs a statement that concerns any number of rows.
func (r *rig) exec4noMatter(query string) {
	r.T.Helper()
	require.NoError(r.T, r.DB.Write(r.T.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(r.T.Context(), query)
		return err
	}))
}

// waitingAfter are the rows that are held of a chain, once all before is sent.
func (h *handover) waitingAfter(sent int64) (rows []store.OutboxRow) {
	for _, id := range h.waiting() {
		some, _ := h.after(id, sent)
		rows = append(rows, some...)
	}
	return rows
}

// A gap is filled from the database, in its order.
func TestAGapInWhatIsHandedOver(t *testing.T) {
	t.Parallel()
	h := newHanding(t)
	h.here(1)
	h.elsewhere(2) // or here, and the answer of the commit was lost
	h.here(1)
	h.step()
	h.step()
	h.step()
	assert.Equal(t, []int64{1, 2, 3, 4, 5}, h.sentNumbers(1))
	require.NoError(t, h.relay.checkpoint())
	pending, err := h.DB.Pending(t.Context())
	require.NoError(t, err)
	assert.Empty(t, pending)
}

// What another relay has sent meanwhile is not sent again from memory.
func TestAnotherRelaySendsWhatWasHandedOver(t *testing.T) {
	t.Parallel()
	h := newHanding(t)
	require.NoError(t, h.relay.checkpoint())
	h.here(2)
	other := h.rig.relay()
	_, err := other.round(t.Context())
	require.NoError(t, err)
	require.NoError(t, other.checkpoint())
	require.Equal(t, []int64{1, 2, 3}, h.sentNumbers(1))
	h.relay.lookedAt = time.Time{}
	h.step()
	assert.Equal(t, []int64{1, 2, 3}, h.sentNumbers(1))
	assert.Empty(t, h.relay.handover.waitingAfter(3))
}

// Only what a transaction has committed is handed over, and only to a relay at work.
func TestOnlyCommittedEventsAreHandedOver(t *testing.T) {
	t.Parallel()
	h := newHanding(t)
	refused := errors.New("refused")
	require.ErrorIs(t, h.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := h.relay.Writer().Append(t.Context(), tx, []schema.Event{{ID: "x", Source: "test", Payload: priceNo("S1", 1)}})
		return errors.Join(err, refused)
	}), refused)
	require.NoError(t, h.DB.Write(t.Context(), func(tx *store.Tx) error {
		err := tx.Savepoint(t.Context(), func() error {
			_, err := h.relay.Writer().Append(t.Context(), tx, []schema.Event{{ID: "x", Source: "test", Payload: priceNo("S1", 1)}})
			return errors.Join(err, refused)
		})
		require.ErrorIs(t, err, refused)
		return nil
	}))
	assert.Empty(t, h.relay.handover.waitingAfter(1))
	h.relay.handover.end()
	h.here(1)
	assert.Empty(t, h.relay.handover.waiting(), "another process has the lease")
}

// A relay whose lease had ended for a while, such as one that was stopped and continues,
// does not send from memory what it was given before.
func TestALapsedLeaseEndsTheHandover(t *testing.T) {
	t.Parallel()
	h := newHanding(t)
	h.here(1)
	held, err := h.relay.takeLease(t.Context())
	require.NoError(t, err)
	require.True(t, held)
	require.NotEmpty(t, h.relay.handover.waiting(), "it is the same tenure")
	h.relay.renewed = h.relay.renewed.Add(-leaseTime)
	held, err = h.relay.takeLease(t.Context())
	require.NoError(t, err)
	require.True(t, held)
	assert.Empty(t, h.relay.handover.waiting())
	assert.True(t, h.relay.doubt)
	h.step()
	assert.Equal(t, []int64{1, 2}, h.sentNumbers(1), "from the database")
}

// What is held is bounded; the rest is read.
func TestTheHandoverIsBounded(t *testing.T) {
	t.Parallel()
	h := newHanding(t)
	const events, size = 20, maxHanded / 15
	for range events {
		rows := []store.OutboxRow{{Epoch: h.epoch(schema.PriceEvents), Part: 1, Key: []byte("k"), Headers: store.EncodeHeaders(nil), Payload: make([]byte, size)}}
		require.NoError(t, h.DB.Write(t.Context(), func(tx *store.Tx) error { return h.relay.Writer().Insert(t.Context(), tx, rows) }))
	}
	assert.LessOrEqual(t, h.relay.handover.bytes, maxHanded)
	for range 3 * events {
		h.step()
	}
	want := make([]int64, 1+events)
	for i := range want {
		want[i] = int64(i + 1)
	}
	assert.Equal(t, want, h.sentNumbers(1))
	assert.Empty(t, h.relay.handover.waitingAfter(1+events))
	assert.Zero(t, h.relay.handover.bytes)
}

// A database that was set back is met in another session. What it gives under numbers that
// were sent already is found before anything more is sent, although it follows.
func TestADatabaseThatWasSetBackUnderAHandover(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(h *handing){
		"to fewer events than were sent": func(h *handing) { h.here(1) },
		"to as many":                     func(h *handing) { h.elsewhere(1); h.here(1) },
		"to more":                        func(h *handing) { h.elsewhere(2); h.here(2) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHanding(t)
			require.NoError(t, h.relay.checkpoint())
			h.here(2)
			h.step()
			require.Equal(t, []int64{1, 2, 3}, h.sentNumbers(1))
			h.exec4noMatter(`DELETE FROM outbox`)
			h.exec(`UPDATE chains SET last = 1 WHERE epoch = $1 AND part = 1`, h.epoch(schema.PriceEvents))
			h.sessions++
			again(h)
			require.ErrorIs(t, h.tryStep(), store.ErrOvertaken)
			assert.Equal(t, []int64{1, 2, 3}, h.sentNumbers(1), "nothing more was sent")
			assert.False(t, h.relay.ready)

			held, err := h.relay.takeLease(t.Context())
			require.NoError(t, err)
			require.True(t, held)
			h.step()
			h.step()
			known, err := store.KnownChains(t.Context(), h.DB)
			require.NoError(t, err)
			names := map[string]int64{}
			for _, k := range known {
				if k.Part == 1 && k.Topic == string(schema.PriceEvents) {
					names[k.Timeline] = k.Given
				}
			}
			assert.Len(t, names, 2, "the chain has another name")
			assert.Equal(t, int64(1), names[testOutbox], "of the former name, what both states have")
		})
	}
}

// relayed is one process in TestHandoversOfTwoProcesses.
type relayed struct {
	relay *Relay
	known int64
}

// Events of two processes and of a third that has no relay, whose commits are answered or
// not, whose relays overlap, begin again and meet other sessions, over a broker whose answers
// are lost: each event can be applied exactly once, and in the order of its chain.
func TestHandoversOfTwoProcesses(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for schedule := range uint64(6) {
		random := rand.New(rand.NewPCG(seed, schedule))
		r := newRig(t)
		broker := &flakyBroker{Broker: r.Broker, random: random, log: map[pipeline.TopicPartition][]chain.Link{}}
		var processes [2]*relayed
		for i := range processes {
			p := &relayed{relay: NewRelay(r.DB, broker, r.known, fmt.Sprint(i), slog.New(slog.DiscardHandler))}
			p.relay.handover.sessions = func() int64 { return p.known }
			p.relay.begin()
			processes[i] = p
		}
		events := 0
		for range 400 {
			p := processes[random.IntN(2)]
			switch random.IntN(12) {
			case 0, 1, 2, 3:
				writer := p.relay.Writer()
				if random.IntN(4) == 0 {
					writer = r.writer // elsewhere, or the answer of the commit is lost
				}
				partition := random.IntN(partitions)
				some := make([]schema.Event, 1+random.IntN(3))
				for i := range some {
					some[i] = schema.Event{ID: fmt.Sprint(events), Source: "test", Payload: priceNo(fmt.Sprintf("S%d", partition), events)}
					events++
				}
				r.publishBy(writer, some...)
			case 4:
				if random.IntN(4) == 0 {
					p.known++
				}
			case 5:
				if random.IntN(4) == 0 {
					p.relay.begin() // as one that lost the lease and has it again
				}
			default:
				stepOf(t.Context(), p.relay, random)
			}
		}
		require.Eventually(t, func() bool {
			for _, p := range processes {
				stepOf(t.Context(), p.relay, random)
			}
			pending, err := r.DB.Pending(t.Context())
			return err == nil && len(pending) == 0
		}, time.Minute, time.Microsecond)
		applied, _ := followAll(t, r.DB, broker.log)
		require.Equal(t, events, applied, "schedule %d", schedule)
		var left int
		require.NoError(t, r.DB.Get(t.Context(), &left, `SELECT count(*) FROM outbox`))
		require.Zero(t, left, "schedule %d", schedule)
	}
}

// stepOf is a step of a relay by another clock. The errors are the broker's, or say that
// another relay was faster.
func stepOf(ctx context.Context, relay *Relay, random *rand.Rand) {
	switch random.IntN(4) {
	case 0:
		relay.lookedAt = time.Time{}
	default:
		if !relay.lookedAt.IsZero() {
			relay.lookedAt = time.Now()
		}
	}
	if random.IntN(3) == 0 {
		relay.since = time.Time{} // a note is due
	}
	_, _ = relay.step(ctx)
	if !relay.ready {
		relay.begin()
	}
}

// One more row than a batch may have stays for the next.
func TestHandedRowsOfABatch(t *testing.T) {
	t.Parallel()
	h := newHandover(func() int64 { return 0 })
	h.begin()
	id := chainID{1, 1, "a"}
	rows := func(first, n int64) (rows []store.OutboxRow) {
		for seq := first; seq < first+n; seq++ {
			rows = append(rows, store.OutboxRow{Epoch: 1, Part: 1, Seq: seq})
		}
		return rows
	}
	add := func(first, n int64) {
		h.add(0, rows(first, n), []store.Numbers{{Epoch: 1, Part: 1, N: int(n), Last: first + n - 1, Timeline: "a"}})
	}
	add(4, 2)
	got, more := h.after(id, 2)
	assert.Empty(t, got)
	assert.True(t, more, "number 3 may come")
	add(3, 1)
	got, more = h.after(id, 2)
	assert.Equal(t, rows(3, 3), got)
	assert.False(t, more)
	got, _ = h.after(id, 4)
	assert.Equal(t, rows(5, 1), got, "some of a transaction may have been sent")
	add(6, log.BatchRecords)
	got, more = h.after(id, 4)
	assert.Len(t, got, log.BatchRecords)
	assert.True(t, more)
	got, more = h.after(id, 5+log.BatchRecords)
	assert.Empty(t, got)
	assert.False(t, more)
	assert.Zero(t, h.bytes)
}
