package store

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/schema"
)

// DeadLetter is a record that a stage stepped over, with all its bytes.
type DeadLetter struct {
	ID        int64       `db:"id"`
	Stage     string      `db:"stage"`
	Topic     string      `db:"topic"`
	TopicID   string      `db:"topic_id"`
	Part      int32       `db:"part"`
	Offset    int64       `db:"log_offset"`
	Key       []byte      `db:"msg_key"`
	Headers   []byte      `db:"headers"` // see EncodeHeaders
	Payload   []byte      `db:"payload"`
	Reason    string      `db:"reason"`
	CreatedAt schema.Time `db:"created_at"`
}

// AddDeadLetters inserts dead letters, numbering them.
func (t *Tx) AddDeadLetters(ctx context.Context, letters []DeadLetter) error {
	rows := Rows{Table: "dead_letters", Columns: []string{"stage", "topic", "topic_id", "part", "log_offset",
		"msg_key", "headers", "payload", "reason", "created_at"}}
	for _, l := range letters {
		rows.Add(l.Stage, l.Topic, l.TopicID, l.Part, l.Offset, l.Key, l.Headers, l.Payload, l.Reason, l.CreatedAt)
	}
	return t.Insert(ctx, rows)
}

// DeadLetters lists dead letters of the service, newest first.
func DeadLetters(ctx context.Context, q Querier, limit int) ([]DeadLetter, error) {
	var letters []DeadLetter
	err := q.Select(ctx, &letters, `SELECT id, stage, topic, topic_id, part, log_offset, msg_key, headers, payload,
		reason, created_at FROM dead_letters WHERE substr(stage, 1, $2) <> $3 ORDER BY id DESC LIMIT $1`, limit, len(Scratch), Scratch)
	if err != nil {
		return nil, fmt.Errorf("reading dead letters: %w", err)
	}
	return letters, nil
}

// DeadLettersOf reads the dead letters of a stage on one partition of an
// incarnation of a topic, behind an offset, in the order of the log.
func DeadLettersOf(ctx context.Context, q Querier, stage, topicID string, part int32, after int64, limit int) ([]DeadLetter, error) {
	var letters []DeadLetter
	err := q.Select(ctx, &letters, `SELECT id, stage, topic, topic_id, part, log_offset, msg_key, headers, payload,
		reason, created_at FROM dead_letters WHERE stage = $1 AND topic_id = $2 AND part = $3 AND log_offset > $4
		ORDER BY log_offset LIMIT $5`, stage, topicID, part, after, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the dead letters of %s: %w", stage, err)
	}
	return letters, nil
}
