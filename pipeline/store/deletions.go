package store

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/schema"
)

// DeletionRecord is a deletion of the data of a provider, as it is recorded.
type DeletionRecord struct {
	ID       string          `db:"deletion_id"`
	Provider schema.Provider `db:"provider"`
	// Symbol is empty where all data of the provider are deleted.
	Symbol      schema.Symbol `db:"symbol"`
	Reason      string        `db:"reason"`
	RequestedBy string        `db:"requested_by"`
	// State, Ends and Deleted are as the process that deletes writes them.
	State      string       `db:"state"`
	Ends       string       `db:"ends"`
	Deleted    string       `db:"deleted"`
	BeganAt    schema.Time  `db:"began_at"`
	FinishedAt *schema.Time `db:"finished_at"`
}

// Deletions are all that were recorded, in the order in which they began.
func Deletions(ctx context.Context, q Querier) ([]DeletionRecord, error) {
	var all []DeletionRecord
	err := q.Select(ctx, &all, `SELECT deletion_id, provider, symbol, reason, requested_by, state, ends, deleted, began_at, finished_at
		FROM deletions ORDER BY began_at, deletion_id`)
	if err != nil {
		return nil, fmt.Errorf("reading which data were deleted: %w", err)
	}
	return all, nil
}

// BeginDeletion records a deletion, and has the database belong to no log meanwhile. The error
// wraps ErrOtherLog where it does not belong to log before.
func (t *Tx) BeginDeletion(ctx context.Context, d DeletionRecord, log string) error {
	changed, err := t.Exec(ctx, `UPDATE instance SET log = $1 WHERE log = $2`, DeletionUnderWay, log)
	if err == nil && changed == 0 {
		err = ErrOtherLog
	}
	if err == nil {
		_, err = t.Exec(ctx, `INSERT INTO deletions (deletion_id, provider, symbol, reason, requested_by, state, ends, deleted, began_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, d.ID, d.Provider, d.Symbol, d.Reason, d.RequestedBy, d.State, d.Ends, d.Deleted, d.BeganAt)
	}
	if err != nil {
		return fmt.Errorf("recording the deletion: %w", err)
	}
	return nil
}

// UpdateDeletion records how far a deletion is.
func (t *Tx) UpdateDeletion(ctx context.Context, id, state, deleted string) error {
	changed, err := t.Exec(ctx, `UPDATE deletions SET state = $1, deleted = $2 WHERE deletion_id = $3 AND finished_at IS NULL`, state, deleted, id)
	if err == nil && changed == 0 {
		err = ErrMoved
	}
	if err != nil {
		return fmt.Errorf("recording how far the deletion is: %w", err)
	}
	return nil
}

// FinishDeletion has the database belong to its log again.
func (t *Tx) FinishDeletion(ctx context.Context, id string, at schema.Time, log string) error {
	changed, err := t.Exec(ctx, `UPDATE instance SET log = $1 WHERE log = $2`, log, DeletionUnderWay)
	if err == nil && changed == 0 {
		err = ErrOtherLog
	}
	if err == nil {
		_, err = t.Exec(ctx, `UPDATE deletions SET finished_at = $1 WHERE deletion_id = $2`, at, id)
	}
	if err != nil {
		return fmt.Errorf("recording that the deletion is finished: %w", err)
	}
	return nil
}

// ReplaceTopic has the database know a topic of Kafka that was written again by its new id, in the
// place of the former one. Epochs, offsets and numbers are as they were, so row ids and the ids
// of events stay.
func (t *Tx) ReplaceTopic(ctx context.Context, name, former, id string) error {
	for _, statement := range []string{`UPDATE topics SET topic_id = $1, origin = CASE WHEN origin = '' THEN topic_id ELSE origin END WHERE topic_id = $2 AND name = $3`,
		`UPDATE positions SET topic_id = $1 WHERE topic_id = $2 AND topic = $3`, `UPDATE dead_letters SET topic_id = $1 WHERE topic_id = $2 AND topic = $3`} {
		if _, err := t.Exec(ctx, statement, id, former, name); err != nil {
			return fmt.Errorf("giving topic %s its new id: %w", name, err)
		}
	}
	return nil
}

// RestoreLineage records the id that the ids of events follow from, of a topic that was written
// again.
func (t *Tx) RestoreLineage(ctx context.Context, name, id, lineage string) error {
	if _, err := t.Exec(ctx, `UPDATE topics SET origin = $1 WHERE topic_id = $2 AND name = $3`, lineage, id, name); err != nil {
		return fmt.Errorf("recording what the events of topic %s follow from: %w", name, err)
	}
	return nil
}

// Scrubber is an engine that can remove deleted bytes from its files.
type Scrubber interface {
	// Scrub removes what was deleted from tables, or replaced in them, from the files of the
	// database. No one else may have the database open.
	Scrub(ctx context.Context, tables []string) error
}

// Scrub is as the engine's.
func (s *Store) Scrub(ctx context.Context, tables []string) error {
	engine, ok := s.engine.(Scrubber)
	if !ok {
		return fmt.Errorf("engine %s cannot remove deleted bytes from its files", s.engine.Name())
	}
	if err := engine.Scrub(ctx, tables); err != nil {
		return fmt.Errorf("removing deleted bytes from the files of the database: %w", err)
	}
	return nil
}

// Columns describes the columns of a table in their order; none where there is no such table.
func (s *Store) Columns(ctx context.Context, table string) ([]Column, error) {
	columns, err := s.engine.Columns(ctx, s.engine.Reader(), table)
	if err != nil {
		return nil, fmt.Errorf("looking up the columns of %s: %w", table, err)
	}
	return columns, nil
}

// Tables are the names of all tables, in their order.
func (s *Store) Tables(ctx context.Context) ([]string, error) {
	names, err := s.engine.Tables(ctx, s.engine.Reader())
	if err != nil {
		return nil, fmt.Errorf("asking which tables there are: %w", err)
	}
	return names, nil
}
