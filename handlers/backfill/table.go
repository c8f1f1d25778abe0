package backfill

import (
	"context"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/handlers/claim"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// table is how backfills are claimed. A claim lasts six times as long as it takes until it
// should be renewed.
var table = claim.Table{Name: "backfills", ID: "backfill_id", Open: `status IN ('active', 'failing')`, Order: "started_at", Lasts: 3 * time.Second}

// row is a backfill as its owner takes it over, and what the owner changes of it.
type row struct {
	ID       string          `db:"backfill_id"`
	Provider schema.Provider `db:"provider"`
	Symbol   schema.Symbol   `db:"symbol"`
	From     schema.Time     `db:"from_time"`
	To       schema.Time     `db:"to_time"`
	Started  schema.Time     `db:"started_at"`
	Status   Status          `db:"status"`
	NextPage string          `db:"next_page"`
	Calls    int64           `db:"calls"`
	// Prices are those appended, and Repeated those that were stored before.
	Prices   int64        `db:"prices"`
	Repeated int64        `db:"repeated"`
	Reached  *schema.Time `db:"reached_at"`
	LastID   string       `db:"last_id"`
}

const rowColumns = `backfill_id, provider, symbol, from_time, to_time, started_at, status, next_page, calls, prices, repeated, reached_at, last_id`

// isPreceded reports whether a backfill that was started before this one has not ended, and
// fetches some of the same prices.
func (r row) isPreceded(ctx context.Context, q store.Querier) (bool, error) {
	var n int
	err := q.Get(ctx, &n, `SELECT count(*) FROM backfills WHERE provider = $1 AND symbol = $2 AND from_time <= $3 AND to_time >= $4 AND `+table.Open+`
		AND (started_at < $5 OR started_at = $5 AND backfill_id < $6)`, r.Provider, r.Symbol, r.To, r.From, r.Started, r.ID)
	if err != nil {
		return false, fmt.Errorf("looking for backfills before %s: %w", r.ID, err)
	}
	return n > 0, nil
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
		WHERE backfill_id = $1 AND claimed_by = $2 AND `+table.Open,
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
