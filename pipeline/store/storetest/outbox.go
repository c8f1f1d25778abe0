package storetest

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
)

func testTopics(t *testing.T, opener Opener) {
	s := open(t, opener)
	first, err := s.RegisterTopic(t.Context(), "prices", "uuid-1", 3)
	require.NoError(t, err)
	again, err := s.RegisterTopic(t.Context(), "prices", "uuid-1", 3)
	require.NoError(t, err)
	assert.Equal(t, first, again)
	recreated, err := s.RegisterTopic(t.Context(), "prices", "uuid-2", 5)
	require.NoError(t, err)
	assert.Equal(t, first.Epoch+1, recreated.Epoch)
	more, err := s.RegisterTopic(t.Context(), "prices", "uuid-2", 6)
	require.NoError(t, err)
	assert.Equal(t, recreated, more, "what was seen first stands until an operator agrees")
	write(t, s, func(tx *store.Tx) error { return tx.AgreeToPartitions(t.Context(), recreated, 6) })
	recreated.Seen = 6
	more, err = s.RegisterTopic(t.Context(), "prices", "uuid-2", 6)
	require.NoError(t, err)
	assert.Equal(t, recreated, more)
	chains, err := store.Chains(t.Context(), s)
	require.NoError(t, err)
	assert.Len(t, chains, 3+5)
	topics, err := s.Topics(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []store.Topic{first, recreated}, topics)
}

func testChains(t *testing.T, opener Opener) {
	stores := []*store.Store{open(t, opener), open(t, opener)}
	topic, err := stores[0].RegisterTopic(t.Context(), "prices", "uuid", 2)
	require.NoError(t, err)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	var committed []int64 // the last number of each transaction, as they committed
	var wait sync.WaitGroup
	for i, s := range stores {
		random := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
		wait.Go(func() {
			for range 30 {
				n, abort := 1+random.IntN(4), random.IntN(4) == 0
				err := s.Write(t.Context(), func(tx *store.Tx) error {
					last, err := take(t, tx, topic, 1, n)
					if err != nil {
						return err
					}
					if abort {
						return errors.New("abort")
					}
					rows := make([]store.OutboxRow, n)
					for j := range rows {
						rows[j] = store.OutboxRow{Epoch: topic.Epoch, Part: 1, Seq: last - int64(n) + 1 + int64(j), Key: []byte("k"), Headers: []byte{1}, Payload: []byte("p")}
					}
					// Under the row lock, so this is the order of commits.
					mu.Lock()
					committed = append(committed, last)
					mu.Unlock()
					return tx.Append(t.Context(), rows)
				})
				assert.Equal(t, abort, err != nil, "%v", err)
			}
		})
	}
	wait.Wait()
	assert.IsIncreasing(t, committed)
	rows, err := stores[0].ReadOutbox(t.Context(), 1000, 1<<20, store.Behind{Epoch: topic.Epoch, Part: 1})
	require.NoError(t, err)
	for i, row := range rows {
		assert.Equal(t, int64(i+1), row.Seq)
	}
	assert.Equal(t, committed[len(committed)-1], int64(len(rows)))
}

func testOutbox(t *testing.T, opener Opener) {
	s := open(t, opener)
	topic, err := s.RegisterTopic(t.Context(), "prices", "uuid", 2)
	require.NoError(t, err)
	const n = 1000
	key, headers, payload := []byte{0, 255, 'k'}, []byte{1, 0, 255}, []byte("\x00\xff{}")
	write(t, s, func(tx *store.Tx) error {
		if _, err := take(t, tx, topic, 0, n); err != nil {
			return err
		}
		rows := make([]store.OutboxRow, n)
		for i := range rows {
			rows[i] = store.OutboxRow{Epoch: topic.Epoch, Seq: int64(i + 1), Key: key, Headers: headers, Payload: payload}
		}
		return tx.Append(t.Context(), rows)
	})
	pending, err := s.Pending(t.Context())
	require.NoError(t, err)
	require.Len(t, pending, 1)
	require.NotEmpty(t, pending[0].Timeline)
	require.Equal(t, []store.Chain{{Epoch: topic.Epoch, Part: 0, Timeline: pending[0].Timeline, Last: n, Sent: 0}}, pending)
	rows, err := s.ReadOutbox(t.Context(), 5, 1<<20, store.Behind{Epoch: topic.Epoch, Part: 0, After: 10})
	require.NoError(t, err)
	require.Len(t, rows, 5)
	assert.Equal(t, store.OutboxRow{Epoch: topic.Epoch, Seq: 11, Key: key, Headers: headers, Payload: payload}, rows[0])
	size := len(headers) + len(payload)
	for maxBytes, want := range map[int]int{1: 1, size: 1, size + 1: 2, 3 * size: 3, 100 * size: 5} {
		some, err := s.ReadOutbox(t.Context(), 5, maxBytes, store.Behind{Epoch: topic.Epoch, Part: 0, After: 10})
		require.NoError(t, err)
		assert.Len(t, some, want, "%d bytes", maxBytes)
	}

	write(t, s, func(tx *store.Tx) error {
		if _, err := take(t, tx, topic, 1, 2); err != nil {
			return err
		}
		return tx.Append(t.Context(), []store.OutboxRow{
			{Epoch: topic.Epoch, Part: 1, Seq: 1, Key: key, Headers: headers, Payload: payload},
			{Epoch: topic.Epoch, Part: 1, Seq: 2, Key: key, Headers: headers, Payload: payload},
		})
	})
	for others := range 12 { // whatever the number of chains
		wanted := make([]store.Behind, others, others+2)
		for i := range wanted {
			wanted[i] = store.Behind{Epoch: topic.Epoch, Part: int32(i + 2)}
		}
		some, err := s.ReadOutbox(t.Context(), 3, 1<<20, append(wanted,
			store.Behind{Epoch: topic.Epoch, Part: 1, After: 1}, store.Behind{Epoch: topic.Epoch, After: n - 5})...)
		require.NoError(t, err)
		var numbers [][2]int64
		for _, row := range some {
			numbers = append(numbers, [2]int64{int64(row.Part), row.Seq})
		}
		assert.Equal(t, [][2]int64{{0, n - 4}, {0, n - 3}, {0, n - 2}, {1, 2}}, numbers)
	}

	both, err := s.Pending(t.Context())
	require.NoError(t, err)
	require.Len(t, both, 2)
	require.NoError(t, markSent(t, s, both[1], both[1].Last))

	another := sentUpTo(t, s, pending[0], 600)
	another.Headers = []byte{2} // this is not the event that was sent
	require.ErrorIs(t, s.MarkSent(t.Context(), []store.Sent{another}), store.ErrOvertaken)
	slower := sentUpTo(t, s, pending[0], 300)
	require.NoError(t, markSent(t, s, pending[0], 600))
	require.ErrorIs(t, s.MarkSent(t.Context(), []store.Sent{slower}), store.ErrOvertaken)
	rows, err = s.ReadOutbox(t.Context(), 10, 1<<20, store.Behind{Epoch: topic.Epoch, Part: 0})
	require.NoError(t, err)
	assert.Equal(t, int64(601), rows[0].Seq)
	from := pending[0]
	from.Sent = 600
	require.NoError(t, markSent(t, s, from, n))
	pending, err = s.Pending(t.Context())
	require.NoError(t, err)
	assert.Empty(t, pending)
	var left int
	require.NoError(t, s.Get(t.Context(), &left, `SELECT count(*) FROM outbox`))
	assert.Zero(t, left)
}

