package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"modernc.org/sqlite"

	"github.com/pricemill/pricemill/pipeline/store/prepared"
)

// connector opens connections that keep their statements prepared.
type connector struct{ driver.Connector }

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	opened, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	inner, ok := opened.(sqliteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver opened a %T, which is not as it was", opened), opened.Close())
	}
	// SQLite prepares a statement anew by itself when a table was altered.
	return &conn{inner, prepared.New(inner, nil)}, nil
}

// sqliteConn is what database/sql may use of a connection of the driver's.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
	NewBackup(uri string) (*sqlite.Backup, error)
}

type conn struct {
	sqliteConn
	statements *prepared.Statements
}

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.statements.Query(ctx, query, args)
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.statements.Exec(ctx, query, args)
}

// Close implements driver.Conn.
func (c *conn) Close() error { return errors.Join(c.statements.Close(), c.sqliteConn.Close()) }
