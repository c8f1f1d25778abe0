// Package sqlite is the engine without a server: one file, one writer at a time,
// any number of readers, in a write-ahead log.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/jmoiron/sqlx"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema/migrations"
)

// Engine is a SQLite database.
type Engine struct {
	path   string
	damage *damage
	writer *sqlx.DB // one connection: SQLite has one writer
	group  *group
	reader *sqlx.DB
}

var _ store.Engine = (*Engine)(nil)

// maxReaders bounds the connections that serve reads; each has a cache of its
// own.
const maxReaders = 8

// Option changes how Open opens.
type Option func(*settings)

type settings struct {
	synchronous string
	readOnly    bool
}

// Expendable is for those who write what can be made again: what they commit may
// be gone after a loss of power, unless someone else has committed since. It
// saves them, and those who wait for them, the waits for the disk.
func Expendable(s *settings) { s.synchronous = "NORMAL" }

// ReadOnly never changes the file, not even by what SQLite does when the last one who has
// it open closes it, and does not create it.
func ReadOnly(s *settings) { s.readOnly = true }

// Open opens or creates the database file. Several processes may open it; they
// take turns in writing.
func Open(path string, options ...Option) (*Engine, error) {
	// FULL: a commit that was acknowledged survives a loss of power.
	s := settings{synchronous: "FULL"}
	for _, option := range options {
		option(&s)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	// Writers begin with the lock (immediate), since a reader that turns into a
	// writer may be refused half-way. 8 MiB of pages: with twice and with eight times as
	// many nothing was faster.
	damage := newDamage(abs)
	mode := "mode=rwc"
	if s.readOnly {
		mode = "mode=ro"
	}
	writer, err := connect(damage, 1, mode, "_txlock=immediate", "_pragma=synchronous("+s.synchronous+")",
		"_pragma=busy_timeout(10000)", "_pragma=journal_mode(WAL)", "_pragma=cache_size(-8192)",
		"_pragma=wal_autocheckpoint(4000)", "_pragma=temp_store(MEMORY)")
	if err != nil {
		return nil, err
	}
	reader, err := connect(damage, maxReaders, mode, "_pragma=query_only(1)", "_pragma=busy_timeout(10000)",
		"_pragma=mmap_size(268435456)")
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	group := newGroup(writer, turnstile{flock.New(abs + ".turn")})
	return &Engine{path: abs, damage: damage, writer: writer, group: group, reader: reader}, nil
}

// connect opens the file that d is of.
func connect(d *damage, conns int, options ...string) (*sqlx.DB, error) {
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: d.path}).EscapedPath()}).String() + "?"
	for i, option := range options {
		if i > 0 {
			dsn += "&"
		}
		dsn += option
	}
	plain, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", d.path, err)
	}
	db := sqlx.NewDb(sql.OpenDB(connector{plain, d}), "sqlite")
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// Name implements store.Engine.
func (e *Engine) Name() string { return "sqlite" }

// Types implements store.Engine. Decimals are text: SQLite's NUMERIC is a
// float where the number has a point.
func (e *Engine) Types() store.Types {
	return store.Types{Int: "INTEGER", Text: "TEXT", Decimal: "TEXT", Time: "TEXT", Bytes: "BLOB", Keyed: "WITHOUT ROWID"}
}

