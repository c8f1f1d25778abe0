package jobs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

var _ projections.Forgetful = projection{}

// ErrForgotten says that retention has deleted a job that was stopped. It wraps
// projections.ErrNotFound.
var ErrForgotten = fmt.Errorf("it was stopped, and retention has deleted it: %w", projections.ErrNotFound)

// Forgotten implements projections.Forgetful.
func (projection) Forgotten(string) string { return `job_id IN (SELECT job_id FROM forgotten_jobs)` }

// leftSchedules are jobs of the scheduler that was behind when they were deleted.
const leftSchedules = `status = 'stopped' AND job_id IN (SELECT job_id FROM forgotten_jobs)`

// Due implements projections.Forgetful.
func (projection) Due(ctx context.Context, q store.Querier, g pipeline.Generation, before schema.Time) (bool, error) {
	var due bool
	err := q.Get(ctx, &due, `SELECT EXISTS (SELECT 1 FROM `+g.Table(table)+` WHERE stopped_at < $1)
		OR EXISTS (SELECT 1 FROM schedules WHERE `+leftSchedules+`)`, before)
	return due, err
}

// Forget implements projections.Forgetful. The id of a deleted job stays: it keeps a
// repeated command from starting the job again, here and in the scheduler.
func (projection) Forget(ctx context.Context, tx *store.Tx, g pipeline.Generation, before schema.Time, limit int) (int, error) {
	name := g.Table(table)
	var ids []string
	err := tx.Select(ctx, &ids, `SELECT job_id FROM `+name+` WHERE stopped_at < $1 ORDER BY stopped_at, job_id LIMIT $2 `+tx.LockFreeRows(name), before, limit)
	if err != nil {
		return 0, fmt.Errorf("looking for jobs that were stopped long ago: %w", err)
	}
	now := schema.NewTime(time.Now())
	for _, id := range ids {
		_, noted := tx.Exec(ctx, `INSERT INTO forgotten_jobs (job_id, forgotten_at) VALUES ($1, $2) ON CONFLICT (job_id) DO NOTHING`, id, now)
		_, deleted := tx.Exec(ctx, `DELETE FROM `+name+` WHERE job_id = $1`, id)
		if err := errors.Join(noted, deleted); err != nil {
			return 0, fmt.Errorf("deleting job %s: %w", id, err)
		}
	}
	_, err = tx.Exec(ctx, `WITH held AS (SELECT job_id FROM schedules WHERE `+leftSchedules+` ORDER BY job_id LIMIT $1 `+tx.LockFreeRows("schedules")+`)
		DELETE FROM schedules WHERE job_id IN (SELECT job_id FROM held)`, limit)
	if err != nil {
		return 0, fmt.Errorf("deleting jobs of the scheduler: %w", err)
	}
	return len(ids), nil
}

// forgottenOf are the jobs of records that retention has deleted.
func forgottenOf(ctx context.Context, q store.Querier, in []pipeline.Record) (map[string]bool, error) {
	ids := map[string]bool{}
	for i := range in {
		ids[in[i].Event.Payload.Key()] = true
	}
	found, err := store.SelectIn[string](ctx, q, `SELECT job_id FROM forgotten_jobs WHERE job_id IN (?)`, slices.Sorted(maps.Keys(ids)))
	if err != nil {
		return nil, fmt.Errorf("looking for deleted jobs: %w", err)
	}
	forgotten := make(map[string]bool, len(found))
	for _, id := range found {
		forgotten[id] = true
	}
	return forgotten, nil
}
