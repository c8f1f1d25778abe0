package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/schema"
)

// jobBody is a polling job. Times that there are not are null.
type jobBody struct {
	JobID     string           `json:"job_id"`
	Status    schema.JobStatus `json:"status"`
	Config    pollConfig       `json:"config"`
	CreatedAt schema.Time      `json:"created_at"`
	NextRun   *schema.Time     `json:"next_run"`
	LastRun   *schema.Time     `json:"last_run"`
	LastError *jobError        `json:"last_error"`
	Counts    jobCounts        `json:"counts"`
}

type jobError struct {
	Symbol    schema.Symbol `json:"symbol"`
	Code      schema.Code   `json:"code"`
	Reason    string        `json:"reason"`
	Timestamp schema.Time   `json:"timestamp"`
}

type jobCounts struct {
	Runs      int64 `json:"runs"`
	Prices    int64 `json:"prices"`
	Unchanged int64 `json:"unchanged"`
	Failures  int64 `json:"failures"`
}

func newJobBody(j jobs.Job) jobBody {
	body := jobBody{JobID: j.JobID, Status: j.Status, Config: pollConfig{j.Symbols, j.Interval, j.Provider},
		CreatedAt: j.CreatedAt, Counts: jobCounts{j.Runs, j.Prices, j.Unchanged, j.Failures}}
	if !j.NextRun.IsZero() {
		body.NextRun = &j.NextRun
	}
	if !j.LastRun.IsZero() {
		body.LastRun = &j.LastRun
	}
	if f := j.LastFailure; f != nil {
		body.LastError = &jobError{f.Symbol, f.Code, f.Reason, f.At}
	}
	return body
}

func (a *API) getJobs(w http.ResponseWriter, r *http.Request) error {
	q := query{values: r.URL.Query()}
	list := listing{r.URL.Path}
	limit := q.limit()
	var behind jobs.Place
	if place := q.cursor(list, 2, 2); place != nil {
		at, err := schema.ParseTime(place[0])
		if err != nil || at.Year() < 1 || at.Year() > 9999 {
			text, _ := q.get("cursor")
			q.faults = append(q.faults, inQuery("cursor", text).notCursor())
		}
		behind = jobs.Place{CreatedAt: at, JobID: place[1]}
	}
	if err := q.faults.orNil(); err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	found, err := a.ports.Jobs.List(ctx, behind, limit+1)
	if err != nil {
		return fmt.Errorf("listing the polling jobs: %w", err)
	}
	page := newPage(found, limit, newJobBody, func(j jobs.Job) string { return list.cursor(j.CreatedAt.Text(), j.JobID) })
	linkNext(w, r, page.NextCursor)
	a.writeState(w, r, page)
	return nil
}

func (a *API) getJob(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	job, err := a.findJob(ctx, mux.Vars(r)["job_id"])
	if err != nil {
		return err
	}
	a.writeState(w, r, newJobBody(job))
	return nil
}

func (a *API) findJob(ctx context.Context, id string) (jobs.Job, error) {
	return find(ctx, a.ports.Jobs, "polling job", id, noSuchJob)
}

func noSuchJob(id string, err error) error {
	if errors.Is(err, jobs.ErrForgotten) {
		return &apiError{codeNotFound, fmt.Sprintf("Polling job %q was stopped, and is older than JOBS_RETENTION", abbreviate(id)), projections.ErrNotFound}
	}
	return noSuch("polling job")(id, err)
}

// commandAccepted answers commands to a job.
type commandAccepted struct {
	JobID  string `json:"job_id"`
	Status string `json:"status"`
}

func (a *API) pauseJob(w http.ResponseWriter, r *http.Request) error {
	return a.commandJob(w, r, func(id string, now schema.Time) schema.Payload {
		return schema.PollingJobPaused{JobID: id, PausedAt: now}
	})
}

func (a *API) resumeJob(w http.ResponseWriter, r *http.Request) error {
	return a.commandJob(w, r, func(id string, now schema.Time) schema.Payload {
		return schema.PollingJobResumed{JobID: id, ResumedAt: now}
	})
}

func (a *API) stopJob(w http.ResponseWriter, r *http.Request) error {
	return a.commandJob(w, r, func(id string, now schema.Time) schema.Payload {
		return schema.PollingJobStopped{JobID: id, StoppedAt: now}
	})
}

// commandJob writes what is to become of a job to the log, whose order decides:
// what the read model says of the job is some milliseconds old, so a pause is
// written for a job that seems paused too, since a resume may be under way. That
// a job is stopped is never out of date.
func (a *API) commandJob(w http.ResponseWriter, r *http.Request, event func(id string, now schema.Time) schema.Payload) error {
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	job, err := a.findJob(ctx, mux.Vars(r)["job_id"])
	if err != nil {
		return err
	}
	if job.Status == schema.JobStopped {
		return newError(codeConflict, "Polling job %s is stopped", job.JobID)
	}
	payload := event(job.JobID, schema.NewTime(a.config.Now()))
	token, err := a.ports.Commands.Publish(ctx, payload)
	if err != nil {
		return fmt.Errorf("writing %s of job %s: %w", payload.EventType(), job.JobID, err)
	}
	w.Header().Set("X-Log-Position", token)
	a.writeJSON(w, r, http.StatusAccepted, commandAccepted{job.JobID, "accepted"})
	return nil
}
