// Package storetest holds an engine to what the store expects of it.
package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Opener opens an engine on an empty database of the test's own, or, called
// again, another connection to the same one.
type Opener func(t *testing.T) store.Engine

// Run runs the suite. fresh is called once a test.
func Run(t *testing.T, fresh func(t *testing.T) Opener) {
	for name, test := range map[string]func(*testing.T, Opener){
		"migrating twice changes nothing":                    testMigrate,
		"the outbox id belongs to the database":              testIdentity,
		"values survive to the last digit":                   testValues,
		"rows of any number are inserted":                    testRows,
		"many ask by few statements":                         testLoader,
		"a table is read and written again":                  testScan,
		"a rollback leaves nothing":                          testRollback,
		"errors of values are told from others":              testDataErrors,
		"a position moves only from where it is":             testFence,
		"many positions move at once":                        testManyPositions,
		"a position moves only to what was given":            testGiven,
		"what a stage has reached is read as it was written": testReached,
		"of two consumers one commits":                       testFenceRace,
		"a halted position does not move":                    testHalt,
		"numbers are dense in commit order":                  testChains,
		"numbers of many chains at once":                     testManyChains,
		"the outbox keeps order and empties":                 testOutbox,
		"a chain gets another name":                          testRenewChain,
		"events of a topic that is gone continue":            testCarryOver,
		"a topic gets another epoch":                         testRenewEpoch,
		"what was applied was sent":                          testNoteApplied,
		"the total of the chains":                            testChainsTotal,
		"an operator sets a position":                        testSetPosition,
		"a topic's incarnations are kept apart":              testTopics,
		"a lease has one holder":                             testLease,
		"dead letters keep every byte":                       testDeadLetters,
		"a part of a transaction fails alone":                testPart,
		"consumers are known by their positions":             testClaims,
		"a wait for a lock can be bounded":                   testBoundLocks,

		"NULLs and odd texts come back as they went":   testNulls,
		"decimals are exact, zeros at the end cut":     testDecimals,
		"instants are the same in every zone":          testTimes,
		"readers do not write":                         testReader,
		"a key is returned to one of many inserters":   testReturningRace,
		"a table is replaced by another one":           testReplacedTable,
		"overlapping consumers never wait in a circle": testOrders,
		"processes that start at once agree on topics": testTopicRace,
		"of many that ask, one gets the lease":         testLeaseRace,
		"one bad value among many is found":            testLargeDataErrors,
		"workers take each row of a queue once":        testQueue,
		"changes of tables take turns":                 testAlone,

		"segments are read in their order":      testSegments,
		"numbers of the table log":              testLogNumbers,
		"a topic of the table log is made once": testEnsureTopic,
		"groups keep their offsets":             testGroupOffsets,
		"a database belongs to one log":         testRecordedLog,
		"a refill marks a database at once":     testOpenToRefill,
		"a lease is known to be taken":          testLeaseTaken,

		"a move is recorded until it is finished":   testMoves,
		"a lease is held through a transaction":     testHeldLease,
		"rows keep the ids that they had":           testNumberedRows,
		"a database says which tables it has":       testCatalog,
		"a topic remembers where it was moved from": testLineage,

		"a snapshot stays as it was":             testSnapshot,
		"a snapshot ends with its context":       testSnapshotEnds,
		"tables are described":                   testTables,
		"rows come in the order of their bytes":  testTableRows,
		"scratch stages are none of the service": testScratch,
		"dead letters come in the log's order":   testDeadLettersOf,
		"dead letters are retried or discarded":  testRetries,
		"many dead letters are retried":          testManyRetries,
		"a retry fences off who remembers":       testFenceRetry,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t))
		})
	}
}

func open(t *testing.T, opener Opener) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), opener(t))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func write(t *testing.T, s *store.Store, f func(tx *store.Tx) error) {
	t.Helper()
	require.NoError(t, s.Write(t.Context(), f))
}

