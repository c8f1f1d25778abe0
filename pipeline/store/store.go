package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// Engine is what a database supplies beyond the SQL that all engines speak. It
// is safe for concurrent use.
type Engine interface {
	// Name is the engine's name for people: sqlite, postgres.
	Name() string
	// Types are the engine's column types.
	Types() Types
	// Migrate brings the tables that belong to no projection up to date. Several
	// processes may call it at once: one works, the others wait for it.
	Migrate(ctx context.Context) (Migration, error)
	// Write runs f in a transaction with the engine's time limits, and commits.
	// An error or a panic of f undoes what f did and is passed on as it is;
	// ErrCommit is wrapped where the commit failed. f may share the commit with
	// others.
	Write(ctx context.Context, f func(tx *sqlx.Tx) error) error
	// Reader serves reads outside of writing transactions.
	Reader() *sqlx.DB
	// Pools are the pools of connections, by names for metrics.
	Pools() map[string]*sql.DB
	// Snapshot begins a transaction that sees the database as it is now, whatever
	// is written until it is rolled back. It writes nothing, waits for no writer,
	// and has no time limit but one for a process that was stopped.
	Snapshot(ctx context.Context) (*sqlx.Tx, error)
	// Columns describes the columns of a table in their order; none where there
	// is no such table.
	Columns(ctx context.Context, q sqlx.QueryerContext, table string) ([]Column, error)
	// Tables are the names of all tables, in their order.
	Tables(ctx context.Context, q sqlx.QueryerContext) ([]string, error)
	// LastID is the highest number that a table has given to a row by itself; 0 where it
	// has given none.
	LastID(ctx context.Context, q sqlx.QueryerContext, table string) (int64, error)
	// SetLastID has a table give numbers above last from then on.
	SetLastID(ctx context.Context, tx *sqlx.Tx, table string, last int64) error
	// Sessions counts the sessions with a server in which this process writes, those that
	// ended included. While it stays the same, what this process saw committed is still
	// there: a server that lost it, such as one that crashed and does not wait for its
	// disk, is met in another session. Always 0 where there is no server.
	Sessions() int64
	// ReadsAtOnce is how many statements that look up a row are worth having under
	// way at the same time: further questions are better asked together.
	// 0 where a statement costs little more than its work.
	ReadsAtOnce() int
	// MaxWriteHold is how long a transaction may take whose work is in no hurry, so that
	// others have their turn; 0 where writers do not wait for each other.
	MaxWriteHold() time.Duration
	// Inserts calls f with the statements that insert rows by the engine's fastest
	// path, one after the other.
	Inserts(ctx context.Context, q sqlx.QueryerContext, rows Rows, f func(query string, args []any) error) error
	// Values is a query that returns rows of columns of these types, and its arguments,
	// which are $1 and on. values holds the rows one after the other, each complete;
	// one at least.
	Values(types []string, values []any) (query string, args []any, err error)
	// MaxRows is the most rows of so many columns that Inserts puts into one
	// statement, if they are small.
	MaxRows(columns int) int
	// BoundLocks is a statement by which the rest of a transaction waits for a lock
	// no longer than d; empty where a transaction that writes is alone.
	BoundLocks(d time.Duration) string
	// LockRows is the clause after a SELECT that locks its rows of this table,
	// in their order, as an UPDATE would; empty where a transaction that writes
	// is alone.
	LockRows(table string) string
	// LockFreeRows is as LockRows, but the rows that another transaction holds
	// are left out instead of waited for.
	LockFreeRows(table string) string
	// NowMillis is an SQL expression: milliseconds since 1970 by the
	// database's clock.
	NowMillis() string
	// Identity changes when the database becomes another one although its
	// tables look the same, as after a failover; constant where that is
	// impossible.
	Identity(ctx context.Context) (string, error)
	// IsDataError reports whether err is caused by the values of a statement
	// (a constraint, a type) and would come again with the same values.
	IsDataError(err error) bool
	// IsFull reports whether err says that there is no room left.
	IsFull(err error) bool
	// Check returns an error that wraps ErrDamaged if the database is known to be
	// damaged: a statement met damage, or a look through the whole of it did, which
	// Check begins when one is due. It waits for that until ctx is done; what the
	// look finds later, the next Check returns. Nil where a server checks its own
	// pages.
	Check(ctx context.Context) error
	// Close releases all connections.
	Close() error
}

