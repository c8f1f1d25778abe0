package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/pipeline/store/storetest"
	"github.com/pricemill/pricemill/schema"
)

func TestEngine(t *testing.T) {
	t.Parallel()
	serverURL(t)
	storetest.Run(t, func(t *testing.T) storetest.Opener {
		address := freshSchema(t)
		return func(t *testing.T) store.Engine {
			// Few, so that suites side by side leave the server some.
			return openEngine(t, postgres.Config{URL: address, MaxConns: 8})
		}
	})
}

func openStore(t *testing.T, cfg postgres.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), openEngine(t, cfg))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func TestSessionsAreWhatTheEngineNeeds(t *testing.T) {
	t.Parallel()
	address := freshDatabase(t, "")
	admin := connect(t, address)
	admin.SetMaxOpenConns(1) // the settings are for the sessions after it
	for _, setting := range []string{"timezone TO 'America/New_York'", "default_transaction_isolation TO serializable",
		"synchronous_commit TO off", "datestyle TO 'German'", "default_transaction_read_only TO off",
		"statement_timeout TO 1", "bytea_output TO escape", "extra_float_digits TO 0"} {
		_, err := admin.ExecContext(t.Context(), "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET "+
			strings.ReplaceAll(setting, "'", "''")+"'; END $$")
		require.NoError(t, err)
	}
	s := openStore(t, postgres.Config{URL: with(t, address, "work_mem", "5MB"), LockTimeout: 1500 * time.Millisecond})
	for name, want := range map[string]string{"timezone": "UTC", "transaction_isolation": "read committed",
		"synchronous_commit": "on", "statement_timeout": "25s", "lock_timeout": "1500ms",
		"idle_in_transaction_session_timeout": "10s", "application_name": "pricemill", "work_mem": "5MB"} {
		require.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error {
			var got string
			err := tx.Get(t.Context(), &got, `SELECT current_setting($1)`, name)
			assert.Equal(t, want, got, name)
			return err
		}))
	}
	letter := store.DeadLetter{Stage: "s", Topic: "t", Headers: []byte{0, '\\', 255}, Reason: "r",
		CreatedAt: schema.NewTime(time.Date(2025, 7, 1, 12, 0, 0, 123_456_000, time.UTC))}
	require.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error {
		return tx.AddDeadLetters(t.Context(), []store.DeadLetter{letter})
	}))
	listed, err := store.DeadLetters(t.Context(), s, "", 1)
	require.NoError(t, err)
	got, err := store.ReadDeadLetter(t.Context(), s, listed[0].ID)
	require.NoError(t, err)
	assert.Equal(t, letter.CreatedAt, got.CreatedAt)
	assert.Equal(t, letter.Headers, got.Headers)
}

// TestReadOnly: a database is read, and the server refuses every change of it.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	address := freshSchema(t)
	engine, err := postgres.Open(t.Context(), postgres.Config{URL: address})
	require.NoError(t, err)
	db, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	require.NoError(t, db.EnsureTopic(t.Context(), "prices", 3))
	read, err := postgres.Open(t.Context(), postgres.Config{URL: address, ReadOnly: true})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, read.Close()) })
	topics, err := store.Reader(read).Topics(t.Context())
	require.NoError(t, err)
	assert.Len(t, topics, 1)
	assert.ErrorContains(t, store.Reader(read).EnsureTopic(t.Context(), "other", 3), "read-only transaction")
	_, err = read.Migrate(t.Context())
	assert.ErrorIs(t, err, postgres.ErrServer)
	same, err := engine.Identity(t.Context())
	require.NoError(t, err)
	identity, err := read.Identity(t.Context())
	require.NoError(t, err)
	assert.Equal(t, same, identity)
}

func TestServersThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	address := freshDatabase(t, "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	_, err := postgres.Open(t.Context(), postgres.Config{URL: address})
	require.ErrorIs(t, err, postgres.ErrServer)
	assert.ErrorContains(t, err, "LATIN1")
}

