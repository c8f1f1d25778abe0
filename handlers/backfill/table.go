package backfill

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// claimMillis is how long a claim lasts unless it is renewed, six times as long as it takes
// until it should be: the backfills of a process that died are taken over after that.
const claimMillis = 3_000

// row is a backfill as its owner takes it over, and what the owner changes of it.
type row struct {
	ID       string          `db:"backfill_id"`
	Provider schema.Provider `db:"provider"`
	Symbol   schema.Symbol   `db:"symbol"`
	From     schema.Time     `db:"from_time"`
	To       schema.Time     `db:"to_time"`
	Status   Status          `db:"status"`
	NextPage string          `db:"next_page"`
	Calls    int64           `db:"calls"`
	// Prices are those appended, and Repeated those that were stored before.
	Prices   int64        `db:"prices"`
	Repeated int64        `db:"repeated"`
	Reached  *schema.Time `db:"reached_at"`
	LastID   string       `db:"last_id"`
}

const rowColumns = `backfill_id, provider, symbol, from_time, to_time, status, next_page, calls, prices, repeated, reached_at, last_id`

// open is the condition of backfills that have not ended.
const open = `status IN ('active', 'failing')`

// anyToTake reports whether there is a backfill that no process owns. It takes no lock.
func anyToTake(ctx context.Context, q store.Querier) (bool, error) {
	var n int
	if err := q.Get(ctx, &n, `SELECT count(*) FROM backfills WHERE `+open+` AND claimed_until < `+q.NowMillis()); err != nil {
		return false, fmt.Errorf("looking for backfills: %w", err)
	}
	return n > 0, nil
}

// take claims backfills that no process owns, the oldest first.
func take(ctx context.Context, tx *pipeline.Tx, owner string, most int) ([]row, error) {
	var taken []row
	// Rows that another process is about to take are skipped.
	err := tx.Select(ctx, &taken, `WITH held AS (SELECT backfill_id FROM backfills
			WHERE `+open+` AND claimed_until < `+tx.NowMillis()+`
			ORDER BY started_at, backfill_id LIMIT $3 `+tx.LockFreeRows("backfills")+`)
		UPDATE backfills SET claimed_by = $1, claimed_until = `+tx.NowMillis()+` + $2
		WHERE backfill_id IN (SELECT backfill_id FROM held)
		RETURNING `+rowColumns, owner, claimMillis, most)
	if err != nil {
		return nil, fmt.Errorf("claiming backfills: %w", err)
	}
	return taken, nil
}

// renew prolongs the claims of an owner, and returns the ids of those that it still has.
func renew(ctx context.Context, tx *pipeline.Tx, owner string) ([]string, error) {
	var ours []string
	err := tx.Select(ctx, &ours, `WITH held AS (SELECT backfill_id FROM backfills WHERE claimed_by = $1 AND `+open+`
			ORDER BY backfill_id `+tx.LockRows("backfills")+`)
		UPDATE backfills SET claimed_until = `+tx.NowMillis()+` + $2
		WHERE backfill_id IN (SELECT backfill_id FROM held) RETURNING backfill_id`, owner, claimMillis)
	if err != nil {
		return nil, fmt.Errorf("renewing the claims of backfills: %w", err)
	}
	return ours, nil
}

// release gives up the claims of an owner, so that another process need not wait until they end.
func release(ctx context.Context, tx *pipeline.Tx, owner string) error {
	if _, err := tx.Exec(ctx, `WITH held AS (SELECT backfill_id FROM backfills WHERE claimed_by = $1
			ORDER BY backfill_id `+tx.LockRows("backfills")+`)
		UPDATE backfills SET claimed_until = 0, claimed_by = '' WHERE backfill_id IN (SELECT backfill_id FROM held)`, owner); err != nil {
		return fmt.Errorf("giving up the claims of backfills: %w", err)
	}
	return nil
}

// save stores what the owner changed. It reports false where the backfill was stopped, or
// belongs to another owner.
func (r row) save(ctx context.Context, tx *pipeline.Tx, owner string, failure *pipeline.QuoteError, now schema.Time) (bool, error) {
	var ended, reason, failedAt any
	if r.Status.isFinal() {
		ended = now
	}
	if failure != nil {
		reason, failedAt = schema.CutReason(string(failure.Code)+": "+failure.Reason), now
	}
	changed, err := tx.Exec(ctx, `UPDATE backfills SET status = $3, next_page = $4, calls = $5, prices = $6, repeated = $7,
			reached_at = $8, last_id = $9, ended_at = $10,
			last_error = COALESCE($11, last_error), last_error_at = COALESCE($12, last_error_at)
		WHERE backfill_id = $1 AND claimed_by = $2 AND `+open,
		r.ID, owner, string(r.Status), r.NextPage, r.Calls, r.Prices, r.Repeated, timeOrNull(r.Reached), r.LastID, ended, reason, failedAt)
	if err != nil {
		return false, fmt.Errorf("storing the progress of backfill %s: %w", r.ID, err)
	}
	return changed > 0, nil
}

func timeOrNull(t *schema.Time) any {
	if t == nil {
		return nil
	}
	return *t
}
