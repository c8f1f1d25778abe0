package logrecords

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/schema"
)

// job is a row of the read model of polling jobs.
type job struct {
	ID        int64           `db:"id"`
	JobID     string          `db:"job_id"`
	Symbols   string          `db:"symbols"`
	Interval  int             `db:"interval"`
	Provider  schema.Provider `db:"provider"`
	Status    string          `db:"status"`
	CreatedAt schema.Time     `db:"created_at"`
	LastRun   *schema.Time    `db:"last_run"`
	NextRun   schema.Time     `db:"next_run"`
	Runs      int             `db:"runs"`
	StoppedAt *schema.Time    `db:"stopped_at"`
}

// placeJobs puts the creation of each polling job where it was, and after it events that bring the
// job to the state in which it is: as many runs, and pauses and a stop if there were any.
func (l *Layout) placeJobs(ctx context.Context) error {
	for after := int64(-1); ; {
		var rows []job
		err := l.View.Select(ctx, &rows, `SELECT id, job_id, symbols, interval, provider, status, created_at, last_run, next_run, runs, stopped_at
			FROM polling_jobs WHERE id > $1 ORDER BY id LIMIT $2`, after, answerPage)
		if err != nil {
			return fmt.Errorf("reading polling jobs: %w", err)
		}
		for _, row := range rows {
			after = row.ID
			if err := l.placeJob(row); err != nil {
				return err
			}
		}
		if len(rows) < answerPage {
			return nil
		}
	}
}

func (l *Layout) placeJob(j job) error {
	part, offset, ok := l.place(schema.PollingJobs, j.ID)
	if !ok {
		return nil
	}
	symbols, err := symbolsOf(j.Symbols)
	if err != nil {
		return err
	}
	created := schema.PollingJobCreated{JobID: j.JobID, Symbols: symbols, Interval: j.Interval, Provider: j.Provider, CreatedAt: j.CreatedAt}
	slot, err := l.literal(schema.Event{ID: schema.DeriveID("api", string(created.EventType()), j.JobID), Source: l.Commands, Payload: created}, j.CreatedAt, refill.Linked)
	if err != nil {
		return err
	}
	slot.Offset = offset
	l.at(schema.PollingJobs, part).Put(slot)
	for n, payload := range j.since() {
		if err := l.float(pipeline.TopicPartition{Topic: schema.PollingJobs, Partition: part}, offset, strconv.Itoa(n), payload); err != nil {
			return err
		}
	}
	return nil
}

func symbolsOf(text string) (symbols []schema.Symbol, err error) {
	if err := json.Unmarshal([]byte(text), &symbols); err != nil {
		return nil, fmt.Errorf("reading symbols: %w", err)
	}
	return symbols, nil
}

// float gives an event that is not kept one by one, after an offset.
func (l *Layout) float(tp pipeline.TopicPartition, after int64, name string, payload schema.Payload) error {
	slot, err := l.literal(schema.Event{ID: schema.DeriveID(refillEvents, string(payload.EventType()), payload.Key(), name), Source: refillEvents, Payload: payload},
		payload.OccurredAt(), refill.Linked)
	if err == nil {
		l.floats = append(l.floats, float{tp, after, slot, false})
	}
	return err
}