// TestDataErrors: what only this engine refuses, by each of its ways in.
func TestDataErrors(t *testing.T) {
	t.Parallel()
	s := openStore(t, postgres.Config{URL: freshSchema(t), StatementTimeout: 2 * time.Second, LockTimeout: 100 * time.Millisecond})
	require.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error {
		return tx.DDL(t.Context(), `CREATE TABLE strict (id {int} PRIMARY KEY, txt {text} UNIQUE)`)
	}))
	var data *store.DataError
	for name, value := range map[string]any{"a NUL": "a\x00b", "not UTF-8": "a\xff", "too long for the index": incompressible(20_000)} {
		for _, n := range []int{1, 500} {
			rows := store.Rows{Table: "strict", Columns: []string{"id", "txt"}}
			for i := range n {
				rows.Add(i, nil)
			}
			rows.Values[len(rows.Values)-1] = value
			err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.Insert(t.Context(), rows) })
			assert.ErrorAs(t, err, &data, "%s among %d rows", name, n)
		}
	}
	for name, statement := range map[string]string{
		"too slow":    `SELECT pg_sleep(30)`,
		"read only":   `SET TRANSACTION READ ONLY; DELETE FROM strict`,
		"no table":    `INSERT INTO missing VALUES (1)`,
		"no division": `SELEC 1`,
	} {
		err := s.Write(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(t.Context(), statement); return err })
		require.Error(t, err, name)
		assert.False(t, errors.As(err, &data), "%s: %v", name, err)
	}
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(t.Context(), `LOCK TABLE strict`); err != nil {
			return err
		}
		return s.Write(t.Context(), func(other *store.Tx) error {
			_, err := other.Exec(t.Context(), `DELETE FROM strict`)
			return err
		})
	})
	require.ErrorContains(t, err, "lock timeout")
	assert.False(t, errors.As(err, &data), "%v", err)
}

// incompressible is a text that an index cannot squeeze.
func incompressible(n int) string {
	var b strings.Builder
	for state := uint32(1); b.Len() < n; {
		state = state*1664525 + 1013904223
		fmt.Fprintf(&b, "%08x", state)
	}
	return b.String()
}

// TestDeadlock: two transactions that wait in a circle. One of them is ended by
// the server, and it is not its values' fault.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	s := openStore(t, postgres.Config{URL: freshSchema(t)})
	require.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error {
		if err := tx.DDL(t.Context(), `CREATE TABLE pair (id {int} PRIMARY KEY)`); err != nil {
			return err
		}
		return tx.Insert(t.Context(), store.Rows{Table: "pair", Columns: []string{"id"}, Values: []any{1, 2}})
	}))
	var ready, done sync.WaitGroup
	errs := make([]error, 2)
	ready.Add(2)
	for i := range 2 {
		done.Go(func() {
			errs[i] = s.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(t.Context(), `UPDATE pair SET id = id WHERE id = $1`, 1+i)
				ready.Done()
				if err != nil {
					return err
				}
				ready.Wait()
				_, err = tx.Exec(t.Context(), `UPDATE pair SET id = id WHERE id = $1`, 2-i)
				return err
			})
		})
	}
	done.Wait()
	err := errors.Join(errs...)
	require.ErrorContains(t, err, "deadlock")
	assert.True(t, errs[0] == nil || errs[1] == nil, "one of them continues")
	var data *store.DataError
	assert.False(t, errors.As(err, &data), "%v", err)
}

// killOthers ends all other sessions of a database, as a restart would.
func killOthers(t *testing.T, address string) {
	t.Helper()
	_, err := connect(t, address).ExecContext(t.Context(), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	require.NoError(t, err)
}

func TestKilledConnections(t *testing.T) {
	t.Parallel()
	address := freshDatabase(t, "")
	s := openStore(t, postgres.Config{URL: address, MaxConns: 16})
	lease := func(name string) error {
		held, err := s.AcquireLease(t.Context(), name, "me", time.Hour)
		assert.Equal(t, err == nil, held)
		return err
	}
	// Many idle connections, more than database/sql tries in vain.
	var begun, done sync.WaitGroup
	for range 10 {
		begun.Add(1)
		done.Go(func() {
			assert.NoError(t, s.Write(t.Context(), func(*store.Tx) error { begun.Done(); begun.Wait(); return nil }))
		})
	}
	done.Wait()
	killOthers(t, address)
	require.NoError(t, lease("after idle"))
	var count int
	require.NoError(t, s.Get(t.Context(), &count, `SELECT count(*) FROM leases`))
	assert.Equal(t, 1, count)

	for _, n := range []int{1, 5000} {
		err := s.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec(t.Context(), `DELETE FROM leases`); err != nil {
				return err
			}
			killOthers(t, address)
			rows := store.Rows{Table: "leases", Columns: []string{"name", "owner", "expires_ms"}}
			for i := range n {
				rows.Add(fmt.Sprint(i), "me", 0)
			}
			return tx.Insert(t.Context(), rows)
		})
		require.Error(t, err)
		var data *store.DataError
		assert.False(t, errors.As(err, &data), "%v", err)
		require.NoError(t, lease(fmt.Sprint("after a write of ", n)))
	}
	require.NoError(t, s.Get(t.Context(), &count, `SELECT count(*) FROM leases`))
	assert.Equal(t, 3, count, "what was killed left nothing")
}

