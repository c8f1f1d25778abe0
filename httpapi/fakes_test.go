package httpapi_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/adjustments"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// commands is a log that remembers what was published.
type commands struct {
	mu        sync.Mutex
	published []schema.Payload
	err       error
}

func (c *commands) Publish(ctx context.Context, p schema.Payload) (string, error) {
	return c.PublishAs(ctx, "id", p)
}

func (c *commands) PublishAs(_ context.Context, _ string, p schema.Payload) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return "", c.err
	}
	c.published = append(c.published, p)
	return string(p.Topic()) + ":3:42", nil
}

func (c *commands) all() []schema.Payload {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]schema.Payload(nil), c.published...)
}

type latestFunc func(context.Context, schema.Provider, schema.Symbol) (latestprices.Price, error)

func (f latestFunc) Latest(ctx context.Context, p schema.Provider, s schema.Symbol) (latestprices.Price, error) {
	return f(ctx, p, s)
}

// LatestOf has nil for those that are not found.
func (f latestFunc) LatestOf(ctx context.Context, p schema.Provider, symbols []schema.Symbol) ([]*latestprices.Price, error) {
	return found(symbols, func(s schema.Symbol) (latestprices.Price, error) { return f(ctx, p, s) })
}

// found asks about each symbol; nil for those that are not found.
func found[T any](symbols []schema.Symbol, ask func(schema.Symbol) (T, error)) ([]*T, error) {
	known := make([]*T, len(symbols))
	for i, symbol := range symbols {
		switch answer, err := ask(symbol); {
		case err == nil:
			known[i] = &answer
		case !errors.Is(err, projections.ErrNotFound):
			return nil, err
		}
	}
	return known, nil
}

// Holders finds none.
func (latestFunc) Holders(context.Context, schema.Symbol, []schema.Provider) ([]schema.Provider, error) {
	return nil, nil
}

type averageFunc func(context.Context, schema.Provider, schema.Symbol, int) (movingaverages.Average, error)

func (f averageFunc) Average(ctx context.Context, p schema.Provider, s schema.Symbol, window int) (
	movingaverages.Average, error) {
	return f(ctx, p, s, window)
}

// AveragesOf has nil for those that are not found.
func (f averageFunc) AveragesOf(ctx context.Context, p schema.Provider, symbols []schema.Symbol, window int) (
	[]*movingaverages.Average, error) {
	return found(symbols, func(s schema.Symbol) (movingaverages.Average, error) { return f(ctx, p, s, window) })
}

// AsOf gives the same, as of the time asked for.
func (f averageFunc) AsOf(ctx context.Context, p schema.Provider, s schema.Symbol, window int, t schema.Time) (
	movingaverages.Average, error) {
	average, err := f(ctx, p, s, window)
	average.Timestamp = t
	return average, err
}

func (averageFunc) History(context.Context, int, processedprices.Query) ([]movingaverages.Point, error) {
	return nil, nil
}

// pastPrices is a read model of prices, newest first.
type pastPrices []processedprices.Price

func (all pastPrices) Prices(_ context.Context, q processedprices.Query) ([]processedprices.Price, error) {
	var found []processedprices.Price
	for _, p := range all {
		if p.Place().Earlier(q.Behind) == p.Place() && p.Place() != q.Behind && !p.Timestamp.Before(q.From.Time) && len(found) < q.Limit {
			found = append(found, p)
		}
	}
	return found, nil
}

func (all pastPrices) PricesOf(ctx context.Context, queries []processedprices.Query) ([][]processedprices.Price, error) {
	pages := make([][]processedprices.Price, len(queries))
	for i, q := range queries {
		pages[i], _ = all.Prices(ctx, q) // never fails
	}
	return pages, nil
}

// symbolList is a read model of symbols, in their order.
type symbolList []latestprices.Symbol

func (all symbolList) Symbols(_ context.Context, q latestprices.SymbolQuery) ([]latestprices.Symbol, error) {
	var found []latestprices.Symbol
	for _, s := range all {
		if behind := cmp.Or(cmp.Compare(s.Provider, q.AfterProvider), cmp.Compare(s.Symbol, q.AfterSymbol)); behind > 0 &&
			(q.Provider == "" || q.Provider == s.Provider) && (q.Symbol == "" || q.Symbol == s.Symbol) &&
			strings.Contains(string(s.Symbol), strings.ToUpper(q.Contains)) && len(found) < q.Limit {
			found = append(found, s)
		}
	}
	return found, nil
}

