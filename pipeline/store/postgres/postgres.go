package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/pricemill/pricemill/pipeline/store"
)

// Engine is a PostgreSQL database. It is safe for concurrent use.
type Engine struct {
	writer *sqlx.DB
	guard  *guard // of writer
	// reader has connections of its own: queries of many clients do not hold up
	// the stages, and a query inside a writing transaction finds a connection
	// even when all others write.
	reader *sqlx.DB
	// viewer is reader without limits, for those who read a table from end to end.
	viewer *sqlx.DB
	// migrator opens sessions without limits: an index on a table that has
	// grown takes its time.
	migrator *connector
	types    columnTypes
	readOnly bool // see Config.ReadOnly
}

var _ store.Engine = (*Engine)(nil)

// ErrServer says that a server cannot be used as it is.
var ErrServer = errors.New("this PostgreSQL server cannot be used")

// Open connects to the database and looks whether it can be used. ErrConfig is
// wrapped where cfg is at fault, ErrServer where the server is, and otherwise
// what the network or the server said. No error holds the password.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	cfg, err := cfg.withDefaults()
	parsed, parseErr := cfg.parse()
	if err := errors.Join(err, parseErr); err != nil {
		return nil, err
	}
	// The server ends a statement by itself; only one that is gone says nothing
	// for longer.
	silence := cfg.StatementTimeout + max(time.Second, cfg.StatementTimeout/5)
	bounds := limits(cfg.StatementTimeout, cfg.LockTimeout, cfg.IdleTimeout)
	writes, err := newConnector(cfg.session(parsed, bounds), silence)
	if err != nil {
		return nil, err
	}
	bounds["default_transaction_read_only"] = "on"
	reads, err := newConnector(cfg.session(parsed, bounds), silence)
	if err != nil {
		return nil, err
	}
	bounds = limits(0, cfg.LockTimeout, viewIdle)
	bounds["default_transaction_read_only"] = "on"
	views, err := newConnector(cfg.session(parsed, bounds), 0)
	if err != nil {
		return nil, err
	}
	unbounded := limits(0, 0, 0)
	unbounded["default_transaction_read_only"] = "off"
	migrator, err := newConnector(cfg.session(parsed, unbounded), 0)
	if err != nil {
		return nil, err
	}
	readers := max(1, cfg.MaxConns/4)
	if cfg.ReadOnly {
		writes = reads
	}
	guarded := &guard{connector: writes}
	e := &Engine{writer: pool(guarded, cfg.MaxConns-readers), guard: guarded, reader: pool(reads, readers),
		viewer: pool(views, maxViews), migrator: migrator, readOnly: cfg.ReadOnly}
	e.viewer.SetMaxIdleConns(0) // they are used now and then
	if err := e.check(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// pool keeps as many connections as it may open: opening one takes tens of
// milliseconds, and database/sql would keep but two.
func pool(c driver.Connector, conns int) *sqlx.DB {
	db := sqlx.NewDb(sql.OpenDB(c), "postgres")
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	// After a failover behind one address, the others find the new server in a
	// while, and a burst leaves no connections behind forever.
	db.SetConnMaxIdleTime(5 * time.Minute)
	db.SetConnMaxLifetime(time.Hour)
	return db
}

const (
	// maxViews is how many snapshots may be open.
	maxViews = 4
	// viewIdle is how long one may be left alone: anyone who holds it has to compute
	// in between, but a process that was stopped must not keep the server from
	// clearing away forever.
	viewIdle = 10 * time.Minute
)

const (
	minVersion     = 14_00_00
	minVersionText = "14"
)

// check asks what would otherwise come out one odd error at a time.
func (e *Engine) check(ctx context.Context) error {
	var server struct {
		Version  int    `db:"version"`
		Text     string `db:"text"`
		Encoding string `db:"encoding"`
	}
	err := e.writer.GetContext(ctx, &server, `SELECT current_setting('server_version_num')::int AS version,
		current_setting('server_version') AS text, current_setting('server_encoding') AS encoding`)
	switch {
	case err != nil:
		return fmt.Errorf("opening the database: %w", err)
	case server.Version < minVersion:
		return fmt.Errorf("%w: it is version %s, and %s is the oldest that can", ErrServer, server.Text, minVersionText)
	case server.Encoding != "UTF8":
		return fmt.Errorf("%w: the database's encoding is %s: create one with ENCODING 'UTF8'", ErrServer, server.Encoding)
	}
	return nil
}

// Name implements store.Engine.
func (e *Engine) Name() string { return "postgres" }

// Types implements store.Engine.
func (e *Engine) Types() store.Types {
	return store.Types{Int: "BIGINT", Text: "TEXT", Decimal: "NUMERIC", Time: "TIMESTAMPTZ", Bytes: "BYTEA"}
}

// Write implements store.Engine. The limits are those of the session. Each
// statement sees what was committed before it (READ COMMITTED, whatever the
// server's default): that is what the fence and the chains are built on. A
// connection that the server has closed is replaced before f runs.
func (e *Engine) Write(ctx context.Context, f func(tx *sqlx.Tx) error) error {
	tx, err := e.writer.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: e.readOnly})
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	// After a commit this does nothing; after a panic in f it frees the rows.
	defer func() { _ = tx.Rollback() }()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("%w: %w", store.ErrCommit, err)
	}
	return nil
}

