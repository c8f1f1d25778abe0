package schema

import (
	"errors"
	"fmt"
)

// BackfillStarted asks for the prices that a provider has of a symbol and a span of time, both
// ends included.
type BackfillStarted struct {
	BackfillID string   `json:"backfill_id"`
	Provider   Provider `json:"provider"`
	Symbol     Symbol   `json:"symbol"`
	From       Time     `json:"from"`
	To         Time     `json:"to"`
	StartedAt  Time     `json:"started_at"`
}

// EventType implements Payload.
func (BackfillStarted) EventType() EventType { return "backfill.started.v1" }

// Topic implements Payload.
func (BackfillStarted) Topic() Topic { return PollingJobs }

// Key is the backfill's id.
func (b BackfillStarted) Key() string { return b.BackfillID }

// OccurredAt implements Payload.
func (b BackfillStarted) OccurredAt() Time { return b.StartedAt }

// Validate implements Payload.
func (b BackfillStarted) Validate() error {
	errs := []error{requiredID("backfill_id", b.BackfillID), b.Provider.Validate(), b.Symbol.Validate(),
		requiredTime("from", b.From), requiredTime("to", b.To), requiredTime("started_at", b.StartedAt)}
	if b.From.After(b.To) {
		errs = append(errs, fmt.Errorf("from: %s is after to, %s", b.From, b.To))
	}
	return errors.Join(errs...)
}

// BackfillStopped ends a backfill that has not ended yet. Nothing brings it back.
type BackfillStopped struct {
	BackfillID string `json:"backfill_id"`
	StoppedAt  Time   `json:"stopped_at"`
}

// EventType implements Payload.
func (BackfillStopped) EventType() EventType { return "backfill.stopped.v1" }

// Topic implements Payload.
func (BackfillStopped) Topic() Topic { return PollingJobs }

// Key is the backfill's id.
func (b BackfillStopped) Key() string { return b.BackfillID }

// OccurredAt implements Payload.
func (b BackfillStopped) OccurredAt() Time { return b.StoppedAt }

// Validate implements Payload.
func (b BackfillStopped) Validate() error {
	return errors.Join(requiredID("backfill_id", b.BackfillID), requiredTime("stopped_at", b.StoppedAt))
}

func init() {
	Register[BackfillStarted]()
	Register[BackfillStopped]()
}