// jobList is a read model of polling jobs, newest first.
type jobList struct {
	// forgotten says that retention has deleted the jobs that are not known.
	forgotten bool
	mu        sync.Mutex
	jobs      []jobs.Job
	behind    time.Duration // how long it takes to catch up with the log
}

func (l *jobList) WaitCaughtUp(ctx context.Context) error {
	select {
	case <-time.After(l.behind):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *jobList) Get(_ context.Context, id string) (jobs.Job, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.jobs {
		if j.JobID == id {
			return j, nil
		}
	}
	if l.forgotten {
		return jobs.Job{}, jobs.ErrForgotten
	}
	return jobs.Job{}, projections.ErrNotFound
}

func (l *jobList) List(_ context.Context, behind jobs.Place, limit int) ([]jobs.Job, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []jobs.Job
	for _, j := range l.jobs {
		order := cmp.Or(j.CreatedAt.Compare(behind.CreatedAt), cmp.Compare(j.JobID, behind.JobID))
		if (behind == jobs.Place{} || order < 0) && len(found) < limit {
			found = append(found, j)
		}
	}
	return found, nil
}

func (l *jobList) Open(_ context.Context, ids []string) (open int, known []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.jobs {
		if slices.Contains(ids, j.JobID) {
			known = append(known, j.JobID)
		}
		if j.Status != schema.JobStopped {
			open++
		}
	}
	return open, known, nil
}

// add enters a job, as the fold does some time after it was posted.
func (l *jobList) add(j jobs.Job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.jobs = append([]jobs.Job{j}, l.jobs...)
}

func activeJob(id string, created schema.Time) jobs.Job {
	return jobs.Job{JobID: id, Symbols: []schema.Symbol{"AAPL"}, Interval: 60, Provider: "finnhub", Status: schema.JobActive,
		CreatedAt: created, NextRun: created}
}

type waitFunc func(context.Context, string) (requests.Request, error)

func (f waitFunc) Wait(ctx context.Context, id string) (requests.Request, error) { return f(ctx, id) }

// requestList is the fetch requests that a fake knows; arrives is what there is once someone
// waited for it.
type requestList struct {
	known   []requests.Detail
	arrives []requests.Detail
	err     error
}

func (l *requestList) Get(_ context.Context, id string) (requests.Detail, error) {
	for _, one := range l.known {
		if one.RequestID == id {
			return one, l.err
		}
	}
	return requests.Detail{}, projections.ErrNotFound
}

func (l *requestList) WaitCaughtUp(context.Context) error {
	l.known = append(l.known, l.arrives...)
	return l.err
}

// streams are those that a fake knows; settled counts how often it was waited
// for, and arrives is what there is then.
type streams struct {
	known   []httpapi.Stream
	arrives []httpapi.Stream
	settled int
	err     error
}

func (s *streams) Get(_ context.Context, id string) (httpapi.Stream, error) {
	for _, one := range s.known {
		if one.StreamID == id {
			return one, s.err
		}
	}
	return httpapi.Stream{}, projections.ErrNotFound
}

func (s *streams) WaitCaughtUp(context.Context) error {
	s.settled++
	s.known = append(s.known, s.arrives...)
	return s.err
}

func (s *streams) Open(_ context.Context, ids []string) (open int, known []string, err error) {
	for _, one := range s.known {
		if slices.Contains(ids, one.StreamID) {
			known = append(known, one.StreamID)
		}
		if one.StoppedAt == nil {
			open++
		}
	}
	return open, known, s.err
}

func (s *streams) List(_ context.Context, limit int) ([]httpapi.Stream, error) {
	return s.known[:min(limit, len(s.known))], s.err
}

// backfills is like streams.
type backfills struct {
	known   []httpapi.Backfill
	arrives []httpapi.Backfill
	settled int
	err     error
}

func (b *backfills) Get(_ context.Context, id string) (httpapi.Backfill, error) {
	for _, one := range b.known {
		if one.BackfillID == id {
			return one, b.err
		}
	}
	return httpapi.Backfill{}, projections.ErrNotFound
}

func (b *backfills) WaitCaughtUp(context.Context) error {
	b.settled++
	b.known = append(b.known, b.arrives...)
	return b.err
}

func (b *backfills) Covering(_ context.Context, provider schema.Provider, symbol schema.Symbol, from, to schema.Time) (string, error) {
	for _, one := range b.known {
		if one.EndedAt == nil && one.Provider == provider && one.Symbol == symbol && !one.From.After(from) && !to.After(one.To) {
			return one.BackfillID, b.err
		}
	}
	return "", b.err
}

func (b *backfills) Open(_ context.Context, ids []string) (open int, known []string, err error) {
	for _, one := range b.known {
		if slices.Contains(ids, one.BackfillID) {
			known = append(known, one.BackfillID)
		}
		if one.EndedAt == nil {
			open++
		}
	}
	return open, known, b.err
}

func (b *backfills) List(_ context.Context, limit int) ([]httpapi.Backfill, error) {
	return b.known[:min(limit, len(b.known))], b.err
}

// chain is a pipeline of one topic, whose consumers are behind and halted.
type chain struct{}

func (chain) Flow() []httpapi.TopicFlow {
	return []httpapi.TopicFlow{{Topic: schema.PriceEvents, Producers: []string{"normalize"}, Consumers: []string{"candles", "latest-prices"}}}
}

func (chain) Stages(context.Context) ([]httpapi.StagePosition, error) {
	at := func(stage string, partition int32, position int64, halted string) httpapi.StagePosition {
		return httpapi.StagePosition{Stage: stage, Topic: schema.PriceEvents, Partition: partition, Position: position, End: 100, Lag: 100 - position, Halted: halted, MovedAt: eventTime}
	}
	return []httpapi.StagePosition{at("candles.g1", 0, 90, ""), at("candles.g1", 1, 97, ""), at("latest-prices.g2", 0, 100, "the log has a gap"), at("latest-prices.g2", 1, 100, "")}, nil
}

// noLatest knows no price.
func noLatest(context.Context, schema.Provider, schema.Symbol) (latestprices.Price, error) {
	return latestprices.Price{}, projections.ErrNotFound
}

// knows knows one price of every symbol, received age ago.
func knows(price string, age time.Duration) latestFunc {
	return func(_ context.Context, p schema.Provider, s schema.Symbol) (latestprices.Price, error) {
		now := time.Now()
		return latestprices.Price{
			Provider: p, Symbol: s, Price: schema.MustDecimal(price),
			Timestamp: eventTime, ReceivedAt: schema.NewTime(now.Add(-age)),
		}, nil
	}
}

var eventTime = schema.NewTime(time.Date(2025, 6, 15, 14, 30, 0, 0, time.UTC))

// becomes gives every request the same outcome, at once.
func becomes(outcome requests.Request) waitFunc {
	return func(_ context.Context, id string) (requests.Request, error) {
		outcome.RequestID = id
		return outcome, nil
	}
}

// never gives no request an outcome.
func never(ctx context.Context, _ string) (requests.Request, error) {
	<-ctx.Done()
	return requests.Request{}, ctx.Err()
}

func observed(price string) requests.Request {
	return requests.Request{
		Provider: "finnhub", Symbol: "AAPL", State: requests.Observed, Price: schema.MustDecimal(price),
		Timestamp: eventTime, ReceivedAt: schema.NewTime(time.Now()),
	}
}

func failed(state requests.State, code schema.Code, reason string) requests.Request {
	return requests.Request{Provider: "finnhub", Symbol: "AAPL", State: state, Code: code, Reason: reason}
}

// setup is what a test may change before the API is made.
type setup struct {
	httpapi.Config
	httpapi.Ports
}

// newAPI makes an API that knows nothing and to which no provider answers.
func newAPI(t testing.TB, change func(*setup)) *httpapi.API {
	t.Helper()
	s := setup{
		Config: httpapi.Config{
			Build:           httpapi.Build{Version: "1.2.3", Revision: "abc"},
			Providers:       []schema.Provider{"finnhub", "simulated", "yahoo"},
			ProviderAliases: map[string]schema.Provider{"yahoo_finance": "yahoo"},
			DefaultProvider: "finnhub",
			Streamers:       []schema.Provider{"yahoo", "simulated"},
			Historians:      []schema.Provider{"yahoo", "simulated"},
		},
		Ports: httpapi.Ports{
			Places:       places{},
			Adjustments:  &adjusting{known: []adjustments.Adjustment{exampleAdjustment()}},
			Commands:     &commands{},
			LatestPrices: latestFunc(noLatest),
			Averages: averageFunc(func(context.Context, schema.Provider, schema.Symbol, int) (movingaverages.Average, error) {
				return movingaverages.Average{}, projections.ErrNotFound
			}),
			Symbols:     symbolList(nil),
			Prices:      pastPrices(nil),
			Corrections: &correctable{said: []processedprices.Correction{exampleCorrection("correction", 1)}},
			Jobs:        &jobList{jobs: []jobs.Job{activeJob("poll_abc12345", eventTime)}},
			ProviderInfo: func() []httpapi.ProviderInfo {
				return []httpapi.ProviderInfo{{Name: "yahoo", Aliases: []schema.Provider{"yahoo_finance"}, Configured: true},
					{Name: "finnhub"}, {Name: "simulated", Configured: true}}
			},
			Indicators: map[string]httpapi.Indicator{"bands": bands{}},
			Live:       noLive{},
			AsyncAPI:   []byte(`{"asyncapi":"3.0.0","info":{},"channels":{}}`),
			Requests:   waitFunc(never),
			RequestDetails: &requestList{known: []requests.Detail{{Request: requests.Request{RequestID: "request_abc12345", Symbol: "AAPL", Provider: "finnhub",
				State: requests.Pending}, AskedAt: eventTime}}},
			Streams:     &streams{known: []httpapi.Stream{exampleStream("stream_abc12345")}},
			Backfills:   &backfills{known: []httpapi.Backfill{exampleBackfill("backfill_abc12345")}},
			Rebuilds:    newRebuilds("rebuild_abc12345"),
			DeadLetters: &deadLetters{},
			Pipeline:    chain{},
			WaitWritten: func(context.Context, schema.Topic, int32, int64) error { return nil },
			CaughtUp:    func(context.Context, string, schema.Topic) error { return nil },
			Readiness:   func(context.Context) []httpapi.Check { return nil },
			Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
				_, _ = io.WriteString(w, "up 1\n") // into memory
			}),
		},
	}
	if change != nil {
		change(&s)
	}
	api, err := httpapi.New(s.Config, s.Ports)
	if err != nil {
		t.Fatalf("making the API: %v", err)
	}
	t.Cleanup(api.Close)
	return api
}

