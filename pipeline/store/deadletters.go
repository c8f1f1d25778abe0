package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/schema"
)

// DeadLetter is a record that a stage skipped, with all its bytes.
type DeadLetter struct {
	ID      int64  `db:"id"`
	Stage   string `db:"stage"`
	Topic   string `db:"topic"`
	TopicID string `db:"topic_id"`
	Part    int32  `db:"part"`
	Offset  int64  `db:"log_offset"`
	// Key and Payload are nil where the record has none: null is not empty.
	Key       []byte      `db:"msg_key"`
	Headers   []byte      `db:"headers"` // see EncodeHeaders
	Payload   []byte      `db:"payload"`
	Reason    string      `db:"reason"`
	CreatedAt schema.Time `db:"created_at"`
	// Epoch is that of the topic when the record became a dead letter; 0 for
	// letters from before it was kept.
	Epoch int64 `db:"epoch"`
	// Retry is the order by which it waits to be retried; "" where there is none.
	Retry string `db:"retry"`
	// DiscardedAt is when it was discarded; nil where it was not.
	DiscardedAt *schema.Time `db:"discarded_at"`
}

// AddDeadLetters inserts dead letters, numbering them. A stage has one of each
// record: where the log lost its end, and has another record at an offset now, that
// one takes the place.
func (t *Tx) AddDeadLetters(ctx context.Context, letters []DeadLetter) error {
	rows := Rows{Table: "dead_letters", Columns: []string{"stage", "topic", "topic_id", "part", "log_offset",
		"msg_key", "headers", "payload", "reason", "created_at", "epoch"},
		Clause: `ON CONFLICT (stage, topic_id, part, log_offset) DO UPDATE SET topic = excluded.topic, msg_key = excluded.msg_key,
			headers = excluded.headers, payload = excluded.payload, reason = excluded.reason, created_at = excluded.created_at,
			epoch = excluded.epoch, retry = '', discarded_at = NULL`}
	for _, l := range letters {
		rows.Add(l.Stage, l.Topic, l.TopicID, l.Part, l.Offset, l.Key, l.Headers, l.Payload, l.Reason, l.CreatedAt, l.Epoch)
	}
	return t.Insert(ctx, rows)
}

// ForgetDeadLetters deletes those of a stage that are on a partition from an offset
// on: their records are taken again.
func (t *Tx) ForgetDeadLetters(ctx context.Context, from Position) error {
	_, err := t.Exec(ctx, `DELETE FROM dead_letters WHERE stage = $1 AND topic_id = $2 AND part = $3 AND log_offset >= $4`,
		from.Stage, from.TopicID, from.Part, from.Next)
	if err != nil {
		return fmt.Errorf("deleting the dead letters of %s on %s/%d: %w", from.Stage, from.Topic, from.Part, err)
	}
	return nil
}

// DeadLetterSummary is a dead letter without the record's bytes, which may be many.
type DeadLetterSummary struct {
	ID      int64  `db:"id" json:"id"`
	Stage   string `db:"stage" json:"stage"`
	Topic   string `db:"topic" json:"topic"`
	TopicID string `db:"topic_id" json:"topic_id"`
	Part    int32  `db:"part" json:"partition"`
	Offset  int64  `db:"log_offset" json:"offset"`
	// Bytes is the size of the record's value.
	Bytes     int64       `db:"bytes" json:"bytes"`
	Reason    string      `db:"reason" json:"reason"`
	CreatedAt schema.Time `db:"created_at" json:"created_at"`
	// Retrying says that a retry was ordered and is not carried out yet.
	Retrying bool `db:"retrying" json:"retrying"`
}

// DeadLetters lists dead letters of the service, or of one of its stages where
// stage is not "", newest first, without those that were discarded.
func DeadLetters(ctx context.Context, q Querier, stage string, limit int) ([]DeadLetterSummary, error) {
	var letters []DeadLetterSummary
	err := q.Select(ctx, &letters, `SELECT id, stage, topic, topic_id, part, log_offset, COALESCE(length(payload), 0) AS bytes,
		reason, created_at, retry <> '' AS retrying FROM dead_letters
		WHERE (stage = $1 OR $1 = '' AND substr(stage, 1, $2) <> $3) AND discarded_at IS NULL ORDER BY id DESC LIMIT $4`,
		stage, len(Scratch), Scratch, limit)
	if err != nil {
		return nil, fmt.Errorf("reading dead letters: %w", err)
	}
	return letters, nil
}

// letterRow is a dead letter with all its bytes, as it is read.
type letterRow struct {
	DeadLetter
	// Not every driver tells empty bytes from none.
	HasKey     bool `db:"has_key"`
	HasPayload bool `db:"has_payload"`
}

const selectLetters = `SELECT id, stage, topic, topic_id, part, log_offset, msg_key, headers, payload, reason, created_at, epoch,
	retry, discarded_at,
	msg_key IS NOT NULL AS has_key, payload IS NOT NULL AS has_payload FROM dead_letters`

func (r letterRow) letter() DeadLetter {
	letter := r.DeadLetter
	if letter.Key == nil && r.HasKey {
		letter.Key = []byte{}
	}
	if letter.Payload == nil && r.HasPayload {
		letter.Payload = []byte{}
	}
	return letter
}

// DeadLettersOf reads the dead letters of a stage on one partition of an
// incarnation of a topic, after an offset, in the order of the log.
func DeadLettersOf(ctx context.Context, q Querier, stage, topicID string, part int32, after int64, limit int) ([]DeadLetter, error) {
	var rows []letterRow
	err := q.Select(ctx, &rows, selectLetters+` WHERE stage = $1 AND topic_id = $2 AND part = $3 AND log_offset > $4
		ORDER BY log_offset LIMIT $5`, stage, topicID, part, after, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the dead letters of %s: %w", stage, err)
	}
	return lettersOf(rows), nil
}

func lettersOf(rows []letterRow) []DeadLetter {
	letters := make([]DeadLetter, len(rows))
	for i, row := range rows {
		letters[i] = row.letter()
	}
	return letters
}

// ErrNoDeadLetter says that there is no dead letter with an id.
var ErrNoDeadLetter = errors.New("there is no such dead letter")

// ReadDeadLetter reads one dead letter with all its bytes; ErrNoDeadLetter is
// wrapped where there is none with this id.
func ReadDeadLetter(ctx context.Context, q Querier, id int64) (DeadLetter, error) {
	var row letterRow
	err := q.Get(ctx, &row, selectLetters+` WHERE id = $1`, id)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoDeadLetter
	}
	if err != nil {
		return DeadLetter{}, fmt.Errorf("reading dead letter %d: %w", id, err)
	}
	return row.letter(), nil
}
