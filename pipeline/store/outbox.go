package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

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
	most := t.store.engine.MaxRows(len(outboxColumns))
	for len(rows) > 0 {
		n, held := 0, 0
		for ; n < min(most, len(rows)) && (n == 0 || held < maxAppend); n++ {
			held += len(rows[n].Headers) + len(rows[n].Payload)
		}
		values := Rows{Table: "outbox", Columns: outboxColumns, Values: make([]any, 0, n*len(outboxColumns))}
		messages := make([]*message.Message, n)
		for i, r := range rows[:n] {
			values.Add(r.Epoch, r.Part, r.Seq, orEmpty(r.Key), orEmpty(r.Headers), orEmpty(r.Payload))
			messages[i] = message.NewMessage("", r.Payload)
		}
		if err := t.publish(ctx, values, messages); err != nil {
			return fmt.Errorf("writing %d events to the outbox: %w", n, err)
		}
		rows = rows[n:]
		if err := failpoint.Hit(ctx, failpoint.StoreInserting); err != nil {
			return err
		}
	}
	return nil
}

// orEmpty: the columns take no null.
func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// maxAppend bounds the bytes of one statement into the outbox, but for a row.
const maxAppend = 1 << 20

var outboxColumns = []string{"epoch", "part", "seq", "msg_key", "headers", "payload"}

// Pending lists the chains with events that are not in the log yet.
func (s *Store) Pending(ctx context.Context) ([]Chain, error) {
	var chains []Chain
	err := s.Select(ctx, &chains, `SELECT `+chainColumns+` FROM chains WHERE sent < last ORDER BY epoch, part`)
	if err != nil {
		return nil, fmt.Errorf("reading pending chains: %w", err)
	}
	return chains, nil
}

// Behind names the events of a chain after number After.
type Behind struct {
	Epoch int64
	Part  int32
	After int64
}

// ReadOutbox reads rows of chains, in the order of epoch, partition and number: of
// each chain up to limit, and none after the one that passes maxBytes of headers and
// payload.
func (s *Store) ReadOutbox(ctx context.Context, limit, maxBytes int, chains ...Behind) ([]OutboxRow, error) {
	var rows []OutboxRow
	for some := range slices.Chunk(chains, outboxChains) {
		// Statements of few different texts: engines keep them prepared.
		n := 1
		for n < len(some) {
			n *= 2
		}
		args := []any{limit, maxBytes}
		for _, chain := range some {
			args = append(args, chain.Epoch, chain.Part, chain.After)
		}
		for range n - len(some) {
			args = append(args, noEpoch, 0, 0)
		}
		var read []OutboxRow
		if err := s.Select(ctx, &read, outboxQueries[n], args...); err != nil {
			return nil, fmt.Errorf("reading the outbox of %d chains, the first %d/%d: %w", len(some), some[0].Epoch, some[0].Part, err)
		}
		rows = append(rows, read...)
	}
	// No database promises an order of what a UNION puts together.
	slices.SortFunc(rows, func(a, b OutboxRow) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Part, b.Part), cmp.Compare(a.Seq, b.Seq))
	})
	return rows, nil
}

const (
	// outboxChains is how many chains are read by one statement: a power of two.
	outboxChains = 8
	// noEpoch is of no topic.
	noEpoch = -1
)

// outboxQueries are by the number of chains.
var outboxQueries = func() map[int]string {
	queries := map[int]string{}
	for n := 1; n <= outboxChains; n *= 2 {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = fmt.Sprintf(`SELECT epoch, part, seq, msg_key, headers, payload FROM (
					SELECT h.*, SUM(length(headers) + length(payload)) OVER (ORDER BY seq) - length(headers) - length(payload) AS before
					FROM (SELECT * FROM outbox WHERE epoch = $%d AND part = $%d AND seq > $%d ORDER BY seq LIMIT $1) h) s
				WHERE before < $2`, 3*i+3, 3*i+4, 3*i+5)
		}
		queries[n] = strings.Join(parts, " UNION ALL ")
	}
	return queries
}()

// Sent says of a chain that it is in the log up to number Now.
type Sent struct {
	// Chain is as the database had it.
	Chain
	Now int64
	// Headers are those of event Now, by which it is known that this is still the
	// database that it was read from.
	Headers []byte
}

// ErrOvertaken says that a chain was not where it was expected.
var ErrOvertaken = errors.New("a chain was moved meanwhile")

// MarkSent records how far chains are in the log, and deletes those rows. A chain
// that another relay moved meanwhile, that has another name by now, or has another
// event under that number, is left alone, and ErrOvertaken is wrapped.
//
// It is two statements for all chains: their rows stay locked until the commit,
// and stages wait for them to take numbers.
func (s *Store) MarkSent(ctx context.Context, sent []Sent) error {
	if len(sent) == 0 {
		return nil
	}
	type id struct {
		epoch int64
		part  int32
	}
	var args []any
	was := map[id]int64{}
	for _, chain := range sent {
		args = append(args, chain.Epoch, chain.Part, chain.Timeline, chain.Sent, chain.Now, chain.Headers)
		was[id{chain.Epoch, chain.Part}] = chain.Sent
	}
	columns := append(slices.Clone(sentColumns), s.engine.Types().Bytes)
	var moved []Chain
	err := s.Write(ctx, func(tx *Tx) error {
		moved = nil
		// In the order in which stages lock them.
		err := tx.Select(ctx, &moved, `WITH v (epoch, part, outbox, was, now, headers) AS (`+ValuesList(columns, args)+`),
			held AS (SELECT v.* FROM chains JOIN v ON chains.epoch = v.epoch AND chains.part = v.part
				ORDER BY v.epoch, v.part `+tx.LockRows("chains")+`)
			UPDATE chains SET sent = held.now FROM held
			WHERE chains.epoch = held.epoch AND chains.part = held.part AND chains.sent = held.was AND chains.outbox = held.outbox
				AND EXISTS (SELECT 1 FROM outbox last WHERE last.epoch = held.epoch AND last.part = held.part
					AND last.seq = held.now AND last.headers = held.headers)
			RETURNING chains.epoch, chains.part, chains.sent`, args...)
		if err != nil {
			return fmt.Errorf("moving %d chains: %w", len(sent), err)
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
			gone = append(gone, chain.Epoch, chain.Part, was[id{chain.Epoch, chain.Part}], chain.Sent)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM outbox WHERE `+strings.Join(which, " OR "), gone...); err != nil {
			return fmt.Errorf("emptying the outbox of %d chains: %w", len(moved), err)
		}
		return nil
	})
	if err == nil && len(moved) < len(sent) {
		err = fmt.Errorf("noting what is sent of %d chains, %d stood where they were expected: %w", len(sent), len(moved), ErrOvertaken)
	}
	return err
}

// sentColumns are the types of what MarkSent asks for, but for the headers.
var sentColumns = []string{"BIGINT", "BIGINT", "TEXT", "BIGINT", "BIGINT"}
