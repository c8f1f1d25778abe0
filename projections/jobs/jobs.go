// Package jobs is the read model of the polling jobs.
package jobs

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "polling-jobs"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name: Name,
		Doc:  "The polling jobs, and when each last ran.",
		New:  func(pipeline.Env) (pipeline.Projection, error) { return projection{}, nil },
	})
}

// Status of a job.
type Status string

// Active is the status of a job that is being run.
const Active Status = "active"

type projection struct{}

var _ pipeline.Projection = projection{}

const table = "polling_jobs"

func (projection) Name() string         { return Name }
func (projection) Version() int         { return 1 }
func (projection) TableNames() []string { return []string{table} }

func (projection) Takes() []schema.EventType {
	return []schema.EventType{schema.PollingJobCreated{}.EventType(), schema.PollingJobRan{}.EventType()}
}

func (projection) Tables(g pipeline.Generation) []string {
	return []string{`CREATE TABLE ` + g.Table(table) + ` (
		id         {int}  PRIMARY KEY,
		job_id     {text} NOT NULL UNIQUE,
		symbols    {text} NOT NULL,
		interval   {int}  NOT NULL,
		provider   {text} NOT NULL,
		status     {text} NOT NULL,
		created_at {time} NOT NULL,
		last_run   {time}
	)`}
}

// Apply enters new jobs and moves last_run forward. A run counts only if its job
// stands before it in the log, as it does wherever the scheduler made both: the
// events of a job lie on one partition.
func (projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	created := store.Rows{Table: g.Table(table), Columns: []string{"id", "job_id", "symbols", "interval", "provider",
		"status", "created_at"}, Clause: "ON CONFLICT (job_id) DO NOTHING"}
	entered := map[string]bool{}
	// Runs before and behind the first creation of their job in this batch.
	before, behind := map[string]schema.Time{}, map[string]schema.Time{}
	for i := range in {
		switch p := in[i].Event.Payload.(type) {
		case schema.PollingJobCreated:
			id, err := in[i].RowID(0)
			if err != nil {
				return pipeline.Permanent(err)
			}
			symbols, err := json.Marshal(p.Symbols)
			if err != nil {
				return pipeline.Permanent(fmt.Errorf("encoding the symbols of job %s: %w", p.JobID, err))
			}
			created.Add(id, p.JobID, string(symbols), p.Interval, p.Provider, string(Active), p.CreatedAt)
			entered[p.JobID] = true
		case schema.PollingJobRan:
			runs := before
			if entered[p.JobID] {
				runs = behind
			}
			if p.RanAt.After(runs[p.JobID]) {
				runs[p.JobID] = p.RanAt
			}
		}
	}
	if err := noteRuns(ctx, tx, g, before); err != nil {
		return err
	}
	if err := tx.Insert(ctx, created); err != nil {
		return err
	}
	return noteRuns(ctx, tx, g, behind)
}

// noteRuns moves last_run forward for those of the jobs that are there.
func noteRuns(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, runs map[string]schema.Time) error {
	for job, at := range runs {
		if _, err := tx.Exec(ctx, `UPDATE `+g.Table(table)+` SET last_run = $1
			WHERE job_id = $2 AND (last_run IS NULL OR last_run < $1)`, at, job); err != nil {
			return fmt.Errorf("noting the last run of job %s: %w", job, err)
		}
	}
	return nil
}