// since are events that bring the job from its creation to its state. Of its runs only the last
// is known by its time.
func (j job) since() (events []schema.Payload) {
	state := schema.JobState{}.After(schema.PollingJobCreated{Interval: j.Interval, CreatedAt: j.CreatedAt})
	last := j.CreatedAt
	if j.LastRun != nil {
		last = *j.LastRun
	}
	add := func(p schema.Payload) {
		events = append(events, p)
		state = state.After(p)
	}
	interval := time.Duration(j.Interval) * time.Second
	slot := j.CreatedAt
	if passed := last.Sub(slot.Time); passed > 0 && interval > 0 {
		slot = slot.Add(passed / interval * interval)
	}
	if at := j.NextRun.Add(-interval); at.Before(slot.Time) && !at.Before(j.CreatedAt.Time) {
		slot = at
	}
	for range j.Runs {
		add(schema.PollingJobRan{JobID: j.JobID, RanAt: last, Slot: slot})
	}
	if j.NextRun.After(state.NextRun) {
		// It was resumed after a pause, some time in the interval before its next run.
		resumed := j.NextRun.Add(-interval)
		add(schema.PollingJobPaused{JobID: j.JobID, PausedAt: last})
		add(schema.PollingJobResumed{JobID: j.JobID, ResumedAt: resumed})
		last = resumed
	}
	if j.Status == string(schema.JobPaused) {
		add(schema.PollingJobPaused{JobID: j.JobID, PausedAt: last})
	}
	if j.StoppedAt != nil {
		add(schema.PollingJobStopped{JobID: j.JobID, StoppedAt: *j.StoppedAt})
	}
	return events
}

// placeStreams gives the start of each stream again, with the symbols that it has now, and its
// end.
func (l *Layout) placeStreams(ctx context.Context) error {
	var rows []struct {
		ID        string          `db:"stream_id"`
		Provider  schema.Provider `db:"provider"`
		Symbols   string          `db:"symbols"`
		StartedAt schema.Time     `db:"started_at"`
		StoppedAt *schema.Time    `db:"stopped_at"`
	}
	if err := l.View.Select(ctx, &rows, `SELECT stream_id, provider, symbols, started_at, stopped_at FROM streams ORDER BY started_at, stream_id`); err != nil {
		return fmt.Errorf("reading streams: %w", err)
	}
	for _, row := range rows {
		symbols, err := symbolsOf(row.Symbols)
		if err != nil {
			return err
		}
		events := []schema.Payload{schema.StreamStarted{StreamID: row.ID, Provider: row.Provider, Symbols: symbols, StartedAt: row.StartedAt}}
		if row.StoppedAt != nil {
			events = append(events, schema.StreamStopped{StreamID: row.ID, StoppedAt: *row.StoppedAt})
		}
		if err := l.floatAll(events); err != nil {
			return err
		}
	}
	return nil
}

// floatAll gives the events of one key again, anywhere.
func (l *Layout) floatAll(events []schema.Payload) error {
	for n, e := range events {
		if err := l.float(pipeline.TopicPartition{Topic: e.Topic(), Partition: l.partitionOf(e)}, -1, strconv.Itoa(n), e); err != nil {
			return err
		}
	}
	return nil
}

// placeBackfills gives the start of each backfill again, and its end if it was stopped.
func (l *Layout) placeBackfills(ctx context.Context) error {
	var rows []struct {
		ID        string          `db:"backfill_id"`
		Provider  schema.Provider `db:"provider"`
		Symbol    schema.Symbol   `db:"symbol"`
		From      schema.Time     `db:"from_time"`
		To        schema.Time     `db:"to_time"`
		Status    string          `db:"status"`
		StartedAt schema.Time     `db:"started_at"`
		EndedAt   *schema.Time    `db:"ended_at"`
	}
	if err := l.View.Select(ctx, &rows, `SELECT backfill_id, provider, symbol, from_time, to_time, status, started_at, ended_at FROM backfills ORDER BY started_at, backfill_id`); err != nil {
		return fmt.Errorf("reading backfills: %w", err)
	}
	for _, row := range rows {
		events := []schema.Payload{schema.BackfillStarted{BackfillID: row.ID, Provider: row.Provider, Symbol: row.Symbol, From: row.From, To: row.To, StartedAt: row.StartedAt}}
		if row.Status == "stopped" && row.EndedAt != nil {
			events = append(events, schema.BackfillStopped{BackfillID: row.ID, StoppedAt: *row.EndedAt})
		}
		if err := l.floatAll(events); err != nil {
			return err
		}
	}
	return nil
}
