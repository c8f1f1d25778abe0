package providertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const (
	pastTrades = 25
	pastPage   = 10
)

func pastAt(n int) schema.Time {
	return schema.NewTime(time.Date(2026, 1, 2, 0, 0, n, 0, time.UTC))
}

func pastEntry(n int) pipeline.HistoryEntry {
	return pipeline.HistoryEntry{ID: fmt.Sprint("trade-", n), Time: pastAt(n),
		RawResponse: schema.RawResponse(fmt.Sprintf(`{"s":"AAPL","p":"%d.5","n":%d}`, n+1, n))}
}

type historyFunc func(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error)

// remembering is a provider whose history can be replaced by a broken one.
type remembering struct {
	scripted
	history historyFunc
}

func (p remembering) History(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	return p.history(ctx, r)
}

// goodHistory gives pages of ten from the first trade of the span on.
func goodHistory(ctx context.Context, r pipeline.HistoryRequest) (page pipeline.HistoryPage, err error) {
	if ctx.Err() != nil {
		return page, pipeline.Quotef(schema.CodeTimeout, "ended")
	}
	if r.Symbol == "NOPE" {
		return page, pipeline.Quotef(schema.CodeUnknownSymbol, "no NOPE")
	}
	first, err := strconv.Atoi(r.Cursor)
	if err != nil {
		first = 0
		for first < pastTrades && r.From.After(pastAt(first)) {
			first++
		}
	}
	for n := first; n < min(first+pastPage, pastTrades); n++ {
		if pastAt(n).After(r.To) {
			return page, nil
		}
		page.Entries = append(page.Entries, pastEntry(n))
	}
	if first+pastPage < pastTrades {
		page.Next = strconv.Itoa(first + pastPage)
	}
	return page, nil
}

// pastNormalize reads the time of a trade by its number.
func pastNormalize(quote schema.QuoteFetched) ([]pipeline.Price, error) {
	prices, err := goodNormalize(quote)
	_, number, _ := strings.Cut(string(quote.RawResponse), `"n":`)
	n, bad := strconv.Atoi(strings.TrimSuffix(number, "}"))
	if err != nil || bad != nil {
		return nil, pipeline.Quotef(schema.CodeBadResponse, "bad")
	}
	prices[0].Time = pastAt(n)
	return prices, nil
}

// answered is a historian that asks a service before it gives a page.
func answered(t testing.TB, service http.Handler, code func(status int, body string) error) pipeline.Historian {
	t.Helper()
	server := httptest.NewServer(service)
	t.Cleanup(server.Close)
	return remembering{scripted{goodQuote, pastNormalize}, func(ctx context.Context, _ pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			return pipeline.HistoryPage{}, err
		}
		answer, err := server.Client().Do(request)
		if err != nil {
			return pipeline.HistoryPage{}, err
		}
		body, err := io.ReadAll(answer.Body)
		if err = errors.Join(err, answer.Body.Close()); err != nil {
			return pipeline.HistoryPage{}, err
		}
		return pipeline.HistoryPage{}, code(answer.StatusCode, string(body))
	}}
}

func goodCodes(status int, body string) error {
	failure := pipeline.Quotef(schema.CodeBadResponse, "not a page")
	switch {
	case status == http.StatusTooManyRequests:
		failure.Code, failure.RetryAfter = schema.CodeRateLimited, 7*time.Second
	case status == http.StatusUnauthorized:
		failure.Code = schema.CodeUnauthorized
	case status == http.StatusServiceUnavailable:
		failure.Code = schema.CodeUnavailable
	case len(body) > schema.MaxRawResponse:
		failure.Code = schema.CodeTooLarge
	}
	return failure
}

func historyOf(p pipeline.Historian, codes func(int, string) error) History {
	h := History{Name: "scripted", Symbol: "AAPL", Unknown: "NOPE", Limit: 5 * time.Second,
		New:       func(testing.TB) pipeline.Historian { return p },
		Answering: func(t testing.TB, service http.Handler) pipeline.Historian { return answered(t, service, codes) }}
	for n := range pastTrades {
		h.Entries = append(h.Entries, pastEntry(n))
	}
	return h
}

func TestTheSuitePassesAGoodHistorian(t *testing.T) {
	t.Parallel()
	RunHistory(t, historyOf(remembering{scripted{goodQuote, pastNormalize}, goodHistory}, goodCodes))
}

// changed is a good history whose pages are changed.
func changed(change func(r pipeline.HistoryRequest, page *pipeline.HistoryPage)) historyFunc {
	return func(ctx context.Context, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
		page, err := goodHistory(ctx, r)
		if err == nil {
			change(r, &page)
		}
		return page, err
	}
}

