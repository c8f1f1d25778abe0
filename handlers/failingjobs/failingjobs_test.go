package failingjobs_test

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/failingjobs"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is one that shares a database with others, and has a log of its own.
type process struct {
	rig *pipelinetest.Rig
	out *bytes.Buffer
	log *slog.Logger
}

func newProcess(t *testing.T, path string) *process {
	out := &bytes.Buffer{}
	plain := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	return &process{pipelinetest.On(t, pipelinetest.OpenStore(t, path)), out,
		slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: plain}))}
}

// note enters outcomes in one transaction, and returns what was logged.
func (p *process) note(t *testing.T, outcomes ...failingjobs.Outcome) []string {
	t.Helper()
	_, err := p.rig.Emitter().Emit(t.Context(), func(tx *pipeline.Tx) ([]schema.Event, error) {
		return nil, failingjobs.Note(t.Context(), tx, p.log, outcomes)
	})
	require.NoError(t, err)
	defer p.out.Reset()
	return strings.FieldsFunc(p.out.String(), func(r rune) bool { return r == '\n' })
}

func (p *process) rows(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, p.rig.DB.Get(t.Context(), &n, `SELECT count(*) FROM failing_jobs`))
	return n
}

func of(job string, symbol schema.Symbol, second int64, code schema.Code) failingjobs.Outcome {
	return failingjobs.Outcome{Quote: schema.Quote{Provider: "finnhub", Symbol: symbol, RequestID: schema.JobRequestID(job, "1")},
		At: schema.NewTime(time.Unix(second, 0)), Code: code, Reason: "why not"}
}

const (
	ok        = schema.Code("")
	noKey     = schema.CodeNotConfigured
	fails     = `level=WARN msg="polling job fails; the next line about it is when it has recovered" job=j provider=finnhub symbol=A code=not_configured reason="why not"`
	recovered = `level=INFO msg="polling job recovered" job=j provider=finnhub failed_since=1970-01-01T00:00:10.000000Z`
)

// TestAJobIsToldOnceWhenItFailsAndOnceWhenItHasRecovered, also of several symbols,
// some of which fail, across processes and restarts.
func TestAJobIsToldOnceWhenItFailsAndOnceWhenItHasRecovered(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	one, two := newProcess(t, path), newProcess(t, path)
	for i, step := range []struct {
		in   *process
		out  []failingjobs.Outcome
		want string
	}{
		{one, []failingjobs.Outcome{of("j", "A", 1, ok), of("j", "B", 1, ok)}, ""},
		{one, []failingjobs.Outcome{of("j", "A", 10, noKey), of("j", "B", 10, noKey)}, fails},
		{two, []failingjobs.Outcome{of("j", "B", 70, noKey)}, ""},
		{one, []failingjobs.Outcome{of("j", "A", 70, "rate_limited")}, ""},
		{newProcess(t, path), []failingjobs.Outcome{of("j", "A", 130, noKey)}, ""},
		{two, []failingjobs.Outcome{of("j", "B", 130, ok)}, ""}, // A fails still
		{two, []failingjobs.Outcome{of("j", "C", 130, ok)}, ""},
		{two, []failingjobs.Outcome{of("j", "A", 129, ok)}, ""}, // received before the last failure, but told after it
		{one, []failingjobs.Outcome{of("j", "A", 190, ok)}, recovered},
		{two, []failingjobs.Outcome{of("j", "A", 250, ok)}, ""},
		// Fails every other time, and is warned of once in ten minutes.
		{two, []failingjobs.Outcome{of("j", "A", 310, noKey)}, ""},
		{two, []failingjobs.Outcome{of("j", "A", 370, ok)}, ""},
		{one, []failingjobs.Outcome{of("j", "A", 609, noKey)}, ""},
		{newProcess(t, path), []failingjobs.Outcome{of("j", "A", 669, noKey)}, fails},
		{two, []failingjobs.Outcome{of("j", "A", 729, ok)}, strings.ReplaceAll(recovered, "00:00:10", "00:10:09")},
		{two, []failingjobs.Outcome{of("j", "A", 789, noKey), of("j", "A", 849, ok)}, ""},
		{two, []failingjobs.Outcome{of("j", "A", 1269, ok)}, ""},
		{one, []failingjobs.Outcome{of("j", "A", 1300, noKey), of("j", "A", 1360, ok)}, ""},
		{one, []failingjobs.Outcome{of("j", "A", 1420, ok), of("j", "A", 1480, noKey)}, fails},
		{one, []failingjobs.Outcome{of("j", "A", 5000, noKey)}, ""}, // for an hour now
		{two, []failingjobs.Outcome{of("j", "A", 9000, ok)}, strings.ReplaceAll(recovered, "00:00:10", "00:24:40")},
	} {
		assert.Equal(t, step.want, strings.Join(step.in.note(t, step.out...), "\n"), "step %d", i)
	}
	assert.Zero(t, one.rows(t), "what recovered leaves nothing")
}

func TestWhatNoJobAskedForIsNoFailureOfAJob(t *testing.T) {
	t.Parallel()
	p := newProcess(t, filepath.Join(t.TempDir(), "db"))
	alone := of("j", "A", 1, noKey)
	alone.Quote.RequestID = "0d9a4a4e-5b1f-4a39-9f35-6c1f1e2a7c55"
	stream := alone
	stream.Quote.RequestID = ""
	assert.Empty(t, p.note(t, alone, stream))
	assert.Zero(t, p.rows(t))
}

func TestARolledBackFailureIsNotTold(t *testing.T) {
	t.Parallel()
	p := newProcess(t, filepath.Join(t.TempDir(), "db"))
	_, err := p.rig.Emitter().Emit(t.Context(), func(tx *pipeline.Tx) ([]schema.Event, error) {
		require.NoError(t, failingjobs.Note(t.Context(), tx, p.log, []failingjobs.Outcome{of("j", "A", 10, noKey)}))
		return nil, assert.AnError
	})
	require.ErrorIs(t, err, assert.AnError)
	assert.Empty(t, p.out.String())
	assert.Equal(t, []string{fails}, p.note(t, of("j", "A", 10, noKey)), "it is told when it is kept")
}

// TestSymbolsOfOneJobFailAtOnce in several processes: one of them tells of it.
func TestSymbolsOfOneJobFailAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	symbols := []schema.Symbol{"A", "B", "C", "D"}
	lines := make([][]string, len(symbols))
	processes := make([]*process, len(symbols))
	for i := range symbols {
		processes[i] = newProcess(t, path)
	}
	round := func(second int64, code schema.Code) (told int) {
		var all sync.WaitGroup
		for i, symbol := range symbols {
			all.Go(func() { lines[i] = processes[i].note(t, of("j", symbol, second, code)) })
		}
		all.Wait()
		for _, l := range lines {
			told += len(l)
		}
		return told
	}
	for n := range int64(8) {
		assert.Equal(t, 1, round(1000*n+10, noKey), "begins to fail")
		assert.Equal(t, 0, round(1000*n+20, noKey), "fails still")
		assert.Equal(t, 1, round(1000*n+30, ok), "recovers")
	}
}
