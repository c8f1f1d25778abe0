package ratelimit

import (
	"context"
	"time"
)

// Vault is a bank in memory, by a clock of its own.
type Vault struct {
	// Now is in microseconds.
	Now      func() int64
	accounts map[string]account
	// Err is what it answers, if not nil. Asked counts.
	Err   error
	Asked int
}

// NewVault returns one in which nothing is spent.
func NewVault(now func() int64) *Vault { return &Vault{Now: now, accounts: map[string]account{}} }

// account goes through the text in which accounts are stored.
func (v *Vault) account(client string) account {
	known, found := v.accounts[client]
	if !found {
		known = account{holds: map[string]hold{}}
	}
	text, err := known.text()
	if err == nil {
		known, err = readAccount(known.level, known.at, text)
	}
	if err != nil {
		panic(err)
	}
	v.accounts[client] = known
	return known
}

func (v *Vault) reserve(_ context.Context, c claim) (level, reserved int64, err error) {
	v.Asked++
	if v.Err != nil {
		return 0, 0, v.Err
	}
	a := v.account(c.client)
	level, reserved = a.reserve(v.Now(), c)
	v.accounts[c.client] = a
	return level, reserved, nil
}

func (v *Vault) settle(_ context.Context, claims []claim) error {
	for _, c := range claims {
		a := v.account(c.client)
		a.settle(v.Now(), c)
		v.accounts[c.client] = a
	}
	return v.Err
}

func (v *Vault) forget(context.Context) error { return v.Err }

// NewInVault is New with a vault for a database.
func NewInVault(v *Vault, cfg Config) *Limiter {
	l := New(cfg)
	l.bank = v
	return l
}

// GiveBack gives back what is reserved for clients that have not asked for a time.
func (l *Limiter) GiveBack(ctx context.Context, silent time.Duration) { l.giveBack(ctx, silent) }

// Forget deletes buckets that are full again.
func (l *Limiter) Forget(ctx context.Context) { l.forget(ctx) }

// DatabasePause is how long a database that failed is not asked.
const DatabasePause = databasePause

// Longer than a hold lasts.
const HoldFor = holdFor