// brokenHistories lists broken histories by the check that finds them.
func brokenHistories() map[string][]historyFunc {
	type request = pipeline.HistoryRequest
	type page = pipeline.HistoryPage
	shared := make([]pipeline.HistoryEntry, pastTrades)
	for n := range shared {
		shared[n] = pastEntry(n)
	}
	calls := 0
	return map[string][]historyFunc{
		"EachPriceOfASpanComes": {
			changed(func(_ request, p *page) { p.Next = "" }),                                            // ends early
			changed(func(_ request, p *page) { p.Entries = p.Entries[:max(0, len(p.Entries)-1)] }),       // leaves one out
			changed(func(r request, p *page) { p.Next = "0" }),                                           // never ends
			changed(func(_ request, p *page) { p.Next = strings.Repeat("9", 2000) }),                     // a huge cursor
			changed(func(_ request, p *page) { p.Entries = append(p.Entries, pipeline.HistoryEntry{}) }), // an empty entry
			changed(func(_ request, p *page) { // other bytes
				for i := range p.Entries {
					p.Entries[i].RawResponse = append(p.Entries[i].RawResponse, ' ')
				}
			}),
			changed(func(r request, p *page) { // ids of the page
				for i := range p.Entries {
					p.Entries[i].ID = fmt.Sprint(r.Cursor, i)
				}
			}),
		},
		"PagesAreInOrder": {changed(func(_ request, p *page) {
			for i := range len(p.Entries) / 2 {
				last := len(p.Entries) - 1 - i
				p.Entries[i], p.Entries[last] = p.Entries[last], p.Entries[i]
			}
		})},
		"EntriesAreReadAsTheySay": {changed(func(_ request, p *page) {
			for i := range p.Entries {
				p.Entries[i].Time = p.Entries[i].Time.Add(time.Millisecond)
			}
		})},
		"ACursorResumes": {func(ctx context.Context, r request) (page, error) { // keeps something between pages
			if calls++; calls > 3 && r.Cursor != "" {
				r.Cursor = strconv.Itoa(calls)
			}
			return goodHistory(ctx, r)
		}},
		"ASpanEnds": {func(ctx context.Context, r request) (page, error) {
			r.To = pastAt(pastTrades)
			return goodHistory(ctx, r)
		}},
		"PagesShareNoMemory": {changed(func(r request, p *page) {
			first, _ := strconv.Atoi(r.Cursor)
			p.Entries = shared[first : first+len(p.Entries)]
		})},
		"DoneContextEndsAPage": {func(_ context.Context, r request) (page, error) { return goodHistory(context.Background(), r) }},
		"UnknownSymbolIsReported": {func(ctx context.Context, r request) (page, error) {
			r.Symbol = "AAPL"
			return goodHistory(ctx, r)
		}},
	}
}

func TestTheSuiteFindsBrokenHistorians(t *testing.T) {
	t.Parallel()
	for check, broken := range brokenHistories() {
		t.Run(check, func(t *testing.T) {
			t.Parallel()
			for i, history := range broken {
				h := historyOf(remembering{scripted{goodQuote, pastNormalize}, history}, goodCodes)
				assert.Error(t, runHistoryCheck(t, check, h), "broken history %d", i)
			}
		})
	}
	good := remembering{scripted{goodQuote, pastNormalize}, goodHistory}
	for name, codes := range map[string]func(int, string) error{
		"no code":  func(int, string) error { return fmt.Errorf("it failed") },
		"one code": func(int, string) error { return pipeline.Quotef(schema.CodeUnavailable, "it failed") },
		"no patience": func(status int, body string) error {
			err := goodCodes(status, body).(*pipeline.QuoteError)
			err.RetryAfter = 0
			return err
		},
	} {
		assert.Error(t, runHistoryCheck(t, "FaultsHaveTheirCodes", historyOf(good, codes)), name)
	}
}

func runHistoryCheck(t *testing.T, name string, h History) error {
	t.Helper()
	for _, c := range historyChecks() {
		if c.name == name {
			return c.run(t, h)
		}
	}
	require.Fail(t, "no such check", name)
	return nil
}

func TestTheSuiteOfHistoriansNeedsItsFields(t *testing.T) {
	t.Parallel()
	good := historyOf(remembering{}, goodCodes)
	require.NoError(t, good.validate())
	for name, spoil := range map[string]func(*History){
		"New":     func(h *History) { h.New = nil },
		"Name":    func(h *History) { h.Name = "" },
		"Symbol":  func(h *History) { h.Symbol = "" },
		"Entries": func(h *History) { h.Entries = h.Entries[:2] },
	} {
		bad := good
		spoil(&bad)
		assert.ErrorContains(t, bad.validate(), name)
	}
}
