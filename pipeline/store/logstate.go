package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/schema"
)

// LogState is how far a partition of the newest incarnation of a topic is written, and applied
// by a stage.
type LogState struct {
	Epoch      int64 `db:"epoch"`
	Partitions int32 `db:"seen"`
	// Incarnations is how many of the topic this database has seen, and Timelines how many
	// namings of the chain of the partition. Where there are several, a number says less than
	// where in the log it is.
	Incarnations int64 `db:"incarnations"`
	Timelines    int64 `db:"timelines"`
	// Written is the last number of the chain.
	Written int64 `db:"written"`
	// Next is the offset of the record that the stage applies next, and Applied the number of
	// the last one that it did.
	Next, Applied int64
}

// LogStateOf reads it. Nothing was written to a partition, or applied by a stage, that is not
// known.
func LogStateOf(ctx context.Context, q Querier, topic schema.Topic, part int32, stage string) (LogState, error) {
	var state LogState
	err := q.Get(ctx, &state, `SELECT t.epoch, t.seen, (SELECT COUNT(*) FROM topics WHERE name = $1) AS incarnations,
		(SELECT COUNT(*) + 1 FROM retired_chains r WHERE r.epoch = t.epoch AND r.part = $2) AS timelines,
		COALESCE((SELECT c.last FROM chains c WHERE c.epoch = t.epoch AND c.part = $2), 0) AS written
		FROM topics t WHERE t.name = $1 ORDER BY t.epoch DESC LIMIT 1`, topic, part)
	if errors.Is(err, sql.ErrNoRows) {
		return LogState{}, nil
	}
	var at struct {
		Next   int64 `db:"next_offset"`
		Number int64 `db:"chain_seq"`
	}
	if err == nil {
		err = q.Get(ctx, &at, `SELECT next_offset, chain_seq FROM positions WHERE stage = $1 AND topic = $2 AND part = $3
			AND topic_id = (SELECT topic_id FROM topics WHERE epoch = $4)`, stage, topic, part, state.Epoch)
		if errors.Is(err, sql.ErrNoRows) {
			return state, nil
		}
	}
	if err != nil {
		return LogState{}, fmt.Errorf("reading how far %s/%d is: %w", topic, part, err)
	}
	state.Next, state.Applied = at.Next, storedLink("", at.Number).Seq
	return state, nil
}
