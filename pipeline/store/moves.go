package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/schema"
)

// MoveRecord is the move that fills, or filled, a database from another one.
type MoveRecord struct {
	// Source is the id of the database that it comes from, and State a hash of its tables.
	Source string `db:"source"`
	State  string `db:"state"`
	// Log is the log that the database belongs to once the move is finished.
	Log        string       `db:"log"`
	BeganAt    schema.Time  `db:"began_at"`
	FinishedAt *schema.Time `db:"finished_at"`
}

// RecordedMove returns the move that is recorded in a database; false where there is none.
func RecordedMove(ctx context.Context, q Querier) (m MoveRecord, there bool, err error) {
	err = q.Get(ctx, &m, `SELECT source, state, log, began_at, finished_at FROM moves`)
	if errors.Is(err, sql.ErrNoRows) {
		return MoveRecord{}, false, nil
	}
	if err != nil {
		return MoveRecord{}, false, fmt.Errorf("reading which move filled the database: %w", err)
	}
	return m, true, nil
}

// BeginMove records a move into this database, in place of one that is not finished. The
// error wraps ErrOtherLog where the database belongs to a log.
func (t *Tx) BeginMove(ctx context.Context, m MoveRecord) error {
	changed, err := t.Exec(ctx, `UPDATE instance SET log = $1 WHERE log = '' OR log = $1`, MoveUnderWay)
	if err == nil && changed == 0 {
		err = ErrOtherLog
	}
	if err == nil {
		_, err = t.Exec(ctx, `DELETE FROM moves`)
	}
	if err == nil {
		_, err = t.Exec(ctx, `INSERT INTO moves (singleton, source, state, log, began_at) VALUES (1, $1, $2, $3, $4)`, m.Source, m.State, m.Log, m.BeganAt)
	}
	if err != nil {
		return fmt.Errorf("recording the move: %w", err)
	}
	return nil
}

// FinishMove has the database belong to its log.
func (t *Tx) FinishMove(ctx context.Context, at schema.Time) error {
	changed, err := t.Exec(ctx, `UPDATE instance SET log = (SELECT log FROM moves) WHERE log = $1`, MoveUnderWay)
	if err == nil && changed == 0 {
		err = ErrOtherLog
	}
	if err == nil {
		_, err = t.Exec(ctx, `UPDATE moves SET finished_at = $1`, at)
	}
	if err != nil {
		return fmt.Errorf("recording that the move is finished: %w", err)
	}
	return nil
}

// HoldLease renews a lease for d, and fails with ErrFenced unless owner holds it. It then
// stays with owner until the transaction ends, however long that takes.
func (t *Tx) HoldLease(ctx context.Context, name, owner string, d time.Duration) error {
	changed, err := t.Exec(ctx, `UPDATE leases SET expires_ms = `+t.NowMillis()+` + $3 WHERE name = $1 AND owner = $2`, name, owner, d.Milliseconds())
	if err != nil {
		return fmt.Errorf("holding lease %s: %w", name, err)
	}
	if changed == 0 {
		return fmt.Errorf("lease %s is another's by now: %w", name, ErrFenced)
	}
	return nil
}

// ID is what the database calls itself. No two have the same, but for copies.
func (s *Snapshot) ID(ctx context.Context) (string, error) {
	var id string
	if err := s.Get(ctx, &id, `SELECT id FROM instance`); err != nil {
		return "", fmt.Errorf("reading the id of the database: %w", err)
	}
	return id, nil
}

// Version is the version of the tables that belong to no projection, as Migration.To.
func (s *Snapshot) Version(ctx context.Context) (int64, error) {
	var version int64
	if err := s.Get(ctx, &version, `SELECT MAX(version_id) FROM goose_db_version WHERE is_applied`); err != nil {
		return 0, fmt.Errorf("asking for the version of the tables: %w", err)
	}
	return version, nil
}

// Tables are the names of all tables, in their order.
func (s *Snapshot) Tables(ctx context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.engine.Tables(ctx, s.tx)
	if err != nil {
		return nil, fmt.Errorf("asking which tables there are: %w", err)
	}
	return names, nil
}

// LastID is as Engine's.
func (s *Snapshot) LastID(ctx context.Context, table string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, err := s.engine.LastID(ctx, s.tx, table)
	if err != nil {
		return 0, fmt.Errorf("asking for the last id of %s: %w", table, err)
	}
	return last, nil
}

// SetLastID is as Engine's.
func (t *Tx) SetLastID(ctx context.Context, table string, last int64) error {
	err := t.statement(func() error { return t.store.engine.SetLastID(ctx, t.tx, table, last) })
	if err != nil {
		return fmt.Errorf("setting the last id of %s: %w", table, err)
	}
	return nil
}
