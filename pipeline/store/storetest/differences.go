package storetest

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// sizes are numbers of rows for which an engine may choose different ways.
var sizes = []int{1, 3, 300}

// nullable is a row of which all but the id may be NULL.
type nullable struct {
	ID    int64                    `db:"id"`
	Int   sql.Null[int64]          `db:"num"`
	Text  sql.Null[string]         `db:"txt"`
	Price sql.Null[schema.Decimal] `db:"price"`
	At    sql.Null[schema.Time]    `db:"at"`
	Bytes []byte                   `db:"raw"`
}

// testNulls: NULL, empty and everything that some text format gives a meaning
// come back as they went, however many rows there are.
func testNulls(t *testing.T, opener Opener) {
	s := open(t, opener)
	texts := []string{"", `\N`, `\.`, "a\tb\nc\r\n", `\`, `\\n`, `"{a,b}"`, "NULL", "'; --", "$1 ?", "ß€😀", " x "}
	for _, n := range sizes {
		write(t, s, func(tx *store.Tx) error {
			return tx.DDL(t.Context(), fmt.Sprintf(`CREATE TABLE nullable_%d (id {int} PRIMARY KEY, num {int}, txt {text},
				price {decimal}, at {time}, raw {bytes})`, n))
		})
		rows := store.Rows{Table: fmt.Sprintf("nullable_%d", n), Columns: []string{"id", "num", "txt", "price", "at", "raw"}}
		var want []nullable
		for i := range int64(n) {
			text := texts[int(i)%len(texts)]
			full := nullable{ID: 2 * i, Int: sql.Null[int64]{V: -i, Valid: true}, Text: sql.Null[string]{V: text, Valid: true},
				Price: sql.Null[schema.Decimal]{V: schema.MustDecimal("0.00001304"), Valid: true},
				At:    sql.Null[schema.Time]{V: schema.NewTime(time.UnixMicro(i)), Valid: true}, Bytes: []byte(text)}
			rows.Add(full.ID, full.Int.V, text, full.Price.V, full.At.V, full.Bytes)
			// A nil slice is NULL, like nil.
			rows.Add(2*i+1, nil, nil, nil, nil, [][]byte{nil, {}}[i%2])
			want = append(want, full, nullable{ID: 2*i + 1, Bytes: [][]byte{nil, {}}[i%2]})
		}
		write(t, s, func(tx *store.Tx) error { return tx.Insert(t.Context(), rows) })
		var got []nullable
		require.NoError(t, s.Select(t.Context(), &got, `SELECT id, num, txt, price, at, raw FROM `+rows.Table+` ORDER BY id`))
		require.Len(t, got, len(want))
		for i := range want {
			// Some drivers read empty bytes as nil; the columns below tell.
			got[i].Bytes, want[i].Bytes = append([]byte{}, got[i].Bytes...), append([]byte{}, want[i].Bytes...)
			require.Equal(t, want[i], got[i], "of %d rows", n)
		}
		var nulls, noBytes int
		require.NoError(t, s.Get(t.Context(), &nulls, `SELECT count(*) FROM `+rows.Table+`
			WHERE num IS NULL AND txt IS NULL AND price IS NULL AND at IS NULL`))
		require.NoError(t, s.Get(t.Context(), &noBytes, `SELECT count(*) FROM `+rows.Table+` WHERE raw IS NULL`))
		assert.Equal(t, []int{n, (n + 1) / 2}, []int{nulls, noBytes})
	}
}

// testDecimals: columns hold more digits than prices may have, and zeros behind
// the last digit mean nothing.
func testDecimals(t *testing.T, opener Opener) {
	s := open(t, opener)
	write(t, s, func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE decimals (id {int} PRIMARY KEY, price {decimal} NOT NULL)`)
	})
	large := schema.MustDecimal("999999999999999999.999999999999999999")
	sum := large
	for range 999 {
		sum = sum.Add(large)
	}
	for i, want := range []schema.Decimal{{}, schema.MustDecimal("0.00001304"), schema.MustDecimal("1e17"),
		schema.MustDecimal("1e-18"), schema.MustDecimal("-1.304e-05"), sum, sum.Quo(7), schema.MustDecimal("185.7500")} {
		id := int64(i)
		write(t, s, func(tx *store.Tx) error {
			return tx.Insert(t.Context(), store.Rows{Table: "decimals", Columns: []string{"id", "price"}, Values: []any{id, want}})
		})
		var got schema.Decimal
		require.NoError(t, s.Get(t.Context(), &got, `SELECT price FROM decimals WHERE id = $1`, id))
		assert.Equal(t, want.String(), got.String())
	}
	// As someone types it into a shell.
	write(t, s, func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE decimals SET price = '1.5000' WHERE id = 0`)
		return err
	})
	var got schema.Decimal
	require.NoError(t, s.Get(t.Context(), &got, `SELECT price FROM decimals WHERE id = 0`))
	assert.Equal(t, "1.5", got.String())
}

// testTimes: an instant is the same whatever zone it was told in, and
// comparisons are those of instants.
func testTimes(t *testing.T, opener Opener) {
	s := open(t, opener)
	write(t, s, func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE times (id {int} PRIMARY KEY, at {time} NOT NULL)`)
	})
	instant := time.Date(2025, 3, 30, 1, 30, 0, 123_456_789, time.UTC) // clocks go forward in Europe
	instants := []time.Time{instant, instant.In(time.FixedZone("", 2*3600)), instant.In(time.FixedZone("", -11*3600-1800)),
		{}, time.Unix(-1, 1000), time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)}
	rows := store.Rows{Table: "times", Columns: []string{"id", "at"}}
	for i, at := range instants {
		rows.Add(i, schema.NewTime(at))
	}
	write(t, s, func(tx *store.Tx) error { return tx.Insert(t.Context(), rows) })
	var got []schema.Time
	require.NoError(t, s.Select(t.Context(), &got, `SELECT at FROM times ORDER BY id`))
	for i, at := range instants {
		assert.Equal(t, schema.NewTime(at), got[i])
	}
	for _, at := range instants[:3] {
		var equal, before, after int
		require.NoError(t, s.Get(t.Context(), &equal, `SELECT count(*) FROM times WHERE at = $1`, schema.NewTime(at)))
		require.NoError(t, s.Get(t.Context(), &before, `SELECT count(*) FROM times WHERE at < $1`, schema.NewTime(at)))
		require.NoError(t, s.Get(t.Context(), &after, `SELECT count(*) FROM times WHERE at > $1`, schema.NewTime(at)))
		assert.Equal(t, []int{3, 2, 1}, []int{equal, before, after})
	}
}

