package jobs_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/projectiontest"
	_ "github.com/pricemill/pricemill/projections/requests" // whose tables jobs are shown with
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProjection(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, projectiontest.Suite{New: func() (pipeline.Projection, error) { return newProjection(t), nil }, Draw: drawLog})
}

func newProjection(t *testing.T) pipeline.Projection {
	t.Helper()
	for _, module := range pipeline.Projections() {
		if module.Name == jobs.Name {
			p, err := module.New(pipeline.Env{})
			require.NoError(t, err)
			return p
		}
	}
	require.Fail(t, "not registered")
	return nil
}

func at(second int) schema.Time { return schema.NewTime(time.Unix(int64(second), 0)) }

// drawLog gives jobs, some created twice, and what may be said of one: out of
// order, and of jobs that do not exist.
func drawLog(t *rapid.T) []schema.Payload {
	var payloads []schema.Payload
	for i := range rapid.IntRange(1, 30).Draw(t, "events") {
		id := rapid.SampledFrom([]string{"poll_a", "poll_b", "poll_c", "poll_d"}).Draw(t, "job")
		when := at(rapid.IntRange(0, 500).Draw(t, "when"))
		payloads = append(payloads, rapid.SampledFrom([]schema.Payload{
			schema.PollingJobCreated{JobID: id, Symbols: []schema.Symbol{"A", "BRK.B"}, Interval: 60 + i, Provider: "p", CreatedAt: at(i)},
			schema.PollingJobRan{JobID: id, RanAt: when, Slot: at(i)},
			schema.PollingJobPaused{JobID: id, PausedAt: when},
			schema.PollingJobResumed{JobID: id, ResumedAt: when},
			schema.PollingJobStopped{JobID: id, StoppedAt: when},
		}).Draw(t, "event"))
	}
	return payloads
}

type row struct {
	JobID     string                `db:"job_id"`
	Symbols   string                `db:"symbols"`
	Interval  int                   `db:"interval"`
	Provider  schema.Provider       `db:"provider"`
	Status    schema.JobStatus      `db:"status"`
	CreatedAt schema.Time           `db:"created_at"`
	LastRun   sql.Null[schema.Time] `db:"last_run"`
	NextRun   schema.Time           `db:"next_run"`
	Runs      int                   `db:"runs"`
}

