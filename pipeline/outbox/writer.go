package outbox

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// Writer writes events into the outbox of a transaction, or, where the log is in the
// database, straight into the log. It is safe for concurrent use.
type Writer struct {
	topics *topics.Set
	// handover, if not nil, is told what was committed.
	handover *handover
}

// NewWriter returns a Writer to these topics. What it writes, a relay finds when it next
// looks; a Relay's own Writer tells it.
func NewWriter(topics *topics.Set) Writer { return Writer{topics: topics} }

// Append inserts events, and returns where each will be in the log.
func (w Writer) Append(ctx context.Context, tx *store.Tx, events []schema.Event) ([]pipeline.Token, error) {
	rows, err := w.Rows(events, false)
	if err != nil {
		return nil, err
	}
	if err := w.Insert(ctx, tx, rows); err != nil {
		return nil, err
	}
	tokens := make([]pipeline.Token, len(rows))
	for i, row := range rows {
		tokens[i] = pipeline.Token{TopicPartition: pipeline.TopicPartition{Topic: events[i].Payload.Topic(), Partition: row.Part}, Seq: row.Seq}
	}
	return tokens, nil
}

// Rows are events as they are in the outbox, but for their numbers. derived says
// that the events follow from records of the log, and would be given again for the
// same records.
func (w Writer) Rows(events []schema.Event, derived bool) ([]store.OutboxRow, error) {
	rows := make([]store.OutboxRow, len(events))
	for i, event := range events {
		row, err := w.encode(event, derived)
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		if size := rowSize(&row); size > log.MaxEventBytes {
			return nil, pipeline.Permanent(fmt.Errorf("publishing %s: the event has %d bytes, and the most is %d",
				event.Payload.EventType(), size, log.MaxEventBytes))
		}
		rows[i] = row
	}
	return rows, nil
}

// Insert takes a number in its chain for each row and inserts them, into the outbox or
// straight into a log that is in the database: all of a transaction at once, since the
// chains are locked in one order.
func (w Writer) Insert(ctx context.Context, tx *store.Tx, rows []store.OutboxRow) error {
	if len(rows) == 0 {
		return nil
	}
	if log := w.topics.InDatabase(); log != nil {
		return log.AppendTx(ctx, tx, rows)
	}
	taken, err := number(ctx, tx, rows)
	if err != nil {
		return err
	}
	if err := tx.Append(ctx, rows); err != nil {
		return err
	}
	if w.handover != nil {
		w.handover.commits(tx, rows, taken)
	}
	return nil
}

// rowSize is what a row counts for in the limits of a batch.
func rowSize(r *store.OutboxRow) int {
	return len(r.Key) + len(r.Headers) + len(r.Payload) + chain.LinkBytes
}

func (w Writer) encode(event schema.Event, derived bool) (store.OutboxRow, error) {
	headers, value, err := event.Encode()
	if err != nil {
		return store.OutboxRow{}, err
	}
	if derived {
		headers = append(headers, schema.Header{Key: chain.HeaderDerived, Value: []byte("true")})
	}
	topic, known := w.topics.Topic(event.Payload.Topic())
	if !known {
		return store.OutboxRow{}, fmt.Errorf("publishing %s: topic %q is not one of this run's",
			event.Payload.EventType(), event.Payload.Topic())
	}
	return store.OutboxRow{Epoch: topic.Epoch, Part: w.topics.Partition(topic, []byte(event.Payload.Key())),
		Key: w.topics.RecordKey(event.Payload), Headers: store.EncodeHeaders(headers), Payload: value}, nil
}

// number gives each row its place in the chain of its partition, in the rows' order, and
// returns the numbers that it took.
func number(ctx context.Context, tx *store.Tx, rows []store.OutboxRow) ([]store.Numbers, error) {
	type chain struct {
		epoch int64
		part  int32
	}
	var wanted []store.Numbers
	index := map[chain]int{}
	for _, row := range rows {
		c := chain{row.Epoch, row.Part}
		i, begun := index[c]
		if !begun {
			i = len(wanted)
			index[c] = i
			wanted = append(wanted, store.Numbers{Epoch: row.Epoch, Part: row.Part})
		}
		wanted[i].N++
	}
	if err := tx.TakeNumbers(ctx, wanted); err != nil {
		return nil, err
	}
	next := make([]int64, len(wanted))
	for i, n := range wanted {
		next[i] = n.First()
	}
	for i, row := range rows {
		c := index[chain{row.Epoch, row.Part}]
		rows[i].Seq = next[c]
		next[c]++
	}
	return wanted, nil
}
