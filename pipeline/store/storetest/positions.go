// Package storetest holds an engine to what the store expects of it.
package storetest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func position(part int32, next int64) store.Position {
	return store.Position{Stage: "stage", Topic: "topic", Part: part, TopicID: "id", Next: next, MovedAt: schema.NewTime(time.Unix(1, 0))}
}

func move(from store.Position, next int64) store.Move {
	return store.Move{From: from, Next: next, Reached: linkAt("o", next*2)}
}

func linkAt(timeline string, number int64) chain.Link {
	return chain.Link{Timeline: timeline, Seq: number}
}

func testFence(t *testing.T, opener Opener) {
	s := open(t, opener)
	now := schema.NewTime(time.Unix(2, 0))
	write(t, s, func(tx *store.Tx) error {
		return tx.CreatePositions(t.Context(), []store.Position{position(0, 0), position(1, 0), position(2, 0)})
	})
	write(t, s, func(tx *store.Tx) error { // creating again moves nothing
		return tx.MovePositions(t.Context(), now, []store.Move{move(position(0, 0), 5), move(position(1, 0), 7)})
	})
	write(t, s, func(tx *store.Tx) error {
		return tx.CreatePositions(t.Context(), []store.Position{position(0, 0)})
	})
	for name, moves := range map[string][]store.Move{
		"one of two is behind": {move(position(2, 0), 1), move(position(0, 0), 6)},
		"ahead":                {move(position(0, 6), 7)},
		"another topic id":     {{From: func() store.Position { p := position(0, 5); p.TopicID = "other"; return p }(), Next: 6}},
		"unknown partition":    {move(position(9, 0), 1)},
	} {
		err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.MovePositions(t.Context(), now, moves) })
		assert.ErrorIs(t, err, store.ErrFenced, name)
	}
	got, err := store.Positions(t.Context(), s, "stage")
	require.NoError(t, err)
	require.Len(t, got, 3)
	assert.Equal(t, int64(5), got[0].Next)
	assert.Equal(t, int64(7), got[1].Next)
	assert.Equal(t, linkAt("o", 14), got[1].Reached)
	assert.Equal(t, now, got[1].MovedAt)
	assert.Equal(t, int64(0), got[2].Next)
}

// testManyPositions: however many move, each moves to where it is told, or none does.
func testManyPositions(t *testing.T, opener Opener) {
	const most = 40
	s := open(t, opener)
	now := schema.NewTime(time.Unix(2, 0))
	positions := make([]store.Position, most)
	for part := range positions {
		positions[part] = position(int32(part), int64(part))
	}
	write(t, s, func(tx *store.Tx) error { return tx.CreatePositions(t.Context(), positions) })
	for n := 1; n <= most; n++ {
		moves := make([]store.Move, n)
		for i := range moves {
			from := positions[most-1-i] // in another order than that of the key
			moves[i] = store.Move{From: from, Next: from.Next + int64(n+i), Reached: linkAt("it's \"{o}\\\"", from.Next+1)}
		}
		if n > 1 {
			moves[n/2].From.Next++
			err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.MovePositions(t.Context(), now, moves) })
			require.ErrorIs(t, err, store.ErrFenced, "one of %d stands elsewhere", n)
			moves[n/2].From.Next--
		}
		write(t, s, func(tx *store.Tx) error { return tx.MovePositions(t.Context(), now, moves) })
		for i, m := range moves {
			p := &positions[most-1-i]
			p.Next, p.Reached, p.MovedAt = m.Next, m.Reached, now
		}
		got, err := store.Positions(t.Context(), s, "stage")
		require.NoError(t, err)
		require.Equal(t, positions, got, "after %d moved", n)
	}
}

// testGiven: where a move says so, the database must have given the number reached.
func testGiven(t *testing.T, opener Opener) {
	s := open(t, opener)
	now := schema.NewTime(time.Unix(2, 0))
	topic, err := s.RegisterTopic(t.Context(), "topic", "id", 2)
	require.NoError(t, err)
	emit(t, s, topic, 1, "a", "b", "c")
	timeline := chainOf(t, s, topic, 1).Timeline
	write(t, s, func(tx *store.Tx) error {
		return tx.CreatePositions(t.Context(), []store.Position{position(0, 0), position(1, 0)})
	})
	tryMove := func(m store.Move) error {
		return s.Write(t.Context(), func(tx *store.Tx) error {
			return tx.MovePositions(t.Context(), now, []store.Move{move(position(0, 0), 1), m})
		})
	}
	given := store.Move{From: position(1, 0), Next: 3, Reached: linkAt(timeline, 3), Epoch: topic.Epoch}
	for name, change := range map[string]func(*store.Move){
		"a number above the last": func(m *store.Move) { m.Reached.Seq = 4 },
		"another timeline":        func(m *store.Move) { m.Reached.Timeline = "other" },
		"another epoch":           func(m *store.Move) { m.Epoch++ },
	} {
		m := given
		change(&m)
		require.ErrorIs(t, tryMove(m), store.ErrFenced, name)
	}
	superseded := given
	superseded.Reached = superseded.Reached.In(chain.Superseded)
	require.NoError(t, tryMove(superseded), "the mode is no part of the number")
	got, err := store.Positions(t.Context(), s, "stage")
	require.NoError(t, err)
	assert.Equal(t, int64(1), got[0].Next)
	assert.Equal(t, superseded.Reached, got[1].Reached)
	write(t, s, func(tx *store.Tx) error {
		unknown := store.Move{From: position(1, 3), Next: 4, Reached: linkAt("elsewhere", 9)}
		return tx.MovePositions(t.Context(), now, []store.Move{unknown})
	})
}

