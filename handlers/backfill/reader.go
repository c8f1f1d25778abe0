package backfill

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Backfill is a backfill as its table shows it.
type Backfill struct {
	ID        string          `db:"backfill_id"`
	Provider  schema.Provider `db:"provider"`
	Symbol    schema.Symbol   `db:"symbol"`
	From      schema.Time     `db:"from_time"`
	To        schema.Time     `db:"to_time"`
	Status    Status          `db:"status"`
	StartedAt schema.Time     `db:"started_at"`
	// EndedAt is nil until the status is a final one.
	EndedAt *schema.Time `db:"ended_at"`
	// Owned says that a process works on it, and was alive within the last three seconds.
	Owned bool `db:"owned"`
	// Calls is how many pages were asked for and stored, or failed.
	Calls int64 `db:"calls"`
	// Prices is how many prices were appended to the log, and Repeated how many were stored
	// before they came. A page that a process had appended when it died, is appended again.
	Prices   int64 `db:"prices"`
	Repeated int64 `db:"repeated"`
	// Reached is the time of the last price of the last page that had any; nil for none.
	Reached *schema.Time `db:"reached_at"`
	// LastID is the id of the event of the last price that was appended; where all were stored
	// before, that of one of them. Empty where there was no price.
	LastID string `db:"last_id"`
	// LastError says why the last call that failed did; empty for none.
	LastError   string       `db:"last_error"`
	LastErrorAt *schema.Time `db:"last_error_at"`
}

// Reader reads the table of backfills.
type Reader struct{ DB *store.Store }

func (r Reader) columns() string {
	return `backfill_id, provider, symbol, from_time, to_time, status, started_at, ended_at,
		` + table.Held(r.DB) + ` AS owned, calls, prices, repeated, reached_at, last_id, last_error, last_error_at`
}

// Get returns an error that wraps sql.ErrNoRows where the backfill is not known, perhaps
// because it was started a moment ago.
func (r Reader) Get(ctx context.Context, id string) (Backfill, error) {
	var found Backfill
	if err := r.DB.Get(ctx, &found, `SELECT `+r.columns()+` FROM backfills WHERE backfill_id = $1`, id); err != nil {
		return Backfill{}, fmt.Errorf("reading backfill %s: %w", id, err)
	}
	return found, nil
}

// List returns at most limit backfills, the last started first.
func (r Reader) List(ctx context.Context, limit int) ([]Backfill, error) {
	found := []Backfill{}
	if err := r.DB.Select(ctx, &found, `SELECT `+r.columns()+` FROM backfills ORDER BY started_at DESC, backfill_id DESC LIMIT $1`, limit); err != nil {
		return nil, fmt.Errorf("listing the backfills: %w", err)
	}
	return found, nil
}

// CountOpen counts the backfills that have not ended.
func CountOpen(ctx context.Context, q store.Querier) (int, error) {
	open, _, err := table.Count(ctx, q, nil)
	return open, err
}

// Covering returns the id of a backfill that has not ended, and whose span has all of another
// one; empty where there is none.
func (r Reader) Covering(ctx context.Context, provider schema.Provider, symbol schema.Symbol, from, to schema.Time) (string, error) {
	var ids []string
	err := r.DB.Select(ctx, &ids, `SELECT backfill_id FROM backfills WHERE provider = $1 AND symbol = $2 AND from_time <= $3 AND to_time >= $4 AND `+table.Open+`
		ORDER BY started_at, backfill_id LIMIT 1`, provider, symbol, from, to)
	if err != nil || len(ids) == 0 {
		return "", err
	}
	return ids[0], nil
}

// Open counts the backfills that have not ended, and returns those of ids that are known. One
// that becomes known meanwhile may be counted and left out.
func (r Reader) Open(ctx context.Context, ids []string) (count int, known []string, err error) {
	return table.Count(ctx, r.DB, ids)
}

// WaitCaughtUp returns once the stage has applied all commands that were written before it was
// called, by whatever process: a backfill that the table does not have then did not exist. When
// ctx is done first, it returns that error.
func (r Reader) WaitCaughtUp(ctx context.Context) error {
	return store.WaitCaughtUp(ctx, r.DB, schema.BackfillStarted{}.Topic(), func(context.Context) (string, error) { return Name, nil })
}
