package pipelinetest

import (
	"cmp"
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
	"github.com/pricemill/pricemill/pipeline/pipelinetest/shrink"
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

// errNoLog says that no log is delivered like this.
var errNoLog = errors.New("records of a partition are not in order")

// run has a handler of its own read a case, whose records are in the rig, and returns the
// results.
func (s HandlerSuite) run(t TB, rig *Rig, c shrink.Case) ([]string, error) {
	t.Helper()
	records := rig.AppendAll(t, c.Payloads()...)
	if !c.InOrder(records) {
		return nil, errNoLog
	}
	err := shrink.Deliver(c, records, func() *Stage {
		h, err := s.New()
		require.NoError(t, err)
		return rig.StartHandler(t, s.Name, h)
	}, func(stage *Stage) { stage.Close(t) })
	return s.made(t, rig), err
}

// compare has one handler read a case as wanted says, and another one as it is. Both rigs
// are given the same logs, one after the other, so both handlers have the same past.
func (s HandlerSuite) compare(t TB, plain, other *Rig, wanted func(shrink.Case) shrink.Case) func(shrink.Case) shrink.Result {
	return func(c shrink.Case) shrink.Result {
		want, err := s.run(t, plain, wanted(c))
		got, errOfOther := s.run(t, other, c)
		if errors.Is(errOfOther, errNoLog) {
			return shrink.Result{}
		}
		return shrink.Result{Want: want, Got: got, Err: cmp.Or(err, errOfOther)}
	}
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
				all = append(all, fmt.Sprintf("%s %s (id %s)", e.Payload.EventType(), value, e.ID))
			}
		}
	}
	slices.Sort(all)
	return all
}

// tb is what the checks that draw need of a test.
type tb interface {
	TB
	rapid.TB
}

// oneByOne says where the right results come from.
const oneByOne = "one record at a time"

func (s HandlerSuite) batches(t tb, plain, other *Rig) {
	shrink.Check(t, func(t *rapid.T) shrink.Case {
		payloads := s.Draw(t)
		other.AppendAll(t, payloads...) // the same past
		return shrink.Draw(t, payloads, plain.AppendAll(t, payloads...))
	}, "what is made depends on the batches, on a rollback or on a restart", oneByOne, s.compare(t, plain, other, shrink.Case.OneByOne))
}

func (s HandlerSuite) replay(t TB, live, replayed *Rig) {
	made := 0
	for i := range examples {
		result := shrink.Require(t, shrink.New(s.example(i)), "a replay makes something else than the live run", "live, "+oneByOne,
			s.compare(t, live, replayed, shrink.Case.OneByOne))
		made += len(result.Want)
	}
	require.NotZero(t, made, "the handler made nothing of any log that was drawn, so no check has seen any of its events: let HandlerSuite.Draw draw more")
}

func (s HandlerSuite) clock(t TB, now, later *Rig) {
	for i := range examples {
		shrink.Require(t, shrink.New(s.example(i)), "what is made depends on when the log is read: the handler reads a clock", "years before",
			func(c shrink.Case) shrink.Result {
				want, err := s.run(t, now, c)
				time.Sleep(years)
				got, errOfLater := s.run(t, later, c)
				return shrink.Result{Want: want, Got: got, Err: cmp.Or(err, errOfLater)}
			})
	}
}

func (s HandlerSuite) poison(t TB, plain, other *Rig) {
	for i := range examples {
		shrink.Require(t, shrink.New(s.example(i)).Spoil(), "poison between the records changes what is made of them", "without it, "+oneByOne,
			s.compare(t, plain, other, shrink.Case.OneByOne))
	}
}
