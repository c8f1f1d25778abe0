package providertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// History describes a pipeline.Historian to RunHistory.
type History struct {
	// Name is the provider's name. Required.
	Name schema.Provider
	// Symbol is one whose prices the service has, and Unknown one that it does not know. Empty
	// Unknown: the check is skipped.
	Symbol, Unknown schema.Symbol
	// Entries are all prices that the service has of Symbol, in the order of time: at least
	// as many as fill three pages, at different times. Required.
	Entries []pipeline.HistoryEntry
	// Endless says that the service has prices before and after Entries.
	Endless bool
	// New makes a provider whose service has Entries. It is called several times for each
	// check, and closes what it opened by t.Cleanup. Required.
	New func(t testing.TB) pipeline.Historian
	// Answering makes a provider whose service answers as the handler does. Nil: how faults of
	// the service are reported is not checked.
	Answering func(t testing.TB, service http.Handler) pipeline.Historian
	// Limit is how long a page may take. 0 means 5 s.
	Limit time.Duration
}

// RunHistory checks what a provider does besides Run to be a pipeline.Historian.
func RunHistory(t *testing.T, h History) {
	t.Helper()
	if err := h.validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range historyChecks() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.name == "UnknownSymbolIsReported" && h.Unknown == "" || c.name == "FaultsHaveTheirCodes" && h.Answering == nil {
				t.Skip("the suite has nothing to check it with")
			}
			if err := c.run(t, h); err != nil {
				t.Error(err)
			}
		})
	}
}

func (h History) validate() error {
	if h.New == nil {
		return errors.New("providertest: History.New is required")
	}
	if len(h.Entries) < 3 {
		return errors.New("providertest: History.Entries of three pages are required")
	}
	if err := errors.Join(h.Name.Validate(), h.Symbol.Validate()); err != nil {
		return fmt.Errorf("providertest: History.Name and History.Symbol are required: %w", err)
	}
	return nil
}

// historyCheck is one duty of a historian.
type historyCheck struct {
	name string
	run  func(testing.TB, History) error
}

func historyChecks() []historyCheck {
	return []historyCheck{
		{"EachPriceOfASpanComes", eachPriceOfASpanComes},
		{"PagesAreInOrder", pagesAreInOrder},
		{"EntriesAreReadAsTheySay", entriesAreReadAsTheySay},
		{"ACursorResumes", aCursorResumes},
		{"ASpanEnds", aSpanEnds},
		{"PagesShareNoMemory", pagesShareNoMemory},
		{"DoneContextEndsAPage", doneContextEndsAPage},
		{"UnknownSymbolIsReported", unknownSymbolOfAHistory},
		{"FaultsHaveTheirCodes", faultsHaveTheirCodes},
		{"PagesAtOnce", pagesAtOnce},
	}
}

// at is the time of an entry. Where there is none, it is a day before the first or after the
// last, or, of an endless service, that one's.
func (h History) at(i int) schema.Time {
	const day = 24 * time.Hour
	within := max(0, min(i, len(h.Entries)-1))
	at := h.Entries[within].Time
	if !h.Endless && within != i {
		at = at.Add(time.Duration(i-within) * day)
	}
	return at
}

// whole asks for all that there is.
func (h History) whole() pipeline.HistoryRequest {
	return pipeline.HistoryRequest{Symbol: h.Symbol, From: h.at(-1), To: h.at(len(h.Entries))}
}

// page asks for a page, and holds it to the bounds of pages.
func (h History) page(ctx context.Context, p pipeline.Historian, r pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	type result struct {
		page pipeline.HistoryPage
		err  error
	}
	done := make(chan result, 1)
	go func() {
		page, err := p.History(ctx, r)
		done <- result{page, err}
	}()
	timer := time.NewTimer((Suite{Limit: h.Limit}).limit())
	defer timer.Stop()
	var got result
	select {
	case got = <-done:
	case <-timer.C:
		return pipeline.HistoryPage{}, errLimit
	}
	page, err := got.page, got.err
	switch {
	case err != nil:
		return page, err
	case len(page.Entries) > pipeline.MaxHistoryEntries:
		return page, fmt.Errorf("a page of %d entries, more than %d", len(page.Entries), pipeline.MaxHistoryEntries)
	case len(page.Next) > pipeline.MaxHistoryCursor:
		return page, fmt.Errorf("a cursor of %d bytes, more than %d", len(page.Next), pipeline.MaxHistoryCursor)
	case page.Next != "" && page.Next == r.Cursor:
		return page, fmt.Errorf("the page after %q is that page again", r.Cursor)
	}
	for _, e := range page.Entries {
		if e.ID == "" || e.Time.Validate() != nil || len(e.RawResponse) == 0 || len(e.RawResponse) > schema.MaxRawResponse {
			return page, fmt.Errorf("an entry with the id %q, at %v, of %d bytes", e.ID, e.Time, len(e.RawResponse))
		}
	}
	return page, nil
}