// testReader: what serves queries of clients cannot change anything.
func testReader(t *testing.T, opener Opener) {
	engine := opener(t)
	t.Cleanup(func() { assert.NoError(t, engine.Close()) })
	_, err := engine.Migrate(t.Context())
	require.NoError(t, err)
	for _, statement := range []string{`CREATE TABLE x (y INTEGER)`, `INSERT INTO instance (singleton, id) VALUES (1, 'x')`} {
		_, err := engine.Reader().ExecContext(t.Context(), statement)
		assert.Error(t, err, statement)
	}
}

// testReplacedTable: a table takes the place of one that was asked for again and
// again, and has other columns.
func testReplacedTable(t *testing.T, opener Opener) {
	s := open(t, opener)
	ddl := func(statements ...string) {
		write(t, s, func(tx *store.Tx) error {
			for _, statement := range statements {
				if err := tx.DDL(t.Context(), statement); err != nil {
					return err
				}
			}
			return nil
		})
	}
	insert := func(values ...any) {
		rows := store.Rows{Table: "facts", Columns: []string{"id", "txt"}, Values: values}
		write(t, s, func(tx *store.Tx) error { return tx.Insert(t.Context(), rows) })
	}
	type row struct {
		ID  int64  `db:"id"`
		Txt string `db:"txt"`
		New string `db:"new"`
	}
	ask := func() (all []row) {
		require.NoError(t, s.Select(t.Context(), &all, `SELECT * FROM facts WHERE id = $1`, 1))
		return all
	}
	ddl(`CREATE TABLE facts (id {int} PRIMARY KEY, txt {text})`)
	for i := range 5 {
		insert(i, "old")
		ask()
	}
	ddl(`CREATE TABLE facts_2 (txt {int}, id {int} PRIMARY KEY, new {text} DEFAULT 'there')`,
		`ALTER TABLE facts RENAME TO facts_1`, `ALTER TABLE facts_2 RENAME TO facts`)
	// The first attempt may find out only by failing, as a batch's may.
	_ = s.Write(t.Context(), func(tx *store.Tx) error {
		return tx.Insert(t.Context(), store.Rows{Table: "facts", Columns: []string{"id", "txt"}, Values: []any{7, 7}})
	})
	insert(1, 5)
	for range 5 {
		require.Equal(t, []row{{1, "5", "there"}}, ask())
	}
}