func TestCommitWithoutAnswer(t *testing.T) {
	t.Parallel()
	address := freshDatabase(t, "")
	s := openStore(t, postgres.Config{URL: address})
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `DELETE FROM leases`)
		killOthers(t, address)
		return err
	})
	assert.ErrorIs(t, err, store.ErrCommit)
}

func TestStoppedProcessLetsGo(t *testing.T) {
	t.Parallel()
	address := freshSchema(t)
	stopped := openStore(t, postgres.Config{URL: address, IdleTimeout: time.Second})
	other := openStore(t, postgres.Config{URL: address})
	require.NoError(t, other.Write(t.Context(), func(tx *store.Tx) error {
		return tx.CreatePositions(t.Context(), []store.Position{{Stage: "s", Topic: "t"}})
	}))
	move := func(tx *store.Tx) error {
		return tx.MovePositions(t.Context(), schema.NewTime(time.Now()), []store.Move{{From: store.Position{Stage: "s", Topic: "t"}, Next: 1}})
	}
	err := stopped.Write(t.Context(), func(tx *store.Tx) error {
		if err := move(tx); err != nil {
			return err
		}
		// As if stopped here: the other one gets the row as soon as the time is up.
		return other.Write(t.Context(), move)
	})
	require.ErrorIs(t, err, store.ErrCommit, "what the stopped one did is gone")
	positions, err := store.Positions(t.Context(), other, "s")
	require.NoError(t, err)
	assert.Equal(t, int64(1), positions[0].Next)
}

// TestStoppedInAnInsertLetsGo is TestStoppedProcessLetsGo where the process is
// stopped while it sends the rows of an insert: the server has the beginning of
// them.
func TestStoppedInAnInsertLetsGo(t *testing.T) {
	t.Parallel()
	engine, proxy, address := newHung(t, postgres.Config{IdleTimeout: time.Second, LockTimeout: time.Hour, StatementTimeout: time.Hour})
	stopped, err := store.Open(t.Context(), engine)
	require.NoError(t, err)
	direct, err := url.Parse(address)
	require.NoError(t, err)
	through, err := url.Parse(serverURL(t))
	require.NoError(t, err)
	direct.Host = through.Host
	other := openStore(t, postgres.Config{URL: direct.String()})
	require.NoError(t, other.Write(t.Context(), func(tx *store.Tx) error {
		return tx.CreatePositions(t.Context(), []store.Position{{Stage: "s", Topic: "t"}})
	}))
	move := func(tx *store.Tx) error {
		return tx.MovePositions(t.Context(), schema.NewTime(time.Now()), []store.Move{{From: store.Position{Stage: "s", Topic: "t"}, Next: 1}})
	}
	rows := store.Rows{Table: "leases", Columns: []string{"name", "owner", "expires_ms"}}
	for i := range 20_000 {
		rows.Add(fmt.Sprint(i), "me", 0)
	}
	moved, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- stopped.Write(t.Context(), func(tx *store.Tx) error {
			if err := move(tx); err != nil {
				return err
			}
			proxy.Limit(1) // some minutes' worth of rows
			close(moved)
			return tx.Insert(t.Context(), rows)
		})
	}()
	<-moved
	require.NoError(t, within(t, "moving what it holds", func() error { return other.Write(t.Context(), move) }))
	proxy.Reset()
	require.Error(t, within(t, "being awake again", func() error { return <-ended }), "what the stopped one did is gone")
}

