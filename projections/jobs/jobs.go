// Package jobs is the read model of the polling jobs.
package jobs

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "polling-jobs"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name: Name,
		Doc:  "The polling jobs: whether they run, when they last did and when they will.",
		New:  func(pipeline.Env) (pipeline.Projection, error) { return projection{}, nil },
	})
}

type projection struct{}

var _ pipeline.Projection = projection{}

const table = "polling_jobs"

func (projection) Name() string         { return Name }
func (projection) Version() int         { return 3 }
func (projection) TableNames() []string { return []string{table} }

func (projection) Consumes() []schema.EventType {
	return []schema.EventType{schema.PollingJobCreated{}.EventType(), schema.PollingJobRan{}.EventType(),
		schema.PollingJobPaused{}.EventType(), schema.PollingJobResumed{}.EventType(), schema.PollingJobStopped{}.EventType()}
}

func (projection) Tables(g pipeline.Generation) []string {
	name := g.Table(table)
	return []string{`CREATE TABLE ` + name + ` (
		id         {int}  PRIMARY KEY,
		job_id     {text} NOT NULL UNIQUE,
		symbols    {text} NOT NULL,
		interval   {int}  NOT NULL,
		provider   {text} NOT NULL,
		status     {text} NOT NULL,
		created_at {time} NOT NULL,
		last_run   {time},
		next_run   {time} NOT NULL,
		runs       {int}  NOT NULL,
		stopped_at {time}
	)`, `CREATE INDEX ` + name + `_by_creation ON ` + name + ` (created_at, job_id)`,
		`CREATE INDEX ` + name + `_by_stop ON ` + name + ` (stopped_at) WHERE stopped_at IS NOT NULL`}
}

// row is a row of the table; the zero value is a job that does not exist.
type row struct {
	ID        int64                 `db:"id"`
	JobID     string                `db:"job_id"`
	Symbols   string                `db:"symbols"` // a JSON array
	Interval  int                   `db:"interval"`
	Provider  schema.Provider       `db:"provider"`
	Status    schema.JobStatus      `db:"status"`
	CreatedAt schema.Time           `db:"created_at"`
	LastRun   sql.Null[schema.Time] `db:"last_run"`
	// NextRun is the slot that is due next, if the job is active by then.
	NextRun schema.Time `db:"next_run"`
	Runs    int64       `db:"runs"`
	// StoppedAt is when it was stopped first; a stopped job stays so.
	StoppedAt sql.Null[schema.Time] `db:"stopped_at"`
}

const columns = `id, job_id, symbols, interval, provider, status, created_at, last_run, next_run, runs, stopped_at`

// Apply follows each job through its events. The first creation counts, and
// what stands after it in the log: the events of a job are on one partition.
func (projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	jobs, err := load(ctx, tx, g, in)
	if err != nil {
		return err
	}
	forgotten, err := forgottenOf(ctx, tx, in)
	if err != nil {
		return err
	}
	changed := map[string]bool{}
	for i := range in {
		id := in[i].Event.Payload.Key()
		if forgotten[id] {
			continue
		}
		next, err := jobs[id].after(&in[i])
		if err != nil {
			return pipeline.Permanent(err)
		}
		if next.Status != "" {
			jobs[id], changed[id] = next, true
		}
	}
	rows := store.Rows{Table: g.Table(table), Columns: []string{"id", "job_id", "symbols", "interval", "provider", "status",
		"created_at", "last_run", "next_run", "runs", "stopped_at"},
		Clause: `ON CONFLICT (job_id) DO UPDATE SET status = excluded.status, last_run = excluded.last_run,
			next_run = excluded.next_run, runs = excluded.runs, stopped_at = excluded.stopped_at`}
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		j := jobs[id]
		rows.Add(j.ID, j.JobID, j.Symbols, j.Interval, j.Provider, string(j.Status), j.CreatedAt, orNull(j.LastRun), j.NextRun, j.Runs, orNull(j.StoppedAt))
	}
	return tx.Insert(ctx, rows)
}

func orNull(t sql.Null[schema.Time]) any {
	if !t.Valid {
		return nil
	}
	return t.V
}

func load(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) (map[string]row, error) {
	ids := map[string]bool{}
	for i := range in {
		ids[in[i].Event.Payload.Key()] = true
	}
	rows, err := store.SelectIn[row](ctx, tx, `SELECT `+columns+` FROM `+g.Table(table)+` WHERE job_id IN (?)`,
		slices.Sorted(maps.Keys(ids)))
	if err != nil {
		return nil, fmt.Errorf("reading the jobs: %w", err)
	}
	jobs := make(map[string]row, len(ids))
	for _, r := range rows {
		jobs[r.JobID] = r
	}
	return jobs, nil
}

// after is the row after one more event of its job.
func (r row) after(record *pipeline.Record) (row, error) {
	switch e := record.Event.Payload.(type) {
	case schema.PollingJobCreated:
		if r.Status != "" {
			break
		}
		symbols, err := json.Marshal(e.Symbols)
		if err != nil {
			return r, fmt.Errorf("encoding the symbols of job %s: %w", e.JobID, err)
		}
		if r.ID, err = record.RowID(0); err != nil {
			return r, err
		}
		r.JobID, r.Symbols, r.Provider, r.CreatedAt = e.JobID, string(symbols), e.Provider, e.CreatedAt
	case schema.PollingJobRan:
		r.Runs++
		if !r.LastRun.Valid || e.RanAt.After(r.LastRun.V) {
			r.LastRun = sql.Null[schema.Time]{V: e.RanAt, Valid: true}
		}
	case schema.PollingJobStopped:
		if r.Status != "" && !r.StoppedAt.Valid {
			r.StoppedAt = sql.Null[schema.Time]{V: e.StoppedAt, Valid: true}
		}
	}
	state := schema.JobState{Status: r.Status, Interval: r.Interval, NextRun: r.NextRun}.After(record.Event.Payload)
	r.Status, r.Interval, r.NextRun = state.Status, state.Interval, state.NextRun
	return r, nil
}