// ErrDamaged says that the database cannot be read as it was written. No retry helps:
// it has to be restored.
var ErrDamaged = errors.New("the database is damaged")

// Querier reads. Both Store and Tx are one.
type Querier interface {
	// Get reads one row into dest; sql.ErrNoRows where there is none.
	Get(ctx context.Context, dest any, query string, args ...any) error
	// Select reads all rows into the slice that dest points to.
	Select(ctx context.Context, dest any, query string, args ...any) error
	// NowMillis is an SQL expression: milliseconds since 1970 by the
	// database's clock.
	NowMillis() string
}

// Committed reads what is committed, for many goroutines. Store is one.
type Committed interface {
	Querier
	// ReadsAtOnce is as the Engine's.
	ReadsAtOnce() int
}

// ErrCommit says that a commit did not answer: the transaction may have
// happened or not. The positions tell which.
var ErrCommit = errors.New("the outcome of a commit is not known")

// DataError is an error that the values of a statement caused; it comes again
// however often the statement is tried.
type DataError struct{ Err error }

func (e *DataError) Error() string { return e.Err.Error() }
func (e *DataError) Unwrap() error { return e.Err }

// Store is a database of the pipeline. It is safe for concurrent use.
type Store struct {
	engine    Engine
	migration Migration
	writes    atomic.Int64
	// full is why the last write failed, if that was for want of room.
	full atomic.Pointer[error]
}

// Open brings the tables up to date and returns the store; the engine is
// closed with it.
func Open(ctx context.Context, engine Engine) (*Store, error) { return openFor(ctx, engine, "") }

// OpenToRefill is Open for a database that is filled again: one that is new records
// RefillUnderWay together with its identity, before it has a row of anything else. One that has an
// identity is left as it is; see RecordLog.
func OpenToRefill(ctx context.Context, engine Engine) (*Store, error) {
	return openFor(ctx, engine, RefillUnderWay)
}

func openFor(ctx context.Context, engine Engine, log string) (*Store, error) {
	migration, err := engine.Migrate(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrating the %s tables: %w", engine.Name(), err)
	}
	s := &Store{engine: engine, migration: migration}
	if err := s.identify(ctx, log); err != nil {
		return nil, fmt.Errorf("identifying the %s database: %w", engine.Name(), err)
	}
	return s, nil
}

// Reader reads the tables of an engine as they are, of whatever version.
func Reader(engine Engine) *Store { return &Store{engine: engine} }

// Close releases all connections.
func (s *Store) Close() error { return s.engine.Close() }

// EngineName is the name of the engine, for people.
func (s *Store) EngineName() string { return s.engine.Name() }

// Pools are the pools of connections to the database, by names for metrics.
func (s *Store) Pools() map[string]*sql.DB { return s.engine.Pools() }

// Sessions is as Engine's.
func (s *Store) Sessions() int64 { return s.engine.Sessions() }

// Sessions is as Engine's.
func (t *Tx) Sessions() int64 { return t.store.engine.Sessions() }

// ReadsAtOnce implements Committed.
func (s *Store) ReadsAtOnce() int { return s.engine.ReadsAtOnce() }

// MaxWriteHold is how long a transaction may take whose work is in no hurry; 0 where
// writers do not wait for each other.
func (s *Store) MaxWriteHold() time.Duration { return s.engine.MaxWriteHold() }

// Writes is how many transactions this process has begun.
func (s *Store) Writes() int64 { return s.writes.Load() }

