package store

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// AcquireLease makes owner the holder of a lease for d, if no one else holds it
// or their time is up, and reports whether it is. The holder calls it again to
// continue holding. Time is the database's.
func (s *Store) AcquireLease(ctx context.Context, name, owner string, d time.Duration) (bool, error) {
	now := s.engine.NowMillis()
	held := false
	err := s.Write(ctx, func(tx *Tx) error {
		changed, err := tx.Exec(ctx, `INSERT INTO leases (name, owner, expires_ms) VALUES ($1, $2, `+now+` + $3)
			ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires_ms = excluded.expires_ms
			WHERE leases.owner = excluded.owner OR leases.expires_ms < `+now, name, owner, d.Milliseconds())
		held = changed == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("acquiring lease %s: %w", name, err)
	}
	return held, nil
}

// RenewLeases is AcquireLease of several leases at once. Those that another owner
// holds are left to it.
func (s *Store) RenewLeases(ctx context.Context, owner string, names []string, d time.Duration) error {
	if len(names) == 0 {
		return nil
	}
	now := s.engine.NowMillis()
	args := []any{owner, d.Milliseconds()}
	values := make([]string, len(names))
	for i, name := range slices.Sorted(slices.Values(names)) { // in one order, so that no two wait in a circle
		args = append(args, name)
		values[i] = fmt.Sprintf("($%d, $1, %s + $2)", len(args), now)
	}
	err := s.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO leases (name, owner, expires_ms) VALUES `+strings.Join(values, ", ")+`
			ON CONFLICT (name) DO UPDATE SET expires_ms = excluded.expires_ms, owner = excluded.owner
			WHERE leases.owner = excluded.owner OR leases.expires_ms < `+now, args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("renewing %d leases: %w", len(names), err)
	}
	return nil
}

// KeepLeases makes owner the holder of these leases, which do not expire, and gives up
// all its others. Those that another owner holds are left to it.
func (s *Store) KeepLeases(ctx context.Context, owner string, names []string) error {
	rows := Rows{Table: "leases", Columns: []string{"name", "owner", "expires_ms"}, Clause: `ON CONFLICT (name)
		DO UPDATE SET owner = excluded.owner, expires_ms = excluded.expires_ms WHERE leases.expires_ms < ` + s.engine.NowMillis()}
	for _, name := range names {
		rows.Add(name, owner, int64(math.MaxInt64))
	}
	err := s.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM leases WHERE owner = $1`, owner); err != nil {
			return err
		}
		return tx.Insert(ctx, rows)
	})
	if err != nil {
		return fmt.Errorf("keeping %d leases: %w", len(names), err)
	}
	return nil
}

// HeldLeases are the names of the leases that are held now, by any owner.
func HeldLeases(ctx context.Context, q Querier) ([]string, error) {
	var names []string
	if err := q.Select(ctx, &names, `SELECT name FROM leases WHERE expires_ms >= `+q.NowMillis()+` ORDER BY name`); err != nil {
		return nil, fmt.Errorf("reading which leases are held: %w", err)
	}
	return names, nil
}

// ReleaseLease gives up a lease, if owner holds it.
func (s *Store) ReleaseLease(ctx context.Context, name, owner string) error {
	err := s.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM leases WHERE name = $1 AND owner = $2`, name, owner)
		return err
	})
	if err != nil {
		return fmt.Errorf("releasing lease %s: %w", name, err)
	}
	return nil
}

// ReleaseLeases gives up all leases whose owner's name begins with prefix: those
// of a process that died, when it is known that it did.
func (s *Store) ReleaseLeases(ctx context.Context, prefix string) error {
	err := s.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM leases WHERE substr(owner, 1, length(CAST($1 AS TEXT))) = $1`, prefix)
		return err
	})
	if err != nil {
		return fmt.Errorf("releasing the leases of %s: %w", prefix, err)
	}
	return nil
}
