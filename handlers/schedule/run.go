package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

const (
	// poll is how soon a due job is seen at the latest.
	poll = 200 * time.Millisecond
	// maxDue bounds the jobs of one transaction.
	maxDue = 100
)

// Run runs due jobs until ctx is done. Several processes may do so: each takes
// jobs that no other holds.
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
// there were. Where there is none, it writes nothing.
func (h *handler) runDue(ctx context.Context, emit pipeline.Emitter) (int, error) {
	now := schema.NewTime(h.now())
	due := 0
	err := emit.Get(ctx, &due, `SELECT count(*) FROM schedules WHERE status = 'active' AND next_run <= $1`, now)
	if err != nil || due == 0 {
		return 0, err
	}
	var spans []tracing.Span
	_, err = emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		var jobs []job
		err := tx.Select(ctx, &jobs, `SELECT `+columns+` FROM schedules WHERE status = 'active' AND next_run <= $1
			ORDER BY next_run, job_id LIMIT $2 `+tx.LockFreeRows("schedules"), now, maxDue)
		if err != nil {
			return nil, fmt.Errorf("looking for due jobs: %w", err)
		}
		due, spans = len(jobs), nil
		var events []schema.Event
		for _, j := range jobs {
			ran := schema.PollingJobRan{JobID: j.ID, RanAt: now, Slot: j.NextRun}
			next, err := j.after(ran)
			if err != nil {
				return nil, err
			}
			if _, err := tx.Exec(ctx, `UPDATE schedules SET next_run = $1, traceparent = '' WHERE job_id = $2`, next.NextRun, j.ID); err != nil {
				return nil, fmt.Errorf("moving job %s to its next run: %w", j.ID, err)
			}
			// The first run is of the command's trace; each after it begins its own.
			traceparent := j.Traceparent
			if h.tracer != nil {
				_, span := h.tracer.Start(ctx, "run polling job", tracing.Internal, traceparent, tracing.String("pricemill.job_id", j.ID))
				traceparent, spans = span.Traceparent(), append(spans, span)
			}
			run, err := h.events(j, ran, traceparent)
			if err != nil {
				return nil, err
			}
			events = append(events, run...)
		}
		return events, nil
	})
	for _, span := range spans {
		span.End(err)
	}
	return due, err
}

// events are those of one run. Their ids follow from job and slot.
func (h *handler) events(j job, ran schema.PollingJobRan, traceparent string) ([]schema.Event, error) {
	var symbols []schema.Symbol
	if err := json.Unmarshal([]byte(j.Symbols), &symbols); err != nil {
		return nil, fmt.Errorf("reading the symbols of job %s: %w", j.ID, err)
	}
	slot := ran.Slot.Format(time.RFC3339Nano)
	event := func(id string, p schema.Payload) schema.Event {
		return schema.Event{ID: id, Source: "pricemill/" + Name, Traceparent: traceparent, Payload: p}
	}
	events := []schema.Event{event(schema.DeriveID(Name, j.ID, slot), ran)}
	for _, symbol := range symbols {
		id := schema.DeriveID(Name, j.ID, slot, string(symbol))
		events = append(events, event(id, schema.FetchRequested{
			Quote: schema.Quote{Provider: j.Provider, Symbol: symbol, RequestID: schema.JobRequestID(j.ID, id)},
			JobID: j.ID, RequestedAt: ran.RanAt, Deadline: ran.RanAt.Add(h.settings.Timeout)}))
	}
	return events, nil
}
