package backfill

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pricemill/pricemill/handlers/claim"
	"github.com/pricemill/pricemill/handlers/fetch"
	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/handlers/rawstore"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

const (
	// callTime is how long a call may take, and callMargin how much longer it counts of a
	// process that died.
	callTime   = 30 * time.Second
	callMargin = 5 * time.Second
	// storedPoll is how often a job looks whether its last page is stored, and storedWait
	// how long it waits for that: an entry that became a dead letter never is.
	storedPoll = 20 * time.Millisecond
	storedWait = time.Minute
	// precededPoll is how often a job looks whether those before it have ended.
	precededPoll = time.Second
	// maxPause bounds what a service may ask for.
	maxPause = 24 * time.Hour
	// oddFailures in a row, which no passing fault explains, end a backfill.
	oddFailures = 5
	// idlePages in a row without a price that is new, or earlier or later than all before, end
	// it too: the service turns in a circle. Looking for where a span begins takes fewer.
	idlePages = 1000
)

// job is one backfill while this process owns it. Only its goroutine touches what is not
// immutable.
type job struct {
	*handler
	row
	*claim.Task
	emit  pipeline.Emitter
	owner string

	pauses   *backoff.ExponentialBackOff
	first    bool      // no backfill before it fetches some of the same prices
	odd      int       // failures in a row that no passing fault explains
	idle     int       // pages in a row that brought nothing, as below
	earliest time.Time // of the prices that came, stored or not
	latest   time.Time
	appended time.Time // when the last page was appended
}

// begin starts to work, until the backfill has ended, ctx is done, or it is cancelled.
func (w *worker) begin(ctx context.Context, r row) *job {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = w.settings.BackoffMin, w.settings.BackoffMax
	pauses.Reset()
	j := &job{handler: w.handler, row: r, emit: w.emit, owner: w.claims.Owner, pauses: pauses, appended: time.Now()}
	j.Task = claim.Begin(ctx, j.run, j.wakeUp)
	return j
}

// errEnded says that there is nothing more to do for this process.
var errEnded = errors.New("the backfill has ended, or belongs to another process")

