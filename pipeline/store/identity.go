package store

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// identify makes sure that the database has an identity; one that gets it records log.
// Chains of a database that is older than their names get the one that they wrote under.
func (s *Store) identify(ctx context.Context, log string) error {
	server, err := s.engine.Identity(ctx)
	if err != nil {
		return err
	}
	if known, err := s.identified(ctx, server); known || err != nil {
		return err
	}
	fresh, err := uuid.NewRandom()
	if err != nil {
		return fmt.Errorf("making an id: %w", err)
	}
	return s.Write(ctx, func(tx *Tx) error {
		// The one row that may exist decides between two first starts.
		if _, err := tx.Exec(ctx, `INSERT INTO instance (singleton, id, server, log) VALUES (1, $1, $2, $3)
			ON CONFLICT (singleton) DO NOTHING`, fresh.String(), server, log); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE instance SET server = $1 WHERE server = ''`, server); err != nil {
			return err
		}
		suffix := ""
		if server != "" {
			suffix = "@" + server
		}
		_, err := tx.Exec(ctx, `UPDATE chains SET outbox = (SELECT id FROM instance) || CAST($1 AS TEXT) WHERE outbox = ''`, suffix)
		return err
	})
}

// identified reports whether there is nothing left to write: on an engine with one
// writer, a command next to a busy service would else have to wait for its turn.
func (s *Store) identified(ctx context.Context, server string) (known bool, err error) {
	err = s.Get(ctx, &known, `SELECT EXISTS (SELECT 1 FROM instance WHERE server <> '' OR $1 = '')
		AND NOT EXISTS (SELECT 1 FROM chains WHERE outbox = '')`, server)
	return known, err
}

// ID is that of the database: a text that no other one has, but for its copies.
func (s *Store) ID(ctx context.Context) (string, error) {
	var id string
	if err := s.Get(ctx, &id, `SELECT id FROM instance`); err != nil {
		return "", fmt.Errorf("reading the id of the database: %w", err)
	}
	return id, nil
}

// Moved reports whether this database became another one since its chains were
// named, as after a failover or a restore: numbers that it gave may not be in
// it.
func (s *Store) Moved(ctx context.Context) (bool, error) {
	server, err := s.engine.Identity(ctx)
	if err != nil {
		return false, err
	}
	var known string
	if err := s.Get(ctx, &known, `SELECT server FROM instance`); err != nil {
		return false, fmt.Errorf("reading the identity of the database: %w", err)
	}
	return known != server, nil
}

// SaveServerIdentity records the present identity, once the chains have new timelines.
func (t *Tx) SaveServerIdentity(ctx context.Context) error {
	server, err := t.store.engine.Identity(ctx)
	if err != nil {
		return err
	}
	_, err = t.Exec(ctx, `UPDATE instance SET server = $1`, server)
	return err
}
