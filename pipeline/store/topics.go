package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// Topic is an incarnation of a topic as this database knows it.
type Topic struct {
	// Epoch numbers the incarnations this database has seen, from 1.
	Epoch int64 `db:"epoch"`
	// Name is the role of the topic.
	Name string `db:"name"`
	// ID is the cluster's UUID of this incarnation.
	ID string `db:"topic_id"`
	// Partitions is how many there were when this database first saw the topic.
	// Keys are spread over so many, forever: a key never moves.
	Partitions int32 `db:"partitions"`
	// Seen is how many there were when an operator last agreed to more.
	Seen int32 `db:"seen"`
	// Origin is the id of the topic that the log was moved here from; empty where it was
	// not, or into a log that kept the id.
	Origin string `db:"origin"`
	// Renewed is how many epochs of the same id came before: how often its log
	// lost its end.
	Renewed int `db:"renewed"`
}

// Lineage is the id that the ids of events follow from which stages derive from the topic's
// records: they are the same after the log has moved.
func (t Topic) Lineage() string {
	if t.Origin != "" {
		return t.Origin
	}
	return t.ID
}

const (
	topicColumns = `epoch, name, topic_id, partitions, seen, origin`
	selectTopics = `SELECT ` + topicColumns + `, (SELECT COUNT(*) FROM topics former
		WHERE former.name = topics.name AND former.topic_id = topics.topic_id AND former.epoch < topics.epoch) AS renewed FROM topics`
)

// RegisterTopic makes an incarnation of a topic known, with a chain for each
// partition, and returns it as it is known.
func (s *Store) RegisterTopic(ctx context.Context, name, topicID string, partitions int32) (Topic, error) {
	topic, err := currentTopic(ctx, s, name, topicID)
	if errors.Is(err, sql.ErrNoRows) {
		err = s.Write(ctx, func(tx *Tx) error {
			if err := tx.LockSchema(ctx); err != nil {
				return err
			}
			topic, err = currentTopic(ctx, tx, name, topicID)
			if errors.Is(err, sql.ErrNoRows) {
				topic, err = tx.newEpoch(ctx, Topic{Name: name, ID: topicID, Partitions: partitions, Seen: partitions})
			}
			return err
		})
	}
	if err != nil {
		return Topic{}, fmt.Errorf("registering topic %s (%s): %w", name, topicID, err)
	}
	return topic, nil
}

// EnsureTopic makes a topic of the table log known, unless it is: its id is made here.
func (s *Store) EnsureTopic(ctx context.Context, name string, partitions int32) error {
	id, err := uuid.NewRandom()
	if err != nil {
		return fmt.Errorf("making an id for topic %s: %w", name, err)
	}
	err = s.Write(ctx, func(tx *Tx) error {
		if err := tx.LockSchema(ctx); err != nil {
			return err
		}
		var exists bool
		if err := tx.Get(ctx, &exists, `SELECT EXISTS (SELECT 1 FROM topics WHERE name = $1)`, name); err != nil || exists {
			return err
		}
		_, err := tx.newEpoch(ctx, Topic{Name: name, ID: id.String(), Partitions: partitions, Seen: partitions})
		return err
	})
	if err != nil {
		return fmt.Errorf("creating topic %s: %w", name, err)
	}
	return nil
}

// currentTopic is the newest epoch of an incarnation.
func currentTopic(ctx context.Context, q Querier, name, topicID string) (topic Topic, err error) {
	err = q.Get(ctx, &topic, selectTopics+` WHERE name = $1 AND topic_id = $2
		ORDER BY epoch DESC LIMIT 1`, name, topicID)
	return topic, err
}

// RenewEpoch begins another epoch of a topic whose log lost its end: offsets
// will be given out again, and rows that stem from them must have other ids.
func (t *Tx) RenewEpoch(ctx context.Context, topic Topic) (Topic, error) {
	if err := t.LockSchema(ctx); err != nil {
		return Topic{}, err
	}
	now, err := currentTopic(ctx, t, topic.Name, topic.ID)
	if err != nil {
		return Topic{}, fmt.Errorf("reading topic %s: %w", topic.Name, err)
	}
	if now.Epoch != topic.Epoch {
		return now, nil // another process did
	}
	now.Renewed++
	return t.newEpoch(ctx, now)
}

// newEpoch inserts a topic with the next epoch. Epochs count densely from 1, so
// that row ids, which have few bits for them, last. The caller is alone.
func (t *Tx) newEpoch(ctx context.Context, topic Topic) (Topic, error) {
	err := t.Get(ctx, &topic, `INSERT INTO topics (`+topicColumns+`)
		SELECT COALESCE(MAX(epoch), 0) + 1, $1, $2, $3, $4, $5 FROM topics RETURNING `+topicColumns,
		topic.Name, topic.ID, topic.Partitions, topic.Seen, topic.Origin)
	if err != nil {
		return Topic{}, fmt.Errorf("numbering topic %s (%s): %w", topic.Name, topic.ID, err)
	}
	name, err := newTimeline()
	if err != nil {
		return Topic{}, err
	}
	chains := Rows{Table: "chains", Columns: []string{"epoch", "part", "outbox", "last", "sent"}}
	for part := range topic.Partitions {
		chains.Add(topic.Epoch, part, name, int64(0), int64(0))
	}
	return topic, t.Insert(ctx, chains)
}

// AgreeToPartitions notes that an operator knows of this number of partitions.
func (t *Tx) AgreeToPartitions(ctx context.Context, topic Topic, seen int32) error {
	if _, err := t.Exec(ctx, `UPDATE topics SET seen = $1 WHERE epoch = $2`, seen, topic.Epoch); err != nil {
		return fmt.Errorf("agreeing to %d partitions of topic %s: %w", seen, topic.Name, err)
	}
	return nil
}

// Topics lists all incarnations by epoch.
func (s *Store) Topics(ctx context.Context) ([]Topic, error) { return Topics(ctx, s) }

// Topics lists all incarnations by epoch.
func Topics(ctx context.Context, q Querier) ([]Topic, error) {
	var topics []Topic
	if err := q.Select(ctx, &topics, selectTopics+` ORDER BY epoch`); err != nil {
		return nil, fmt.Errorf("reading topics: %w", err)
	}
	return topics, nil
}