// Reader implements store.Engine.
func (e *Engine) Reader() *sqlx.DB { return e.reader }

// Snapshot implements store.Engine.
func (e *Engine) Snapshot(ctx context.Context) (*sqlx.Tx, error) {
	tx, err := e.viewer.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	// The first statement decides what a transaction sees.
	if _, err := tx.ExecContext(ctx, "SELECT 1"); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return tx, nil
}

// Columns implements store.Engine. Texts sort by the database's collation unless
// they are told to go by their bytes, and what is neither text nor number nor
// time, by the bytes of its text.
func (e *Engine) Columns(ctx context.Context, q sqlx.QueryerContext, table string) ([]store.Column, error) {
	var columns []store.Column
	err := sqlx.SelectContext(ctx, q, &columns, `SELECT a.attname AS name, COALESCE(array_position(i.indkey::int2[], a.attnum) + 1, 0) AS key,
			CASE WHEN a.atttypid IN ('bigint'::regtype, 'timestamptz'::regtype) THEN a.attname
				ELSE a.attname || '::text COLLATE "C"' END AS sort
		FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
		WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, table)
	return columns, err
}

// Tables implements store.Engine: those of the schema that tables are created in.
func (e *Engine) Tables(ctx context.Context, q sqlx.QueryerContext) ([]string, error) {
	var names []string
	err := sqlx.SelectContext(ctx, q, &names, `SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY tablename COLLATE "C"`)
	return names, err
}

// LastID implements store.Engine, of the column id.
func (e *Engine) LastID(ctx context.Context, q sqlx.QueryerContext, table string) (int64, error) {
	var last int64
	err := sqlx.GetContext(ctx, q, &last, `SELECT COALESCE(pg_sequence_last_value(CAST(pg_get_serial_sequence($1, 'id') AS regclass)), 0)`, table)
	return last, err
}

// SetLastID implements store.Engine, of the column id.
func (e *Engine) SetLastID(ctx context.Context, tx *sqlx.Tx, table string, last int64) error {
	if last == 0 {
		return nil // a sequence begins with 1
	}
	_, err := tx.ExecContext(ctx, `SELECT setval(CAST(pg_get_serial_sequence($1, 'id') AS regclass), $2)`, table, last)
	return err
}

// Pools implements store.Engine.
func (e *Engine) Pools() map[string]*sql.DB {
	return map[string]*sql.DB{"writer": e.writer.DB, "reader": e.reader.DB}
}

// Sessions implements store.Engine.
func (e *Engine) Sessions() int64 { return e.guard.sessions.Load() }

// ReadsAtOnce implements store.Engine: each statement wakes a process of the
// server's and then a goroutine here, which costs several times the look-up.
func (e *Engine) ReadsAtOnce() int { return runtime.GOMAXPROCS(0) }

// MaxWriteHold implements store.Engine: writers wait for rows only.
func (e *Engine) MaxWriteHold() time.Duration { return 0 }

// BoundLocks implements store.Engine.
func (e *Engine) BoundLocks(d time.Duration) string { return "SET LOCAL lock_timeout = " + millis(d) }

// LockRows implements store.Engine: as strong as an UPDATE that leaves the key
// alone, which is what follows.
func (e *Engine) LockRows(table string) string { return "FOR NO KEY UPDATE OF " + table }

// LockFreeRows implements store.Engine.
func (e *Engine) LockFreeRows(table string) string { return e.LockRows(table) + " SKIP LOCKED" }

// NowMillis implements store.Engine. clock_timestamp moves on within a
// transaction, as leases need it.
func (e *Engine) NowMillis() string {
	return "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)"
}

// IsDataError implements store.Engine.
func (e *Engine) IsDataError(err error) bool {
	var server *pq.Error
	if !errors.As(err, &server) {
		return false
	}
	switch server.Code.Class() {
	case "22", // data exception: out of range, not UTF-8, a NUL in a text
		"23": // integrity constraint violation
		return true
	}
	// program_limit_exceeded: a text too long for its index. It is as long the
	// next time.
	return server.Code == "54000"
}

// IsFull implements store.Engine.
func (e *Engine) IsFull(err error) bool {
	var server *pq.Error
	return errors.As(err, &server) && server.Code == "53100" // disk_full
}

// Check implements store.Engine: with data_checksums, the server checks each page that
// it reads.
func (e *Engine) Check(context.Context) error { return nil }

// Close implements store.Engine. A connection that the server ended before us, as
// it does when it restarts, or on which it says nothing any more, is no fault: TLS
// cannot say farewell on it, but what was written there was answered long ago, or
// failed.
func (e *Engine) Close() error {
	var errs []error
	for _, err := range []error{e.viewer.Close(), e.reader.Close(), e.writer.Close()} {
		if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, os.ErrDeadlineExceeded) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
