package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Topic is an incarnation of a topic as this database knows it.
type Topic struct {
	// Epoch numbers the incarnations this database has seen, from 1.
	Epoch int64 `db:"epoch"`
	// Name is the role of the topic.
	Name string `db:"name"`
	// ID is the cluster's UUID of this incarnation.
	ID         string `db:"topic_id"`
	Partitions int32  `db:"partitions"`
}

// ErrPartitions says that a topic has another number of partitions than when
// this database first saw it: its keys now lie elsewhere.
var ErrPartitions = errors.New("the number of partitions changed")

// RegisterTopic makes an incarnation of a topic known, with a chain for each
// partition, and returns it. ErrPartitions where its partitions changed.
func (s *Store) RegisterTopic(ctx context.Context, name, topicID string, partitions int32) (Topic, error) {
	var topic Topic
	err := s.Write(ctx, func(tx *Tx) (err error) {
		topic, err = tx.registerTopic(ctx, name, topicID, partitions)
		return err
	})
	if err != nil {
		return Topic{}, fmt.Errorf("registering topic %s (%s): %w", name, topicID, err)
	}
	if topic.Partitions != partitions {
		return topic, fmt.Errorf("topic %s (%s) has %d partitions, and had %d: %w",
			name, topicID, partitions, topic.Partitions, ErrPartitions)
	}
	return topic, nil
}

func (t *Tx) registerTopic(ctx context.Context, name, topicID string, partitions int32) (topic Topic, err error) {
	// Another process may register a topic at the same time: then the insert
	// waits for it, finds the id or the epoch taken, and the next round sees why.
	// Each round that adds nothing is another's success, so this ends.
	for {
		err = t.Get(ctx, &topic, `SELECT epoch, name, topic_id, partitions FROM topics WHERE topic_id = $1`, topicID)
		if !errors.Is(err, sql.ErrNoRows) {
			return topic, err
		}
		// Epochs count densely from 1 so that row ids, which have few bits for
		// them, last. SQLite takes the ON of ON CONFLICT for that of a join
		// unless there is a WHERE.
		err = t.Get(ctx, &topic, `INSERT INTO topics (epoch, name, topic_id, partitions)
			SELECT COALESCE(MAX(epoch), 0) + 1, $1, $2, $3 FROM topics WHERE true
			ON CONFLICT DO NOTHING RETURNING epoch, name, topic_id, partitions`, name, topicID, partitions)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return topic, err
		}
		chains := Rows{Table: "chains", Columns: []string{"epoch", "part", "last", "sent"}}
		for part := range partitions {
			chains.Add(topic.Epoch, part, int64(0), int64(0))
		}
		return topic, t.Insert(ctx, chains)
	}
}

// Topics lists all incarnations by epoch.
func (s *Store) Topics(ctx context.Context) ([]Topic, error) {
	var topics []Topic
	err := s.Select(ctx, &topics, `SELECT epoch, name, topic_id, partitions FROM topics ORDER BY epoch`)
	return topics, err
}
