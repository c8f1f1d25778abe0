package pipelinetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/schema"
)

// SourceSuite is a source that is held to its duties:
//
//	func TestSource(t *testing.T) {
//		pipelinetest.RunSource(t, pipelinetest.SourceSuite{Name: notes.Name, New: newSource, Events: 2})
//	}
type SourceSuite struct {
	// Name is that of its module, which says what it gives.
	Name string
	// New makes the source as a process does when it starts. It is called often; each
	// time the source finds the same world, such as the same file.
	New func() (pipeline.Runner, error)
	// Events is how many events that world has for the source, 1 or more.
	Events int
	// Limit is how long the source may take to emit an event, or to stop. 0 means 30 s.
	Limit time.Duration
}

// validate reports what is missing.
func (s SourceSuite) validate() error {
	var errs []error
	if !slices.ContainsFunc(pipeline.Sources(), func(m pipeline.SourceModule) bool { return m.Name == s.Name }) {
		errs = append(errs, fmt.Errorf("pipelinetest: SourceSuite.Name: there is no source %q: its package registers it, with pipeline.RegisterSource", s.Name))
	}
	if s.New == nil {
		errs = append(errs, errors.New("pipelinetest: SourceSuite.New is required: it makes the source"))
	}
	if s.Events < 1 {
		errs = append(errs, errors.New("pipelinetest: SourceSuite.Events is required: how many events there are to emit"))
	}
	return errors.Join(errs...)
}

// RunSource checks, each as a subtest:
//
//   - events: the source emits as many events as SourceSuite.Events says, each valid and
//     of a type that its module declares; on another database, the same events with the
//     same ids. Run does not return before its context is done, and returns nil then;
//   - restart: when the process ends after any number of events, the next one emits the
//     others, and none is lost;
//   - errors: the same where the log takes nothing, or takes the events but the answer
//     is lost. Run may return the error or try again by itself.
//
// An event may be emitted twice, if it has the same id and content.
func RunSource(t *testing.T, s SourceSuite) {
	t.Helper()
	require.NoError(t, s.validate())
	t.Run("events", func(t *testing.T) { t.Parallel(); s.events(t, New(t), New(t)) })
	for name, fault := range map[string]sourceFault{"restart": restarted, "errors/refused": refused, "errors/lost answer": answerLost} {
		t.Run(name, func(t *testing.T) { t.Parallel(); s.interrupted(t, fault, func() *Rig { return New(t) }) })
	}
}

// sourceFault is what happens to one call of a source's Emitter.
type sourceFault int

const (
	none       sourceFault = iota
	restarted              // the process ends after the call
	refused                // the call does nothing, and is an error
	answerLost             // the call does what it should, and is an error
)

var errFault = errors.New("the test has this call fail")

// recorder is an Emitter that keeps what was emitted, and has one of its calls fail.
type recorder struct {
	pipeline.Emitter
	want   int
	fault  sourceFault
	failAt int // the call, from 0

	mu      sync.Mutex
	calls   int
	events  map[string]string // by id
	changed error             // an id that came with other content
	// done is closed when all events are there, and cut when the process is to end.
	done, cut chan struct{}
	invalid   error
}

func (r *recorder) Emit(ctx context.Context, f func(tx *pipeline.Tx) ([]schema.Event, error)) ([]pipeline.Token, error) {
	var tokens []pipeline.Token
	err := r.call(func() ([]schema.Event, error) {
		var events []schema.Event
		var err error
		tokens, err = r.Emitter.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
			var err error
			events, err = f(tx)
			return events, err
		})
		return events, err
	})
	return tokens, err
}

func (r *recorder) Append(ctx context.Context, events []schema.Event) error {
	return r.call(func() ([]schema.Event, error) { return events, r.Emitter.Append(ctx, events) })
}

// call emits, and does the fault whose turn it is.
func (r *recorder) call(emit func() ([]schema.Event, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	fault := none
	if r.calls == r.failAt {
		fault = r.fault
	}
	r.calls++
	if fault == refused {
		return errFault
	}
	events, err := emit()
	if err != nil {
		return err
	}
	before := len(r.events)
	for _, e := range events {
		r.note(e)
	}
	if before < r.want && len(r.events) >= r.want {
		close(r.done)
	}
	switch fault {
	case answerLost:
		return errFault
	case restarted:
		close(r.cut)
	}
	return nil
}

func (r *recorder) note(e schema.Event) {
	_, value, err := e.Encode()
	if err != nil {
		r.invalid = err
		return
	}
	text := fmt.Sprintf("%s %s", e.Payload.EventType(), value)
	if old, known := r.events[e.ID]; known && old != text {
		r.changed = fmt.Errorf("the event %s is\n  %s\nand then\n  %s", e.ID, old, text)
	}
	r.events[e.ID] = text
}

// run runs sources one after the other, as processes do, until all events are there, and
// returns them by id.
func (s SourceSuite) run(t TB, rig *Rig, fault sourceFault, failAt int) map[string]string {
	t.Helper()
	var produces []schema.EventType
	for _, m := range pipeline.Sources() {
		if m.Name == s.Name {
			produces = m.Produces
		}
	}
	r := &recorder{Emitter: engine.Declared(rig.Emitter(), "source "+s.Name, produces), want: s.Events, fault: fault, failAt: failAt,
		events: map[string]string{}, done: make(chan struct{}), cut: make(chan struct{})}
	for again := true; again; {
		again = s.process(t, rig, r)
	}
	require.NoError(t, r.invalid, "an event that cannot be encoded")
	require.NoError(t, r.changed, "an id came again with other content: derive the id from all that makes the event")
	return r.events
}

// process runs a source in a process of its own, and reports whether another one has to
// follow.
func (s SourceSuite) process(t TB, rig *Rig, r *recorder) (again bool) {
	t.Helper()
	source, err := s.New()
	require.NoError(t, err)
	if owner, ok := source.(pipeline.TableOwner); ok {
		require.NoError(t, engine.CreateTables(context.Background(), rig.DB, owner))
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, r) }()
	limit := s.Limit
	if limit == 0 {
		limit = 30 * time.Second
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-r.cut:
		r.cut, again = nil, true // the next process is not cut
	case err := <-ended:
		require.ErrorIs(t, err, errFault, "Run returned before its context was done")
		return true
	case <-timer.C:
		r.mu.Lock()
		defer r.mu.Unlock()
		require.Fail(t, "events are missing", "%d of %d events came within %v: an event was lost, or SourceSuite.Events is wrong", len(r.events), s.Events, limit)
	}
	stop()
	select {
	case err := <-ended:
		if !errors.Is(err, errFault) {
			require.NoError(t, err, "Run when its context is done: want nil")
		}
	case <-timer.C:
		require.Fail(t, "Run did not return when its context was done", "within %v", limit)
	}
	return again
}

func (s SourceSuite) events(t TB, rig, other *Rig) {
	events := s.run(t, rig, none, 0)
	require.Len(t, events, s.Events, "events that the source emitted; SourceSuite.Events says how many there are")
	require.Equal(t, events, s.run(t, other, none, 0),
		"the same world gives other events: what an event is, and its id, must follow from the world, and not from a clock or chance")
}

// interrupted compares a source that a fault interrupts, at each call in turn, with one
// that nothing interrupts.
func (s SourceSuite) interrupted(t TB, fault sourceFault, rig func() *Rig) {
	want := s.run(t, rig(), none, 0)
	for failAt := range s.Events {
		got := s.run(t, rig(), fault, failAt)
		require.Equal(t, want, got, "the events that come out when call %d of the Emitter is interrupted (-: uninterrupted)", failAt+1)
	}
}
