// Package schedule turns polling jobs into fetch requests when their time has
// come.
package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the stage.
const Name = "schedule"

// Settings of the handler.
type Settings struct {
	// Timeout is how long a fetch request may take. Default 10s.
	Timeout time.Duration `mapstructure:"timeout"`
}

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name:  Name,
		Doc:   "Keeps the polling jobs and makes a fetch request for each of their symbols when a run is due.",
		Takes: []schema.EventType{schema.PollingJobCreated{}.EventType()},
		Gives: []schema.EventType{schema.FetchRequested{}.EventType(), schema.PollingJobRan{}.EventType()},
		New:   New,
	})
}

// New makes the handler.
func New(env pipeline.Env) (pipeline.Handler, error) {
	settings := Settings{Timeout: 10 * time.Second}
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	if settings.Timeout <= 0 {
		return nil, fmt.Errorf("timeout: %v is not positive", settings.Timeout)
	}
	return &handler{settings: settings, now: env.Now, wake: make(chan struct{}, 1)}, nil
}

type handler struct {
	settings Settings
	now      func() time.Time
	wake     chan struct{}
}

var _ pipeline.Runner = (*handler)(nil)

// Handle enters new jobs; their first run is due at once.
func (h *handler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	rows := store.Rows{Table: "schedules", Columns: []string{"job_id", "symbols", "interval_s", "provider", "next_run"},
		Clause: "ON CONFLICT (job_id) DO NOTHING"}
	for i := range in {
		job := in[i].Event.Payload.(schema.PollingJobCreated)
		symbols, err := json.Marshal(job.Symbols)
		if err != nil {
			return nil, pipeline.Permanent(fmt.Errorf("encoding the symbols of job %s: %w", job.JobID, err))
		}
		rows.Add(job.JobID, string(symbols), job.Interval, job.Provider, job.CreatedAt)
	}
	tx.OnCommit(func() {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	})
	return nil, tx.Insert(ctx, rows)
}

// job is a row of schedules.
type job struct {
	ID       string          `db:"job_id"`
	Symbols  string          `db:"symbols"`
	Interval int64           `db:"interval_s"`
	Provider schema.Provider `db:"provider"`
	NextRun  schema.Time     `db:"next_run"`
}

const (
	// poll is how soon a due job is seen at the latest.
	poll = 200 * time.Millisecond
	// maxDue bounds the jobs of one transaction.
	maxDue = 100
)

// Run claims due jobs until ctx is done. Several processes may run it: each
// claim is a compare-and-swap of the job's next run.
func (h *handler) Run(ctx context.Context, emit pipeline.Emitter) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		due, err := h.runDue(ctx, emit)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if due == maxDue {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-h.wake:
		}
	}
}

// runDue makes the requests of all jobs that are due, and returns how many
// there were.
func (h *handler) runDue(ctx context.Context, emit pipeline.Emitter) (int, error) {
	due := 0
	_, err := emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		now := schema.NewTime(h.now())
		var jobs []job
		err := tx.Select(ctx, &jobs, `SELECT job_id, symbols, interval_s, provider, next_run FROM schedules
			WHERE next_run <= $1 ORDER BY next_run, job_id LIMIT $2`, now, maxDue)
		if err != nil {
			return nil, fmt.Errorf("looking for due jobs: %w", err)
		}
		due = len(jobs)
		var events []schema.Event
		for _, j := range jobs {
			claimed, err := tx.Exec(ctx, `UPDATE schedules SET next_run = $1 WHERE job_id = $2 AND next_run = $3`,
				nextRun(j.NextRun, now, j.Interval), j.ID, j.NextRun)
			if err != nil {
				return nil, fmt.Errorf("claiming job %s: %w", j.ID, err)
			}
			if claimed == 0 {
				continue // another process was faster
			}
			run, err := h.events(j, now)
			if err != nil {
				return nil, err
			}
			events = append(events, run...)
		}
		return events, nil
	})
	return due, err
}

// nextRun is the first slot of the job behind now. Slots that passed while
// nobody ran are skipped: old quotes cannot be had any more, and a burst helps
// nobody.
func nextRun(slot, now schema.Time, interval int64) schema.Time {
	step := time.Duration(interval) * time.Second
	missed := now.Sub(slot.Time) / step
	return slot.Add((missed + 1) * step)
}

// events are those of one run. Their ids follow from job and slot.
func (h *handler) events(j job, now schema.Time) ([]schema.Event, error) {
	var symbols []schema.Symbol
	if err := json.Unmarshal([]byte(j.Symbols), &symbols); err != nil {
		return nil, fmt.Errorf("reading the symbols of job %s: %w", j.ID, err)
	}
	slot := j.NextRun.Format(time.RFC3339Nano)
	event := func(id string, p schema.Payload) schema.Event {
		return schema.Event{ID: id, Source: "pricemill/" + Name, Payload: p}
	}
	events := []schema.Event{event(schema.DeriveID(Name, j.ID, slot),
		schema.PollingJobRan{JobID: j.ID, RanAt: now, Slot: j.NextRun})}
	for _, symbol := range symbols {
		id := schema.DeriveID(Name, j.ID, slot, string(symbol))
		events = append(events, event(id, schema.FetchRequested{
			Quote: schema.Quote{Provider: j.Provider, Symbol: symbol, RequestID: id},
			JobID: j.ID, RequestedAt: now, Deadline: now.Add(h.settings.Timeout)}))
	}
	return events, nil
}