// TestCanceledInsert: a context that ends while rows are under way leaves neither
// rows nor a connection that is out of step.
func TestCanceledInsert(t *testing.T) {
	t.Parallel()
	s := openStore(t, postgres.Config{URL: freshSchema(t), MaxConns: 2})
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		err := s.Write(ctx, func(tx *store.Tx) error {
			rows := store.Rows{Table: "leases", Columns: []string{"name", "owner", "expires_ms"}}
			for i := range 200_000 {
				rows.Add(fmt.Sprint(i), "me", 0)
			}
			time.AfterFunc(5*time.Millisecond, cancel)
			return tx.Insert(ctx, rows)
		})
		cancel()
		require.Error(t, err)
		var count int
		require.NoError(t, s.Write(t.Context(), func(tx *store.Tx) error {
			return tx.Get(t.Context(), &count, `SELECT count(*) FROM leases`)
		}))
		require.Zero(t, count)
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	address := freshDatabase(t, "")
	all := openStore(t, postgres.Config{URL: address})
	var known string
	require.NoError(t, all.Get(t.Context(), &known, `SELECT server FROM instance`))
	assert.Regexp(t, `^[1-9][0-9]{15,}\.[0-9]+\.[0-9]+\.[1-9][0-9]*$`, known)

	db := connect(t, address)
	var role string
	require.NoError(t, db.QueryRowContext(t.Context(), `SELECT current_database() || '_role'`).Scan(&role))
	for _, statement := range []string{`CREATE ROLE ` + role + ` LOGIN PASSWORD 'x'`,
		`REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC`,
		`GRANT ALL ON ALL TABLES IN SCHEMA public TO ` + role, `GRANT ALL ON SCHEMA public TO ` + role} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	t.Cleanup(func() {
		_, err := db.ExecContext(context.WithoutCancel(t.Context()), `DROP OWNED BY `+role+`; DROP ROLE `+role)
		assert.NoError(t, err)
	})
	less := openEngine(t, postgres.Config{URL: with(t, address, "user", role, "password", "x")})
	t.Cleanup(func() { assert.NoError(t, less.Close()) })
	id, err := less.Identity(t.Context())
	require.NoError(t, err)
	_, unprivileged, _ := strings.Cut(known, ".")
	assert.Equal(t, "0."+unprivileged, id)

	_, err = db.ExecContext(t.Context(), `CREATE TABLE copy (LIKE instance INCLUDING ALL); INSERT INTO copy SELECT * FROM instance;
		DROP TABLE instance; ALTER TABLE copy RENAME TO instance`)
	require.NoError(t, err)
	restored, err := store.Open(t.Context(), openEngine(t, postgres.Config{URL: address}))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, restored.Close()) })
	moved, err := restored.Moved(t.Context())
	require.NoError(t, err)
	assert.True(t, moved, "a table that was restored is another one")
	require.NoError(t, restored.Write(t.Context(), func(tx *store.Tx) error { return tx.SaveServerIdentity(t.Context()) }))
	moved, err = restored.Moved(t.Context())
	require.NoError(t, err)
	assert.False(t, moved)
}

// A process that lives through a failover or a restore must not continue writing:
// the chains of the other database may be at earlier numbers.
func TestAnotherDatabaseUnderALiveProcess(t *testing.T) {
	t.Parallel()
	address := freshDatabase(t, "")
	s := openStore(t, postgres.Config{URL: address})
	write := func() error {
		return s.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), `DELETE FROM leases`)
			return err
		})
	}
	require.NoError(t, write())
	killOthers(t, address)
	require.NoError(t, write(), "the same database, by a new connection")
	_, err := connect(t, address).ExecContext(t.Context(), `CREATE TABLE copy (LIKE instance INCLUDING ALL); INSERT INTO copy SELECT * FROM instance;
		DROP TABLE instance; ALTER TABLE copy RENAME TO instance`)
	require.NoError(t, err)
	killOthers(t, address)
	for range 3 {
		require.ErrorIs(t, write(), postgres.ErrServer)
	}
}

