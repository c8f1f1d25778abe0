package store

import (
	"context"
	"fmt"
	"slices"
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

// BeginRestore marks a database, which was restored from a backup and belongs to this log, as one
// that is brought to the end of the log. Orders to retry dead letters are withdrawn: they may have
// been carried out after the backup. The error wraps ErrOtherLog where it belongs to another log.
func (t *Tx) BeginRestore(ctx context.Context, log string) error {
	changed, err := t.Exec(ctx, `UPDATE instance SET log = $1 WHERE log = $1 OR log = $2`, RestoreUnderWay, log)
	if err == nil && changed == 0 {
		err = ErrOtherLog
	}
	if err == nil {
		_, err = t.Exec(ctx, `UPDATE dead_letters SET retry = '' WHERE retry <> ''`)
	}
	if err != nil {
		return fmt.Errorf("recording that the database was restored: %w", err)
	}
	return nil
}

// ContinueTimelines enters the timelines that the log shows, those of a partition in their order,
// into a database that knows the older of them: it was restored from a backup. What it had retired
// stays as it says; its chains continue on new timelines. Events in the outbox that the log has,
// which inLog reports, are removed, and the others begin the new timelines. It may be called again.
func (t *Tx) ContinueTimelines(ctx context.Context, timelines []KnownChain, inLog func(OutboxRow) (bool, error)) error {
	if err := t.LockSchema(ctx); err != nil {
		return err
	}
	found := map[[2]int64][]KnownChain{}
	for _, c := range timelines {
		at := [2]int64{c.Epoch, int64(c.Part)}
		found[at] = append(found[at], c)
	}
	chains, err := Chains(ctx, t)
	if err != nil {
		return err
	}
	for _, c := range chains {
		c, err := t.lockChain(ctx, c.Epoch, c.Part)
		if err != nil {
			return err
		}
		if err := t.continueChain(ctx, c, found[[2]int64{c.Epoch, int64(c.Part)}], inLog); err != nil {
			return fmt.Errorf("continuing chain %d/%d: %w", c.Epoch, c.Part, err)
		}
	}
	return nil
}

func (t *Tx) continueChain(ctx context.Context, c Chain, found []KnownChain, inLog func(OutboxRow) (bool, error)) error {
	rows, err := t.waiting(ctx, c)
	if err != nil {
		return err
	}
	var waiting []OutboxRow
	for _, row := range rows {
		there, err := inLog(row)
		if err != nil {
			return err
		}
		if !there {
			waiting = append(waiting, row)
		}
	}
	var retired []string
	if err := t.Select(ctx, &retired, `SELECT outbox FROM retired_chains WHERE epoch = $1 AND part = $2`, c.Epoch, c.Part); err != nil {
		return err
	}
	own := KnownChain{Timeline: c.Timeline, Sent: c.Sent, Given: c.Sent}
	var later []KnownChain
	for _, f := range found {
		switch {
		case f.Timeline == c.Timeline:
			own.Sent, own.Given = max(f.Sent, c.Sent), max(f.Given, c.Sent)
		case !slices.Contains(retired, f.Timeline):
			later = append(later, f)
		}
	}
	name, err := newTimeline()
	if err != nil {
		return err
	}
	ended := Rows{Table: "retired_chains", Columns: []string{"epoch", "part", "ordinal", "outbox", "sent", "given"}}
	for i, f := range append([]KnownChain{own}, later...) {
		ended.Add(c.Epoch, c.Part, int64(len(retired)+1+i), f.Timeline, f.Sent, f.Given)
	}
	if err := t.Insert(ctx, ended); err != nil {
		return err
	}
	if _, err := t.Exec(ctx, `UPDATE chains SET outbox = $1, last = 0, sent = 0 WHERE epoch = $2 AND part = $3`, name, c.Epoch, c.Part); err != nil {
		return err
	}
	return t.moveRows(ctx, c, waiting, 0, c.Epoch, func([]byte) int32 { return c.Part })
}

// AbandonRestore has the database belong to its log again as it was restored.
func (t *Tx) AbandonRestore(ctx context.Context, log string) error {
	changed, err := t.Exec(ctx, `UPDATE instance SET log = $1 WHERE log = $2`, log, RestoreUnderWay)
	if err == nil && changed == 0 {
		err = ErrOtherLog
	}
	if err != nil {
		return fmt.Errorf("recording that the database belongs to its log again: %w", err)
	}
	return nil
}

// FinishRestore has the database belong to its log again, to whose end it was brought.
func (t *Tx) FinishRestore(ctx context.Context, log string) error {
	if err := t.AbandonRestore(ctx, log); err != nil {
		return err
	}
	return t.SaveServerIdentity(ctx) // its chains are on new timelines already
}

// IsRefill reports whether it is not a move, but a refill from the log; see FinishRefill.
func (m MoveRecord) IsRefill() bool { return m.Source == refillSource }
