package store

import (
	"context"
	"fmt"
)

// RestoreTimelines enters the timelines that the log shows, those of a partition in their order,
// into a database that knows none: it was lost. Its own chains are on new timelines. Where
// there are retired timelines, an earlier attempt has entered them; it reports that as again, and
// does nothing.
func (t *Tx) RestoreTimelines(ctx context.Context, timelines []KnownChain) (again bool, err error) {
	if err := t.LockSchema(ctx); err != nil {
		return false, err
	}
	if err := t.Get(ctx, &again, `SELECT EXISTS (SELECT 1 FROM retired_chains)`); err != nil {
		return false, fmt.Errorf("looking for retired timelines: %w", err)
	}
	if again {
		return true, nil
	}
	rows := Rows{Table: "retired_chains", Columns: []string{"epoch", "part", "ordinal", "outbox", "sent", "given"}}
	ordinals := map[[2]int64]int64{}
	for _, c := range timelines {
		at := [2]int64{c.Epoch, int64(c.Part)}
		ordinals[at]++
		rows.Add(c.Epoch, c.Part, ordinals[at], c.Timeline, c.Sent, c.Given)
	}
	return false, t.Insert(ctx, rows)
}

// refillSource is what moves.source says of a database that was filled again from its log.
const refillSource = "refill"

// FinishRefill has the database, which was filled again, belong to its log.
func (t *Tx) FinishRefill(ctx context.Context, m MoveRecord) error {
	changed, err := t.Exec(ctx, `UPDATE instance SET log = $1 WHERE log = $2`, m.Log, RefillUnderWay)
	if err == nil && changed == 0 {
		err = ErrOtherLog
	}
	if err == nil {
		_, err = t.Exec(ctx, `INSERT INTO moves (singleton, source, state, log, began_at, finished_at) VALUES (1, $1, '', $2, $3, $4)`,
			refillSource, m.Log, m.BeganAt, m.FinishedAt)
	}
	if err != nil {
		return fmt.Errorf("recording that the database is filled again: %w", err)
	}
	return nil
}

// IsRefill reports whether it is not a move, but a refill from the log; see FinishRefill.
func (m MoveRecord) IsRefill() bool { return m.Source == refillSource }
