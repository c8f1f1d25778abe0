package schema

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Bounds of a polling job. The lower bound of the interval is the default of a
// setting; see the configuration of the HTTP API.
const (
	MaxJobSymbols      = 10
	MinPollingInterval = 60   // seconds
	MaxPollingInterval = 3600 // seconds
)

// PollingJobCreated starts a polling job: each symbol is fetched at once and
// then every Interval seconds.
type PollingJobCreated struct {
	JobID   string   `json:"job_id"`
	Symbols []Symbol `json:"symbols"`
	// Interval is in seconds.
	Interval  int      `json:"interval"`
	Provider  Provider `json:"provider"`
	CreatedAt Time     `json:"created_at"`
}

// EventType implements Payload.
func (PollingJobCreated) EventType() EventType { return "polling.job.created.v1" }

// Topic implements Payload.
func (PollingJobCreated) Topic() Topic { return PollingJobs }

// Key is the job's id.
func (j PollingJobCreated) Key() string { return j.JobID }

// OccurredAt implements Payload.
func (j PollingJobCreated) OccurredAt() Time { return j.CreatedAt }

// Validate implements Payload.
func (j PollingJobCreated) Validate() error {
	errs := []error{requiredIDOf("job_id", j.JobID, MaxJobID), j.Provider.Validate(), requiredTime("created_at", j.CreatedAt)}
	if len(j.Symbols) < 1 || len(j.Symbols) > MaxJobSymbols {
		errs = append(errs, fmt.Errorf("symbols: %d, not within 1 and %d", len(j.Symbols), MaxJobSymbols))
	}
	for _, symbol := range j.Symbols {
		errs = append(errs, symbol.Validate())
	}
	if j.Interval < 1 || j.Interval > MaxPollingInterval {
		errs = append(errs, fmt.Errorf("interval: %d s, not within 1 and %d", j.Interval, MaxPollingInterval))
	}
	return errors.Join(errs...)
}

// PollingJobRan says that a job's slot came and its fetch requests were made.
type PollingJobRan struct {
	JobID string `json:"job_id"`
	RanAt Time   `json:"ran_at"`
	// Slot is when the run was due.
	Slot Time `json:"slot"`
}

// EventType implements Payload.
func (PollingJobRan) EventType() EventType { return "polling.job.ran.v1" }

// Topic implements Payload.
func (PollingJobRan) Topic() Topic { return PollingJobs }

// Key is the job's id.
func (j PollingJobRan) Key() string { return j.JobID }

// OccurredAt implements Payload.
func (j PollingJobRan) OccurredAt() Time { return j.RanAt }

// Validate implements Payload.
func (j PollingJobRan) Validate() error {
	return errors.Join(requiredIDOf("job_id", j.JobID, MaxJobID), requiredTime("ran_at", j.RanAt), requiredTime("slot", j.Slot))
}

// PollingJobPaused says that a job makes no requests until it is resumed. Said
// again, or of a job that was stopped, it changes nothing.
type PollingJobPaused struct {
	JobID    string `json:"job_id"`
	PausedAt Time   `json:"paused_at"`
}

// EventType implements Payload.
func (PollingJobPaused) EventType() EventType { return "polling.job.paused.v1" }

// Topic implements Payload.
func (PollingJobPaused) Topic() Topic { return PollingJobs }

// Key is the job's id.
func (j PollingJobPaused) Key() string { return j.JobID }

// OccurredAt implements Payload.
func (j PollingJobPaused) OccurredAt() Time { return j.PausedAt }

// Validate implements Payload.
func (j PollingJobPaused) Validate() error {
	return errors.Join(requiredIDOf("job_id", j.JobID, MaxJobID), requiredTime("paused_at", j.PausedAt))
}

// PollingJobResumed says that a paused job continues with its next slot; those it
// missed stay missed. Said of a job that is not paused, it changes nothing.
type PollingJobResumed struct {
	JobID     string `json:"job_id"`
	ResumedAt Time   `json:"resumed_at"`
}

// EventType implements Payload.
func (PollingJobResumed) EventType() EventType { return "polling.job.resumed.v1" }

// Topic implements Payload.
func (PollingJobResumed) Topic() Topic { return PollingJobs }

// Key is the job's id.
func (j PollingJobResumed) Key() string { return j.JobID }

// OccurredAt implements Payload.
func (j PollingJobResumed) OccurredAt() Time { return j.ResumedAt }

