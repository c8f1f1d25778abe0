package topics

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Set is the topics of a run, as the log and the database know them. It is safe for
// concurrent use.
type Set struct {
	db     *store.Store
	broker log.Broker
	// inDatabase is the broker where its log is in the database; nil elsewhere.
	inDatabase log.TransactionalLog
	names      []schema.Topic
	// partitioner is that of all of pricemill's topics.
	partitioner func(key []byte, partitions int32) int32
	// bareSymbols says that RecordKey is the symbol alone on price-events.
	bareSymbols bool

	looking sync.Mutex
	known   atomic.Pointer[knownTopics] // asked for every record
}

// knownTopics is one look at the topics.
type knownTopics struct {
	byName  map[schema.Topic]store.Topic
	byEpoch map[int64]schema.Topic
}

// New creates what topics are missing, registers all in the database and returns
// them. The partitioner must be the same in every process.
//
// Stages whose position lies after the end of the log halt.
func New(ctx context.Context, db *store.Store, broker log.Broker, topics []schema.Topic,
	partitioner func(key []byte, partitions int32) int32) (*Set, error) {
	infos, err := broker.EnsureTopics(ctx, topics)
	if err != nil {
		return nil, fmt.Errorf("preparing the topics: %w", err)
	}
	t := of(db, broker, topics, partitioner)
	if err := t.register(ctx, infos); err != nil {
		return nil, err
	}
	if err := t.HaltBeyond(ctx); err != nil {
		return nil, err
	}
	return t, t.Refresh(ctx)
}

func of(db *store.Store, broker log.Broker, topics []schema.Topic, partitioner func(key []byte, partitions int32) int32) *Set {
	inDatabase, _ := broker.(log.TransactionalLog)
	return &Set{db: db, broker: broker, inDatabase: inDatabase, names: topics, partitioner: partitioner}
}

// Lookup returns the topics without creating or registering any, for commands that run
// next to a service.
func Lookup(ctx context.Context, db *store.Store, broker log.Broker, topics []schema.Topic,
	partitioner func(key []byte, partitions int32) int32) (*Set, error) {
	infos, err := broker.Topics(ctx, topics)
	if err != nil {
		return nil, fmt.Errorf("looking at the topics: %w", err)
	}
	registered, err := db.Topics(ctx)
	if err != nil {
		return nil, err
	}
	known := &knownTopics{map[schema.Topic]store.Topic{}, map[int64]schema.Topic{}}
	for _, topic := range registered { // by epoch: the newest stays
		name := schema.Topic(topic.Name)
		if infos[name].ID == topic.ID {
			known.byName[name] = topic
		}
	}
	for _, name := range topics {
		topic, ours := known.byName[name]
		if !ours {
			return nil, fmt.Errorf("%w: topic %s, id %q", ErrForeignCluster, name, infos[name].ID)
		}
		known.byEpoch[topic.Epoch] = name
	}
	t := of(db, broker, topics, partitioner)
	t.known.Store(known)
	return t, nil
}

// ErrForeignCluster says that the topics are not those that the database knows.
var ErrForeignCluster = errors.New("the database has never seen this topic: is it the right cluster, and did the service run since the topic was created?")

// Refresh looks again: a topic may have been created again, or an operator may
// have agreed to a change.
func (t *Set) Refresh(ctx context.Context) error {
	// One after the other, or an older look would replace a newer one.
	t.looking.Lock()
	defer t.looking.Unlock()
	infos, err := t.broker.Topics(ctx, t.names)
	if err != nil {
		return fmt.Errorf("looking at the topics: %w", err)
	}
	return t.register(ctx, infos)
}

func (t *Set) register(ctx context.Context, infos map[schema.Topic]log.TopicInfo) error {
	known := &knownTopics{map[schema.Topic]store.Topic{}, map[int64]schema.Topic{}}
	for _, name := range t.names {
		info, exists := infos[name]
		if !exists {
			return fmt.Errorf("topic %s is missing: it was deleted; a restart creates it again", name)
		}
		if info.Partitions > rowid.MaxPartitions {
			return fmt.Errorf("topic %s has %d partitions: the most is %d", name, info.Partitions, rowid.MaxPartitions)
		}
		registered, err := t.db.RegisterTopic(ctx, string(name), info.ID, info.Partitions)
		if err != nil {
			return err
		}
		if registered.Epoch > rowid.MaxEpoch {
			return fmt.Errorf("topic %s is incarnation %d in this database: the most is %d", name, registered.Epoch, rowid.MaxEpoch)
		}
		known.byName[name], known.byEpoch[registered.Epoch] = registered, name
	}
	t.known.Store(known)
	return nil
}

// Topic is what is known of a topic; false where it is not one of this run's.
func (t *Set) Topic(name schema.Topic) (store.Topic, bool) {
	topic, known := t.known.Load().byName[name]
	return topic, known
}

// Names are the topics of this run. The caller must not change them.
func (t *Set) Names() []schema.Topic { return t.names }

// AtEpoch is the topic whose present incarnation has this epoch.
func (t *Set) AtEpoch(epoch int64) (schema.Topic, bool) {
	name, known := t.known.Load().byEpoch[epoch]
	return name, known
}

// PartitionOf is where records with this key are on a topic.
func (t *Set) PartitionOf(topic schema.Topic, key []byte) (int32, error) {
	info, known := t.Topic(topic)
	if !known {
		return 0, fmt.Errorf("topic %q is not one of this run's", topic)
	}
	return t.Partition(info, key), nil
}

// Partition is where records with this key are on an incarnation of a topic.
func (t *Set) Partition(topic store.Topic, key []byte) int32 {
	return t.partitioner(key, topic.Partitions)
}

// KeyBySymbol has RecordKey give the symbol alone for events on price-events. Call it
// before the set is used.
func (t *Set) KeyBySymbol() { t.bareSymbols = true }

// RecordKey is the key of the record of an event: the event's own, by which its
// partition is found, or, after KeyBySymbol, the symbol alone. In that case one key is on two
// partitions where two providers quote one symbol.
func (t *Set) RecordKey(payload schema.Payload) []byte {
	key := payload.Key()
	if t.bareSymbols && payload.Topic() == schema.PriceEvents {
		key = schema.SymbolOfKey(key)
	}
	return []byte(key)
}

// InDatabase is the log where it is in the pipeline's database; nil elsewhere.
func (t *Set) InDatabase() log.TransactionalLog { return t.inDatabase }