// pages asks for all pages of a span.
func (h History) pages(ctx context.Context, p pipeline.Historian, r pipeline.HistoryRequest) ([]pipeline.HistoryPage, error) {
	var pages []pipeline.HistoryPage
	for {
		page, err := h.page(ctx, p, r)
		if err != nil {
			return nil, fmt.Errorf("page %d, of the cursor %q: %w", len(pages)+1, r.Cursor, err)
		}
		pages = append(pages, page)
		if page.Next == "" {
			return pages, nil
		}
		if len(pages) > len(h.Entries)+100 {
			return nil, fmt.Errorf("no end after %d pages of %d prices", len(pages), len(h.Entries))
		}
		r.Cursor = page.Next
	}
}

// within are the entries of pages that are in the span, each once.
func within(pages []pipeline.HistoryPage, r pipeline.HistoryRequest) (entries []pipeline.HistoryEntry) {
	seen := map[string]bool{}
	for _, page := range pages {
		for _, e := range page.Entries {
			if !r.From.After(e.Time) && !e.Time.After(r.To) && !seen[e.ID] {
				seen[e.ID] = true
				entries = append(entries, e)
			}
		}
	}
	return entries
}

// spans are pairs of entries, the first and the last of a span; those that there are not are
// before all or after all.
func (h History) spans() [][2]int {
	n := len(h.Entries)
	return [][2]int{{-1, n}, {0, n - 1}, {0, 0}, {n - 1, n - 1}, {-1, 0}, {n - 1, n}, {n / 2, n/2 + 1}, {1, n / 3}, {n / 3, 2*n/3 + 1}}
}

func eachPriceOfASpanComes(t testing.TB, h History) error {
	p := h.New(t)
	var errs []error
	for _, span := range h.spans() {
		r := h.whole()
		r.From, r.To = h.at(span[0]), h.at(span[1])
		pages, err := h.pages(t.Context(), p, r)
		if err == nil {
			err = sameEntries(within(pages, r), h.Entries[max(0, span[0]):min(span[1]+1, len(h.Entries))])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("from entry %d to %d: %w", span[0], span[1], err))
		}
	}
	return errors.Join(errs...)
}

