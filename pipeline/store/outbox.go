package store

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// OutboxRow is an event on its way from a transaction to the log.
type OutboxRow struct {
	Epoch   int64  `db:"epoch"`
	Part    int32  `db:"part"`
	Seq     int64  `db:"seq"`
	Key     []byte `db:"msg_key"`
	Headers []byte `db:"headers"` // see EncodeHeaders
	Payload []byte `db:"payload"`
}

// Append puts rows into the outbox, through watermill-sql's publisher.
func (t *Tx) Append(ctx context.Context, rows []OutboxRow) error {
	// The publisher ignores contexts, so ask before.
	if err := ctx.Err(); err != nil {
		return err
	}
	publisher, err := sql.NewPublisher(t.tx.Tx, sql.PublisherConfig{SchemaAdapter: outboxSchema{ctx, t.tx, t.store.engine}}, watermill.NopLogger{})
	if err != nil {
		return fmt.Errorf("opening the outbox: %w", err)
	}
	most := t.store.engine.MaxRows(len(outboxColumns))
	for len(rows) > 0 {
		n, held := 0, 0
		for ; n < min(most, len(rows)) && (n == 0 || held < maxAppend); n++ {
			held += len(rows[n].Headers) + len(rows[n].Payload)
		}
		messages := make([]*message.Message, n)
		for i, row := range rows[:n] {
			messages[i] = row.message()
		}
		if err := t.statement(func() error { return publisher.Publish("outbox", messages...) }); err != nil {
			return t.classify(fmt.Errorf("writing %d events to the outbox: %w", n, err))
		}
		rows = rows[n:]
		if err := failpoint.Hit(ctx, failpoint.StoreInserting); err != nil {
			return err
		}
	}
	return nil
}

// maxAppend bounds the bytes of one statement into the outbox, but for a row.
const maxAppend = 1 << 20

// Metadata of a message on its way into the outbox.
const (
	metaEpoch   = "epoch"
	metaPart    = "part"
	metaSeq     = "seq"
	metaKey     = "key"
	metaHeaders = "headers"
)

func (r OutboxRow) message() *message.Message {
	m := message.NewMessage("", r.Payload)
	m.Metadata = message.Metadata{
		metaEpoch: strconv.FormatInt(r.Epoch, 10), metaPart: strconv.FormatInt(int64(r.Part), 10),
		metaSeq: strconv.FormatInt(r.Seq, 10), metaKey: string(r.Key), metaHeaders: string(r.Headers),
	}
	return m
}

// outboxSchema lays messages out as rows of the outbox. It only ever publishes:
// the relay reads the table itself.
type outboxSchema struct {
	ctx    context.Context // of the one use of it
	tx     *sqlx.Tx
	engine Engine
}

var _ sql.SchemaAdapter = outboxSchema{}

var outboxColumns = []string{"epoch", "part", "seq", "msg_key", "headers", "payload"}

// InsertQuery implements sql.SchemaAdapter.
func (o outboxSchema) InsertQuery(topic string, messages message.Messages) (sql.Query, error) {
	rows := Rows{Table: topic, Columns: outboxColumns, Values: make([]any, 0, len(messages)*len(outboxColumns))}
	for _, m := range messages {
		epoch, err1 := strconv.ParseInt(m.Metadata[metaEpoch], 10, 64)
		part, err2 := strconv.ParseInt(m.Metadata[metaPart], 10, 32)
		seq, err3 := strconv.ParseInt(m.Metadata[metaSeq], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return sql.Query{}, fmt.Errorf("laying out an outbox row: %w", err)
		}
		rows.Add(epoch, part, seq, []byte(m.Metadata[metaKey]), []byte(m.Metadata[metaHeaders]), []byte(m.Payload))
	}
	var statements []sql.Query
	err := o.engine.Inserts(o.ctx, o.tx, rows, func(query string, args []any) error {
		statements = append(statements, sql.Query{Query: query, Args: args})
		return nil
	})
	if err == nil && len(statements) != 1 {
		err = fmt.Errorf("%d statements for %d messages", len(statements), len(messages))
	}
	if err != nil {
		return sql.Query{}, fmt.Errorf("laying out outbox rows: %w", err)
	}
	return statements[0], nil
}

// SelectQuery implements sql.SchemaAdapter.
func (outboxSchema) SelectQuery(string, string, sql.OffsetsAdapter) sql.Query { return sql.Query{} }

