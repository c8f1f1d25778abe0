package store

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
)

// publish inserts rows, one for each message, through watermill-sql's publisher. They
// must fit into one statement of the engine.
func (t *Tx) publish(ctx context.Context, rows Rows, messages []*message.Message) error {
	// The publisher ignores contexts, so ask before.
	if err := ctx.Err(); err != nil {
		return err
	}
	publisher, err := sql.NewPublisher(t.tx.Tx, sql.PublisherConfig{SchemaAdapter: rowSchema{ctx, t.tx, t.store.engine, rows}}, watermill.NopLogger{})
	if err != nil {
		return fmt.Errorf("opening %s: %w", rows.Table, err)
	}
	return t.classify(t.statement(func() error { return publisher.Publish(rows.Table, messages...) }))
}

// rowSchema lays the messages of one call of publish out as its rows. It never
// subscribes: the pipeline reads its tables itself.
type rowSchema struct {
	ctx    context.Context // of the one use of it
	tx     *sqlx.Tx
	engine Engine
	rows   Rows
}

var _ sql.SchemaAdapter = rowSchema{}

// InsertQuery implements sql.SchemaAdapter.
func (s rowSchema) InsertQuery(_ string, messages message.Messages) (sql.Query, error) {
	if len(messages) != s.rows.Len() {
		return sql.Query{}, fmt.Errorf("%d rows for %d messages", s.rows.Len(), len(messages))
	}
	var statements []sql.Query
	err := s.engine.Inserts(s.ctx, s.tx, s.rows, func(query string, args []any) error {
		statements = append(statements, sql.Query{Query: query, Args: args})
		return nil
	})
	if err == nil && len(statements) != 1 {
		err = fmt.Errorf("%d statements for %d messages", len(statements), len(messages))
	}
	if err != nil {
		return sql.Query{}, fmt.Errorf("laying out rows of %s: %w", s.rows.Table, err)
	}
	return statements[0], nil
}

// SelectQuery implements sql.SchemaAdapter.
func (rowSchema) SelectQuery(string, string, sql.OffsetsAdapter) sql.Query { return sql.Query{} }

// UnmarshalMessage implements sql.SchemaAdapter.
func (rowSchema) UnmarshalMessage(sql.Scanner) (sql.Row, error) {
	return sql.Row{}, errors.New("this table is not read by a subscriber of watermill-sql")
}

// SchemaInitializingQueries implements sql.SchemaAdapter; migrations make the tables.
func (rowSchema) SchemaInitializingQueries(string) []sql.Query { return nil }

// SubscribeIsolationLevel implements sql.SchemaAdapter.
func (rowSchema) SubscribeIsolationLevel() stdsql.IsolationLevel { return stdsql.LevelDefault }