// request builds a request of a client on this machine.
func request(method, target, body string, header ...string) *http.Request {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, reader)
	r.RemoteAddr = "127.0.0.1:50000"
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// serve answers a request and holds the response against the document.
func serve(t testing.TB, api http.Handler, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	checkContract(t, r, w)
	return w
}

// drops reports whether a client's connection is ended without an answer.
func drops(api http.Handler, w http.ResponseWriter, r *http.Request) (dropped bool) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			dropped = true
		default:
			panic(p)
		}
	}()
	api.ServeHTTP(w, r)
	return false
}

func get(t testing.TB, api http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	return serve(t, api, request(http.MethodGet, target, "", header...))
}

func poll(t testing.TB, api http.Handler, body string) *httptest.ResponseRecorder {
	t.Helper()
	return serve(t, api, request(http.MethodPost, "/api/v1/prices/poll", body, "Content-Type", "application/json"))
}

// expect checks status and, to the byte, body.
func expect(t testing.TB, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status || w.Body.String() != body {
		t.Errorf("got  %d %s\nwant %d %s", w.Code, w.Body, status, body)
	}
}

// places is a log of two partitions, of which the prices of all symbols are on the second, with
// nine records, and eight applied.
type places struct{}

func (places) PartitionOf(schema.Provider, schema.Symbol) (int32, error) { return 1, nil }

