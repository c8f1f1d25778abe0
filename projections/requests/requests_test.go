package requests_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/projectiontest"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProjection(t *testing.T) {
	t.Parallel()
	projectiontest.Run(t, projectiontest.Suite{New: func() (pipeline.Projection, error) { return newProjection(t), nil }, Draw: drawLog})
}

func newProjection(t testing.TB) pipeline.Projection {
	t.Helper()
	for _, module := range pipeline.Projections() {
		if module.Name == requests.Name {
			p, err := module.New(pipeline.Env{})
			require.NoError(t, err)
			return p
		}
	}
	require.Fail(t, "not registered")
	return nil
}

func at(second int) schema.Time { return schema.NewTime(time.Unix(int64(second), 0)) }

func quote(id string, symbol schema.Symbol) schema.Quote {
	return schema.Quote{Provider: "p", Symbol: symbol, RequestID: id}
}

func requested(id string) schema.FetchRequested {
	return schema.FetchRequested{Quote: quote(id, "A"), RequestedAt: at(1), Deadline: at(2)}
}

func observed(id, price string) schema.PriceObserved {
	return schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal(price), Timestamp: at(3), ReceivedAt: at(4), RequestID: id}
}

func failed(id string, code schema.Code) schema.QuoteFailed {
	return schema.QuoteFailed{Quote: quote(id, "A"), Code: code, Reason: "why", FailedAt: at(5)}
}

func rejected(id string, code schema.Code) schema.QuoteRejected {
	return schema.QuoteRejected{Quote: quote(id, "A"), RawResponseID: "1", Code: code, Reason: "because", ReceivedAt: at(6)}
}

func unchanged(id string, symbol schema.Symbol, price string) schema.QuoteUnchanged {
	return schema.QuoteUnchanged{Quote: quote(id, symbol), RawResponseID: "1", Price: schema.MustDecimal(price), Timestamp: at(7), ReceivedAt: at(8)}
}

// drawLog gives requests with none, one or several outcomes, outcomes without a
// request, and prices that no one asked for.
func drawLog(t *rapid.T) []schema.Payload {
	var payloads []schema.Payload
	for i := range rapid.IntRange(1, 30).Draw(t, "events") {
		id := rapid.SampledFrom([]string{"", "r1", "r2", "r3", "job.r4", "job.r5", "other.r6"}).Draw(t, "request")
		price := fmt.Sprint(i + 1) // tells outcomes apart
		kind := rapid.IntRange(0, 5).Draw(t, "kind")
		if id == "" {
			kind = 1
		}
		switch kind {
		case 0:
			payloads = append(payloads, requested(id))
		case 1:
			p := observed(id, price)
			p.Symbol = rapid.SampledFrom([]schema.Symbol{"A", "B", "C"}).Draw(t, "symbol")
			payloads = append(payloads, p)
		case 2:
			p := failed(id, schema.Code("f"+price))
			p.FailedAt = at(rapid.IntRange(4, 8).Draw(t, "failed at"))
			payloads = append(payloads, p)
		case 3:
			payloads = append(payloads, rejected(id, schema.Code("r"+price)))
		case 4:
			payloads = append(payloads, unchanged(id, "B", price))
		case 5:
			payloads = append(payloads, unchanged(id, "A", price))
		}
	}
	return payloads
}

type row struct {
	RequestID string          `db:"request_id"`
	Symbol    schema.Symbol   `db:"symbol"`
	State     requests.State  `db:"state"`
	Price     string          `db:"price"`
	Code      schema.Code     `db:"code"`
	Provider  schema.Provider `db:"provider"`
}

// describe is the row that an event alone would give, and its rank: of several,
// those on price-events come first, then by partition, then by offset.
func describe(r pipeline.Record) (row, int) {
	rank := int(r.Partition)*1000 + int(r.Offset)
	switch p := r.Event.Payload.(type) {
	case schema.FetchRequested:
		return row{p.RequestID, p.Symbol, requests.Pending, "", "", p.Provider}, 1 << 40
	case schema.PriceObserved:
		return row{p.RequestID, p.Symbol, requests.Observed, p.Price.String(), "", p.Source}, rank
	case schema.QuoteUnchanged:
		return row{p.RequestID, p.Symbol, requests.Unchanged, p.Price.String(), "", p.Provider}, rank + 1<<30
	case schema.QuoteFailed:
		return row{p.RequestID, p.Symbol, requests.Failed, "", p.Code, p.Provider}, rank + 1<<30
	case schema.QuoteRejected:
		return row{p.RequestID, p.Symbol, requests.Rejected, "", p.Code, p.Provider}, rank + 1<<30
	default:
		panic(p)
	}
}

