package schema

// LogGap is at an offset of a topic that was filled again from the database, where the
// database does not know which record was there. It says nothing: every stage skips it. It is the
// one event that is on any topic and any partition.
type LogGap struct {
	// FilledAt is when filling the topic began.
	FilledAt Time `json:"filled_at"`
}

// EventType implements Payload.
func (LogGap) EventType() EventType { return "log.gap.v1" }

// Topic implements Payload. It is one of those that it can be on.
func (LogGap) Topic() Topic { return PollingJobs }

// Key implements Payload: it is of no key.
func (LogGap) Key() string { return "" }

// OccurredAt implements Payload.
func (g LogGap) OccurredAt() Time { return g.FilledAt }

// Validate implements Payload.
func (g LogGap) Validate() error { return requiredTime("filled_at", g.FilledAt) }

func init() { Register[LogGap]() }
