package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// SourceSpec declares a source of a runtime.
type SourceSpec struct {
	Name string
	// Produces are the types of the events it may emit.
	Produces []schema.EventType
	Runner   pipeline.Runner
}

// source is a source of this process.
type source struct {
	spec SourceSpec
	mu   sync.Mutex
	err  error
}

func (s *source) setTrouble(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *source) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// keepRunning calls a runner again after it failed.
func keepRunning(ctx context.Context, runner pipeline.Runner, emit pipeline.Emitter, log *slog.Logger, setTrouble func(error)) {
	for {
		began := time.Now()
		setTrouble(nil)
		err := guard(func() error { return runner.Run(ctx, emit) })
		if ctx.Err() != nil {
			return
		}
		level := slog.LevelWarn // a database or a log that is slow or away
		if err == nil || pipeline.IsPermanent(err) {
			level = slog.LevelError // the runner's own fault
		}
		if err == nil {
			err = errors.New("it returned")
		}
		// Even a record's fault is no reason to stop: no one else would continue.
		setTrouble(fmt.Errorf("the runner stopped: %w", err))
		pause := runnerPause
		if time.Since(began) > runnerPause {
			pause = 0 // it had been running well
		}
		log.Log(ctx, level, "runner failed, restarting", "after", pause, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// runnerPause is how long a runner that stopped at once waits for its next
// start.
const runnerPause = time.Second

// ErrUndeclared says that a part gave an event that it does not declare. What is
// not declared is in no picture, and no check at the start can see who needs it.
var ErrUndeclared = errors.New("an event that it does not declare: list its type in Produces")

// checkDeclared reports an event whose type is none of produces.
func checkDeclared(who string, produces []schema.EventType, events []schema.Event) error {
	for _, event := range events {
		if event.Payload == nil {
			return fmt.Errorf("%s gave an event without a payload", who)
		}
		if t := event.Payload.EventType(); !slices.Contains(produces, t) {
			return fmt.Errorf("%s gave %s: %w", who, t, ErrUndeclared)
		}
	}
	return nil
}

// Declared returns an Emitter for events of these types; any other is ErrUndeclared.
// who is for the error.
func Declared(emit pipeline.Emitter, who string, produces []schema.EventType) pipeline.Emitter {
	return declared{emit, who, produces}
}

type declared struct {
	pipeline.Emitter
	who      string
	produces []schema.EventType
}

// Emit implements Emitter.
func (d declared) Emit(ctx context.Context, f func(tx *pipeline.Tx) ([]schema.Event, error)) ([]pipeline.Token, error) {
	return d.Emitter.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		events, err := f(tx)
		if err == nil {
			err = checkDeclared(d.who, d.produces, events)
		}
		return events, err
	})
}

// Append implements Emitter.
func (d declared) Append(ctx context.Context, events []schema.Event) error {
	if err := checkDeclared(d.who, d.produces, events); err != nil {
		return err
	}
	return d.Emitter.Append(ctx, events)
}
