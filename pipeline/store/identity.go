package store

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// identify returns the outbox id: a UUID that lives in the database, with the
// engine's own identity behind it, so that a database restored from a copy, or
// failed over, counts as another outbox from the next start on.
func (s *Store) identify(ctx context.Context) (string, error) {
	fresh, err := uuid.NewRandom()
	if err != nil {
		return "", fmt.Errorf("making an id: %w", err)
	}
	var id string
	err = s.Write(ctx, func(tx *Tx) error {
		// The one row that may exist decides between two first starts.
		if _, err := tx.Exec(ctx, `INSERT INTO instance (singleton, id) VALUES (1, $1)
			ON CONFLICT (singleton) DO NOTHING`, fresh.String()); err != nil {
			return err
		}
		return tx.Get(ctx, &id, `SELECT id FROM instance`)
	})
	if err != nil {
		return "", err
	}
	suffix, err := s.engine.Identity(ctx)
	if err != nil {
		return "", err
	}
	if suffix != "" {
		id += "@" + suffix
	}
	return id, nil
}
