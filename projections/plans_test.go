package projections_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// explainer asks SQLite how it would answer each query, before it does.
type explainer struct {
	store.Committed
	steps []string
}

func (e *explainer) Get(ctx context.Context, dest any, query string, args ...any) error {
	if err := e.explain(ctx, query, args); err != nil {
		return err
	}
	return e.Committed.Get(ctx, dest, query, args...)
}

func (e *explainer) Select(ctx context.Context, dest any, query string, args ...any) error {
	if err := e.explain(ctx, query, args); err != nil {
		return err
	}
	return e.Committed.Select(ctx, dest, query, args...)
}

func (e *explainer) explain(ctx context.Context, query string, args []any) error {
	var plan []struct {
		ID      int `db:"id"`
		Parent  int `db:"parent"`
		NotUsed int `db:"notused"`
		Detail  string
	}
	if err := e.Committed.Select(ctx, &plan, "EXPLAIN QUERY PLAN "+query, args...); err != nil {
		return err
	}
	for _, step := range plan {
		e.steps = append(e.steps, step.Detail)
	}
	return nil
}

// slow are the steps that take longer the more rows there are.
func (e *explainer) slow() []string {
	var slow []string
	for _, step := range e.steps {
		// What ForEach calls asked are the rows that a query found.
		if strings.HasPrefix(step, "SCAN") && step != "SCAN asked" && step != "SCAN CONSTANT ROW" || strings.Contains(step, "TEMP B-TREE") {
			slow = append(slow, step)
		}
	}
	return slow
}

// outcome waits for that of a request.
func outcome(ctx context.Context, q store.Committed, id string) (requests.Request, error) {
	w := requests.NewWaiter(q, func() <-chan struct{} { return nil }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	defer running.Wait()
	defer cancel()
	return w.Wait(ctx, id)
}

func fail[T any](_ T, err error) error { return err }

// No query of a route reads a whole table, or sorts more than it answers with.
func TestQueriesUseAnIndex(t *testing.T) {
	t.Parallel()
	db := pipelinetest.New(t).DB
	for _, module := range pipeline.Projections() {
		p, err := module.New(pipeline.Env{})
		require.NoError(t, err)
		open(t, db, p)
	}
	ctx := t.Context()
	exec(t, db, `INSERT INTO requests (request_id, provider, symbol, state, code, reason, outcome_id, asked_at, fact_id, raw_response_id)
		VALUES ('r', 'p', 'A', 'failed', 'timeout', 'why', 1, '2025-06-15T14:30:00.000000Z', '', '')`)
	now := schema.NewTime(time.Now())
	prices := processedprices.Query{Provider: "p", Symbol: "A", Behind: projections.Until(now), Limit: 100}
	all, some := latestprices.SymbolQuery{Limit: 1}, latestprices.SymbolQuery{Provider: "p", Limit: 1}
	single := latestprices.SymbolQuery{Provider: "p", Symbol: "A", Limit: 1}
	asks := map[string]func(store.Committed) error{
		"a latest price":       func(q store.Committed) error { return fail(latestprices.NewReader(q).Latest(ctx, "p", "A")) },
		"all symbols":          func(q store.Committed) error { return fail(latestprices.NewReader(q).Symbols(ctx, all)) },
		"a provider's symbols": func(q store.Committed) error { return fail(latestprices.NewReader(q).Symbols(ctx, some)) },
		"a symbol":             func(q store.Committed) error { return fail(latestprices.NewReader(q).Symbols(ctx, single)) },
		"prices":               func(q store.Committed) error { return fail(processedprices.Reader{DB: q}.Prices(ctx, prices)) },
		"prices of many": func(q store.Committed) error {
			return fail(processedprices.Reader{DB: q}.PricesOf(ctx, []processedprices.Query{prices, prices, prices}))
		},
		"corrections": func(q store.Committed) error {
			return fail(processedprices.Reader{DB: q}.Corrections(ctx, processedprices.CorrectionQuery{Provider: "p", Symbol: "A", Limit: 100}))
		},
		"a correction": func(q store.Committed) error { return fail(processedprices.Reader{DB: q}.Correction(ctx, "c")) },
		"facts": func(q store.Committed) error {
			return fail(processedprices.Reader{DB: q}.Facts(ctx, []processedprices.Moment{{Provider: "p", Symbol: "A", Timestamp: now}}))
		},
		"an average":       func(q store.Committed) error { return fail(movingaverages.NewReader(q).Average(ctx, "p", "A", 5)) },
		"an average as of": func(q store.Committed) error { return fail(movingaverages.NewReader(q).AsOf(ctx, "p", "A", 5, now)) },
		"averages":         func(q store.Committed) error { return fail(movingaverages.NewReader(q).History(ctx, 5, prices)) },
		"a polling job":    func(q store.Committed) error { return fail(jobs.Reader{DB: q}.Get(ctx, "j")) },
		"the polling jobs": func(q store.Committed) error { return fail(jobs.Reader{DB: q}.List(ctx, jobs.Place{}, 1)) },
		"a fetch request":  func(q store.Committed) error { return fail(outcome(ctx, q, "r")) },
		"a request":        func(q store.Committed) error { return fail(requests.Reader{DB: q}.Get(ctx, "r")) },
		"old requests":     func(q store.Committed) error { return fail(due(ctx, q, requests.Name)) },
		"old jobs":         func(q store.Committed) error { return fail(due(ctx, q, jobs.Name)) },
	}
	for _, module := range pipeline.Projections() {
		p, err := module.New(pipeline.Env{})
		require.NoError(t, err)
		if indicator, ok := p.(projections.Indicator); ok {
			query := projections.IndicatorQuery{Provider: "p", Symbol: "A", Parameters: map[string]string{}, Behind: projections.Newest, Limit: 100}
			for _, parameter := range indicator.Indicator().Parameters {
				query.Parameters[parameter.Name] = parameter.Default
			}
			asks["the indicator "+module.Name] = func(q store.Committed) error { return fail(indicator.Points(ctx, q, query)) }
		}
	}
	assert.Contains(t, asks, "the indicator candles")
	for name, ask := range asks {
		e := &explainer{Committed: db}
		if err := ask(e); err != nil {
			require.ErrorIs(t, err, projections.ErrNotFound, name)
		}
		assert.NotEmpty(t, e.steps, name)
		assert.Empty(t, e.slow(), name)
	}

	e := &explainer{Committed: db}
	var n int
	require.NoError(t, e.Get(ctx, &n, `SELECT COUNT(*) FROM processed_prices`))
	assert.Len(t, e.slow(), 1, "this one does, and is seen")
}

// due asks whether a projection has old rows.
func due(ctx context.Context, q store.Querier, name string) (bool, error) {
	for _, module := range pipeline.Projections() {
		if module.Name == name {
			p, err := module.New(pipeline.Env{})
			if err != nil {
				return false, err
			}
			return p.(projections.Forgetful).Due(ctx, q, pipeline.Generation{Projection: name, Number: 1, Active: true}, schema.NewTime(time.Now()))
		}
	}
	return false, projections.ErrNotFound
}