func (j *job) run(ctx context.Context) {
	for {
		// A backfill that pauses takes no turn from others.
		select {
		case j.turns <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wait, err := j.step(ctx)
		<-j.turns
		switch {
		case ctx.Err() != nil || errors.Is(err, errEnded):
			return
		case err != nil:
			j.log.Warn("a backfill waits", "backfill_id", j.ID, "error", err)
			wait = j.settings.BackoffMin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// step asks for one page and keeps it, and returns how long to wait before the next one.
func (j *job) step(ctx context.Context) (time.Duration, error) {
	historian, err := j.historian()
	if err != nil {
		return j.failed(ctx, nil, j.explain(err))
	}
	if wait, err := j.waitFor(ctx); err != nil || wait > 0 {
		return wait, err
	}
	// One page at a time is on its way to the tables: prices that come meanwhile wait for no
	// more than that, and what is stored is known before the next page comes.
	stored, err := j.isStored(ctx)
	if err != nil || !stored {
		return storedPoll, err
	}
	version, call, wait, err := j.grant(ctx, historian)
	if err != nil || wait > 0 {
		return min(wait, claim.Poll), err
	}
	at, err := j.place(version)
	if err != nil {
		j.abandon(ctx, call)
		return 0, err
	}
	page, err := j.ask(ctx, historian, at)
	if err == nil {
		page, err = j.check(page, at)
	}
	if err == nil && j.idle >= idlePages {
		err = pipeline.Quotef(schema.CodeTooLarge, "%d pages in a row brought nothing new", idlePages)
	}
	switch {
	case ctx.Err() != nil:
		j.abandon(ctx, call)
		return 0, ctx.Err()
	case err != nil:
		return j.failed(ctx, &call, j.explain(err))
	}
	return 0, j.keep(ctx, call, page, at)
}

// waitFor returns how long to wait before looking again whether another backfill fetches some
// of the same prices, and was started before: then they are known when this one comes to them.
func (j *job) waitFor(ctx context.Context) (time.Duration, error) {
	if j.first {
		return 0, nil
	}
	preceded, err := j.isPreceded(ctx, j.emit)
	if err != nil || preceded {
		return precededPoll, err
	}
	j.first = true
	return 0, nil
}

func (j *job) historian() (pipeline.Historian, error) {
	provider, known := j.provider(j.Provider)
	if !known {
		return nil, pipeline.Quotef(schema.CodeUnknownProvider, "no provider %q in this binary", j.Provider)
	}
	historian, ok := provider.(pipeline.Historian)
	if !ok {
		return nil, pipeline.Quotef(schema.CodeUnknownProvider, "provider %q has no history", j.Provider)
	}
	return historian, nil
}

func (j *job) isStored(ctx context.Context) (bool, error) {
	if j.LastID == "" || time.Since(j.appended) > storedWait {
		return true, nil
	}
	known, err := rawstore.Known(ctx, j.emit, []string{j.LastID})
	return len(known) > 0, err
}

// grant gets a call from the budget of the provider, and keeps the definition by which its
// answer will be read.
func (j *job) grant(ctx context.Context, historian pipeline.Historian) (version string, call fetch.Call, wait time.Duration, err error) {
	text := ""
	if defined, ok := historian.(pipeline.Defined); ok {
		version, text = defined.DefinedBy()
	}
	_, err = j.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		if version != "" {
			if err := declared.Keep(ctx, tx, map[string]string{version: text}); err != nil {
				return nil, err
			}
		}
		var err error
		call, wait, err = fetch.Grant(ctx, tx, j.Provider, historian, callTime+callMargin)
		return nil, err
	})
	if err != nil {
		return "", call, 0, fmt.Errorf("asking for a call of %s: %w", j.Provider, err)
	}
	if version != "" {
		version += pipeline.HistoryMark
	}
	return version, call, wait, nil
}

// ask makes the call.
func (j *job) ask(ctx context.Context, historian pipeline.Historian, at place) (page pipeline.HistoryPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	r := pipeline.HistoryRequest{Symbol: j.Symbol, From: j.From, To: j.To, Cursor: at.Cursor}
	if at.From.After(r.From) {
		r.From = at.From
	}
	return historian.History(ctx, r)
}

// check holds a page against what pipeline.Historian promises, and leaves out prices of other
// times, and all but the first of those with one id.
func (j *job) check(page pipeline.HistoryPage, at place) (pipeline.HistoryPage, error) {
	switch {
	case len(page.Entries) > pipeline.MaxHistoryEntries:
		return page, pipeline.Quotef(schema.CodeTooLarge, "a page of %d prices, more than %d", len(page.Entries), pipeline.MaxHistoryEntries)
	case len(page.Next) > pipeline.MaxHistoryCursor:
		return page, pipeline.Quotef(schema.CodeBadResponse, "a cursor of %d bytes, more than %d", len(page.Next), pipeline.MaxHistoryCursor)
	case page.Next != "" && page.Next == at.Cursor:
		return page, pipeline.Quotef(schema.CodeBadResponse, "the page after this one is this one again")
	}
	kept := pipeline.HistoryPage{Next: page.Next}
	seen := map[string]bool{}
	for _, entry := range page.Entries {
		if size := len(entry.RawResponse); size == 0 || size > schema.MaxRawResponse {
			return page, pipeline.Quotef(schema.CodeTooLarge, "a price of %d bytes, not within 1 and %d", size, schema.MaxRawResponse)
		}
		if err := entry.Time.Validate(); err != nil || entry.ID == "" {
			return page, pipeline.Quotef(schema.CodeBadResponse, "a price without an id, or of no time that can be kept")
		}
		if outside := j.From.After(entry.Time) || entry.Time.After(j.To); !outside && !seen[entry.ID] {
			seen[entry.ID] = true
			kept.Entries = append(kept.Entries, entry)
		}
	}
	return kept, nil
}

// keep appends the prices of a page that are not stored yet, and then stores where the next
// page begins.
func (j *job) keep(ctx context.Context, call fetch.Call, page pipeline.HistoryPage, at place) error {
	ids := make([]string, len(page.Entries))
	for i, entry := range page.Entries {
		ids[i] = entry.ID
	}
	known, err := rawstore.Known(ctx, j.emit, ids)
	if err != nil {
		j.abandon(ctx, call)
		return err
	}
	stored := make(map[string]bool, len(known))
	for _, id := range known {
		stored[id] = true
	}
	var events []schema.Event
	for _, entry := range page.Entries {
		if !stored[entry.ID] {
			events = append(events, schema.Event{ID: entry.ID, Source: "pricemill/" + Name, Payload: schema.QuoteFetched{
				Quote: schema.Quote{Provider: j.Provider, Symbol: j.Symbol}, RawResponse: entry.RawResponse,
				// As of a file: it depends on nothing but the price, and an old price never
				// counts as a fresh one.
				ReceivedAt: entry.Time, Definition: at.Definition}})
		}
	}
	if len(events) > 0 {
		if err := j.emit.Append(ctx, events); err != nil {
			j.abandon(ctx, call)
			return fmt.Errorf("appending %d prices: %w", len(events), err)
		}
		j.appended = time.Now()
	}
	j.countPage(len(events), len(page.Entries)-len(events))
	at.Cursor = page.Next
	next := j.row
	if next.NextPage, err = at.text(); err != nil {
		return err
	}
	next.Status = Active
	if page.Next == "" {
		next.Status = Completed
	}
	next.Calls++
	next.Prices += int64(len(events))
	next.Repeated += int64(len(page.Entries) - len(events))
	if n := len(page.Entries); n > 0 {
		next.Reached = &page.Entries[n-1].Time
		if next.LastID == "" {
			next.LastID = page.Entries[n-1].ID // stored, unless one below is not
		}
	}
	if n := len(events); n > 0 {
		next.LastID = events[n-1].ID
	}
	j.odd = 0
	if j.idle++; len(events) > 0 || j.widens(page) {
		j.idle = 0
	}
	j.pauses.Reset()
	return j.store(ctx, next, &call, nil)
}

// widens says whether a page has a price that is earlier or later than all before.
func (j *job) widens(page pipeline.HistoryPage) bool {
	wider := false
	for _, entry := range page.Entries {
		if j.earliest.IsZero() || entry.Time.Time.Before(j.earliest) {
			j.earliest, wider = entry.Time.Time, true
		}
		if entry.Time.Time.After(j.latest) {
			j.latest, wider = entry.Time.Time, true
		}
	}
	return wider
}

// failed stores why a call failed, and that the backfill has ended where another call would
// fail as well. call is nil where none was made.
func (j *job) failed(ctx context.Context, call *fetch.Call, failure *pipeline.QuoteError) (time.Duration, error) {
	next := j.row
	next.Status = Failing
	if call != nil {
		next.Calls++
		j.countFailure(failure)
	}
	switch failure.Code {
	case schema.CodeUnavailable, schema.CodeTimeout, schema.CodeRateLimited:
		j.odd = 0
	case schema.CodeUnknownSymbol, schema.CodeUnauthorized, schema.CodeNotConfigured, schema.CodeUnknownProvider, schema.CodeTooLarge:
		next.Status = Failed
	default:
		if j.odd++; j.odd >= oddFailures {
			next.Status = Failed
		}
	}
	pause := max(j.pauses.NextBackOff(), min(failure.RetryAfter, maxPause))
	j.log.Warn("a call of a backfill failed", "backfill_id", j.ID, "provider", j.Provider, "code", failure.Code,
		"reason", failure.Reason, "status", next.Status, "again_in", pause)
	return pause, j.store(ctx, next, call, failure)
}

// store stores the row, and that the call has ended, in one transaction. It returns errEnded
// where there is nothing more to do.
func (j *job) store(ctx context.Context, next row, call *fetch.Call, failure *pipeline.QuoteError) error {
	ours := false
	_, err := j.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		var err error
		if ours, err = next.save(ctx, tx, j.owner, failure, schema.NewTime(j.now())); err != nil || call == nil {
			return nil, err
		}
		return nil, call.End(ctx, tx, failure)
	})
	switch {
	case err != nil:
		return fmt.Errorf("storing the progress of backfill %s: %w", j.ID, err)
	case !ours || next.Status.isFinal():
		return errEnded
	}
	j.row = next
	return nil
}

// abandon notes that a call has ended whose answer is not kept.
func (j *job) abandon(ctx context.Context, call fetch.Call) {
	ending, cancel := claim.Graceful(ctx)
	defer cancel()
	_, err := j.emit.Emit(ending, func(tx *pipeline.Tx) ([]schema.Event, error) { return nil, call.End(ending, tx, nil) })
	if err != nil {
		j.log.Warn("a call of a backfill counts for longer than it took", "backfill_id", j.ID, "error", err)
	}
}

// explain says what went wrong. As with quotes, an error that is no QuoteError is a fault of
// the provider's code, whose text may hold anything.
func (j *job) explain(err error) *pipeline.QuoteError {
	var q *pipeline.QuoteError
	switch {
	case errors.As(err, &q):
		return q
	case errors.Is(err, context.DeadlineExceeded):
		return pipeline.Quotef(schema.CodeTimeout, "the provider did not answer in time")
	}
	j.log.Error("a history failed in a way that it does not explain", "backfill_id", j.ID, "provider", j.Provider, "error", err)
	return pipeline.Quotef(schema.CodeInternal, "the provider failed in a way that it does not explain")
}