// Validate implements Payload.
func (j PollingJobResumed) Validate() error {
	return errors.Join(requiredIDOf("job_id", j.JobID, MaxJobID), requiredTime("resumed_at", j.ResumedAt))
}

// PollingJobStopped says that a job has ended. Nothing brings it back.
type PollingJobStopped struct {
	JobID     string `json:"job_id"`
	StoppedAt Time   `json:"stopped_at"`
}

// EventType implements Payload.
func (PollingJobStopped) EventType() EventType { return "polling.job.stopped.v1" }

// Topic implements Payload.
func (PollingJobStopped) Topic() Topic { return PollingJobs }

// Key is the job's id.
func (j PollingJobStopped) Key() string { return j.JobID }

// OccurredAt implements Payload.
func (j PollingJobStopped) OccurredAt() Time { return j.StoppedAt }

// Validate implements Payload.
func (j PollingJobStopped) Validate() error {
	return errors.Join(requiredIDOf("job_id", j.JobID, MaxJobID), requiredTime("stopped_at", j.StoppedAt))
}

// JobStatus says whether a job runs.
type JobStatus string

// The statuses of a job. A stopped one stays so.
const (
	JobActive  JobStatus = "active"
	JobPaused  JobStatus = "paused"
	JobStopped JobStatus = "stopped"
)

// JobState is what the events of a job say about its runs. The scheduler and
// the read model follow it alike. The zero value is a job that does not exist.
type JobState struct {
	Status JobStatus
	// Interval is in seconds.
	Interval int
	// NextRun is the slot that is due next, if the job is active by then.
	NextRun Time
}

// After is the state after one more event of the job; an event that says
// nothing new leaves it as it is.
func (j JobState) After(event Payload) JobState {
	switch e := event.(type) {
	case PollingJobCreated:
		if j.Status == "" {
			return JobState{JobActive, e.Interval, e.CreatedAt}
		}
	case PollingJobRan:
		if j.Status == "" {
			break
		}
		if next := nextSlot(e.Slot, e.RanAt, j.Interval); next.After(j.NextRun) {
			j.NextRun = next
		}
	case PollingJobPaused:
		if j.Status == JobActive {
			j.Status = JobPaused
		}
	case PollingJobResumed:
		if j.Status == JobPaused {
			j.Status, j.NextRun = JobActive, nextSlot(j.NextRun, e.ResumedAt, j.Interval)
		}
	case PollingJobStopped:
		if j.Status != "" {
			j.Status = JobStopped
		}
	}
	return j
}

// nextSlot is the first slot after now of a job that has one every interval
// seconds; slot itself while it is ahead. Slots that passed while no process
// ran are skipped: old quotes are no longer available, and a burst is of no use.
func nextSlot(slot, now Time, interval int) Time {
	if slot.After(now) {
		return slot
	}
	// In microseconds, not in Durations, which end after 292 years: events may hold
	// any time of the years that there are, and so must what follows from them.
	step := int64(interval) * int64(time.Second/time.Microsecond)
	missed := (now.UnixMicro() - slot.UnixMicro()) / step
	next := NewTime(time.UnixMicro(slot.UnixMicro() + (missed+1)*step))
	if next.After(maxTime) {
		return maxTime
	}
	return next
}

// JobRequestID names a fetch request of a job: the job's id, a point, and an id
// without one. An outcome says nothing of its request but this name, and so
// tells which job it is for, wherever it is read.
func JobRequestID(jobID, id string) string { return jobID + "." + id }

// JobOfRequest is the job that a fetch request was made for; empty for one that
// was made by REST.
func JobOfRequest(requestID string) string {
	return requestID[:max(0, strings.LastIndexByte(requestID, '.'))]
}

// The order here is that of the data's way, and of Topics.
func init() {
	Register[PollingJobCreated]()
	Register[PollingJobRan]()
	Register[PollingJobPaused]()
	Register[PollingJobResumed]()
	Register[PollingJobStopped]()
	Register[FetchRequested]()
	Register[QuoteFetched]()
	Register[QuoteStored]()
	Register[PriceObserved]()
	Register[BarObserved]()
	Register[PriceCorrected]()
	Register[PriceRetracted]()
	Register[PriceAdded]()
	Register[QuoteFailed]()
	Register[QuoteRejected]()
	Register[QuoteUnchanged]()
}