// testMigrate: of several starts at once one does the work, and each knows what
// it did.
func testMigrate(t *testing.T, opener Opener) {
	var wait sync.WaitGroup
	migrations := make([]store.Migration, 3)
	for i := range migrations {
		engine := opener(t)
		t.Cleanup(func() { assert.NoError(t, engine.Close()) })
		wait.Go(func() {
			var err error
			migrations[i], err = engine.Migrate(t.Context())
			assert.NoError(t, err)
		})
	}
	wait.Wait()
	worked := 0
	for _, m := range migrations {
		assert.Positive(t, m.To)
		assert.Equal(t, migrations[0].To, m.To)
		if m.From != m.To {
			assert.Zero(t, m.From)
			worked++
		}
	}
	assert.Equal(t, 1, worked)
}

func testIdentity(t *testing.T, opener Opener) {
	for range 2 { // the same to anyone who opens it, whenever
		moved, err := open(t, opener).Moved(t.Context())
		require.NoError(t, err)
		assert.False(t, moved)
	}
}

func testValues(t *testing.T, opener Opener) {
	s := open(t, opener)
	type row struct {
		ID    int64          `db:"id"`
		Price schema.Decimal `db:"price"`
		At    schema.Time    `db:"at"`
		Text  string         `db:"txt"`
		Bytes []byte         `db:"raw"`
	}
	want := []row{
		{1, schema.MustDecimal("0.000000000000000001"), schema.NewTime(time.Unix(0, 1000)), "", []byte{}},
		{2, schema.MustDecimal("999999999999999999.999999999999999999"), schema.NewTime(time.Date(2100, 1, 2, 3, 4, 5, 678_901_000, time.UTC)), "é𝄞\"'\\", []byte{0, 255, 10}},
		{1<<62 + 1, schema.MustDecimal("-0.1"), schema.NewTime(time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)), "x", []byte("y")},
	}
	write(t, s, func(tx *store.Tx) error {
		if err := tx.DDL(t.Context(), `CREATE TABLE vals (id {int} PRIMARY KEY, price {decimal}, at {time}, txt {text}, raw {bytes})`); err != nil {
			return err
		}
		rows := store.Rows{Table: "vals", Columns: []string{"id", "price", "at", "txt", "raw"}}
		for _, r := range want {
			rows.Add(r.ID, r.Price, r.At, r.Text, r.Bytes)
		}
		return tx.Insert(t.Context(), rows)
	})
	var got []row
	require.NoError(t, s.Select(t.Context(), &got, `SELECT id, price, at, txt, raw FROM vals ORDER BY id`))
	assert.Equal(t, fmt.Sprint(want), fmt.Sprint(got))

	var newest []int64
	require.NoError(t, s.Select(t.Context(), &newest, `SELECT id FROM vals WHERE at >= $1 ORDER BY at DESC`, want[2].At))
	assert.Equal(t, []int64{2, 1, 1<<62 + 1}, newest, "times are ordered and compared as times")
}

