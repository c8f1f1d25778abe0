// Package failingjobs knows which polling jobs fail, and logs when one begins to
// and when it has recovered.
//
// A job fails from the first request without a price until every symbol that failed
// has a price again. That is kept in SQL and changed in the transaction of the stage
// that decides about the request. So each change is logged once, by one process,
// however many share the work and however often they restart; a process that is
// killed between the commit and the line does not log it at all.
//
// A job that fails every other time, as one does whose provider allows too few calls,
// is warned of once in ten minutes.
package failingjobs

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Outcome is what a request ended with.
type Outcome struct {
	// Quote is what was asked for. One that no polling job asked for is ignored.
	Quote schema.Quote
	// At is when the answer came, or when it was clear that there is none.
	At schema.Time
	// Code and Reason say why there is no price. Code is empty if there is one.
	Code   schema.Code
	Reason string
}

// quiet is how long after a warning about a job there is no other.
const quiet = 10 * time.Minute

// failing is a row of failing_jobs.
type failing struct {
	JobID string `db:"job_id"`
	State string `db:"state"` // a state as JSON
}

// state is how a job is doing that fails, or failed not long ago.
type state struct {
	// Symbols are those that fail, with the time of the last failure of each.
	Symbols map[schema.Symbol]schema.Time `json:"symbols"`
	// Since is when the first of them failed.
	Since schema.Time `json:"since"`
	// Warned is when there was a warning last; the zero value for never. Told says
	// that no line about a recovery has followed it.
	Warned schema.Time `json:"warned"`
	Told   bool        `json:"told"`
}

// Note enters outcomes, in the order in which they came about. It locks rows of
// failing_jobs, in the order of their ids.
func Note(ctx context.Context, tx *pipeline.Tx, log *slog.Logger, outcomes []Outcome) error {
	jobs := map[string][]Outcome{}
	failed := map[string]bool{}
	for _, o := range outcomes {
		if id := schema.JobOfRequest(o.Quote.RequestID); id != "" {
			jobs[id] = append(jobs[id], o)
			failed[id] = failed[id] || o.Code != ""
		}
	}
	rows, err := lock(ctx, tx, slices.Sorted(maps.Keys(jobs)), failed)
	if err != nil {
		return err
	}
	changed := store.Rows{Table: "failing_jobs", Columns: []string{"job_id", "state"},
		Clause: `ON CONFLICT (job_id) DO UPDATE SET state = excluded.state`}
	var over []string
	for _, row := range rows {
		var s state
		if err := json.Unmarshal([]byte(row.State), &s); err != nil {
			return fmt.Errorf("reading how job %s fails: %w", row.JobID, err)
		}
		if line := s.fold(row.JobID, jobs[row.JobID]); line != nil {
			tx.OnCommit(func() { line(log) })
		}
		if s.isOver(jobs[row.JobID]) {
			over = append(over, row.JobID)
			continue
		}
		text, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("encoding how job %s fails: %w", row.JobID, err)
		}
		changed.Add(row.JobID, string(text))
	}
	if _, err := store.SelectIn[string](ctx, tx, `DELETE FROM failing_jobs WHERE job_id IN (?) RETURNING job_id`, over); err != nil {
		return fmt.Errorf("removing jobs that recovered: %w", err)
	}
	return tx.Insert(ctx, changed)
}

// lock returns the rows of those jobs that fail, or that begin to now, locked. Rows
// that are there come first, and new ones after them, each in the order of their ids.
func lock(ctx context.Context, tx *pipeline.Tx, jobs []string, failed map[string]bool) ([]failing, error) {
	rows, err := store.SelectIn[failing](ctx, tx, `SELECT job_id, state FROM failing_jobs WHERE job_id IN (?)
		ORDER BY job_id `+tx.LockRows("failing_jobs"), jobs)
	if err != nil {
		return nil, fmt.Errorf("reading the jobs that fail: %w", err)
	}
	for _, row := range rows {
		failed[row.JobID] = false // it has a row
	}
	// Another transaction may have entered a job meanwhile: then its row is locked.
	begin := store.Rows{Table: "failing_jobs", Columns: []string{"job_id", "state"},
		Clause: `ON CONFLICT (job_id) DO UPDATE SET job_id = excluded.job_id RETURNING job_id, state`}
	for _, id := range jobs {
		if failed[id] {
			begin.Add(id, "{}")
		}
	}
	if err := store.InsertReturning(ctx, tx.Tx, &rows, begin); err != nil {
		return nil, err
	}
	return rows, nil
}

// fold applies the outcomes of a job, and returns what is to be logged, or nil.
//
// A price that was received before a failure says nothing against it: the stages that
// tell of the two keep no common order.
func (s *state) fold(job string, outcomes []Outcome) (line func(*slog.Logger)) {
	if s.Symbols == nil {
		s.Symbols = map[schema.Symbol]schema.Time{}
	}
	var failure Outcome
	for _, o := range outcomes {
		failedAt, fails := s.Symbols[o.Quote.Symbol]
		switch {
		case o.Code == "" && fails && o.At.After(failedAt):
			delete(s.Symbols, o.Quote.Symbol)
		case o.Code != "":
			if failure.Code == "" {
				failure = o
			}
			if len(s.Symbols) == 0 {
				s.Since = o.At
			}
			if !fails || o.At.After(failedAt) {
				s.Symbols[o.Quote.Symbol] = o.At
			}
		}
	}
	switch {
	case len(s.Symbols) > 0 && !s.Told && failure.Code != "" && s.isLoud(failure.At):
		s.Told, s.Warned = true, failure.At
		return func(log *slog.Logger) {
			log.Warn("polling job fails; the next line about it is when it has recovered", "job", job, "provider", failure.Quote.Provider,
				"symbol", failure.Quote.Symbol, "code", failure.Code, "reason", failure.Reason)
		}
	case len(s.Symbols) == 0 && s.Told:
		s.Told = false
		since, provider := s.Since, outcomes[0].Quote.Provider
		return func(log *slog.Logger) {
			log.Info("polling job recovered", "job", job, "provider", provider, "failed_since", since)
		}
	}
	return nil
}

// isLoud reports whether the last warning is so long ago that there may be another.
func (s *state) isLoud(at schema.Time) bool {
	return s.Warned.IsZero() || at.Sub(s.Warned.Time) >= quiet
}

// isOver reports whether nothing of the state needs to be kept.
func (s *state) isOver(outcomes []Outcome) bool {
	return len(s.Symbols) == 0 && s.isLoud(outcomes[len(outcomes)-1].At)
}