// testReturningRace: of many that insert the same keys at once, each key is
// returned to exactly one. The keys come in one order, as the store asks of all
// its users.
func testReturningRace(t *testing.T, opener Opener) {
	stores := []*store.Store{open(t, opener), open(t, opener)}
	write(t, stores[0], func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE facts (id {text} PRIMARY KEY) {keyed}`)
	})
	const n, writers = 500, 6
	fresh := make([][]string, writers)
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			rows := store.Rows{Table: "facts", Columns: []string{"id"}, Clause: "ON CONFLICT (id) DO NOTHING RETURNING id"}
			for i := range n {
				rows.Add(fmt.Sprintf("%06d", i))
			}
			assert.NoError(t, stores[w%2].Write(t.Context(), func(tx *store.Tx) error {
				fresh[w] = nil
				return store.InsertReturning(t.Context(), tx, &fresh[w], rows)
			}))
		})
	}
	wait.Wait()
	all := slices.Concat(fresh...)
	assert.Len(t, all, n)
	assert.Len(t, slices.Compact(slices.Sorted(slices.Values(all))), n, "no key twice")
}

// testOrders: consumers that overlap (one has lost its partitions and does not
// know it yet) may hold them in any order; they fence each other, and never wait
// for each other in a circle.
func testOrders(t *testing.T, opener Opener) {
	stores := []*store.Store{open(t, opener), open(t, opener)}
	const parts, steps = 12, 25
	var wait sync.WaitGroup
	for i, s := range stores {
		wait.Go(func() {
			var positions []store.Position
			for part := range int32(parts) {
				positions = append(positions, position(part, 0))
			}
			if i == 1 {
				slices.Reverse(positions)
			}
			write := func(f func(tx *store.Tx) error) error { return s.Write(t.Context(), f) }
			if !assert.NoError(t, write(func(tx *store.Tx) error { return tx.CreatePositions(t.Context(), positions) })) {
				return
			}
			for step := range int64(steps) {
				var moves []store.Move
				for _, p := range positions {
					moves = append(moves, move(position(p.Part, step), step+1))
				}
				err := write(func(tx *store.Tx) error {
					return tx.MovePositions(t.Context(), schema.NewTime(time.Unix(2, 0)), moves)
				})
				assert.True(t, err == nil || errors.Is(err, store.ErrFenced), "%v", err)
			}
		})
	}
	wait.Wait()
	got, err := store.Positions(t.Context(), stores[0], "stage")
	require.NoError(t, err)
	for _, p := range got {
		assert.Equal(t, int64(steps), p.Next)
	}
}

// testTopicRace: processes that start at once agree on the epochs, which have no
// gap.
func testTopicRace(t *testing.T, opener Opener) {
	stores := []*store.Store{open(t, opener), open(t, opener), open(t, opener)}
	names := strings.Fields("a b c d e")
	registered := make([]map[string]store.Topic, len(stores))
	var wait sync.WaitGroup
	for i, s := range stores {
		registered[i] = map[string]store.Topic{}
		order := append(slices.Clone(names[i:]), names[:i]...)
		wait.Go(func() {
			for _, name := range order {
				topic, err := s.RegisterTopic(t.Context(), name, "id-"+name, 2)
				assert.NoError(t, err)
				registered[i][name] = topic
			}
		})
	}
	wait.Wait()
	assert.Equal(t, registered[0], registered[1])
	assert.Equal(t, registered[0], registered[2])
	topics, err := stores[0].Topics(t.Context())
	require.NoError(t, err)
	require.Len(t, topics, len(names))
	for i, topic := range topics {
		assert.Equal(t, int64(i+1), topic.Epoch)
	}
	chains, err := store.Chains(t.Context(), stores[0])
	require.NoError(t, err)
	assert.Len(t, chains, 2*len(names))
}

// testLeaseRace: of many that ask at once, one gets the lease.
func testLeaseRace(t *testing.T, opener Opener) {
	s := open(t, opener)
	var mu sync.Mutex
	var holders []string
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			held, err := s.AcquireLease(t.Context(), "relay", fmt.Sprint(i), time.Hour)
			assert.NoError(t, err)
			if held {
				mu.Lock()
				holders = append(holders, fmt.Sprint(i))
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	assert.Len(t, holders, 1)
}

// testLargeDataErrors: a bad value among many is told from other errors as among
// few.
func testLargeDataErrors(t *testing.T, opener Opener) {
	s := open(t, opener)
	write(t, s, func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE strict (id {int} PRIMARY KEY, txt {text} NOT NULL)`)
	})
	var data *store.DataError
	for _, n := range sizes {
		for name, last := range map[string][]any{"null": {-1, nil}, "twice": {0, "a"}} {
			rows := store.Rows{Table: "strict", Columns: []string{"id", "txt"}}
			for i := range n {
				rows.Add(i, "a")
			}
			rows.Add(last...)
			err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.Insert(t.Context(), rows) })
			assert.ErrorAs(t, err, &data, "%s among %d", name, n)
		}
	}
	var left int
	require.NoError(t, s.Get(t.Context(), &left, `SELECT count(*) FROM strict`))
	assert.Zero(t, left)
}

