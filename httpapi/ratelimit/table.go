package ratelimit

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/store"
)

const (
	// forgetAtOnce bounds how many accounts are deleted in one transaction.
	forgetAtOnce = 10_000
	// fullAfter is when nothing is spent or held any more of an account, in milliseconds.
	fullAfter = 120_000
)

// table is the bank in a database.
type table struct{ db *store.Store }

// row is an account in the database, and the time there.
type row struct {
	Level int64  `db:"level"`
	AtMs  int64  `db:"at_ms"`
	Holds string `db:"holds"`
	NowMs int64  `db:"now_ms"`
}

func (r row) account() (account, error) { return readAccount(r.Level, r.AtMs*1000, r.Holds) }

// reserve implements bank.
func (t table) reserve(ctx context.Context, c claim) (level, reserved int64, err error) {
	err = t.db.Write(ctx, func(tx *store.Tx) error {
		var r row
		// The update changes nothing, but locks the row; the clock is read under the lock.
		if err := tx.Get(ctx, &r, `INSERT INTO rate_limits (client, level, at_ms, holds) VALUES ($1, 0, 0, '{}')
			ON CONFLICT (client) DO UPDATE SET level = rate_limits.level RETURNING level, at_ms, holds, `+tx.NowMillis()+` AS now_ms`, c.client); err != nil {
			return err
		}
		a, err := r.account()
		if err != nil {
			return err
		}
		level, reserved = a.reserve(r.NowMs*1000, c)
		return save(ctx, tx, c.client, a)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("reserving requests of %s: %w", c.client, err)
	}
	return level, reserved, nil
}

func save(ctx context.Context, tx *store.Tx, client string, a account) error {
	holds, err := a.text()
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE rate_limits SET level = $1, at_ms = $2, holds = $3 WHERE client = $4`, a.level, a.at/1000, holds, client)
	return err
}

// settle implements bank.
func (t table) settle(ctx context.Context, claims []claim) error {
	err := t.db.Write(ctx, func(tx *store.Tx) error {
		for _, c := range claims {
			if err := settle(ctx, tx, c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("giving back requests of %d clients: %w", len(claims), err)
	}
	return nil
}

func settle(ctx context.Context, tx *store.Tx, c claim) error {
	var rows []row
	if err := tx.Select(ctx, &rows, `SELECT level, at_ms, holds, `+tx.NowMillis()+` AS now_ms FROM rate_limits WHERE client = $1 `+
		tx.LockRows("rate_limits"), c.client); err != nil {
		return err
	}
	for _, r := range rows {
		a, err := r.account()
		if err != nil {
			return err
		}
		a.settle(r.NowMs*1000, c)
		if err := save(ctx, tx, c.client, a); err != nil {
			return err
		}
	}
	return nil
}

// forget implements bank.
func (t table) forget(ctx context.Context) error {
	err := t.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, `WITH old AS (SELECT client FROM rate_limits WHERE at_ms < `+tx.NowMillis()+` - $1
			ORDER BY client LIMIT $2 `+tx.LockFreeRows("rate_limits")+`)
			DELETE FROM rate_limits WHERE client IN (SELECT client FROM old)`, fullAfter, forgetAtOnce)
		return err
	})
	if err != nil {
		return fmt.Errorf("deleting rate limits that are over: %w", err)
	}
	return nil
}