// Migrate implements store.Engine. A lock next to the file keeps two starts at
// once apart: each migration is a transaction, but which ones are missing is
// asked before.
func (e *Engine) Migrate(ctx context.Context) (m store.Migration, err error) {
	lock := flock.New(e.path + ".migrate")
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return m, fmt.Errorf("waiting for another start: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	files, err := fs.Sub(migrations.SQLite, "sqlite")
	if err != nil {
		return m, fmt.Errorf("reading the migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, e.writer.DB, files)
	if err != nil {
		return m, fmt.Errorf("preparing the migrations: %w", err)
	}
	if m, err = store.Migrate(ctx, provider); err != nil {
		return m, err
	}
	// From here on writers wait at the turnstile; see busyPause.
	_, err = e.writer.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", busyPause.Milliseconds()))
	return m, err
}

// Write implements store.Engine.
func (e *Engine) Write(ctx context.Context, f func(tx *sqlx.Tx) error) error {
	return e.group.write(ctx, f)
}

// Reader implements store.Engine.
func (e *Engine) Reader() *sqlx.DB { return e.reader }

// Snapshot implements store.Engine. While it lasts, the write-ahead log grows.
func (e *Engine) Snapshot(ctx context.Context) (*sqlx.Tx, error) {
	tx, err := e.reader.BeginTxx(ctx, nil)
	if err != nil {
		return nil, err
	}
	// The first statement that reads decides what a transaction sees.
	if _, err := tx.ExecContext(ctx, "SELECT COUNT(*) FROM sqlite_schema"); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return tx, nil
}

// Columns implements store.Engine. Texts sort by their bytes unless a column says
// otherwise.
func (e *Engine) Columns(ctx context.Context, q sqlx.QueryerContext, table string) ([]store.Column, error) {
	var columns []store.Column
	err := sqlx.SelectContext(ctx, q, &columns, `SELECT name, pk AS key, name || ' COLLATE BINARY' AS sort FROM pragma_table_info($1) ORDER BY cid`, table)
	return columns, err
}

// Tables implements store.Engine.
func (e *Engine) Tables(ctx context.Context, q sqlx.QueryerContext) ([]string, error) {
	var names []string
	err := sqlx.SelectContext(ctx, q, &names, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`)
	return names, err
}

// LastID implements store.Engine, of a column that is AUTOINCREMENT.
func (e *Engine) LastID(ctx context.Context, q sqlx.QueryerContext, table string) (int64, error) {
	var last int64
	err := sqlx.GetContext(ctx, q, &last, `SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = $1`, table)
	return last, err
}

// SetLastID implements store.Engine, of a column that is AUTOINCREMENT.
func (e *Engine) SetLastID(ctx context.Context, tx *sqlx.Tx, table string, last int64) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM sqlite_sequence WHERE name = $1`, table)
	if err == nil {
		_, err = tx.ExecContext(ctx, `INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)`, table, last)
	}
	return err
}

// Pools implements store.Engine.
func (e *Engine) Pools() map[string]*sql.DB {
	return map[string]*sql.DB{"writer": e.writer.DB, "reader": e.reader.DB}
}

// Sessions implements store.Engine.
func (e *Engine) Sessions() int64 { return 0 }

// ReadsAtOnce implements store.Engine: a statement is a call of a function, and
// one for many would keep one processor busy instead of all.
func (e *Engine) ReadsAtOnce() int { return 0 }

// MaxWriteHold implements store.Engine: there is one writer, and others wait for it.
func (e *Engine) MaxWriteHold() time.Duration { return maxAge }

// BoundLocks implements store.Engine: there is one writer.
func (e *Engine) BoundLocks(time.Duration) string { return "" }

// LockRows implements store.Engine: there is one writer.
func (e *Engine) LockRows(string) string { return "" }

// LockFreeRows implements store.Engine: there is one writer.
func (e *Engine) LockFreeRows(string) string { return "" }

// NowMillis implements store.Engine.
func (e *Engine) NowMillis() string { return "CAST(unixepoch('subsec') * 1000 AS INTEGER)" }

// Identity implements store.Engine. A copied file cannot be told from its
// original.
func (e *Engine) Identity(context.Context) (string, error) { return "", nil }

// IsDataError implements store.Engine.
func (e *Engine) IsDataError(err error) bool {
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return false
	}
	switch se.Code() & 0xff { // the primary code
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG:
		return true
	}
	return false
}

// IsFull implements store.Engine.
func (e *Engine) IsFull(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && se.Code()&0xff == sqlite3.SQLITE_FULL
}

// Check implements store.Engine: it reads the whole file now and then, at most once a
// minute and for at most a hundredth of the time.
func (e *Engine) Check(ctx context.Context) error { return e.damage.check(ctx) }

// Close implements store.Engine.
func (e *Engine) Close() error {
	e.damage.close()
	return errors.Join(e.reader.Close(), e.writer.Close(), e.group.turns.file.Close())
}