func (places) RowID(_ context.Context, _ []string, part int32, number int64) (int64, error) {
	switch {
	case number > 9:
		return 0, &projections.PlaceError{Reason: "it is beyond the end of the log"}
	case number == 9:
		return 0, projections.ErrNotApplied
	}
	return int64(part)*1000 + number, nil
}

func (places) Applied(context.Context, []string, int32) (int64, error) { return 8, nil }

// adjusting is a read model of adjustments.
type adjusting struct {
	known   []adjustments.Adjustment
	factors adjustments.Factors
	err     error
}

func exampleAdjustment() adjustments.Adjustment {
	return adjustments.Adjustment{AdjustmentID: "adjustment", EventID: "event", Provider: "finnhub", Symbol: "AAPL", Reason: "r", SaidAt: eventTime,
		Terms: schema.AdjustmentTerms{EffectiveAt: eventTime, Kind: schema.SplitAdjustment, Value: schema.MustDecimal("4")}}
}

func (a *adjusting) Of(_ context.Context, provider schema.Provider, symbol schema.Symbol) (found []adjustments.Adjustment, err error) {
	for _, one := range a.known {
		if one.Provider == provider && one.Symbol == symbol {
			found = append(found, one)
		}
	}
	return found, nil
}

func (a *adjusting) Get(_ context.Context, id string) (adjustments.Adjustment, error) {
	for _, one := range a.known {
		if one.AdjustmentID == id {
			return one, nil
		}
	}
	return adjustments.Adjustment{}, projections.ErrNotFound
}

func (a *adjusting) Factors(context.Context, schema.Provider, schema.Symbol) (adjustments.Factors, error) {
	return a.factors, a.err
}

func (a *adjusting) WaitCaughtUp(context.Context) error { return nil }