func testRows(t *testing.T, opener Opener) {
	s := open(t, opener)
	write(t, s, func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE many (id {int} PRIMARY KEY, txt {text} NOT NULL)`)
	})
	const n = 5003 // no multiple of any chunk
	plain := store.Rows{Table: "many", Columns: []string{"id", "txt"}}
	for i := range n {
		plain.Add(i, "plain")
	}
	write(t, s, func(tx *store.Tx) error { return tx.Insert(t.Context(), plain) })
	write(t, s, func(tx *store.Tx) error {
		return tx.Insert(t.Context(), store.Rows{Table: "many", Columns: []string{"id", "txt"}})
	})

	again := store.Rows{Table: "many", Columns: []string{"id", "txt"}, Clause: "ON CONFLICT (id) DO NOTHING RETURNING id"}
	for i := range 2 * n {
		again.Add(i, "again")
	}
	var inserted []int64
	write(t, s, func(tx *store.Tx) error { return store.InsertReturning(t.Context(), tx, &inserted, again) })
	assert.Len(t, inserted, n, "only rows that were really inserted are returned")

	keys := make([]int64, 0, n)
	for i := range n {
		keys = append(keys, int64(2*i))
	}
	found, err := store.SelectIn[int64](t.Context(), s, `SELECT id FROM many WHERE id IN (?)`, keys)
	require.NoError(t, err)
	assert.ElementsMatch(t, keys, found)
	found, err = store.SelectIn[int64](t.Context(), s, `SELECT id FROM many WHERE id >= $1 AND id IN (?) AND id < $2`, keys, 10, 20)
	require.NoError(t, err)
	assert.ElementsMatch(t, []int64{10, 12, 14, 16, 18}, found)
}

// testLoader: anyone who asks, with whomever, gets the last row of what they asked for.
func testLoader(t *testing.T, opener Opener) {
	s := open(t, opener)
	write(t, s, func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE many (id {int} PRIMARY KEY, name {text} NOT NULL, part {int} NOT NULL)`)
	})
	type key struct {
		Name string `db:"name"`
		Part int    `db:"part"`
	}
	const names, rounds = 20, 3
	rows := store.Rows{Table: "many", Columns: []string{"id", "name", "part"}}
	for i := range names * rounds {
		rows.Add(i, fmt.Sprint(i%names), i%names%2)
	}
	write(t, s, func(tx *store.Tx) error { return tx.Insert(t.Context(), rows) })

	loader := store.NewLoader(2, func(ctx context.Context, keys []key) (map[key]int, error) {
		var args []any
		for _, k := range keys {
			args = append(args, k.Name, k.Part)
		}
		var found []struct {
			key
			ID int `db:"id"`
		}
		err := s.Select(ctx, &found, store.ForEach(`SELECT id, name, part FROM many WHERE name = ? AND part = ?
			ORDER BY id DESC LIMIT 1`, len(keys)), args...)
		answers := map[key]int{}
		for _, row := range found {
			answers[row.key] = row.ID
		}
		return answers, err
	})
	var wait sync.WaitGroup
	for i := range 10 * names {
		wait.Go(func() {
			name, part := i%names, i/names%2
			id, err := loader.Load(t.Context(), key{fmt.Sprint(name), part})
			if part != name%2 {
				assert.ErrorIs(t, err, sql.ErrNoRows)
				return
			}
			assert.NoError(t, err)
			assert.Equal(t, (rounds-1)*names+name, id)
		})
	}
	wait.Wait()
}

// testScan: what Scan reads, Insert writes, to the last bit.
func testScan(t *testing.T, opener Opener) {
	s := open(t, opener)
	ctx := t.Context()
	write(t, s, func(tx *store.Tx) error {
		rows := store.Rows{Table: "first", Columns: []string{"id", "price", "at", "txt", "raw"}}
		for i := range 100 { // by every path there is
			rows.Add(i, schema.MustDecimal("123456789012345678.123456789012345678"), schema.NewTime(time.Unix(int64(i), 1000)), "é\\", []byte{0, 255, byte(i)})
		}
		rows.Add(100, nil, nil, nil, nil)
		return errors.Join(
			tx.DDL(ctx, `CREATE TABLE first (id {int} PRIMARY KEY, price {decimal}, at {time}, txt {text}, raw {bytes})`),
			tx.DDL(ctx, `CREATE TABLE second (id {int} PRIMARY KEY, price {decimal}, at {time}, txt {text}, raw {bytes})`),
			tx.Insert(ctx, rows))
	})
	var sizes []int
	require.NoError(t, s.Scan(ctx, "first", 1000, 40, func(rows store.Rows) error {
		sizes = append(sizes, rows.Len())
		rows.Table = "second"
		return s.Write(ctx, func(tx *store.Tx) error { return tx.Insert(ctx, rows) })
	}))
	assert.Equal(t, []int{40, 40, 21}, sizes)
	var same int
	require.NoError(t, s.Get(ctx, &same, `SELECT COUNT(*) FROM (SELECT * FROM first INTERSECT SELECT * FROM second) both_of_them`))
	assert.Equal(t, 101, same)
	sizes = nil
	require.NoError(t, s.Scan(ctx, "first", 5, 40, func(rows store.Rows) error { sizes = append(sizes, rows.Len()); return nil }))
	assert.Equal(t, []int{5}, sizes)
	cause := errors.New("no")
	require.ErrorIs(t, s.Scan(ctx, "first", 5, 1, func(store.Rows) error { return cause }), cause)
	require.Error(t, s.Scan(ctx, "third", 5, 1, func(store.Rows) error { return nil }))
}