func BenchmarkBulk(b *testing.B) {
	engine := openEngine(b, postgres.Config{URL: freshSchema(b)})
	defer func() { assert.NoError(b, engine.Close()) }()
	s, err := store.Open(b.Context(), engine)
	require.NoError(b, err)
	require.NoError(b, s.Write(b.Context(), func(tx *store.Tx) error {
		return tx.DDL(b.Context(), `CREATE TABLE bench (id {int} PRIMARY KEY, symbol {text}, price {decimal}, at {time}, raw {bytes})`)
	}))
	id := 0
	const byCopy = "copy" // to compare with
	for way, clause := range map[string]string{"bulk": "", "insert": "ON CONFLICT DO NOTHING", byCopy: ""} {
		for _, n := range []int{10, 200, 2000} {
			b.Run(fmt.Sprintf("%s/%d", way, n), func(b *testing.B) {
				total := 0
				for b.Loop() {
					rows := store.Rows{Table: "bench", Columns: []string{"id", "symbol", "price", "at", "raw"}, Clause: clause}
					for range n {
						id++
						rows.Add(id, "AAPL", schema.MustDecimal("185.75"), schema.NewTime(time.Unix(int64(id), 0)), []byte("0123456789abcdef"))
					}
					if way == byCopy {
						require.NoError(b, engine.Write(b.Context(), func(tx *sqlx.Tx) error { return copyRows(b.Context(), tx, rows) }))
					} else {
						require.NoError(b, s.Write(b.Context(), func(tx *store.Tx) error { return tx.Insert(b.Context(), rows) }))
					}
					total += n
				}
				b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}

// BenchmarkMovePositions moves some of the positions of a stage, as many as its batch
// has partitions: rarely as many as the last one.
func BenchmarkMovePositions(b *testing.B) {
	for _, most := range []int{1, 12, 24, 48} {
		b.Run(fmt.Sprintf("1-%d", most), func(b *testing.B) {
			s, err := store.Open(b.Context(), openEngine(b, postgres.Config{URL: freshSchema(b)}))
			require.NoError(b, err)
			defer func() { assert.NoError(b, s.Close()) }()
			all := make([]store.Position, most)
			for i := range all {
				all[i] = store.Position{Stage: "averages", Topic: "price-events", Part: int32(i), TopicID: "id"}
			}
			require.NoError(b, s.Write(b.Context(), func(tx *store.Tx) error { return tx.CreatePositions(b.Context(), all) }))
			now, n := schema.NewTime(time.Unix(1, 0)), 0
			for b.Loop() {
				n = (n+5)%most + 1
				moves := make([]store.Move, n)
				for i := range moves {
					moves[i] = store.Move{From: all[i], Next: all[i].Next + 1, Reached: chain.Link{Timeline: "o", Seq: all[i].Next + 1}}
					all[i].Next++
				}
				require.NoError(b, s.Write(b.Context(), func(tx *store.Tx) error { return tx.MovePositions(b.Context(), now, moves) }))
			}
		})
	}
}

// copyRows is what Bulk does by COPY.
func copyRows(ctx context.Context, tx *sqlx.Tx, rows store.Rows) error {
	stmt, err := tx.PrepareContext(ctx, "COPY "+rows.Table+" ("+strings.Join(rows.Columns, ", ")+") FROM STDIN")
	if err != nil {
		return err
	}
	width := len(rows.Columns)
	for values := rows.Values; len(values) > 0; values = values[width:] {
		if _, err := stmt.ExecContext(ctx, values[:width]...); err != nil {
			return err
		}
	}
	_, err = stmt.ExecContext(ctx)
	return errors.Join(err, stmt.Close())
}

// TestScratch: its tables are its own, and go with it.
func TestScratch(t *testing.T) {
	t.Parallel()
	cfg := postgres.Config{URL: freshDatabase(t, ""), MaxConns: 4}
	table, err := postgres.TableWithData(t.Context(), cfg)
	require.NoError(t, err)
	assert.Empty(t, table)
	scratch, err := postgres.NewScratch(t.Context(), cfg, "some_scratch")
	require.NoError(t, err)
	_, err = postgres.NewScratch(t.Context(), cfg, "some_scratch")
	require.Error(t, err, "it is there already")
	s, err := store.Open(t.Context(), openEngine(t, postgres.Config{URL: scratch.URL, MaxConns: 4}))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	table, err = postgres.TableWithData(t.Context(), cfg)
	require.NoError(t, err)
	assert.Contains(t, table, "some_scratch.")
	require.NoError(t, scratch.Drop(t.Context()))
	table, err = postgres.TableWithData(t.Context(), cfg)
	require.NoError(t, err)
	assert.Empty(t, table)
	_, err = postgres.NewScratch(t.Context(), postgres.Config{URL: "postgres://me:s%zcret@127.0.0.1/db"}, "another")
	require.ErrorIs(t, err, postgres.ErrConfig)
	assert.NotContains(t, err.Error(), "cret")
}
