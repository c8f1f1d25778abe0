package pipelinetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/schema"
)

// HandlerSuite is a handler that is held to its duties:
//
//	func TestHandler(t *testing.T) {
//		pipelinetest.RunHandler(t, pipelinetest.HandlerSuite{Name: echo.Name, New: newEcho, Draw: drawLog})
//	}
type HandlerSuite struct {
	// Name is that of its module, which says what it takes and gives.
	Name string
	// New makes the handler as a process does when it starts. It is called often,
	// and what it returns must share nothing.
	New func() (pipeline.Handler, error)
	// Draw draws the events of a log: those that the handler takes, so that it makes
	// something of them.
	Draw func(*rapid.T) []schema.Payload
}

// validate reports what is missing. All fields are required.
func (s HandlerSuite) validate() error {
	var errs []error
	if !slices.ContainsFunc(pipeline.Handlers(), func(m pipeline.HandlerModule) bool { return m.Name == s.Name }) {
		errs = append(errs, fmt.Errorf("pipelinetest: HandlerSuite.Name: there is no handler %q: its package registers it, by pipeline.RegisterHandler", s.Name))
	}
	if s.New == nil {
		errs = append(errs, errors.New("pipelinetest: HandlerSuite.New is required: it makes the handler"))
	}
	if s.Draw == nil {
		errs = append(errs, errors.New("pipelinetest: HandlerSuite.Draw is required: it draws the events that the handler takes"))
	}
	return errors.Join(errs...)
}

// RunHandler checks, each as a subtest, what the handler makes of a log, ids and all:
//
//   - batches: it is the same however the log is cut into batches, in whatever order
//     those of several partitions come, when batches are rolled back and tried again,
//     when the session begins again and when the process is another one from the
//     middle on;
//   - replay: a whole log at once gives what it gave record by record, and that is
//     not nothing;
//   - clock: a log that is read again years later gives the same;
//   - poison: what cannot be decoded becomes dead letters, and the rest of the log
//     gives what it gives without.
func RunHandler(t *testing.T, s HandlerSuite) {
	t.Helper()
	require.NoError(t, s.validate())
	t.Run("batches", func(t *testing.T) { t.Parallel(); s.batches(t, New(t), New(t)) })
	t.Run("replay", func(t *testing.T) { t.Parallel(); s.replay(t, New(t), New(t)) })
	t.Run("clock", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { s.clock(t, New(t), New(t)) })
	})
	t.Run("poison", func(t *testing.T) { t.Parallel(); s.poison(t, New(t), New(t)) })
}

// examples are so many logs for the checks that do not draw.
const examples = 10

func (s HandlerSuite) example(number int) []schema.Payload {
	return rapid.Custom(s.Draw).Example(number)
}

// years is how long the clock check waits, in a bubble where waiting takes no time:
// any part of a date is another one afterwards.
const years = (3*365+100)*24*time.Hour + 13*time.Hour + 17*time.Minute + 19*time.Second + 123457*time.Microsecond

// run has a handler of its own read what deliver delivers, and returns the
// results.
func (s HandlerSuite) run(t TB, rig *Rig, deliver func(*Stage)) []string {
	t.Helper()
	h, err := s.New()
	require.NoError(t, err)
	stage := rig.StartHandler(t, s.Name, h)
	deliver(stage)
	stage.Close(t)
	return s.made(t, rig)
}

// made is what was published since it was last asked for.
func (s HandlerSuite) made(t TB, rig *Rig) []string {
	t.Helper()
	var all []string
	for _, m := range pipeline.Handlers() {
		if m.Name != s.Name {
			continue
		}
		for _, topic := range (engine.StageSpec{Consumes: m.Produces}).Topics() {
			for _, e := range rig.Events(t, topic) {
				_, value, err := e.Encode()
				require.NoError(t, err)
				all = append(all, fmt.Sprintf("%s %s %s", e.ID, e.Payload.EventType(), value))
			}
		}
	}
	slices.Sort(all)
	return all
}

// oneByOne is the plainest way to read a log.
func oneByOne(t TB, log []pipeline.Record) func(*Stage) {
	return func(stage *Stage) {
		for _, r := range log {
			require.NoError(t, stage.Deliver(r))
		}
	}
}

func atOnce(t TB, log []pipeline.Record) func(*Stage) {
	return func(stage *Stage) { require.NoError(t, stage.Deliver(log...)) }
}

// Both rigs are given the same logs, one after the other, so both handlers have
// the same past.
func (s HandlerSuite) batches(t rapid.TB, plain, other *Rig) {
	rapid.Check(t, func(t *rapid.T) {
		payloads := s.Draw(t)
		want := s.run(t, plain, oneByOne(t, plain.AppendAll(t, payloads...)))
		order := Interleave(t, other.AppendAll(t, payloads...))
		middle := rapid.IntRange(0, len(order)).Draw(t, "another process from")
		got := s.run(t, other, func(stage *Stage) { DeliverInPieces(t, stage, order[:middle]) })
		got = append(got, s.run(t, other, func(stage *Stage) { DeliverInPieces(t, stage, order[middle:]) })...)
		slices.Sort(got)
		require.Equal(t, want, got, "what is made depends on the batches, on a rollback or on a restart (-: one record at a time)")
	})
}

func (s HandlerSuite) replay(t TB, live, replayed *Rig) {
	made := 0
	for i := range examples {
		want := s.run(t, live, oneByOne(t, live.AppendAll(t, s.example(i)...)))
		got := s.run(t, replayed, atOnce(t, replayed.AppendAll(t, s.example(i)...)))
		require.Equal(t, want, got, "a replay makes something else than the live run (-: live)")
		made += len(want)
	}
	require.NotZero(t, made, "the handler made nothing of any log that was drawn, so no check has seen any of its events: let HandlerSuite.Draw draw more")
}

func (s HandlerSuite) clock(t TB, now, later *Rig) {
	for i := range examples {
		want := s.run(t, now, atOnce(t, now.AppendAll(t, s.example(i)...)))
		time.Sleep(years)
		got := s.run(t, later, atOnce(t, later.AppendAll(t, s.example(i)...)))
		require.Equal(t, want, got, "what is made depends on when the log is read: the handler reads a clock")
	}
}

func (s HandlerSuite) poison(t TB, plain, other *Rig) {
	for i := range examples {
		log := plain.AppendAll(t, s.example(i)...)
		spoilt := other.AppendAll(t, s.example(i)...)
		var good []pipeline.Record
		for k := range log {
			if k%3 == 1 {
				spoilt[k].Value = []byte(`{"symbol":`)
			} else {
				good = append(good, log[k])
			}
		}
		want := s.run(t, plain, oneByOne(t, good))
		got := s.run(t, other, func(stage *Stage) {
			if err := stage.Deliver(spoilt...); len(good) < len(log) {
				require.ErrorContains(t, err, "became dead letters")
			} else {
				require.NoError(t, err)
			}
		})
		require.Equal(t, want, got, "poison between the records changes what is made of them (-: without)")
	}
}
