package jobs_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// drawLog gives jobs, some created twice, and runs: out of order, and of jobs
// that do not exist.
func drawLog(t *rapid.T) []schema.Payload {
	var payloads []schema.Payload
	for i := range rapid.IntRange(1, 30).Draw(t, "events") {
		id := rapid.SampledFrom([]string{"poll_a", "poll_b", "poll_c", "poll_d"}).Draw(t, "job")
		if rapid.Bool().Draw(t, "create") {
			payloads = append(payloads, schema.PollingJobCreated{JobID: id, Symbols: []schema.Symbol{"A", "BRK.B"}, Interval: 60 + i,
				Provider: "p", CreatedAt: at(i)})
			continue
		}
		ran := at(rapid.IntRange(0, 9).Draw(t, "ran at"))
		payloads = append(payloads, schema.PollingJobRan{JobID: id, RanAt: ran, Slot: ran})
	}
	return payloads
}

type row struct {
	JobID     string                `db:"job_id"`
	Symbols   string                `db:"symbols"`
	Interval  int                   `db:"interval"`
	Provider  schema.Provider       `db:"provider"`
	Status    jobs.Status           `db:"status"`
	CreatedAt schema.Time           `db:"created_at"`
	LastRun   sql.Null[schema.Time] `db:"last_run"`
}

// The first creation counts, and the last run of those behind it.
func TestJobsHoweverTheLogIsCut(t *testing.T) {
	t.Parallel()
	pipelinetest.CheckFold(t, newProjection(t), drawLog, func(t *rapid.T, f pipelinetest.Fold) {
		want := map[string]row{}
		for _, r := range f.Log {
			switch p := r.Event.Payload.(type) {
			case schema.PollingJobCreated:
				if _, known := want[p.JobID]; !known {
					want[p.JobID] = row{JobID: p.JobID, Symbols: `["A","BRK.B"]`, Interval: p.Interval, Provider: "p",
						Status: jobs.Active, CreatedAt: p.CreatedAt}
				}
			case schema.PollingJobRan:
				job, known := want[p.JobID]
				if known && (!job.LastRun.Valid || p.RanAt.After(job.LastRun.V)) {
					job.LastRun = sql.Null[schema.Time]{V: p.RanAt, Valid: true}
					want[p.JobID] = job
				}
			}
		}
		var rows []row
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT job_id, symbols, interval, provider, status, created_at,
			last_run FROM `+f.Generation.Table("polling_jobs")))
		got := map[string]row{}
		for _, r := range rows {
			got[r.JobID] = r
		}
		require.Equal(t, fmt.Sprint(want), fmt.Sprint(got))
	})
}