func TestTheFirstOutcomeWhateverTheOrderOfTopicsAndTheCuts(t *testing.T) {
	t.Parallel()
	pipelinetest.CheckFold(t, newProjection(t), drawLog, func(t *rapid.T, f pipelinetest.Fold) {
		want, ranks := map[string]row{}, map[string]int{}
		for _, r := range f.Log {
			one, rank := describe(r)
			if before, known := ranks[one.RequestID]; one.RequestID != "" && (!known || rank < before) {
				want[one.RequestID], ranks[one.RequestID] = one, rank
			}
		}
		var rows []row
		require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT request_id, symbol, state, COALESCE(price, '') AS price,
			code, provider FROM `+f.Generation.Table("requests")))
		got := map[string]row{}
		for _, r := range rows {
			got[r.RequestID] = r
		}
		require.Equal(t, want, got)
		checkJobs(t, f)
	})
}

// byJob is what the read model should say of a job.
type byJob struct {
	Prices    int         `db:"prices"`
	Unchanged int         `db:"unchanged"`
	Failures  int         `db:"failures"`
	Code      schema.Code `db:"code"`
	Reason    string      `db:"reason"`
	FailedAt  schema.Time `db:"failed_at"`
}

func checkJobs(t *rapid.T, f pipelinetest.Fold) {
	want, ranks := map[string]byJob{}, map[string]int{}
	for _, r := range f.Log {
		one, rank := describe(r)
		job := schema.JobOfRequest(one.RequestID)
		if job == "" || one.State == requests.Pending {
			continue
		}
		sum := want[job]
		switch p := r.Event.Payload.(type) {
		case schema.PriceObserved:
			sum.Prices++
		case schema.QuoteUnchanged:
			sum.Unchanged++
		default:
			sum.Failures++
			if at := p.OccurredAt(); at.After(sum.FailedAt) || at == sum.FailedAt && rank > ranks[job] {
				ranks[job] = rank
				sum.Code, sum.FailedAt, sum.Reason = one.Code, at, map[requests.State]string{"failed": "why", "rejected": "because"}[one.State]
			}
		}
		want[job] = sum
	}
	type row struct {
		JobID string `db:"job_id"`
		byJob
	}
	var rows []row
	failure := func(column, none string) string {
		return `COALESCE((SELECT f.` + column + ` FROM ` + f.Generation.Table("job_failures") +
			` f WHERE f.job_id = c.job_id), '` + none + `') AS ` + column
	}
	require.NoError(t, f.DB.Select(context.Background(), &rows, `SELECT job_id, prices, unchanged, failures, `+failure("code", "")+`, `+
		failure("reason", "")+`, `+failure("failed_at", "0001-01-01T00:00:00.000000Z")+` FROM `+f.Generation.Table("job_counts")+` c`))
	got := map[string]byJob{}
	for _, r := range rows {
		got[r.JobID] = r.byJob
	}
	require.Equal(t, want, got)
}

// fixture is the active read model, fed by hand.
type fixture struct {
	*pipelinetest.Rig
	stage *pipelinetest.Stage
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	rig := pipelinetest.New(t)
	spec, err := projections.Open(context.Background(), rig.DB, newProjection(t))
	require.NoError(t, err)
	stage := rig.Start(t, spec)
	t.Cleanup(func() { stage.Close(t) })
	return fixture{rig, stage}
}

func (f fixture) apply(t *testing.T, payloads ...schema.Payload) {
	t.Helper()
	require.NoError(t, f.stage.Deliver(f.AppendAll(t, payloads...)...))
}

// Columns that are NULL in some states and not in others.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.apply(t, requested("pending"), observed("observed", "1.50"), unchanged("unchanged", "A", "2"),
		failed("failed", schema.CodeTimeout), rejected("rejected", schema.CodeBadPrice))
	w, stop := serve(t, f.DB, func() <-chan struct{} { return nil })
	defer stop()
	for _, want := range []requests.Request{
		{RequestID: "observed", State: requests.Observed, Price: schema.MustDecimal("1.5"), Timestamp: at(3), ReceivedAt: at(4)},
		{RequestID: "unchanged", State: requests.Unchanged, Price: schema.MustDecimal("2"), Timestamp: at(7), ReceivedAt: at(8)},
		{RequestID: "failed", State: requests.Failed, Code: schema.CodeTimeout, Reason: "why"},
		{RequestID: "rejected", State: requests.Rejected, Code: schema.CodeBadPrice, Reason: "because"},
	} {
		want.Provider, want.Symbol = "p", "A"
		got, err := w.Wait(t.Context(), want.RequestID)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	var state requests.State
	require.NoError(t, f.DB.Get(t.Context(), &state, `SELECT state FROM requests WHERE request_id = 'pending'`))
	assert.Equal(t, requests.Pending, state)
}
