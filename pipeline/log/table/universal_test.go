package table_test

import (
	"path/filepath"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/table"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/sqlite"
)

// The universal suite of Watermill, over messages of one record.

// features are those of both forms of it. A group has one subscriber at a time.
func features() tests.Features {
	return tests.Features{ConsumerGroups: true, Persistent: true, RequireSingleInstance: true, ForceShort: raceEnabled}
}

func TestUniversalUnordered(t *testing.T) {
	t.Parallel()
	db := expendable(t)
	tests.TestPubSub(t, features(), pubSub(db, nil), pubSubOfGroup(db, nil))
}

func TestUniversalOrderedByKey(t *testing.T) {
	t.Parallel()
	db := expendable(t)
	// Messages without the metadata have the empty key, which is a key.
	key := func(_ string, msg *message.Message) ([]byte, error) {
		return []byte(msg.Metadata.Get("partition_key")), nil
	}
	ordered := features()
	ordered.GuaranteedOrder = true
	tests.TestPubSub(t, ordered, pubSub(db, key), pubSubOfGroup(db, key))
}

// expendable is a database that does not wait for the disk: the suite commits each
// message by itself.
func expendable(t *testing.T) *store.Store {
	t.Helper()
	engine, err := sqlite.Open(filepath.Join(t.TempDir(), "db"), sqlite.Expendable)
	require.NoError(t, err)
	return openStore(t, engine)
}

type keyOf = func(topic string, msg *message.Message) ([]byte, error)

// pubSub makes pairs that are of one group as long as they are of one test.
func pubSub(db *store.Store, key keyOf) tests.PubSubConstructor {
	ofGroup := pubSubOfGroup(db, key)
	return func(t *testing.T) (message.Publisher, message.Subscriber) { return ofGroup(t, "group-"+t.Name()) }
}

func pubSubOfGroup(db *store.Store, key keyOf) tests.ConsumerGroupPubSubConstructor {
	return func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		l := openLog(t, db)
		publisher, err := l.Publisher(table.PublisherConfig{Key: key, CreateTopics: true})
		require.NoError(t, err)
		subscriber, err := l.Subscriber(log.SubscriberConfig{Group: group, BatchSize: 1})
		require.NoError(t, err)
		return publisher, subscriber
	}
}

func TestPublisher(t *testing.T) {
	t.Parallel()
	db := onSQLite(t)(t)
	_, err := openLog(t, db, func(c *table.Config) { c.Partitioner = nil }).Publisher(table.PublisherConfig{})
	require.ErrorContains(t, err, "partitioner")
	l := openLog(t, db)
	publisher, err := l.Publisher(table.PublisherConfig{})
	require.NoError(t, err)
	topic := newTopic(t, l)
	require.ErrorIs(t, publisher.Publish(unique("unknown"), message.NewMessage("u", nil)), table.ErrUnknownTopic)
	require.NoError(t, publisher.Publish(string(topic)))

	// All or nothing, however many partitions.
	large := message.NewMessage("large", make([]byte, 40<<20))
	require.ErrorIs(t, publisher.Publish(string(topic), message.NewMessage("1", []byte("small")), large), table.ErrTooLarge)
	ranges, err := l.Offsets(t.Context(), topic)
	require.NoError(t, err)
	assert.Equal(t, make([]log.OffsetRange, 4), ranges)

	// Messages without a key are spread.
	var messages []*message.Message
	for range 8 {
		messages = append(messages, message.NewMessage("u", []byte("v")))
	}
	require.NoError(t, publisher.Publish(string(topic), messages...))
	ranges, err = l.Offsets(t.Context(), topic)
	require.NoError(t, err)
	assert.Equal(t, []log.OffsetRange{{End: 2}, {End: 2}, {End: 2}, {End: 2}}, ranges)
	for range 2 {
		require.NoError(t, publisher.Close())
	}
	require.ErrorIs(t, publisher.Publish(string(topic), messages...), table.ErrClosed)
}
