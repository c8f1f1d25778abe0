// Package schedule turns polling jobs into fetch requests when their time has
// come.
package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the stage.
const Name = "schedule"

// Settings of the handler.
type Settings struct {
	// Timeout is how long a fetch request may take. Default 10s.
	Timeout time.Duration `mapstructure:"timeout" doc:"how long a fetch request may take"`
}

var defaults = Settings{Timeout: 10 * time.Second}

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name:     Name,
		Doc:      "Keeps the polling jobs and makes a fetch request for each of their symbols when a run is due.",
		Settings: defaults,
		Consumes: []schema.EventType{schema.PollingJobCreated{}.EventType(), schema.PollingJobPaused{}.EventType(),
			schema.PollingJobResumed{}.EventType(), schema.PollingJobStopped{}.EventType()},
		Produces: []schema.EventType{schema.FetchRequested{}.EventType(), schema.PollingJobRan{}.EventType()},
		New:      New,
	})
}

// New makes the handler.
func New(env pipeline.Env) (pipeline.Handler, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	if settings.Timeout <= 0 {
		return nil, fmt.Errorf("timeout: %v is not positive", settings.Timeout)
	}
	return &handler{settings: settings, now: env.Now, tracer: env.Tracer, wake: make(chan struct{}, 1)}, nil
}

type handler struct {
	settings Settings
	now      func() time.Time
	tracer   *tracing.Tracer
	wake     chan struct{}
}

var _ pipeline.Runner = (*handler)(nil)

// job is a row of schedules.
type job struct {
	ID       string           `db:"job_id"`
	Symbols  string           `db:"symbols"` // a JSON array
	Interval int              `db:"interval_s"`
	Provider schema.Provider  `db:"provider"`
	Status   schema.JobStatus `db:"status"`
	NextRun  schema.Time      `db:"next_run"`
	// Traceparent is that of the command, until the first run.
	Traceparent string `db:"traceparent"`
}

const columns = `job_id, symbols, interval_s, provider, status, next_run, traceparent`

// after is the job after one more of its events; the zero value is one that
// does not exist.
func (j job) after(event schema.Payload) (job, error) {
	if created, ok := event.(schema.PollingJobCreated); ok && j.Status == "" {
		symbols, err := json.Marshal(created.Symbols)
		if err != nil {
			return j, pipeline.Permanent(fmt.Errorf("encoding the symbols of job %s: %w", created.JobID, err))
		}
		j.ID, j.Symbols, j.Provider = created.JobID, string(symbols), created.Provider
	}
	state := schema.JobState{Status: j.Status, Interval: j.Interval, NextRun: j.NextRun}.After(event)
	j.Status, j.Interval, j.NextRun = state.Status, state.Interval, state.NextRun
	return j, nil
}

// Handle enters new jobs, whose first run is due at once, and does what is said
// about those that are there.
func (h *handler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	jobs, err := hold(ctx, tx, in)
	if err != nil {
		return nil, err
	}
	forgotten, err := forgottenOf(ctx, tx, in)
	if err != nil {
		return nil, err
	}
	changed := map[string]job{}
	for i := range in {
		id := in[i].Event.Payload.Key()
		if forgotten[id] && jobs[id].Status == "" {
			continue // it was stopped, and deleted since: it does not start again
		}
		next, err := jobs[id].after(in[i].Event.Payload)
		if err != nil {
			return nil, err
		}
		if jobs[id].ID == "" && next.ID != "" {
			next.Traceparent = in[i].Event.Traceparent
		}
		if next != jobs[id] {
			jobs[id], changed[id] = next, next
		}
	}
	rows := store.Rows{Table: "schedules", Columns: []string{"job_id", "symbols", "interval_s", "provider", "status", "next_run", "traceparent"},
		Clause: "ON CONFLICT (job_id) DO UPDATE SET status = excluded.status, next_run = excluded.next_run"}
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		j := changed[id]
		rows.Add(j.ID, j.Symbols, j.Interval, j.Provider, string(j.Status), j.NextRun, j.Traceparent)
	}
	tx.OnCommit(func() {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	})
	return nil, tx.Insert(ctx, rows)
}

var _ pipeline.Refiller = (*handler)(nil)

// RefillsFrom implements pipeline.Refiller.
func (*handler) RefillsFrom() []schema.EventType {
	return []schema.EventType{schema.PollingJobRan{}.EventType()}
}

// Refill implements pipeline.Refiller: the next run of a job is after its last one, so that no
// slot is run twice. A run that was paused or resumed since only ever moved on.
func (h *handler) Refill(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) error {
	_, err := h.Handle(ctx, tx, in)
	return err
}

// forgottenOf are the jobs of records that retention has deleted.
func forgottenOf(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) (map[string]bool, error) {
	var created []string
	for i := range in {
		if _, ok := in[i].Event.Payload.(schema.PollingJobCreated); ok {
			created = append(created, in[i].Event.Payload.Key())
		}
	}
	found, err := store.SelectIn[string](ctx, tx, `SELECT job_id FROM forgotten_jobs WHERE job_id IN (?)`, created)
	if err != nil {
		return nil, fmt.Errorf("looking for deleted jobs: %w", err)
	}
	forgotten := make(map[string]bool, len(found))
	for _, id := range found {
		forgotten[id] = true
	}
	return forgotten, nil
}

// hold reads the jobs of a batch, and keeps the runner from moving their next
// run meanwhile. The runner skips rows that are held, so it never waits
// for a row here while it holds another.
func hold(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) (map[string]job, error) {
	ids := map[string]bool{}
	for i := range in {
		ids[in[i].Event.Payload.Key()] = true
	}
	rows, err := store.SelectIn[job](ctx, tx, `SELECT `+columns+` FROM schedules WHERE job_id IN (?) ORDER BY job_id `+
		tx.LockRows("schedules"), slices.Sorted(maps.Keys(ids)))
	if err != nil {
		return nil, fmt.Errorf("reading the jobs: %w", err)
	}
	jobs := make(map[string]job, len(ids))
	for _, j := range rows {
		jobs[j.ID] = j
	}
	return jobs, nil
}
