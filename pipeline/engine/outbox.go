package engine

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// outbox writes events into the outbox of a transaction.
type outbox struct{ topology *Topology }

// append inserts events, and returns where each will be in the log.
func (o outbox) append(ctx context.Context, tx *store.Tx, events []schema.Event) ([]pipeline.Token, error) {
	rows, err := o.rows(events, false)
	if err != nil {
		return nil, err
	}
	if err := o.insert(ctx, tx, rows); err != nil {
		return nil, err
	}
	tokens := make([]pipeline.Token, len(rows))
	for i, row := range rows {
		tokens[i] = pipeline.Token{TopicPartition: pipeline.TopicPartition{Topic: events[i].Payload.Topic(), Partition: row.Part}, Seq: row.Seq}
	}
	return tokens, nil
}

// rows are events as they are in the outbox, but for their numbers. derived says
// that the events follow from records of the log, and would be given again for the
// same records.
func (o outbox) rows(events []schema.Event, derived bool) ([]store.OutboxRow, error) {
	rows := make([]store.OutboxRow, len(events))
	for i, event := range events {
		row, err := o.encode(event, derived)
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		if size := len(row.Key) + len(row.Headers) + len(row.Payload) + chain.LinkBytes; size > log.MaxEventBytes {
			return nil, pipeline.Permanent(fmt.Errorf("publishing %s: the event has %d bytes, and the most is %d",
				event.Payload.EventType(), size, log.MaxEventBytes))
		}
		rows[i] = row
	}
	return rows, nil
}

// insert takes a number in its chain for each row and inserts them, into the outbox or
// straight into a log that is in the database: all of a transaction at once, since the
// chains are locked in one order.
func (o outbox) insert(ctx context.Context, tx *store.Tx, rows []store.OutboxRow) error {
	if len(rows) == 0 {
		return nil
	}
	if log := o.topology.inDatabase; log != nil {
		return log.AppendTx(ctx, tx, rows)
	}
	if err := number(ctx, tx, rows); err != nil {
		return err
	}
	return tx.Append(ctx, rows)
}

func (o outbox) encode(event schema.Event, derived bool) (store.OutboxRow, error) {
	headers, value, err := event.Encode()
	if err != nil {
		return store.OutboxRow{}, err
	}
	if derived {
		headers = append(headers, schema.Header{Key: chain.HeaderDerived, Value: []byte("true")})
	}
	topic, known := o.topology.Topic(event.Payload.Topic())
	if !known {
		return store.OutboxRow{}, fmt.Errorf("publishing %s: topic %q is not one of this run's",
			event.Payload.EventType(), event.Payload.Topic())
	}
	key := []byte(event.Payload.Key())
	return store.OutboxRow{Epoch: topic.Epoch, Part: o.topology.partitioner(key, topic.Partitions),
		Key: key, Headers: store.EncodeHeaders(headers), Payload: value}, nil
}

// number gives each row its place in the chain of its partition, in the rows'
// order.
func number(ctx context.Context, tx *store.Tx, rows []store.OutboxRow) error {
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
		return err
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
	return nil
}

// emitter implements Emitter.
type emitter struct {
	*Appender
	*store.Store
	outbox outbox
	wake   func()
}

func (e *emitter) Emit(ctx context.Context, f func(tx *pipeline.Tx) ([]schema.Event, error)) ([]pipeline.Token, error) {
	var tokens []pipeline.Token
	err := runTx(ctx, e.Store, &pipeline.Tx{}, func(tx *pipeline.Tx) error {
		events, err := f(tx)
		if err != nil {
			return err
		}
		tokens, err = e.outbox.append(ctx, tx.Tx, events)
		return err
	})
	if err != nil {
		return nil, err
	}
	e.wake()
	return tokens, nil
}
