package schema

import (
	"errors"
	"fmt"
)

// MaxStreamSymbols bounds the symbols of a stream.
const MaxStreamSymbols = 50

// StreamStarted subscribes to what a provider sends by itself, until the stream
// is stopped.
type StreamStarted struct {
	StreamID  string   `json:"stream_id"`
	Provider  Provider `json:"provider"`
	Symbols   []Symbol `json:"symbols"`
	StartedAt Time     `json:"started_at"`
}

// EventType implements Payload.
func (StreamStarted) EventType() EventType { return "stream.started.v1" }

// Topic implements Payload.
func (StreamStarted) Topic() Topic { return PollingJobs }

// Key is the stream's id.
func (s StreamStarted) Key() string { return s.StreamID }

// OccurredAt implements Payload.
func (s StreamStarted) OccurredAt() Time { return s.StartedAt }

// Validate implements Payload.
func (s StreamStarted) Validate() error {
	return errors.Join(requiredID("stream_id", s.StreamID), s.Provider.Validate(), requiredTime("started_at", s.StartedAt), streamSymbols(s.Symbols))
}

// streamSymbols checks what a stream listens for.
func streamSymbols(symbols []Symbol) error {
	var errs []error
	if len(symbols) < 1 || len(symbols) > MaxStreamSymbols {
		errs = append(errs, fmt.Errorf("symbols: %d, not within 1 and %d", len(symbols), MaxStreamSymbols))
	}
	for _, symbol := range symbols {
		errs = append(errs, symbol.Validate())
	}
	return errors.Join(errs...)
}

// StreamChanged gives a stream other symbols, in place of all that it had. It says nothing
// of a stream that is stopped.
type StreamChanged struct {
	StreamID  string   `json:"stream_id"`
	Symbols   []Symbol `json:"symbols"`
	ChangedAt Time     `json:"changed_at"`
}

// EventType implements Payload.
func (StreamChanged) EventType() EventType { return "stream.changed.v1" }

// Topic implements Payload.
func (StreamChanged) Topic() Topic { return PollingJobs }

// Key is the stream's id.
func (s StreamChanged) Key() string { return s.StreamID }

// OccurredAt implements Payload.
func (s StreamChanged) OccurredAt() Time { return s.ChangedAt }

// Validate implements Payload.
func (s StreamChanged) Validate() error {
	return errors.Join(requiredID("stream_id", s.StreamID), streamSymbols(s.Symbols), requiredTime("changed_at", s.ChangedAt))
}

// StreamStopped says that a stream has ended. Nothing brings it back.
type StreamStopped struct {
	StreamID  string `json:"stream_id"`
	StoppedAt Time   `json:"stopped_at"`
}

// EventType implements Payload.
func (StreamStopped) EventType() EventType { return "stream.stopped.v1" }

// Topic implements Payload.
func (StreamStopped) Topic() Topic { return PollingJobs }

// Key is the stream's id.
func (s StreamStopped) Key() string { return s.StreamID }

// OccurredAt implements Payload.
func (s StreamStopped) OccurredAt() Time { return s.StoppedAt }

// Validate implements Payload.
func (s StreamStopped) Validate() error {
	return errors.Join(requiredID("stream_id", s.StreamID), requiredTime("stopped_at", s.StoppedAt))
}

func init() {
	Register[StreamStarted]()
	Register[StreamChanged]()
	Register[StreamStopped]()
}