// UnmarshalMessage implements sql.SchemaAdapter.
func (outboxSchema) UnmarshalMessage(sql.Scanner) (sql.Row, error) {
	return sql.Row{}, errors.New("the outbox is read by the relay, not by a subscriber")
}

// SchemaInitializingQueries implements sql.SchemaAdapter; migrations make the table.
func (outboxSchema) SchemaInitializingQueries(string) []sql.Query { return nil }

// SubscribeIsolationLevel implements sql.SchemaAdapter.
func (outboxSchema) SubscribeIsolationLevel() stdsql.IsolationLevel { return stdsql.LevelDefault }

// Pending lists the chains with events that are not in the log yet.
func (s *Store) Pending(ctx context.Context) ([]Chain, error) {
	var chains []Chain
	err := s.Select(ctx, &chains, `SELECT `+chainColumns+` FROM chains WHERE sent < last ORDER BY epoch, part`)
	if err != nil {
		return nil, fmt.Errorf("reading pending chains: %w", err)
	}
	return chains, nil
}

// ReadOutbox reads rows of a chain behind number after, in order: up to limit of
// them, and none behind the one that passes maxBytes of headers and payload.
func (s *Store) ReadOutbox(ctx context.Context, epoch int64, part int32, after int64, limit, maxBytes int) ([]OutboxRow, error) {
	var rows []OutboxRow
	err := s.Select(ctx, &rows, `SELECT epoch, part, seq, msg_key, headers, payload FROM (
			SELECT head.*, SUM(length(headers) + length(payload)) OVER (ORDER BY seq) - length(headers) - length(payload) AS before
			FROM (SELECT * FROM outbox WHERE epoch = $1 AND part = $2 AND seq > $3 ORDER BY seq LIMIT $4) head) sized
		WHERE before < $5 ORDER BY seq`, epoch, part, after, limit, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("reading the outbox of chain %d/%d: %w", epoch, part, err)
	}
	return rows, nil
}

// MarkSent records that each chain is in the log up to Sent, and deletes those
// rows. A chain that another relay moved meanwhile, or that has another name by
// now, is left alone: whoever did it dealt with the rows, and the repeats are
// dropped by their consumers.
//
// It is two statements for all chains: their rows stay locked until the commit,
// and stages wait for them to take numbers.
func (s *Store) MarkSent(ctx context.Context, from, to []Chain) error {
	if len(to) == 0 {
		return nil
	}
	var args []any
	was := map[[2]int64]int64{}
	for i, chain := range to {
		args = append(args, chain.Epoch, chain.Part, chain.Outbox, from[i].Sent, chain.Sent)
		was[[2]int64{chain.Epoch, int64(chain.Part)}] = from[i].Sent
	}
	return s.Write(ctx, func(tx *Tx) error {
		var moved []Chain
		// In the order in which stages lock them.
		err := tx.Select(ctx, &moved, `WITH v (epoch, part, outbox, was, now) AS (VALUES `+typedValues(sentColumns, len(to))+`),
			held AS (SELECT v.* FROM chains JOIN v ON chains.epoch = v.epoch AND chains.part = v.part
				ORDER BY v.epoch, v.part `+tx.LockRows("chains")+`)
			UPDATE chains SET sent = held.now FROM held
			WHERE chains.epoch = held.epoch AND chains.part = held.part AND chains.sent = held.was
				AND chains.outbox = held.outbox AND chains.last >= held.now
			RETURNING chains.epoch, chains.part, chains.sent`, args...)
		if err != nil {
			return fmt.Errorf("moving %d chains: %w", len(to), err)
		}
		if len(moved) == 0 {
			return nil
		}
		var which []string
		var gone []any
		for _, chain := range moved {
			n := len(gone)
			// There are none below, but the index may still hold many dead entries.
			which = append(which, fmt.Sprintf("(epoch = $%d AND part = $%d AND seq > $%d AND seq <= $%d)", n+1, n+2, n+3, n+4))
			gone = append(gone, chain.Epoch, chain.Part, was[[2]int64{chain.Epoch, int64(chain.Part)}], chain.Sent)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM outbox WHERE `+strings.Join(which, " OR "), gone...); err != nil {
			return fmt.Errorf("emptying the outbox of %d chains: %w", len(moved), err)
		}
		return nil
	})
}

// sentColumns are the types of what MarkSent asks for.
var sentColumns = []string{"BIGINT", "BIGINT", "TEXT", "BIGINT", "BIGINT"}
