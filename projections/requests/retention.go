package requests

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

var _ projections.Forgetful = projection{}

const ofForgottenJob = `job_id IN (SELECT job_id FROM forgotten_jobs)`

// Forgotten implements projections.Forgetful: old requests, and the counts of deleted jobs.
func (projection) Forgotten(name string) string {
	if name == table {
		return `asked_at < (SELECT kept_from FROM retention WHERE name = '` + Name + `')`
	}
	return ofForgottenJob
}

// Due implements projections.Forgetful.
func (projection) Due(ctx context.Context, q store.Querier, g pipeline.Generation, before schema.Time) (bool, error) {
	var due bool
	err := q.Get(ctx, &due, `SELECT EXISTS (SELECT 1 FROM `+g.Table(table)+` WHERE asked_at < $1)
		OR EXISTS (SELECT 1 FROM `+g.Table(jobCounts)+` WHERE `+ofForgottenJob+`)
		OR EXISTS (SELECT 1 FROM `+g.Table(jobFailures)+` WHERE `+ofForgottenJob+`)`, before)
	return due, err
}

// Forget implements projections.Forgetful. A request that has no outcome yet is old too:
// an outcome that still comes makes a row of its own.
func (projection) Forget(ctx context.Context, tx *store.Tx, g pipeline.Generation, before schema.Time, limit int) (int, error) {
	name := g.Table(table)
	n, err := tx.Exec(ctx, `WITH held AS (SELECT request_id FROM `+name+` WHERE asked_at < $1 ORDER BY asked_at LIMIT $2 `+tx.LockFreeRows(name)+`)
		DELETE FROM `+name+` WHERE request_id IN (SELECT request_id FROM held)`, before, limit)
	if err != nil {
		return 0, fmt.Errorf("deleting old requests: %w", err)
	}
	deleted := int(n)
	for _, of := range []string{g.Table(jobCounts), g.Table(jobFailures)} {
		n, err := tx.Exec(ctx, `WITH held AS (SELECT job_id FROM `+of+` WHERE `+ofForgottenJob+` ORDER BY job_id LIMIT $1 `+tx.LockFreeRows(of)+`)
			DELETE FROM `+of+` WHERE job_id IN (SELECT job_id FROM held)`, limit)
		if err != nil {
			return 0, fmt.Errorf("deleting what is known of deleted jobs: %w", err)
		}
		deleted += int(n)
	}
	return deleted, nil
}
