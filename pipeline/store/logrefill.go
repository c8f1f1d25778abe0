package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/pricemill/pricemill/schema"
)

// LogRefillUnderWay is what a database records while lost topics are filled again from it.
const LogRefillUnderWay = "refill log"

// logRefillSource is what moves.source says of a database whose log was filled again from it.
const logRefillSource = "refill log"

// LogRefill is a run that fills lost topics again, as moves.state keeps it.
type LogRefill struct {
	// Timeline is that of all records of the run that have a number.
	Timeline string `json:"timeline"`
	// Topics are the ids of the new topics, by name, as soon as they are made.
	Topics map[string]string `json:"topics"`
	// Written says that the topics are complete and that the database knows them.
	Written bool `json:"written"`
	// Cluster is the log that the database belongs to afterwards, and BeganAt when the run
	// began.
	Cluster string      `json:"-"`
	BeganAt schema.Time `json:"-"`
}

// BeginLogRefill records that lost topics are filled again, and returns the run: a new one, or
// the one that was interrupted.
func (t *Tx) BeginLogRefill(ctx context.Context, cluster string, now schema.Time) (run LogRefill, continued bool, err error) {
	var recorded string
	if err := t.Get(ctx, &recorded, `SELECT log FROM instance`); err != nil {
		return run, false, fmt.Errorf("reading the log of the database: %w", err)
	}
	if recorded == LogRefillUnderWay {
		run, err = logRefill(ctx, t)
		return run, true, err
	}
	run = LogRefill{Topics: map[string]string{}, Cluster: cluster, BeganAt: now}
	if run.Timeline, err = newTimeline(); err != nil {
		return run, false, err
	}
	state, err := json.Marshal(run)
	if err == nil {
		_, err = t.Exec(ctx, `DELETE FROM moves`)
	}
	if err == nil {
		_, err = t.Exec(ctx, `INSERT INTO moves (singleton, source, state, log, began_at) VALUES (1, $1, $2, $3, $4)`, logRefillSource, string(state), cluster, now)
	}
	if err == nil {
		_, err = t.Exec(ctx, `UPDATE instance SET log = $1`, LogRefillUnderWay)
	}
	if err != nil {
		return run, false, fmt.Errorf("recording that the log is filled again: %w", err)
	}
	return run, false, nil
}

func logRefill(ctx context.Context, q Querier) (run LogRefill, err error) {
	move, there, err := RecordedMove(ctx, q)
	if err == nil && (!there || move.Source != logRefillSource) {
		err = fmt.Errorf("%w: it does not say which", ErrOtherLog)
	}
	if err == nil {
		err = json.Unmarshal([]byte(move.State), &run)
	}
	if err != nil {
		return run, fmt.Errorf("reading how far the log is filled again: %w", err)
	}
	run.Cluster, run.BeganAt = move.Log, move.BeganAt
	return run, nil
}

// SaveLogRefill records how far a run has come.
func (t *Tx) SaveLogRefill(ctx context.Context, run LogRefill) error {
	state, err := json.Marshal(run)
	if err == nil {
		_, err = t.Exec(ctx, `UPDATE moves SET state = $1 WHERE source = $2`, string(state), logRefillSource)
	}
	if err != nil {
		return fmt.Errorf("recording how far the log is filled again: %w", err)
	}
	return nil
}

// FinishLogRefill has the database belong to the log that was filled again.
func (t *Tx) FinishLogRefill(ctx context.Context, at schema.Time) error {
	changed, err := t.Exec(ctx, `UPDATE instance SET log = (SELECT log FROM moves) WHERE log = $1`, LogRefillUnderWay)
	if err == nil && changed == 0 {
		err = ErrOtherLog
	}
	if err == nil {
		_, err = t.Exec(ctx, `UPDATE moves SET finished_at = $1`, at)
	}
	if err != nil {
		return fmt.Errorf("recording that the log is filled again: %w", err)
	}
	return nil
}

// IsLogRefill reports whether it is not a move, but a run that filled the log again.
func (m MoveRecord) IsLogRefill() bool { return m.Source == logRefillSource }

// Ended is the last number of a chain that is known to have been in the log: the last that was
// noted as sent, or that a stage has applied.
func Ended(ctx context.Context, q Querier, topic string, c Chain) (int64, error) {
	var applied int64
	// A stage that an operator moved, whose stored number is negative, does not count.
	err := q.Get(ctx, &applied, `SELECT COALESCE(MAX(chain_seq), 0) FROM positions
		WHERE topic = $1 AND part = $2 AND chain_outbox = $3 AND chain_seq <= $4`, topic, c.Part, c.Timeline, c.Last)
	if err != nil {
		return 0, fmt.Errorf("looking for what was applied of chain %d/%d: %w", c.Epoch, c.Part, err)
	}
	return max(c.Sent, applied), nil
}

