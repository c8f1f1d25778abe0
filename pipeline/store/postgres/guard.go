package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// guard opens connections that lead to the database that was identified, and to
// no other. A failover ends all connections, so anyone who opens the next one
// meets the new server: its chains may be at earlier numbers, and to give
// those out again under the outbox's old id would have them dropped as repeats.
type guard struct {
	*connector
	expected atomic.Pointer[identity]
	sessions atomic.Int64 // that were begun
}

// identity is what a query must answer.
type identity struct{ query, answer string }

var _ driver.Connector = (*guard)(nil)

// Connect implements driver.Connector.
func (g *guard) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := g.connector.Connect(ctx)
	g.sessions.Add(1)
	expected := g.expected.Load()
	if err != nil || expected == nil {
		return conn, err
	}
	answer, err := ask(ctx, conn, expected.query)
	if err == nil && answer != expected.answer {
		err = fmt.Errorf("%w any more: it is another one (%s) than at the start (%s), after a failover or a restore: restart pricemill",
			ErrServer, answer, expected.answer)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// ask returns the one value that a query answers.
func ask(ctx context.Context, conn driver.Conn, query string) (answer string, err error) {
	queryer, ok := conn.(driver.QueryerContext)
	if !ok {
		return "", fmt.Errorf("a connection of type %T cannot be asked", conn)
	}
	rows, err := queryer.QueryContext(ctx, query, nil)
	if err != nil {
		return "", fmt.Errorf("reading the identity of the database: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	values := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(values); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("no answer")
		}
		return "", fmt.Errorf("reading the identity of the database: %w", err)
	}
	switch v := values[0].(type) {
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	}
	return "", fmt.Errorf("reading the identity of the database: a value of type %T", values[0])
}