// The first creation counts, and what was said after it.
func TestJobsHoweverTheLogIsCut(t *testing.T) {
	t.Parallel()
	pipelinetest.CheckFold(t, newProjection(t), drawLog, func(t *rapid.T, f pipelinetest.Fold) {
		want := map[string]row{}
		for _, r := range f.Log {
			id := r.Event.Payload.Key()
			job, known := want[id]
			switch p := r.Event.Payload.(type) {
			case schema.PollingJobCreated:
				if !known {
					job = row{JobID: id, Symbols: `["A","BRK.B"]`, Provider: "p", CreatedAt: p.CreatedAt}
					known = true
				}
			case schema.PollingJobRan:
				job.Runs++
				if !job.LastRun.Valid || p.RanAt.After(job.LastRun.V) {
					job.LastRun = sql.Null[schema.Time]{V: p.RanAt, Valid: true}
				}
			}
			if known {
				state := schema.JobState{Status: job.Status, Interval: job.Interval, NextRun: job.NextRun}.After(r.Event.Payload)
				job.Status, job.Interval, job.NextRun = state.Status, state.Interval, state.NextRun
				want[id] = job
			}
		}
		var rows []row
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT job_id, symbols, interval, provider, status, created_at,
			last_run, next_run, runs FROM `+f.Generation.Table("polling_jobs")))
		got := map[string]row{}
		for _, r := range rows {
			got[r.JobID] = r
		}
		require.Equal(t, fmt.Sprint(want), fmt.Sprint(got))
	})
}

// feed opens both read models that the reader joins, and feeds them.
func feed(t *testing.T, payloads ...schema.Payload) jobs.Reader {
	t.Helper()
	rig := pipelinetest.New(t)
	log := rig.AppendAll(t, payloads...)
	for _, module := range pipeline.Projections() { // jobs, and requests
		p, err := module.New(pipeline.Env{})
		require.NoError(t, err)
		spec, err := projections.Open(t.Context(), rig.DB, p)
		require.NoError(t, err)
		stage := rig.Start(t, spec)
		var taken []pipeline.Record
		for _, r := range log {
			if slices.Contains(spec.Consumes, r.Event.Payload.EventType()) {
				taken = append(taken, r)
			}
		}
		require.NoError(t, stage.Deliver(taken...))
		stage.Close(t)
	}
	return jobs.Reader{DB: rig.DB}
}

func TestGet(t *testing.T) {
	t.Parallel()
	created := schema.PollingJobCreated{JobID: "poll_a", Symbols: []schema.Symbol{"A", "B"}, Interval: 60, Provider: "p", CreatedAt: at(0)}
	quote := func(symbol schema.Symbol) schema.Quote {
		return schema.Quote{Provider: "p", Symbol: symbol, RequestID: schema.JobRequestID("poll_a", string(symbol))}
	}
	failed := func(symbol schema.Symbol, second int) schema.QuoteFailed {
		return schema.QuoteFailed{Quote: quote(symbol), Code: schema.CodeNotConfigured, Reason: "no key", FailedAt: at(second)}
	}
	reader := feed(t, created,
		schema.PollingJobCreated{JobID: "poll_b", Symbols: []schema.Symbol{"A"}, Interval: 90, Provider: "q", CreatedAt: at(9)},
		schema.PollingJobPaused{JobID: "poll_b", PausedAt: at(10)},
		schema.PollingJobRan{JobID: "poll_a", Slot: at(0), RanAt: at(1)}, failed("A", 3), failed("B", 2),
		schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal("1"), Timestamp: at(4), ReceivedAt: at(4),
			RequestID: schema.JobRequestID("poll_a", "x")},
		schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal("1"), Timestamp: at(4), ReceivedAt: at(4), RequestID: "by-rest"},
	)
	job, err := reader.Get(t.Context(), "poll_a")
	require.NoError(t, err)
	assert.Equal(t, jobs.Job{JobID: "poll_a", Symbols: []schema.Symbol{"A", "B"}, Interval: 60, Provider: "p",
		Status: schema.JobActive, CreatedAt: at(0), NextRun: at(60), LastRun: at(1), Runs: 1, Prices: 1, Failures: 2,
		LastFailure: &jobs.Failure{Symbol: "A", Code: schema.CodeNotConfigured, Reason: "no key", At: at(3)}}, job)
	job, err = reader.Get(t.Context(), "poll_b")
	require.NoError(t, err)
	assert.Equal(t, jobs.Job{JobID: "poll_b", Symbols: []schema.Symbol{"A"}, Interval: 90, Provider: "q",
		Status: schema.JobPaused, CreatedAt: at(9)}, job)
	_, err = reader.Get(t.Context(), "poll_c")
	require.ErrorIs(t, err, projections.ErrNotFound)
}

func TestList(t *testing.T) {
	t.Parallel()
	var payloads []schema.Payload
	for i, id := range []string{"a", "b", "c", "d"} { // b and c at one time
		payloads = append(payloads, schema.PollingJobCreated{JobID: id, Symbols: []schema.Symbol{"A"}, Interval: 60, Provider: "p",
			CreatedAt: at([]int{1, 2, 2, 3}[i])})
	}
	reader := feed(t, payloads...)
	list := func(behind jobs.Place, limit int) string {
		found, err := reader.List(t.Context(), behind, limit)
		require.NoError(t, err)
		ids := ""
		for _, j := range found {
			ids += j.JobID
		}
		return ids
	}
	assert.Equal(t, "dcba", list(jobs.Place{}, 10))
	assert.Equal(t, "dc", list(jobs.Place{}, 2))
	assert.Equal(t, "ba", list(jobs.Place{CreatedAt: at(2), JobID: "c"}, 2))
	assert.Empty(t, list(jobs.Place{CreatedAt: at(1), JobID: "a"}, 2))
}

func TestAClosedDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	db := pipelinetest.OpenStore(t, t.TempDir()+"/db")
	require.NoError(t, db.Close())
	_, err := jobs.Reader{DB: db}.Get(t.Context(), "poll_a")
	require.ErrorIs(t, err, projections.ErrUnavailable)
	_, err = jobs.Reader{DB: db}.List(t.Context(), jobs.Place{}, 1)
	require.ErrorIs(t, err, projections.ErrUnavailable)
}
