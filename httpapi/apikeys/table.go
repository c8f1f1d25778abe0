package apikeys

import (
	"context"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

const columns = `key_id, name, scope, rate_per_minute, created_at, last_used_at, revoked_at`

// Create makes a key. secret is the key itself, which is never to be had again.
// ratePerMinute is as in Key. The error wraps ErrName or ErrTaken where the name is the
// reason.
func Create(ctx context.Context, db *store.Store, name string, scope Scope, ratePerMinute int, now time.Time) (key Key, secret string, err error) {
	if err := checkName(name); err != nil {
		return Key{}, "", err
	}
	id, secret := generate()
	key = Key{ID: id, Name: name, Scope: scope, RatePerMinute: ratePerMinute, CreatedAt: schema.NewTime(now)}
	digest := hash(secret)
	err = db.Write(ctx, func(tx *store.Tx) error {
		if err := change(ctx, tx); err != nil { // which also keeps out those who take the name just now
			return err
		}
		var taken int
		if err := tx.Get(ctx, &taken, `SELECT COUNT(*) FROM api_keys WHERE name = $1 AND revoked_at IS NULL`, name); err != nil {
			return err
		}
		if taken > 0 {
			return ErrTaken
		}
		_, err := tx.Exec(ctx, `INSERT INTO api_keys (key_id, name, scope, hash, rate_per_minute, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			key.ID, key.Name, key.Scope, digest[:], key.RatePerMinute, key.CreatedAt)
		return err
	})
	if err != nil {
		return Key{}, "", fmt.Errorf("creating API key %s: %w", name, err)
	}
	return key, secret, nil
}

// change lets the processes that keep the keys see that they have to read them again.
func change(ctx context.Context, tx *store.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE api_key_version SET version = version + 1`)
	return err
}

// List returns the valid keys, or with those that were revoked, by name.
func List(ctx context.Context, q store.Querier, revokedToo bool) ([]Key, error) {
	where := ` WHERE revoked_at IS NULL`
	if revokedToo {
		where = ``
	}
	keys := []Key{}
	if err := q.Select(ctx, &keys, `SELECT `+columns+` FROM api_keys`+where+` ORDER BY name, created_at, key_id`); err != nil {
		return nil, fmt.Errorf("listing the API keys: %w", err)
	}
	return keys, nil
}

// Revoke ends the valid key of a name or an id forever. The error wraps ErrNone where
// there is none.
func Revoke(ctx context.Context, db *store.Store, nameOrID string, now time.Time) (Key, error) {
	var key Key
	err := db.Write(ctx, func(tx *store.Tx) error {
		if err := change(ctx, tx); err != nil {
			return err
		}
		var found []Key
		if err := tx.Select(ctx, &found, `SELECT `+columns+` FROM api_keys WHERE revoked_at IS NULL AND (name = $1 OR key_id = $1)
			ORDER BY CASE WHEN name = $1 THEN 0 ELSE 1 END`, nameOrID); err != nil {
			return err
		}
		if len(found) == 0 {
			return ErrNone
		}
		key = found[0]
		at := schema.NewTime(now)
		key.RevokedAt = &at
		_, err := tx.Exec(ctx, `UPDATE api_keys SET revoked_at = $1 WHERE key_id = $2`, at, key.ID)
		return err
	})
	if err != nil {
		return Key{}, fmt.Errorf("revoking API key %s: %w", nameOrID, err)
	}
	return key, nil
}

// Forget deletes all keys, so that the API needs none again. The error wraps ErrValid where
// one is not revoked.
func Forget(ctx context.Context, db *store.Store) error {
	err := db.Write(ctx, func(tx *store.Tx) error {
		if err := change(ctx, tx); err != nil {
			return err
		}
		var valid int
		if err := tx.Get(ctx, &valid, `SELECT COUNT(*) FROM api_keys WHERE revoked_at IS NULL`); err != nil {
			return err
		}
		if valid > 0 {
			return ErrValid
		}
		_, err := tx.Exec(ctx, `DELETE FROM api_keys`)
		return err
	})
	if err != nil {
		return fmt.Errorf("forgetting the API keys: %w", err)
	}
	return nil
}

// row is a key as it is stored.
type row struct {
	Key
	Hash []byte `db:"hash"`
}

// version is that of the keys.
func version(ctx context.Context, q store.Querier) (v int64, err error) {
	if err := q.Get(ctx, &v, `SELECT version FROM api_key_version`); err != nil {
		return 0, fmt.Errorf("looking whether the API keys changed: %w", err)
	}
	return v, nil
}

func readAll(ctx context.Context, q store.Querier) ([]row, error) {
	var rows []row
	if err := q.Select(ctx, &rows, `SELECT `+columns+`, hash FROM api_keys`); err != nil {
		return nil, fmt.Errorf("reading the API keys: %w", err)
	}
	return rows, nil
}

// saveUse says that keys were used at a time, unless a later time is known.
func saveUse(ctx context.Context, db *store.Store, used map[string]time.Time) error {
	err := db.Write(ctx, func(tx *store.Tx) error {
		for _, id := range sortedKeys(used) { // in one order, so that no two wait in a circle
			if _, err := tx.Exec(ctx, `UPDATE api_keys SET last_used_at = $1 WHERE key_id = $2 AND (last_used_at IS NULL OR last_used_at < $1)`,
				schema.NewTime(used[id]), id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("saving when API keys were used: %w", err)
	}
	return nil
}