// testManyChains: transactions take numbers of many chains at once, in any order,
// while relays mark them as sent; each chain stays dense, and no one waits in a
// circle. Of the chains that a relay marks, one was moved by another relay, and is
// left alone.
func testManyChains(t *testing.T, opener Opener) {
	const chains, writers, rounds = 5, 3, 20
	s := open(t, opener)
	topic, err := s.RegisterTopic(t.Context(), "prices", "uuid", chains)
	require.NoError(t, err)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var wait sync.WaitGroup
	var taken [chains]atomic.Int64
	for w := range writers {
		own := open(t, opener)
		random := rand.New(rand.NewPCG(seed, uint64(w)))
		wait.Go(func() {
			for range rounds {
				var wanted []store.Numbers
				for _, part := range random.Perm(chains)[:1+random.IntN(chains)] {
					wanted = append(wanted, store.Numbers{Epoch: topic.Epoch, Part: int32(part), N: 1 + random.IntN(3)})
				}
				assert.NoError(t, own.Write(t.Context(), func(tx *store.Tx) error {
					if err := tx.TakeNumbers(t.Context(), wanted); err != nil {
						return err
					}
					var rows []store.OutboxRow
					for _, n := range wanted {
						for seq := n.First(); seq <= n.Last; seq++ {
							rows = append(rows, store.OutboxRow{Epoch: topic.Epoch, Part: n.Part, Seq: seq, Key: []byte("k"), Headers: []byte{1}, Payload: []byte("p")})
						}
					}
					return tx.Append(t.Context(), rows)
				}))
				for _, n := range wanted {
					taken[n.Part].Add(int64(n.N))
				}
				pending, err := own.Pending(t.Context())
				assert.NoError(t, err)
				var sent []store.Sent
				for _, chain := range pending {
					if half := (chain.Last - chain.Sent) / 2; half > 0 {
						sent = append(sent, store.Sent{Chain: chain, Now: chain.Sent + half, Headers: []byte{1}})
					}
				}
				if err := own.MarkSent(t.Context(), sent); !errors.Is(err, store.ErrOvertaken) {
					assert.NoError(t, err)
				}
			}
		})
	}
	wait.Wait()
	for part := range int32(chains) {
		chain := chainOf(t, s, topic, part)
		assert.Equal(t, taken[part].Load(), chain.Last)
		waiting(t, s, topic, part) // dense from what was sent
	}
	emit(t, s, topic, 0, "a")
	emit(t, s, topic, 1, "b")
	pending, err := s.Pending(t.Context())
	require.NoError(t, err)
	var sent []store.Sent
	for i, chain := range pending {
		if i == 0 {
			chain.Sent--
		}
		sent = append(sent, sentUpTo(t, s, chain, chain.Last))
	}
	require.ErrorIs(t, s.MarkSent(t.Context(), sent), store.ErrOvertaken)
	left, err := s.Pending(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 1)
	assert.Equal(t, sent[0].Part, left[0].Part)
	assert.NotEmpty(t, waiting(t, s, topic, left[0].Part))
	var rows int
	require.NoError(t, s.Get(t.Context(), &rows, `SELECT COUNT(*) FROM outbox WHERE part <> $1`, left[0].Part))
	assert.Zero(t, rows)
	require.Error(t, s.Write(t.Context(), func(tx *store.Tx) error {
		_, err := take(t, tx, topic, chains, 1)
		return err
	}), "there is no such chain")
}