// IsFull reports whether err says that the database has no room left.
func (s *Store) IsFull(err error) bool { return s.engine.IsFull(err) }

// Migration is what Open did to the tables.
func (s *Store) Migration() Migration { return s.migration }

// Get implements Querier on committed data.
func (s *Store) Get(ctx context.Context, dest any, query string, args ...any) error {
	return readError(s.engine.Reader().GetContext(ctx, dest, query, args...))
}

// Select implements Querier on committed data.
func (s *Store) Select(ctx context.Context, dest any, query string, args ...any) error {
	return readError(s.engine.Reader().SelectContext(ctx, dest, query, args...))
}

// ErrUnreadable says that a row holds a value that its column should not, such as a
// timestamp that is none: SQLite keeps whatever it is given.
var ErrUnreadable = errors.New("a row cannot be read")

// readError makes an error of a value an ErrUnreadable. database/sql has no type for it.
func readError(err error) error {
	if err != nil && strings.HasPrefix(err.Error(), "sql: Scan error on column") {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return err
}

// Check is as Engine's.
func (s *Store) Check(ctx context.Context) error {
	if err := s.full.Load(); err != nil {
		return fmt.Errorf("the last write failed: %w", *err)
	}
	return s.engine.Check(ctx)
}

// NowMillis implements Querier.
func (s *Store) NowMillis() string { return s.engine.NowMillis() }

// Write runs f in a transaction and commits it. An error of f rolls back and
// is returned as it is; ErrCommit is wrapped where the commit itself failed.
func (s *Store) Write(ctx context.Context, f func(tx *Tx) error) error {
	s.writes.Add(1)
	var done *Tx
	err := s.engine.Write(ctx, func(tx *sqlx.Tx) error {
		done = &Tx{tx: tx, store: s, used: time.Now()}
		if err := f(done); err != nil {
			return err
		}
		return unanswered(failpoint.Hit(ctx, failpoint.StoreCommitting))
	})
	if err != nil {
		if s.engine.IsFull(err) {
			s.full.Store(&err)
		}
		return err
	}
	s.full.Store(nil)
	for _, f := range done.committed {
		f()
	}
	return unanswered(failpoint.Hit(ctx, failpoint.StoreCommitted))
}

// unanswered is what a commit returns whose answer is lost for a reason; nil
// without one.
func unanswered(reason error) error {
	if reason == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrCommit, reason)
}

// Tx is a writing transaction. Where nothing else is said, it is not safe for
// concurrent use. After an error
// nothing more may be done in it, but for what Part allows: one engine refuses it,
// and another one, which has rolled back by itself because its disk is full, would
// do it outside of any transaction.
type Tx struct {
	tx    *sqlx.Tx
	store *Store
	// committed is called, in this order, after the commit.
	committed []func()

	mu        sync.Mutex // held while a statement runs
	abandoned bool
	used      time.Time // when the last statement ended
}

// OnCommit has f called once the transaction is known to be committed; never, where it
// is not, or its outcome is unknown.
func (t *Tx) OnCommit(f func()) { t.committed = append(t.committed, f) }

// ErrAbandoned says that someone did so long nothing in a transaction that it was
// given up; see Tx.Abandon.
var ErrAbandoned = errors.New("the transaction was given up: nothing was done in it for too long")

// statement runs f, which is one statement or several.
func (t *Tx) statement(f func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.abandoned {
		return ErrAbandoned
	}
	defer func() { t.used = time.Now() }()
	return f()
}

// Idle is how long no statement has run. It is safe for concurrent use.
func (t *Tx) Idle() time.Duration {
	if !t.mu.TryLock() {
		return 0
	}
	defer t.mu.Unlock()
	return time.Since(t.used)
}

// Abandon has every later statement fail, once the one that runs has ended: anyone who
// is left with the transaction can do no harm in it any more. It is safe for
// concurrent use.
func (t *Tx) Abandon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.abandoned = true
}