func sameEntries(got, want []pipeline.HistoryEntry) error {
	for i := range min(len(got), len(want)) {
		if !reflect.DeepEqual(got[i], want[i]) {
			return fmt.Errorf("entry %d is %s, %v, %s, not %s, %v, %s", i, got[i].ID, got[i].Time, got[i].RawResponse, want[i].ID, want[i].Time, want[i].RawResponse)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d entries came, not %d", len(got), len(want))
	}
	return nil
}

func pagesAreInOrder(t testing.TB, h History) error {
	pages, err := h.pages(t.Context(), h.New(t), h.whole())
	if err != nil {
		return err
	}
	var last schema.Time
	full := 0
	for number, page := range pages {
		for _, e := range page.Entries {
			if last.After(e.Time) {
				return fmt.Errorf("page %d has an entry of %v after one of %v", number+1, e.Time, last)
			}
			last = e.Time
		}
		if len(page.Entries) > 0 {
			full++
		}
	}
	if full < 3 {
		return fmt.Errorf("all came in %d pages: History.Entries of three are required", full)
	}
	return nil
}

// entriesAreReadAsTheySay reads each entry as the stage normalize does.
func entriesAreReadAsTheySay(t testing.TB, h History) error {
	p := h.New(t)
	version := ""
	if defined, ok := p.(pipeline.Defined); ok {
		version, _ = defined.DefinedBy()
		version += pipeline.HistoryMark
	}
	pages, err := h.pages(t.Context(), p, h.whole())
	if err != nil {
		return err
	}
	s := Suite{Name: h.Name}
	for _, e := range within(pages, h.whole()) {
		quote := s.fetched(h.Symbol, bytes.Clone(e.RawResponse))
		quote.ReceivedAt, quote.Definition = e.Time, version
		prices, err := p.Normalize(quote)
		if err == nil {
			err = s.checkPrices(quote, prices)
		}
		switch {
		case err != nil:
			return fmt.Errorf("normalize of the entry %s: %w", e.RawResponse, err)
		case len(prices) != 1 || prices[0].Symbol != h.Symbol || !prices[0].Time.Equal(e.Time.Time):
			return fmt.Errorf("normalize of the entry %s gives %v, not one price of %s at %v", e.RawResponse, prices, h.Symbol, e.Time)
		}
	}
	return nil
}

// aCursorResumes asks for each page again, of another provider, as a process does that takes a
// backfill over.
func aCursorResumes(t testing.TB, h History) error {
	r := h.whole()
	pages, err := h.pages(t.Context(), h.New(t), r)
	if err != nil {
		return err
	}
	other := h.New(t)
	for number, page := range pages {
		again, err := h.page(t.Context(), other, r)
		if err == nil && !reflect.DeepEqual(page, again) {
			err = fmt.Errorf("first %d entries and the cursor %q, then %d and %q", len(page.Entries), page.Next, len(again.Entries), again.Next)
		}
		if err != nil {
			return fmt.Errorf("page %d, asked for again: %w", number+1, err)
		}
		r.Cursor = page.Next
	}
	return nil
}

// aSpanEnds looks for pages beyond the span, and for spans without a price.
func aSpanEnds(t testing.TB, h History) error {
	p := h.New(t)
	for _, span := range [][2]int{{0, 0}, {0, len(h.Entries) / 3}} {
		r := h.whole()
		r.From, r.To = h.at(span[0]), h.at(span[1])
		pages, err := h.pages(t.Context(), p, r)
		if err != nil {
			return err
		}
		for number, page := range pages {
			if len(page.Entries) > 0 && page.Next != "" && page.Entries[0].Time.After(r.To) {
				return fmt.Errorf("page %d begins at %v, after the span, which ends at %v, and is not the last", number+1, page.Entries[0].Time, r.To)
			}
		}
	}
	if h.Endless {
		return nil
	}
	const hour = time.Hour
	for name, span := range map[string][2]schema.Time{
		"before all prices": {h.at(-1).Add(-hour), h.at(-1)},
		"after all prices":  {h.at(len(h.Entries)), h.at(len(h.Entries)).Add(hour)},
	} {
		r := h.whole()
		r.From, r.To = span[0], span[1]
		pages, err := h.pages(t.Context(), p, r)
		if err != nil {
			return fmt.Errorf("a span %s: %w", name, err)
		}
		if n := len(within(pages, r)); n > 0 {
			return fmt.Errorf("a span %s has %d", name, n)
		}
	}
	return nil
}

// pagesShareNoMemory overwrites a page, as anyone who holds it may.
func pagesShareNoMemory(t testing.TB, h History) error {
	p := h.New(t)
	pages, err := h.pages(t.Context(), p, h.whole())
	if err != nil {
		return err
	}
	for _, page := range pages[:len(pages)/2] {
		for _, e := range page.Entries {
			clear(e.RawResponse)
		}
	}
	again, err := h.pages(t.Context(), p, h.whole())
	if err != nil {
		return err
	}
	return sameEntries(within(again, h.whole()), h.Entries)
}

func doneContextEndsAPage(t testing.TB, h History) error {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	page, err := h.page(ctx, h.New(t), h.whole())
	switch {
	case err == nil:
		return fmt.Errorf("a page of %d entries after its context was done", len(page.Entries))
	case errors.Is(err, errLimit):
		return fmt.Errorf("a page after its context was done: %w", err)
	}
	return checkQuoteError(err)
}

func unknownSymbolOfAHistory(t testing.TB, h History) error {
	r := h.whole()
	r.Symbol = h.Unknown
	_, err := h.page(t.Context(), h.New(t), r)
	return checkCode(err, schema.CodeUnknownSymbol)
}

// faultsHaveTheirCodes breaks the first page, and one with a cursor.
func faultsHaveTheirCodes(t testing.TB, h History) error {
	pages, err := h.pages(t.Context(), h.New(t), h.whole())
	if err != nil {
		return err
	}
	var errs []error
	for name, fault := range map[string]struct {
		status int
		body   string
		code   schema.Code
	}{
		"a rate limit":   {http.StatusTooManyRequests, `{}`, schema.CodeRateLimited},
		"no key":         {http.StatusUnauthorized, `{}`, schema.CodeUnauthorized},
		"no service":     {http.StatusServiceUnavailable, `{}`, schema.CodeUnavailable},
		"a page of HTML": {http.StatusOK, `<!doctype html><title>Sign in</title>`, schema.CodeBadResponse},
		"another answer": {http.StatusOK, `{"hello":"you"}`, schema.CodeBadResponse},
		"a huge answer":  {http.StatusOK, "[" + strings.Repeat(" ", schema.MaxRawResponse) + "]", schema.CodeTooLarge},
	} {
		p := h.Answering(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			write(w, fault.status, fault.body)
		}))
		for _, cursor := range []string{"", pages[len(pages)/2].Next} {
			if cursor == "" && name == "another answer" {
				continue // it may tell that there is no price
			}
			r := h.whole()
			r.Cursor = cursor
			_, failure := h.page(t.Context(), p, r)
			err := checkCode(failure, fault.code)
			var q *pipeline.QuoteError
			if fault.code == schema.CodeRateLimited && errors.As(failure, &q) && q.RetryAfter != 7*time.Second {
				err = errors.Join(err, fmt.Errorf("asked to wait for 7 s, it says %v", q.RetryAfter))
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s, at the cursor %q: %w", name, cursor, err))
			}
		}
	}
	return errors.Join(errs...)
}

func pagesAtOnce(t testing.TB, h History) error {
	const users = 4
	p := h.New(t)
	errs := make([]error, users)
	var group sync.WaitGroup
	for i := range users {
		group.Go(func() {
			pages, err := h.pages(t.Context(), p, h.whole())
			if err == nil {
				err = sameEntries(within(pages, h.whole()), h.Entries)
			}
			errs[i] = err
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