// testReached: each mode of a link is read as it was written, by every statement, and
// the columns stay what they were.
func testReached(t *testing.T, opener Opener) {
	s := open(t, opener)
	for _, test := range []struct {
		mode   chain.Mode
		number int64
		stored int64
	}{
		{chain.InOrder, 0, 0}, {chain.InOrder, 1, 1}, {chain.InOrder, 7, 7},
		{chain.AnyNext, 0, -1}, {chain.AnyNext, 1, -3}, {chain.AnyNext, 7, -15},
		{chain.Superseded, 0, -2}, {chain.Superseded, 1, -4}, {chain.Superseded, 7, -16},
	} {
		reached := linkAt("o", test.number).In(test.mode)
		holds := func(p store.Position, how string) {
			t.Helper()
			var stored int64
			require.NoError(t, s.Get(t.Context(), &stored, `SELECT chain_seq FROM positions`))
			assert.Equal(t, test.stored, stored, "%v %s", reached, how)
			got, err := store.Positions(t.Context(), s, p.Stage)
			require.NoError(t, err)
			require.Equal(t, []store.Position{p}, got, how)
		}
		p := position(0, 0)
		p.Reached = reached
		write(t, s, func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `DELETE FROM positions`)
			require.NoError(t, err)
			return tx.CreatePositions(t.Context(), []store.Position{p})
		})
		holds(p, "created")
		write(t, s, func(tx *store.Tx) error {
			return tx.MovePositions(t.Context(), p.MovedAt, []store.Move{{From: p, Next: 1, Reached: linkAt("p", 3)}})
		})
		p.Next = 1
		write(t, s, func(tx *store.Tx) error {
			return tx.MovePositions(t.Context(), p.MovedAt, []store.Move{{From: p, Next: 2, Reached: reached}})
		})
		p.Next = 2
		holds(p, "moved")
		elsewhere := p
		elsewhere.Reached = linkAt("p", 3)
		write(t, s, func(tx *store.Tx) error {
			locked, err := tx.LockPositions(t.Context(), p.Stage)
			require.NoError(t, err)
			require.Equal(t, []store.Position{p}, locked)
			return errors.Join(tx.SetPosition(t.Context(), p, elsewhere), tx.SetPosition(t.Context(), elsewhere, p))
		})
		holds(p, "set")
	}
}

func testFenceRace(t *testing.T, opener Opener) {
	first, second := open(t, opener), open(t, opener)
	write(t, first, func(tx *store.Tx) error {
		if err := tx.DDL(t.Context(), `CREATE TABLE effects (id {int} PRIMARY KEY)`); err != nil {
			return err
		}
		return tx.CreatePositions(t.Context(), []store.Position{position(0, 0)})
	})
	const steps = 40
	var applied [2]int
	var wait sync.WaitGroup
	for i, s := range []*store.Store{first, second} {
		wait.Go(func() {
			for step := int64(0); step < steps; {
				err := s.Write(t.Context(), func(tx *store.Tx) error {
					if err := tx.MovePositions(t.Context(), schema.NewTime(time.Unix(2, 0)), []store.Move{move(position(0, step), step+1)}); err != nil {
						return err
					}
					return tx.Insert(t.Context(), store.Rows{Table: "effects", Columns: []string{"id"}, Values: []any{step}})
				})
				switch {
				case err == nil:
					applied[i]++
					step++
				case errors.Is(err, store.ErrFenced):
					step++ // the other one did it
				default:
					assert.NoError(t, err)
					return
				}
			}
		})
	}
	wait.Wait()
	assert.Equal(t, steps, applied[0]+applied[1])
	var rows int
	require.NoError(t, first.Get(t.Context(), &rows, `SELECT count(*) FROM effects`))
	assert.Equal(t, steps, rows)
}

func testHalt(t *testing.T, opener Opener) {
	s := open(t, opener)
	now := schema.NewTime(time.Unix(2, 0))
	write(t, s, func(tx *store.Tx) error {
		return tx.CreatePositions(t.Context(), []store.Position{position(0, 0), position(1, 0)})
	})
	write(t, s, func(tx *store.Tx) error {
		halting := move(position(0, 0), 3)
		halting.Halted = "a gap"
		return tx.MovePositions(t.Context(), now, []store.Move{halting})
	})
	write(t, s, func(tx *store.Tx) error {
		halted := position(1, 0)
		halted.Halted = "recreated"
		return tx.HaltPosition(t.Context(), halted)
	})
	for part, next := range map[int32]int64{0: 3, 1: 0} {
		err := s.Write(t.Context(), func(tx *store.Tx) error {
			return tx.MovePositions(t.Context(), now, []store.Move{move(position(part, next), next+1)})
		})
		assert.ErrorIs(t, err, store.ErrFenced)
	}
	got, err := store.Positions(t.Context(), s, "")
	require.NoError(t, err)
	assert.Equal(t, "a gap", got[0].Halted)
	assert.Equal(t, "recreated", got[1].Halted)
}
