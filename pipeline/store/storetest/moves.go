package storetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/migrations"
)

// testMoves: a database that a move fills belongs to no log until it is finished.
func testMoves(t *testing.T, opener Opener) {
	s := open(t, opener)
	ctx := t.Context()
	_, there, err := store.RecordedMove(ctx, s)
	require.NoError(t, err)
	assert.False(t, there)
	at := schema.NewTime(time.Unix(1, 0).UTC())
	first, second := store.MoveRecord{Source: "a", State: "b", Log: "c", BeganAt: at}, store.MoveRecord{Source: "a", State: "d", Log: "e", BeganAt: at}
	for _, m := range []store.MoveRecord{first, second} {
		write(t, s, func(tx *store.Tx) error { return tx.BeginMove(ctx, m) })
		recorded, there, err := store.RecordedMove(ctx, s)
		require.NoError(t, err)
		assert.True(t, there)
		assert.Equal(t, m, recorded)
		require.ErrorIs(t, s.RecordLog(ctx, store.TableLog), store.ErrOtherLog)
	}
	write(t, s, func(tx *store.Tx) error { return tx.FinishMove(ctx, at) })
	recorded, _, err := store.RecordedMove(ctx, s)
	require.NoError(t, err)
	assert.Equal(t, &at, recorded.FinishedAt)
	require.NoError(t, s.RecordLog(ctx, "e"))
	for _, again := range []func(tx *store.Tx) error{
		func(tx *store.Tx) error { return tx.BeginMove(ctx, first) },
		func(tx *store.Tx) error { return tx.FinishMove(ctx, at) },
	} {
		require.ErrorIs(t, s.Write(ctx, again), store.ErrOtherLog)
	}
}

// testHeldLease: what a lease guards is written by its holder alone.
func testHeldLease(t *testing.T, opener Opener) {
	s := open(t, opener)
	ctx := t.Context()
	hold := func(owner string) error {
		return s.Write(ctx, func(tx *store.Tx) error { return tx.HoldLease(ctx, "name", owner, time.Minute) })
	}
	require.ErrorIs(t, hold("a"), store.ErrFenced)
	held, err := s.AcquireLease(ctx, "name", "a", time.Minute)
	require.NoError(t, err)
	require.True(t, held)
	require.NoError(t, hold("a"))
	require.ErrorIs(t, hold("b"), store.ErrFenced)
}

// testNumberedRows: rows come with the ids they had, and no later one has one of them.
func testNumberedRows(t *testing.T, opener Opener) {
	s := open(t, opener)
	ctx := t.Context()
	view := func() *store.Snapshot {
		view, err := s.Snapshot(ctx)
		require.NoError(t, err)
		return view
	}
	lastID := func() int64 {
		view := view()
		defer view.Close()
		last, err := view.LastID(ctx, "dead_letters")
		require.NoError(t, err)
		return last
	}
	assert.Zero(t, lastID())
	write(t, s, func(tx *store.Tx) error { return tx.SetLastID(ctx, "dead_letters", 0) })
	at := schema.NewTime(time.Unix(1, 0))
	write(t, s, func(tx *store.Tx) error {
		rows := store.Rows{Table: "dead_letters", Columns: []string{"id", "stage", "topic", "topic_id", "part", "log_offset", "headers", "reason", "created_at"}, Numbered: true}
		rows.Add(int64(5), "s", "t", "id", int64(1), int64(1), []byte{}, "no", at)
		return tx.Insert(ctx, rows)
	})
	write(t, s, func(tx *store.Tx) error { return tx.SetLastID(ctx, "dead_letters", 7) })
	assert.EqualValues(t, 7, lastID())
	write(t, s, func(tx *store.Tx) error {
		return tx.AddDeadLetters(ctx, []store.DeadLetter{{Stage: "s", Topic: "t", TopicID: "id", Headers: []byte{}, Reason: "no", CreatedAt: at}})
	})
	var ids []int64
	require.NoError(t, s.Select(ctx, &ids, `SELECT id FROM dead_letters ORDER BY id`))
	assert.Equal(t, []int64{5, 8}, ids)
	assert.EqualValues(t, 8, lastID())
}

// testCatalog: a database says which tables it has, and of which version.
func testCatalog(t *testing.T, opener Opener) {
	s := open(t, opener)
	ctx := t.Context()
	write(t, s, func(tx *store.Tx) error { return tx.DDL(ctx, `CREATE TABLE zzz (id {int} PRIMARY KEY)`) })
	view, err := s.Snapshot(ctx)
	require.NoError(t, err)
	defer view.Close()
	tables, err := view.Tables(ctx)
	require.NoError(t, err)
	assert.Equal(t, "api_key_version", tables[0])
	assert.Equal(t, "zzz", tables[len(tables)-1])
	assert.IsNonDecreasing(t, tables)
	assert.NotContains(t, tables, "sqlite_sequence")
	version, err := view.Version(ctx)
	require.NoError(t, err)
	assert.Equal(t, migrations.Newest(), version)
	assert.Equal(t, s.Migration().To, version)
	var id string
	require.NoError(t, s.Get(ctx, &id, `SELECT id FROM instance`))
	known, err := view.ID(ctx)
	require.NoError(t, err)
	assert.Equal(t, id, known)
}

// testLineage: the epochs of a topic that was moved derive ids as before.
func testLineage(t *testing.T, opener Opener) {
	s := open(t, opener)
	ctx := t.Context()
	topic, err := s.RegisterTopic(ctx, "prices", "uuid-1", 1)
	require.NoError(t, err)
	assert.Equal(t, "uuid-1", topic.Lineage())
	write(t, s, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE topics SET origin = 'former'`)
		return err
	})
	topic, err = s.RegisterTopic(ctx, "prices", "uuid-1", 1)
	require.NoError(t, err)
	assert.Equal(t, "former", topic.Lineage())
	write(t, s, func(tx *store.Tx) error {
		topic, err = tx.RenewEpoch(ctx, topic)
		return err
	})
	assert.EqualValues(t, 2, topic.Epoch)
	assert.Equal(t, "former", topic.Lineage())
	recreated, err := s.RegisterTopic(ctx, "prices", "uuid-2", 1)
	require.NoError(t, err)
	assert.Equal(t, "uuid-2", recreated.Lineage())
}
