package requests

import (
	"context"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// The outcomes of a polling job's requests: how many there are of each kind, and
// the last that was a failure. Package jobs shows them. They are on other topics
// than the job, so they may be read before it is known.
const (
	jobCounts   = "job_counts"
	jobFailures = "job_failures"
)

func jobTables(g pipeline.Generation) []string {
	return []string{
		`CREATE TABLE ` + g.Table(jobCounts) + ` (
			job_id    {text} PRIMARY KEY,
			prices    {int}  NOT NULL,
			unchanged {int}  NOT NULL,
			failures  {int}  NOT NULL
		) {keyed}`,
		`CREATE TABLE ` + g.Table(jobFailures) + ` (
			job_id     {text} PRIMARY KEY,
			symbol     {text} NOT NULL,
			code       {text} NOT NULL,
			reason     {text} NOT NULL,
			failed_at  {time} NOT NULL,
			outcome_id {int}  NOT NULL
		) {keyed}`,
	}
}

// tallies are the outcomes of a batch by job.
type tallies map[string]*tally

type tally struct {
	prices, unchanged, failures int64
	// last is the failure that came last, by its time and then by its id, which
	// is the same whatever order the topics are read in.
	last   candidate
	lastAt schema.Time
}

// add counts an outcome. Each counts, also of several of one request: an answer
// may hold more than one price.
func (t tallies) add(outcome candidate, at schema.Time) {
	job := schema.JobOfRequest(outcome.RequestID)
	if job == "" {
		return
	}
	if t[job] == nil {
		t[job] = &tally{}
	}
	of := t[job]
	switch outcome.State {
	case Observed:
		of.prices++
	case Unchanged:
		of.unchanged++
	default:
		of.failures++
		if order := at.Compare(of.lastAt); of.failures == 1 || order > 0 || order == 0 && outcome.id > of.last.id {
			of.last, of.lastAt = outcome, at
		}
	}
}

func (t tallies) save(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation) error {
	counts := store.Rows{Table: g.Table(jobCounts), Columns: []string{"job_id", "prices", "unchanged", "failures"}}
	counts.Clause = `ON CONFLICT (job_id) DO UPDATE SET prices = ` + counts.Table + `.prices + excluded.prices,
		unchanged = ` + counts.Table + `.unchanged + excluded.unchanged, failures = ` + counts.Table + `.failures + excluded.failures`
	failures := store.Rows{Table: g.Table(jobFailures),
		Columns: []string{"job_id", "symbol", "code", "reason", "failed_at", "outcome_id"}}
	failures.Clause = `ON CONFLICT (job_id) DO UPDATE SET symbol = excluded.symbol, code = excluded.code, reason = excluded.reason,
		failed_at = excluded.failed_at, outcome_id = excluded.outcome_id
		WHERE (excluded.failed_at, excluded.outcome_id) > (` + failures.Table + `.failed_at, ` + failures.Table + `.outcome_id)`
	// In one order everywhere: two transactions never wait in a circle.
	for _, job := range slices.Sorted(maps.Keys(t)) {
		of := t[job]
		counts.Add(job, of.prices, of.unchanged, of.failures)
		if of.failures > 0 {
			failures.Add(job, of.last.Symbol, string(of.last.Code), of.last.Reason, of.lastAt, of.last.id)
		}
	}
	if err := tx.Insert(ctx, counts); err != nil {
		return err
	}
	return tx.Insert(ctx, failures)
}
