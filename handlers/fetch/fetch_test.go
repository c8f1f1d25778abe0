package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/handlers/fetch"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type quoteFunc func(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error)

// scripted answers by a function, and counts what it is asked.
type scripted struct {
	pipeline.Provider
	quote  quoteFunc
	limits []pipeline.Limit
	mu     sync.Mutex
	asked  map[schema.Symbol]int
}

var _ pipeline.Limited = (*scripted)(nil)

func (s *scripted) Limits() []pipeline.Limit { return s.limits }

func newScripted(quote quoteFunc) *scripted {
	return &scripted{quote: quote, asked: map[schema.Symbol]int{}}
}

func (s *scripted) Quote(ctx context.Context, symbol schema.Symbol) (schema.RawResponse, error) {
	s.mu.Lock()
	s.asked[symbol]++
	s.mu.Unlock()
	return s.quote(ctx, symbol)
}

// total is how often it was asked.
func (s *scripted) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, times := range s.asked {
		n += times
	}
	return n
}

func answering(context.Context, schema.Symbol) (schema.RawResponse, error) {
	return schema.RawResponse("answer"), nil
}

func hanging(ctx context.Context, _ schema.Symbol) (schema.RawResponse, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("reading the body: %w", ctx.Err())
}

type providers map[schema.Provider]*scripted

func (p providers) find(name schema.Provider) (pipeline.Provider, bool) {
	found, ok := p[name]
	return found, ok
}

func newHandler(t *testing.T, known providers, log *slog.Logger) pipeline.Runner {
	t.Helper()
	return newHandlerIn(t, pipeline.Env{Now: time.Now, Log: log, Provider: known.find})
}

func newHandlerIn(t *testing.T, env pipeline.Env) pipeline.Runner {
	t.Helper()
	h, err := fetch.New(env)
	require.NoError(t, err)
	return h.(pipeline.Runner)
}

var quiet = slog.New(slog.DiscardHandler)

// process runs the worker until stop is called.
func process(t *testing.T, rig *pipelinetest.Rig, runner pipeline.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx, rig.Emitter()) }()
	return func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

func enter(t *testing.T, rig *pipelinetest.Rig, runner pipeline.Runner, requests ...schema.FetchRequested) {
	t.Helper()
	stage := rig.StartHandler(t, fetch.Name, runner.(pipeline.Handler))
	var events []schema.Event
	for _, r := range requests {
		events = append(events, schema.Event{Traceparent: "trace of " + r.RequestID, Payload: r})
	}
	require.NoError(t, stage.Deliver(rig.Append(t, events...)...))
	stage.Close(t)
}

func request(id string, provider schema.Provider, symbol schema.Symbol, timeout time.Duration) schema.FetchRequested {
	now := time.Now()
	return schema.FetchRequested{Quote: schema.Quote{Provider: provider, Symbol: symbol, RequestID: id},
		RequestedAt: schema.NewTime(now), Deadline: schema.NewTime(now.Add(timeout))}
}

// outcomes are the new events by request.
func outcomes(t *testing.T, rig *pipelinetest.Rig) map[string][]schema.Event {
	t.Helper()
	all := map[string][]schema.Event{}
	for _, topic := range []schema.Topic{schema.RawQuotes, schema.QuoteOutcomes} {
		for _, e := range rig.Events(t, topic) {
			id := idOf(e)
			all[id] = append(all[id], e)
		}
	}
	return all
}

func idOf(e schema.Event) string {
	if q, ok := e.Payload.(schema.QuoteFetched); ok {
		return q.RequestID
	}
	return e.Payload.(schema.QuoteFailed).RequestID
}

func open(t *testing.T, db store.Querier) []string {
	t.Helper()
	var left []string
	require.NoError(t, db.Select(t.Context(), &left, `SELECT request_id || ' ' || claimed_by FROM fetch_queue ORDER BY request_id`))
	return left
}

