package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// backupPages is how many pages are copied between two looks at the context.
const backupPages = 1024

// freezePause lies between two attempts to get hold of the lock. A busy service
// leaves gaps of a fraction of a millisecond between its transactions; SQLite's
// own patience, with pauses of up to 100 ms, might miss them for long.
const freezePause = time.Millisecond

// Backup writes a copy of the database to a new file, as it was at one moment,
// while others go on writing. At that moment it calls still, with every writer of
// every process kept waiting: what still copies fits what is committed. It should
// be short.
func (e *Engine) Backup(ctx context.Context, path string, still func() error) (err error) {
	reader, err := e.reader.Conn(ctx)
	if err != nil {
		return fmt.Errorf("backing up the database: %w", err)
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	view, err := reader.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return fmt.Errorf("backing up the database: %w", err)
	}
	defer func() { err = errors.Join(err, view.Rollback()) }()
	if err := e.freeze(ctx, view, still); err != nil {
		return fmt.Errorf("backing up the database: %w", err)
	}
	if err := reader.Raw(func(driver any) error { return copyPages(ctx, driver, path) }); err != nil {
		return fmt.Errorf("backing up the database to %s: %w", path, e.damage.see(err))
	}
	return nil
}

// freeze makes view see the database as it is, and calls still, both while
// nobody can write.
func (e *Engine) freeze(ctx context.Context, view *sql.Tx, still func() error) (err error) {
	db, err := connect(e.damage, 1, "_txlock=immediate", "_pragma=busy_timeout(0)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	lock, err := db.BeginTx(ctx, nil)
	for isBusy(err) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the writers: %w", context.Cause(ctx))
		case <-time.After(freezePause):
		}
		lock, err = db.BeginTx(ctx, nil)
	}
	if err != nil {
		return fmt.Errorf("keeping the writers waiting: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Rollback()) }()
	// The first statement that reads decides what a transaction sees.
	if _, err := view.ExecContext(ctx, "SELECT COUNT(*) FROM sqlite_schema"); err != nil {
		return fmt.Errorf("beginning to read: %w", err)
	}
	return still()
}

func isBusy(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && se.Code()&0xff == sqlite3.SQLITE_BUSY
}

// copyPages copies what a connection sees into a new database.
func copyPages(ctx context.Context, driver any, path string) (err error) {
	source, ok := driver.(interface {
		NewBackup(uri string) (*sqlite.Backup, error)
	})
	if !ok {
		return fmt.Errorf("the driver's connection %T makes no backups", driver)
	}
	backup, err := source.NewBackup((&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}).String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backup.Finish()) }()
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if more, err = backup.Step(backupPages); err != nil {
			return err
		}
	}
	return nil
}
