package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"modernc.org/sqlite"

	"github.com/pricemill/pricemill/pipeline/store/prepared"
)

// connector opens connections that keep their statements prepared, and whose errors
// say so if the file is damaged.
type connector struct {
	driver.Connector
	damage *damage
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	opened, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, c.damage.see(err)
	}
	inner, ok := opened.(sqliteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver opened a %T, which is not as it was", opened), opened.Close())
	}
	// SQLite prepares a statement again by itself when a table was altered.
	return &conn{inner, prepared.New(inner, nil), c.damage}, nil
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
	damage     *damage
}

// BeginTx implements driver.ConnBeginTx.
func (c *conn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	begun, err := c.sqliteConn.BeginTx(ctx, options)
	if err != nil {
		return nil, c.damage.see(err)
	}
	return tx{begun, c.damage}, nil
}

// tx sees the errors of a commit.
type tx struct {
	driver.Tx
	damage *damage
}

// Commit implements driver.Tx.
func (t tx) Commit() error { return t.damage.see(t.Tx.Commit()) }

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	found, err := c.statements.Query(ctx, query, args)
	if err != nil {
		return nil, c.damage.see(err)
	}
	return &rows{found, c.damage}, nil
}

// rows see the errors that come while they are read.
type rows struct {
	driver.Rows
	damage *damage
}

// Next implements driver.Rows.
func (r *rows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err == nil || err == io.EOF { // which database/sql compares as it is
		return err
	}
	return r.damage.see(err)
}

// ColumnTypeDatabaseTypeName implements driver.RowsColumnTypeDatabaseTypeName.
func (r *rows) ColumnTypeDatabaseTypeName(index int) string {
	if typed, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return typed.ColumnTypeDatabaseTypeName(index)
	}
	return ""
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	result, err := c.statements.Exec(ctx, query, args)
	return result, c.damage.see(err)
}

// Close implements driver.Conn.
func (c *conn) Close() error { return errors.Join(c.statements.Close(), c.sqliteConn.Close()) }
