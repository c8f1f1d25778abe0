package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Job is a polling job and what became of its requests.
type Job struct {
	JobID   string
	Symbols []schema.Symbol
	// Interval is in seconds.
	Interval  int
	Provider  schema.Provider
	Status    schema.JobStatus
	CreatedAt schema.Time
	// NextRun is the zero value unless the job is active, LastRun until it ran.
	NextRun, LastRun schema.Time
	// Runs is how often it ran, each time asking for all symbols. The others
	// count the results: new prices, answers that only repeat what is
	// known, and failures.
	Runs, Prices, Unchanged, Failures int64
	// LastFailure is nil where there is none.
	LastFailure *Failure
}

// Failure is a request of a job that gave no price.
type Failure struct {
	Symbol schema.Symbol
	Code   schema.Code
	Reason string
	At     schema.Time
}

// stored is a job as it is in the tables.
type stored struct {
	row
	Prices    int64                   `db:"prices"`
	Unchanged int64                   `db:"unchanged"`
	Failures  int64                   `db:"failures"`
	FailedAt  sql.Null[schema.Time]   `db:"failed_at"`
	Symbol    sql.Null[schema.Symbol] `db:"symbol"`
	Code      sql.Null[schema.Code]   `db:"code"`
	Reason    sql.Null[string]        `db:"reason"`
}

// Outcomes are folded by package requests, and may be behind or ahead of the
// job by a few milliseconds.
const selectJobs = `SELECT j.id, j.job_id, j.symbols, j.interval, j.provider, j.status, j.created_at, j.last_run, j.next_run, j.runs,
	COALESCE(c.prices, 0) AS prices, COALESCE(c.unchanged, 0) AS unchanged, COALESCE(c.failures, 0) AS failures,
	f.failed_at, f.symbol, f.code, f.reason
	FROM polling_jobs j LEFT JOIN job_counts c ON c.job_id = j.job_id LEFT JOIN job_failures f ON f.job_id = j.job_id `

// Reader answers queries.
type Reader struct{ DB store.Querier }

// Get returns a job, or projections.ErrNotFound, or ErrForgotten.
func (r Reader) Get(ctx context.Context, jobID string) (Job, error) {
	var s stored
	err := r.DB.Get(ctx, &s, selectJobs+`WHERE j.job_id = $1`, jobID)
	if errors.Is(err, sql.ErrNoRows) {
		var forgotten bool
		err := r.DB.Get(ctx, &forgotten, `SELECT EXISTS (SELECT 1 FROM forgotten_jobs WHERE job_id = $1)`, jobID)
		switch {
		case err != nil:
			return Job{}, projections.QueryError("polling job "+jobID, err)
		case forgotten:
			return Job{}, fmt.Errorf("polling job %s: %w", jobID, ErrForgotten)
		}
	}
	if err != nil {
		return Job{}, projections.QueryError("polling job "+jobID, err)
	}
	return s.job()
}

// WaitCaughtUp returns once every job that was posted before is known; see
// projections.WaitCaughtUp.
func (r Reader) WaitCaughtUp(ctx context.Context) error {
	return projections.WaitCaughtUp(ctx, r.DB, Name, schema.PollingJobs)
}

// Place is where a job is in the order of List.
type Place struct {
	CreatedAt schema.Time
	JobID     string
}

// List returns at most limit jobs that stand after a place, or from the first
// where that is the zero value: the job created last comes first.
func (r Reader) List(ctx context.Context, behind Place, limit int) ([]Job, error) {
	if behind.CreatedAt.IsZero() {
		behind.CreatedAt = projections.EndOfTime
	}
	var rows []stored
	err := r.DB.Select(ctx, &rows, selectJobs+`WHERE (j.created_at, j.job_id) < ($1, $2)
		ORDER BY j.created_at DESC, j.job_id DESC LIMIT $3`, behind.CreatedAt, behind.JobID, limit)
	if err != nil {
		return nil, projections.QueryError("the polling jobs", err)
	}
	jobs := make([]Job, len(rows))
	for i, s := range rows {
		if jobs[i], err = s.job(); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// Open counts the jobs that are not stopped, and returns those of ids that are known.
// One that becomes known meanwhile may be counted and left out.
func (r Reader) Open(ctx context.Context, ids []string) (open int, known []string, err error) {
	known, err = store.SelectIn[string](ctx, r.DB, `SELECT job_id FROM polling_jobs WHERE job_id IN (?)`, ids)
	if err == nil {
		err = r.DB.Get(ctx, &open, `SELECT count(*) FROM polling_jobs WHERE status <> $1`, string(schema.JobStopped))
	}
	if err != nil {
		return 0, nil, projections.QueryError("how many polling jobs there are", err)
	}
	return open, known, nil
}

func (s stored) job() (Job, error) {
	j := Job{JobID: s.JobID, Interval: s.Interval, Provider: s.Provider, Status: s.Status, CreatedAt: s.CreatedAt,
		LastRun: s.LastRun.V, Runs: s.Runs, Prices: s.Prices, Unchanged: s.Unchanged, Failures: s.Failures}
	if err := json.Unmarshal([]byte(s.Symbols), &j.Symbols); err != nil {
		return Job{}, fmt.Errorf("reading the symbols of job %s: %w", s.JobID, err)
	}
	if s.Status == schema.JobActive {
		j.NextRun = s.NextRun
	}
	if s.FailedAt.Valid {
		j.LastFailure = &Failure{s.Symbol.V, s.Code.V, s.Reason.V, s.FailedAt.V}
	}
	return j, nil
}