// All of these run side by side, and each has one outcome by its deadline.
func TestWhatBecomesOfARequest(t *testing.T) {
	t.Parallel()
	const secret = "token=s3cr3t"
	fail := func(err error) quoteFunc {
		return func(context.Context, schema.Symbol) (schema.RawResponse, error) { return nil, err }
	}
	give := func(n int) quoteFunc {
		return func(context.Context, schema.Symbol) (schema.RawResponse, error) {
			return bytes.Repeat([]byte("x"), n), nil
		}
	}
	tests := map[schema.Symbol]struct {
		quote   quoteFunc
		timeout time.Duration
		code    schema.Code // empty: an answer
		reason  string
		after   time.Duration
	}{
		"ANSWER":  {answering, time.Second, "", "", 0},
		"LARGEST": {give(schema.MaxRawResponse), time.Second, "", "", 0},
		"LATE": {func(context.Context, schema.Symbol) (schema.RawResponse, error) {
			time.Sleep(time.Second)
			return []byte("x"), nil
		}, 2 * time.Second, "", "", time.Second},
		"EXPLAINS": {fail(pipeline.Quotef(schema.CodeUnavailable, "status 503")), time.Second, schema.CodeUnavailable, "status 503", 0},
		"WRAPS":    {fail(fmt.Errorf("asking: %w", pipeline.Quotef(schema.CodeUnauthorized, "bad key"))), time.Second, schema.CodeUnauthorized, "bad key", 0},
		"PLAIN":    {fail(errors.New("GET /quote?" + secret)), time.Second, schema.CodeInternal, "does not explain", 0},
		"PANIC":    {func(context.Context, schema.Symbol) (schema.RawResponse, error) { panic(secret) }, time.Second, schema.CodeInternal, "does not explain", 0},
		"EMPTY":    {give(0), time.Second, schema.CodeBadResponse, "empty", 0},
		"TOOLARGE": {give(schema.MaxRawResponse + 1), time.Second, schema.CodeTooLarge, "262145 bytes", 0},
		"OVERDUE":  {answering, -time.Second, schema.CodeTimeout, "had passed", 0},
		"HANG":     {hanging, 3 * time.Second, schema.CodeTimeout, "did not answer", 3 * time.Second},
	}
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		var log bytes.Buffer
		known := providers{"p": newScripted(func(ctx context.Context, s schema.Symbol) (schema.RawResponse, error) {
			return tests[s].quote(ctx, s)
		})}
		runner := newHandler(t, known, slog.New(slog.NewTextHandler(&log, nil)))
		stop := process(t, rig, runner)
		begin := time.Now()
		requests := []schema.FetchRequested{request("STRANGER", "nobody", "A", time.Second)}
		for symbol, test := range tests {
			requests = append(requests, request(string(symbol), "p", symbol, test.timeout))
		}
		enter(t, rig, runner, requests...)
		time.Sleep(4 * time.Second)
		stop()
		got := outcomes(t, rig)
		for symbol, test := range tests {
			events := got[string(symbol)]
			require.Len(t, events, 1, symbol)
			assert.Equal(t, schema.DeriveID(fetch.Name, string(symbol)), events[0].ID, symbol)
			assert.Equal(t, "trace of "+string(symbol), events[0].Traceparent)
			quote := schema.Quote{Provider: "p", Symbol: symbol, RequestID: string(symbol)}
			switch p := events[0].Payload.(type) {
			case schema.QuoteFetched:
				assert.Empty(t, test.code, symbol)
				assert.Equal(t, quote, p.Quote)
				assert.Equal(t, test.after, p.ReceivedAt.Sub(begin), symbol)
			case schema.QuoteFailed:
				assert.Equal(t, test.code, p.Code, symbol)
				assert.Contains(t, p.Reason, test.reason, symbol)
				assert.NotContains(t, p.Reason, secret, symbol)
				assert.Equal(t, quote, p.Quote)
				assert.Equal(t, test.after, p.FailedAt.Sub(begin), symbol)
			}
		}
		require.Len(t, got["STRANGER"], 1)
		assert.Equal(t, schema.CodeUnknownProvider, got["STRANGER"][0].Payload.(schema.QuoteFailed).Code)
		assert.NotContains(t, known["p"].asked, schema.Symbol("OVERDUE"), "no one is asked in vain")
		assert.Empty(t, open(t, rig.DB))
		assert.Contains(t, log.String(), secret, "what happened is in our own log")
	})
}
