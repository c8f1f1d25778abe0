package schema

import (
	"errors"
	"fmt"
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
	errs := []error{required("job_id", j.JobID), j.Provider.Validate(), requiredTime("created_at", j.CreatedAt)}
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
	return errors.Join(required("job_id", j.JobID), requiredTime("ran_at", j.RanAt), requiredTime("slot", j.Slot))
}

// The order here is that of the data's way, and of Topics.
func init() {
	Register[PollingJobCreated]()
	Register[PollingJobRan]()
	Register[FetchRequested]()
	Register[QuoteFetched]()
	Register[QuoteStored]()
	Register[PriceObserved]()
	Register[QuoteFailed]()
	Register[QuoteRejected]()
	Register[QuoteUnchanged]()
}