// ForgetTopic forgets an incarnation of a topic that nothing was written to.
func (t *Tx) ForgetTopic(ctx context.Context, topic Topic) error {
	for _, table := range []string{"retired_chains", "chains", "topics"} {
		if _, err := t.Exec(ctx, `DELETE FROM `+table+` WHERE epoch = $1`, topic.Epoch); err != nil {
			return fmt.Errorf("forgetting topic %s (%s): %w", topic.Name, topic.ID, err)
		}
	}
	return nil
}

// FilledTopic is a topic that was filled again.
type FilledTopic struct {
	Topic
	// NewID is that of the topic that has its records now.
	NewID string
	// Linked are, by partition, how many of its records have a number, and LinkedBefore how
	// many of those are before an offset.
	Linked       []int64
	LinkedBefore func(part int32, offset int64) int64
}

// AdoptTopic has the database know a topic that was filled again in the place of the lost one,
// under its old epoch, so that row ids stay what they are. Positions keep their offsets; chains
// continue on the timeline of the run, which the records of the topic have, and events that wait
// follow there.
func (t *Tx) AdoptTopic(ctx context.Context, topic FilledTopic, timeline string) error {
	if err := t.adoptChains(ctx, topic, timeline); err != nil {
		return err
	}
	positions, err := selectPositions(ctx, t, `SELECT `+positionColumns+` FROM positions WHERE topic_id = $1`, topic.ID)
	if err != nil {
		return fmt.Errorf("reading the positions on %s: %w", topic.Name, err)
	}
	for _, p := range positions {
		number, name := topic.LinkedBefore(p.Part, p.Next), timeline
		if number == 0 {
			name = ""
		}
		if _, err := t.Exec(ctx, `UPDATE positions SET topic_id = $1, chain_outbox = $2, chain_seq = $3, halted = '', log_ended = NULL
			WHERE stage = $4 AND topic = $5 AND part = $6`, topic.NewID, name, number, p.Stage, p.Topic, p.Part); err != nil {
			return fmt.Errorf("moving %s to the new topic %s: %w", p.Stage, topic.Name, err)
		}
	}
	if _, err := t.Exec(ctx, `UPDATE dead_letters SET topic_id = $1 WHERE topic_id = $2`, topic.NewID, topic.ID); err != nil {
		return fmt.Errorf("moving the dead letters of %s: %w", topic.Name, err)
	}
	if _, err := t.Exec(ctx, `UPDATE topics SET topic_id = $1, origin = CASE WHEN origin = '' THEN topic_id ELSE origin END WHERE epoch = $2`,
		topic.NewID, topic.Epoch); err != nil {
		return fmt.Errorf("giving topic %s its new id: %w", topic.Name, err)
	}
	return nil
}

func (t *Tx) adoptChains(ctx context.Context, topic FilledTopic, timeline string) error {
	for part := range topic.Partitions {
		chain, err := t.lockChain(ctx, topic.Epoch, part)
		if err != nil {
			return err
		}
		ended, err := Ended(ctx, t, topic.Name, chain)
		if err != nil {
			return err
		}
		rows, err := t.waiting(ctx, chain)
		if err != nil {
			return err
		}
		if _, err := t.Exec(ctx, `INSERT INTO retired_chains (epoch, part, ordinal, outbox, sent, given)
			SELECT $1, $2, COUNT(*) + 1, $3, $4, $5 FROM retired_chains WHERE epoch = $1 AND part = $2`,
			chain.Epoch, part, chain.Timeline, ended, chain.Last); err != nil {
			return fmt.Errorf("retiring the timeline of chain %d/%d: %w", chain.Epoch, part, err)
		}
		if _, err := t.Exec(ctx, `UPDATE chains SET outbox = $1, last = $2, sent = $2 WHERE epoch = $3 AND part = $4`,
			timeline, topic.Linked[part], chain.Epoch, part); err != nil {
			return fmt.Errorf("renewing chain %d/%d: %w", chain.Epoch, part, err)
		}
		if err := t.moveRows(ctx, chain, rows, ended, chain.Epoch, func([]byte) int32 { return part }); err != nil {
			return err
		}
	}
	return nil
}

// RelinkLetters gives the dead letters of a record the headers that it has in the new log.
func (t *Tx) RelinkLetters(ctx context.Context, topicID string, part int32, offset int64, headers []schema.Header) error {
	_, err := t.Exec(ctx, `UPDATE dead_letters SET headers = $1 WHERE topic_id = $2 AND part = $3 AND log_offset = $4`,
		EncodeHeaders(headers), topicID, part, offset)
	if err != nil {
		return fmt.Errorf("relinking the dead letters at offset %d of partition %d: %w", offset, part, err)
	}
	return nil
}
