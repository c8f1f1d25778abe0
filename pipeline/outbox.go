package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// MaxEventBytes bounds an event with its headers and key. Kafka refuses
// messages above 1 MiB by default; the difference is the frame around it.
const MaxEventBytes = 1_000_000

// Topology is the topics as this run knows them: fixed at its start.
type Topology struct {
	topics  map[schema.Topic]store.Topic
	byEpoch map[int64]schema.Topic
	// partition is the partitioner of all of pricemill's topics.
	partition func(key []byte, partitions int32) int32
}

// NewTopology creates what topics are missing, registers all in the database
// and returns them. The partitioner must be the same in every process.
func NewTopology(ctx context.Context, db *store.Store, broker Broker, topics []schema.Topic,
	partitioner func(key []byte, partitions int32) int32) (*Topology, error) {
	infos, err := broker.EnsureTopics(ctx, topics)
	if err != nil {
		return nil, fmt.Errorf("preparing the topics: %w", err)
	}
	t := &Topology{topics: map[schema.Topic]store.Topic{}, byEpoch: map[int64]schema.Topic{}, partition: partitioner}
	for _, name := range topics {
		info := infos[name]
		if info.Partitions > MaxPartitions {
			return nil, fmt.Errorf("topic %s has %d partitions: the most is %d", name, info.Partitions, MaxPartitions)
		}
		registered, err := db.RegisterTopic(ctx, string(name), info.ID, info.Partitions)
		if err != nil {
			return nil, err
		}
		if registered.Epoch > MaxEpoch {
			return nil, fmt.Errorf("topic %s is incarnation %d in this database: the most is %d", name, registered.Epoch, MaxEpoch)
		}
		t.topics[name] = registered
		t.byEpoch[registered.Epoch] = name
	}
	return t, nil
}

// PartitionOf is where records with this key lie on a topic.
func (t *Topology) PartitionOf(topic schema.Topic, key []byte) (int32, error) {
	info, known := t.topics[topic]
	if !known {
		return 0, fmt.Errorf("topic %q is not one of this run's", topic)
	}
	return t.partition(key, info.Partitions), nil
}

// outbox writes events into the outbox of a transaction.
type outbox struct {
	topology *Topology
	id       string
}

// append takes a number in its chain for each event and inserts the rows. It
// returns where each will lie in the log.
func (o outbox) append(ctx context.Context, tx *store.Tx, events []schema.Event) ([]Token, error) {
	if len(events) == 0 {
		return nil, nil
	}
	rows, tokens := make([]store.OutboxRow, len(events)), make([]Token, len(events))
	headers := make([][]schema.Header, len(events))
	for i, event := range events {
		var err error
		if rows[i], headers[i], err = o.encode(event); err != nil {
			return nil, Permanent(err)
		}
		tokens[i].Topic, tokens[i].Partition = event.Payload.Topic(), rows[i].Part
	}
	if err := number(ctx, tx, rows); err != nil {
		return nil, err
	}
	for i := range rows {
		tokens[i].Seq = rows[i].Seq
		rows[i].Headers = store.EncodeHeaders(append(headers[i], Link{o.id, rows[i].Seq}.headers()...))
		if size := len(rows[i].Key) + len(rows[i].Headers) + len(rows[i].Payload); size > MaxEventBytes {
			return nil, Permanent(fmt.Errorf("publishing %s: the event has %d bytes, and the most is %d",
				events[i].Payload.EventType(), size, MaxEventBytes))
		}
	}
	return tokens, tx.Append(ctx, rows)
}

func (o outbox) encode(event schema.Event) (store.OutboxRow, []schema.Header, error) {
	headers, value, err := event.Encode()
	if err != nil {
		return store.OutboxRow{}, nil, err
	}
	topic, known := o.topology.topics[event.Payload.Topic()]
	if !known {
		return store.OutboxRow{}, nil, fmt.Errorf("publishing %s: topic %q is not one of this run's",
			event.Payload.EventType(), event.Payload.Topic())
	}
	key := []byte(event.Payload.Key())
	return store.OutboxRow{Epoch: topic.Epoch, Part: o.topology.partition(key, topic.Partitions),
		Key: key, Payload: value}, headers, nil
}

// number gives each row its place in the chain of its partition, in the rows'
// order. The chains are locked in ascending order, so that two transactions
// never wait for each other in a circle.
func number(ctx context.Context, tx *store.Tx, rows []store.OutboxRow) error {
	type chain struct {
		epoch int64
		part  int32
	}
	counts := map[chain]int{}
	for _, row := range rows {
		counts[chain{row.Epoch, row.Part}]++
	}
	order := make([]chain, 0, len(counts))
	for c := range counts {
		order = append(order, c)
	}
	slices.SortFunc(order, func(a, b chain) int {
		return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.part, b.part))
	})
	next := map[chain]int64{}
	for _, c := range order {
		last, err := tx.TakeNumbers(ctx, c.epoch, c.part, counts[c])
		if err != nil {
			return err
		}
		next[c] = last - int64(counts[c]) + 1
	}
	for i, row := range rows {
		c := chain{row.Epoch, row.Part}
		rows[i].Seq = next[c]
		next[c]++
	}
	return nil
}

// emitter implements Emitter.
type emitter struct {
	db     *store.Store
	outbox outbox
	wake   func()
}

func (e *emitter) Emit(ctx context.Context, f func(tx *Tx) ([]schema.Event, error)) ([]Token, error) {
	var tokens []Token
	err := (&Tx{}).run(ctx, e.db, func(tx *Tx) error {
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