// Get implements Querier; it sees what the transaction wrote.
func (t *Tx) Get(ctx context.Context, dest any, query string, args ...any) error {
	return t.statement(func() error { return t.tx.GetContext(ctx, dest, query, args...) })
}

// Select implements Querier; it sees what the transaction wrote.
func (t *Tx) Select(ctx context.Context, dest any, query string, args ...any) error {
	return t.statement(func() error { return t.tx.SelectContext(ctx, dest, query, args...) })
}

// Exec runs a statement and returns how many rows it changed.
func (t *Tx) Exec(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = t.statement(func() error {
		result, err := t.tx.ExecContext(ctx, query, args...)
		if err != nil {
			return t.classify(err)
		}
		n, err = result.RowsAffected()
		return err
	})
	return n, err
}

// Savepoint runs f under a savepoint: an error of f is returned as it is, what f did is
// undone, what it gave to OnCommit is forgotten, and the transaction can continue. After any other error it cannot.
// Savepoints do not nest.
func (t *Tx) Savepoint(ctx context.Context, f func() error) error {
	if _, err := t.Exec(ctx, `SAVEPOINT part`); err != nil {
		return fmt.Errorf("setting a savepoint: %w", err)
	}
	hooks := len(t.committed)
	failure := f()
	if failure != nil {
		t.committed = t.committed[:hooks]
		if _, err := t.tx.ExecContext(ctx, `ROLLBACK TO SAVEPOINT part`); err != nil {
			return fmt.Errorf("rolling back to a savepoint: %w, after: %v", err, failure)
		}
	}
	if _, err := t.tx.ExecContext(ctx, `RELEASE SAVEPOINT part`); err != nil {
		return fmt.Errorf("releasing a savepoint: %w", err)
	}
	return failure
}

// NowMillis implements Querier.
func (t *Tx) NowMillis() string { return t.store.engine.NowMillis() }

// LockRows is the clause that goes after a SELECT to lock its rows of a table in
// their order, as an UPDATE would; empty on engines with one writer. An UPDATE or
// DELETE of several rows locks them in any order, and two such wait for each other
// in a circle. So where writers overlap, each locks first and in the same order,
// in a WITH of the same statement:
//
//	WITH held AS (SELECT id FROM t WHERE … ORDER BY id <LockRows>)
//	DELETE FROM t WHERE id IN (SELECT id FROM held)
func (t *Tx) LockRows(table string) string { return t.store.engine.LockRows(table) }

// LockFreeRows is as LockRows, but the rows that another transaction holds are
// left out: what workers need that each take some rows of a queue.
func (t *Tx) LockFreeRows(table string) string { return t.store.engine.LockFreeRows(table) }

// LockSchema waits until no other transaction that called it is under way, in any
// process. Two processes that create the same tables at once would disturb each
// other however carefully each looks before. It comes first in its transaction.
func (t *Tx) LockSchema(ctx context.Context) error {
	var id string
	if err := t.Get(ctx, &id, `SELECT id FROM instance `+t.LockRows("instance")); err != nil {
		return fmt.Errorf("waiting for other changes of the tables: %w", err)
	}
	return nil
}

// SingleWriter reports whether no one else writes while this transaction lasts.
func (t *Tx) SingleWriter() bool { return t.store.engine.MaxWriteHold() > 0 }

// BoundLocks has the rest of the transaction wait for a lock no longer than d: for
// what is better tried again than waited for by all others.
func (t *Tx) BoundLocks(ctx context.Context, d time.Duration) error {
	statement := t.store.engine.BoundLocks(d)
	if statement == "" {
		return nil
	}
	if _, err := t.tx.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("bounding the wait for locks: %w", err)
	}
	return nil
}

// classify marks errors that the values caused.
func (t *Tx) classify(err error) error {
	if err != nil && t.store.engine.IsDataError(err) {
		return &DataError{err}
	}
	return err
}