func testRollback(t *testing.T, opener Opener) {
	s := open(t, opener)
	cause := errors.New("no")
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		require.NoError(t, tx.CreatePositions(t.Context(), []store.Position{{Stage: "s", Topic: "t"}}))
		return cause
	})
	require.ErrorIs(t, err, cause)
	assert.Panics(t, func() {
		_ = s.Write(t.Context(), func(tx *store.Tx) error {
			require.NoError(t, tx.CreatePositions(t.Context(), []store.Position{{Stage: "s", Topic: "t"}}))
			panic("handler")
		})
	})
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, s.Write(canceled, func(*store.Tx) error { return nil }))
	positions, err := store.Positions(t.Context(), s, "")
	require.NoError(t, err)
	assert.Empty(t, positions)
}

func testDataErrors(t *testing.T, opener Opener) {
	s := open(t, opener)
	write(t, s, func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE strict (id {int} PRIMARY KEY, txt {text} NOT NULL)`)
	})
	var data *store.DataError
	for name, values := range map[string][]any{"null": {1, nil}, "twice": {1, "a", 1, "b"}, "a float": {1, "a", 2.5, "b"}, "a short one": {1, "a", 2, float32(2.5)}} {
		err := s.Write(t.Context(), func(tx *store.Tx) error {
			return tx.Insert(t.Context(), store.Rows{Table: "strict", Columns: []string{"id", "txt"}, Values: values})
		})
		assert.ErrorAs(t, err, &data, name)
	}
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO missing VALUES (1)`)
		return err
	})
	require.Error(t, err)
	assert.False(t, errors.As(err, &data), "a missing table is not the record's fault: %v", err)
}

func testPart(t *testing.T, opener Opener) {
	s := open(t, opener)
	write(t, s, func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE parts (id {int} PRIMARY KEY)`)
	})
	insert := func(tx *store.Tx, id int) error {
		return tx.Insert(t.Context(), store.Rows{Table: "parts", Columns: []string{"id"}, Values: []any{id}})
	}
	cause := errors.New("no")
	write(t, s, func(tx *store.Tx) error {
		require.NoError(t, insert(tx, 1))
		require.NoError(t, tx.Savepoint(t.Context(), func() error { return insert(tx, 2) }))
		require.ErrorIs(t, tx.Savepoint(t.Context(), func() error { return errors.Join(insert(tx, 3), cause) }), cause)
		var data *store.DataError
		require.ErrorAs(t, tx.Savepoint(t.Context(), func() error { return errors.Join(insert(tx, 4), insert(tx, 2)) }), &data)
		return tx.Savepoint(t.Context(), func() error { return insert(tx, 5) })
	})
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		require.NoError(t, tx.Savepoint(t.Context(), func() error { return insert(tx, 6) }))
		return cause
	})
	require.ErrorIs(t, err, cause)
	var ids []int
	require.NoError(t, s.Select(t.Context(), &ids, `SELECT id FROM parts ORDER BY id`))
	assert.Equal(t, []int{1, 2, 5}, ids)
}
