package sqlite

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"modernc.org/sqlite"
)

// backupPages is how many pages are copied between two looks at the context.
const backupPages = 1024

// Backup writes a copy of the database to a new file, as it was at one moment, while
// others continue writing.
func (e *Engine) Backup(ctx context.Context, path string) (err error) {
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
	// The first statement that reads decides what a transaction sees.
	if _, err := view.ExecContext(ctx, "SELECT COUNT(*) FROM sqlite_schema"); err != nil {
		return fmt.Errorf("backing up the database: %w", err)
	}
	if err := reader.Raw(func(driver any) error { return copyPages(ctx, driver, path) }); err != nil {
		return fmt.Errorf("backing up the database to %s: %w", path, e.damage.see(err))
	}
	return nil
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
