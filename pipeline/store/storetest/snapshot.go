package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func snapshot(t *testing.T, s *store.Store) *store.Snapshot {
	t.Helper()
	view, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	t.Cleanup(view.Close)
	return view
}

// testSnapshot: what is written since is not seen, writers do not wait, and it
// writes nothing itself.
func testSnapshot(t *testing.T, opener Opener) {
	s, other := open(t, opener), open(t, opener)
	write(t, s, func(tx *store.Tx) error {
		if err := tx.DDL(t.Context(), `CREATE TABLE seen (id {int} PRIMARY KEY)`); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), `INSERT INTO seen VALUES (1)`)
		return err
	})
	view := snapshot(t, s)
	for i := range 3 {
		write(t, []*store.Store{s, other}[i%2], func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO seen VALUES ($1)`, i+2)
			return err
		})
		var n int
		require.NoError(t, view.Get(t.Context(), &n, `SELECT COUNT(*) FROM seen`))
		assert.Equal(t, 1, n)
	}
	var now []int64
	require.NoError(t, s.Select(t.Context(), &now, `SELECT id FROM seen ORDER BY id`))
	assert.Equal(t, []int64{1, 2, 3, 4}, now)
	later := snapshot(t, other)
	var n int
	require.NoError(t, later.Get(t.Context(), &n, `SELECT COUNT(*) FROM seen`), "two at once")
	assert.Equal(t, 4, n)
	assert.Error(t, view.Get(t.Context(), &n, `INSERT INTO seen VALUES (9) RETURNING id`))
}

// testSnapshotEnds: with its context.
func testSnapshotEnds(t *testing.T, opener Opener) {
	s := open(t, opener)
	ctx, cancel := context.WithCancel(t.Context())
	view, err := s.Snapshot(ctx)
	require.NoError(t, err)
	cancel()
	var n int
	require.Error(t, view.Get(ctx, &n, `SELECT COUNT(*) FROM positions`))
	view.Close()
	_, err = s.Snapshot(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func testTables(t *testing.T, opener Opener) {
	s := open(t, opener)
	write(t, s, func(tx *store.Tx) error {
		for _, ddl := range []string{
			`CREATE TABLE single (id {int} PRIMARY KEY, value {decimal}, at {time})`,
			`CREATE TABLE pair (value {decimal} NOT NULL, second {text} NOT NULL, first {int} NOT NULL, raw {bytes}, PRIMARY KEY (first, second)) {keyed}`,
			`CREATE TABLE keyless (id {int})`,
		} {
			if err := tx.DDL(t.Context(), ddl); err != nil {
				return err
			}
		}
		return nil
	})
	view := snapshot(t, s)
	single, err := view.Table(t.Context(), "single")
	require.NoError(t, err)
	assert.Equal(t, []int{0}, single.Key)
	pair, err := view.Table(t.Context(), "pair")
	require.NoError(t, err)
	assert.Equal(t, []int{2, 1}, pair.Key, "in the order of the key")
	names := make([]string, len(pair.Columns))
	for i, c := range pair.Columns {
		names[i] = c.Name
	}
	assert.Equal(t, []string{"value", "second", "first", "raw"}, names)
	_, err = view.Table(t.Context(), "keyless")
	require.ErrorIs(t, err, store.ErrNoKey)
	_, err = view.Table(t.Context(), "nowhere")
	require.Error(t, err)
}

// testTableRows: rows come in the order of CompareValues, whatever the collation
// of the database, and their values in one form.
func testTableRows(t *testing.T, opener Opener) {
	s := open(t, opener)
	texts := []string{"", "A", "B", "Z", "a", "a b", "a-b", "a/b", "aB", "ab", "b", "z", "~", "É", "é", "ß", "ı", "中", "𝄞"}
	at := schema.NewTime(time.Date(2025, 6, 15, 14, 30, 0, 120_000, time.UTC))
	write(t, s, func(tx *store.Tx) error {
		err := tx.DDL(t.Context(), `CREATE TABLE sorted (word {text} NOT NULL, number {int} NOT NULL, value {decimal}, at {time}, raw {bytes},
			PRIMARY KEY (word, number)) {keyed}`)
		if err != nil {
			return err
		}
		rows := store.Rows{Table: "sorted", Columns: []string{"word", "number", "value", "at", "raw"}}
		for i, word := range texts {
			for _, number := range []int{10, -2, 9} {
				if i%2 == 0 {
					rows.Add(word, number, schema.MustDecimal("1.000000000000000001"), at, []byte{0, 255})
				} else {
					rows.Add(word, number, nil, nil, nil)
				}
			}
		}
		return tx.Insert(t.Context(), rows)
	})
	view := snapshot(t, s)
	table, err := view.Table(t.Context(), "sorted")
	require.NoError(t, err)
	rows, err := view.Rows(t.Context(), table)
	require.NoError(t, err)
	var got [][]any
	for {
		row, err := rows.Next()
		require.NoError(t, err)
		if row == nil {
			break
		}
		got = append(got, row)
	}
	require.NoError(t, rows.Close())
	require.Len(t, got, 3*len(texts))
	slices.Sort(texts)
	for i, row := range got {
		assert.Equal(t, texts[i/3], row[0], "by its bytes")
		assert.Equal(t, []int64{-2, 9, 10}[i%3], row[1], "as numbers")
		if row[2] != nil {
			assert.Equal(t, []any{"1.000000000000000001", "2025-06-15T14:30:00.000120Z", "\x00\xff"}, row[2:])
		} else {
			assert.Equal(t, []any{nil, nil, nil}, row[2:])
		}
		if i > 0 {
			order := store.CompareValues(got[i-1][0], row[0])
			assert.True(t, order < 0 || order == 0 && store.CompareValues(got[i-1][1], row[1]) < 0, "%v, %v", got[i-1], row)
		}
	}
	// The snapshot answers again.
	var n int
	require.NoError(t, view.Get(t.Context(), &n, `SELECT COUNT(*) FROM sorted`))
}

// testScratch: what someone runs for himself is none of the service's.
func testScratch(t *testing.T, opener Opener) {
	s := open(t, opener)
	letter := func(stage string) store.DeadLetter {
		return store.DeadLetter{Stage: stage, Topic: "t", TopicID: "id", Part: 1, Offset: 7, Headers: []byte{1}, Reason: "no",
			CreatedAt: schema.NewTime(time.Unix(5, 0))}
	}
	write(t, s, func(tx *store.Tx) error {
		mine := position(0, 0)
		mine.Stage = store.Scratch + "stage"
		if err := tx.CreatePositions(t.Context(), []store.Position{position(0, 0), mine}); err != nil {
			return err
		}
		return tx.AddDeadLetters(t.Context(), []store.DeadLetter{letter("stage"), letter(store.Scratch + "stage")})
	})
	for asked, want := range map[string][]string{"": {"stage"}, "stage": {"stage"}, store.Scratch + "stage": {store.Scratch + "stage"}} {
		positions, err := store.Positions(t.Context(), s, asked)
		require.NoError(t, err)
		var got []string
		for _, p := range positions {
			got = append(got, p.Stage)
		}
		assert.Equal(t, want, got, fmt.Sprintf("asked for %q", asked))
	}
	letters, err := store.DeadLetters(t.Context(), s, "", 10)
	require.NoError(t, err)
	require.Len(t, letters, 1)
	assert.Equal(t, "stage", letters[0].Stage)
}

func testDeadLettersOf(t *testing.T, opener Opener) {
	s := open(t, opener)
	var all []store.DeadLetter
	for _, stage := range []string{"a", "b"} {
		for part := range int32(2) {
			for offset := range int64(5) {
				all = append(all, store.DeadLetter{Stage: stage, Topic: "t", TopicID: "id", Part: part, Offset: 9 - offset,
					Headers: []byte{1}, Payload: []byte{0xff, byte(offset)}, Reason: "no", CreatedAt: schema.NewTime(time.Unix(5, 0))})
			}
		}
	}
	write(t, s, func(tx *store.Tx) error { return tx.AddDeadLetters(t.Context(), all) })
	got, err := store.DeadLettersOf(t.Context(), s, "a", "id", 1, 5, 3)
	require.NoError(t, err)
	require.Len(t, got, 3)
	for i, l := range got {
		assert.Equal(t, int64(6+i), l.Offset)
		assert.Equal(t, "a", l.Stage)
		assert.Equal(t, int32(1), l.Part)
		assert.Equal(t, []byte{0xff, byte(3 - i)}, l.Payload)
	}
	got, err = store.DeadLettersOf(t.Context(), s, "a", "other", 1, -1, 3)
	require.NoError(t, err)
	assert.Empty(t, got)
}