// testQueue: workers that take rows of a queue and remove them, side by side,
// take each row once and never wait in a circle.
func testQueue(t *testing.T, opener Opener) {
	stores := []*store.Store{open(t, opener), open(t, opener)}
	const n, workers = 200, 6
	write(t, stores[0], func(tx *store.Tx) error {
		if err := tx.DDL(t.Context(), `CREATE TABLE queue (id {int} PRIMARY KEY, taken_by {text} NOT NULL)`); err != nil {
			return err
		}
		rows := store.Rows{Table: "queue", Columns: []string{"id", "taken_by"}}
		for i := range n {
			rows.Add(i, "")
		}
		return tx.Insert(t.Context(), rows)
	})
	var mu sync.Mutex
	times := map[int64]int{}
	var wait sync.WaitGroup
	for w := range workers {
		s := stores[w%2]
		wait.Go(func() {
			for {
				var left int
				var taken []int64
				err := s.Write(t.Context(), func(tx *store.Tx) error {
					taken = nil
					if err := tx.Get(t.Context(), &left, `SELECT count(*) FROM queue WHERE taken_by = ''`); err != nil {
						return err
					}
					return tx.Select(t.Context(), &taken, `WITH held AS (SELECT id FROM queue WHERE taken_by = '' ORDER BY id LIMIT 7 `+
						tx.LockFreeRows("queue")+`) UPDATE queue SET taken_by = $1 WHERE id IN (SELECT id FROM held) RETURNING id`, fmt.Sprint(w))
				})
				if !assert.NoError(t, err) || left == 0 {
					return
				}
				mu.Lock()
				for _, id := range taken {
					times[id]++
				}
				mu.Unlock()
				// All that is taken, by whomever: overlapping on purpose.
				assert.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error {
					_, err := tx.Exec(t.Context(), `WITH held AS (SELECT id FROM queue WHERE taken_by <> '' ORDER BY id `+
						tx.LockRows("queue")+`) DELETE FROM queue WHERE id IN (SELECT id FROM held)`)
					return err
				}))
			}
		})
	}
	wait.Wait()
	assert.Len(t, times, n)
	for id, count := range times {
		assert.Equal(t, 1, count, id)
	}
}

// testAlone: processes that create the same tables where they are missing take
// turns.
func testAlone(t *testing.T, opener Opener) {
	var wait sync.WaitGroup
	for range 3 {
		s := open(t, opener)
		wait.Go(func() {
			assert.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error {
				if err := tx.LockSchema(t.Context()); err != nil {
					return err
				}
				var known int
				if err := tx.Get(t.Context(), &known, `SELECT count(*) FROM generations`); err != nil || known > 0 {
					return err
				}
				if err := tx.DDL(t.Context(), `CREATE TABLE once (id {int} PRIMARY KEY)`); err != nil {
					return err
				}
				_, err := tx.Exec(t.Context(), `INSERT INTO generations (projection, number, fold, active, created_at)
					VALUES ('p', 1, 'f', 1, $1)`, schema.NewTime(time.Unix(1, 0)))
				return err
			}))
		})
	}
	wait.Wait()
}
