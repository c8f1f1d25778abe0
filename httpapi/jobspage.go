package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pricemill/pricemill/httpapi/dashboard"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/schema"
)

// pageJobs is how many jobs, how many streams, and how many backfills, a page shows.
const pageJobs = 100

func (a *API) readJobsPage(r *http.Request) (dashboard.Jobs, error) {
	view := dashboard.Jobs{Frame: a.frame("Jobs", "jobs"), MinInterval: int(a.config.MinInterval / time.Second), MaxSymbols: schema.MaxJobSymbols,
		Providers: a.choose(a.config.Providers), Streamers: a.choose(a.config.Streamers)}
	view.Notice = notice(r)
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	found, err := a.ports.Jobs.List(ctx, jobs.Place{}, pageJobs)
	if err != nil {
		return view, fmt.Errorf("listing the polling jobs: %w", err)
	}
	for _, j := range found {
		view.Jobs = append(view.Jobs, a.jobOf(j))
	}
	streams, err := a.ports.Streams.List(ctx, pageJobs)
	if err != nil {
		return view, fmt.Errorf("listing the streams: %w", err)
	}
	for _, s := range streams {
		view.Streams = append(view.Streams, a.streamOf(s))
	}
	backfills, err := a.ports.Backfills.List(ctx, pageJobs)
	if err != nil {
		return view, fmt.Errorf("listing the backfills: %w", err)
	}
	for _, b := range backfills {
		view.Backfills = append(view.Backfills, a.backfillOf(b))
	}
	return view, nil
}

// choose offers providers, of which the default one is chosen.
func (a *API) choose(providers []schema.Provider) []dashboard.Choice {
	all := make([]dashboard.Choice, len(providers))
	for i, p := range providers {
		all[i] = dashboard.Choice{Name: string(p), Text: string(p), Chosen: p == a.config.DefaultProvider}
	}
	return all
}

func symbolText(symbols []schema.Symbol) string {
	texts := make([]string, len(symbols))
	for i, s := range symbols {
		texts[i] = string(s)
	}
	return strings.Join(texts, ", ")
}

func (a *API) jobOf(j jobs.Job) dashboard.Job {
	view := dashboard.Job{ID: j.JobID, Status: string(j.Status), Symbols: symbolText(j.Symbols), Provider: string(j.Provider), Interval: j.Interval,
		LastRun: a.ago(j.LastRun), Runs: j.Runs, Prices: j.Prices, Failures: j.Failures,
		CanPause: j.Status == schema.JobActive, CanResume: j.Status == schema.JobPaused, CanBeDone: j.Status != schema.JobStopped}
	if j.Status == schema.JobActive && !j.NextRun.IsZero() {
		view.NextRun = "now"
		if wait := j.NextRun.Sub(a.config.Now()); wait >= time.Second {
			view.NextRun = "in " + dashboard.Age(wait)
		}
	}
	if f := j.LastFailure; f != nil {
		view.Error = fmt.Sprintf("%s, %s: %s", f.Symbol, a.ago(f.At), f.Reason)
	}
	return view
}

func (a *API) streamOf(s Stream) dashboard.Stream {
	view := dashboard.Stream{ID: s.StreamID, Status: s.Status, Symbols: symbolText(s.Symbols), Provider: string(s.Provider),
		Messages: s.Messages, Gaps: s.Gaps, Missed: s.Missed, Reconnects: s.Reconnects, CanStop: s.StoppedAt == nil}
	if s.LastMessageAt != nil {
		view.LastMessage = a.ago(*s.LastMessageAt)
	}
	if e := s.LastError; e != nil {
		view.Error = a.ago(e.Timestamp) + ": " + e.Reason
	}
	return view
}

func (a *API) backfillOf(b Backfill) dashboard.Backfill {
	view := dashboard.Backfill{ID: b.BackfillID, Status: b.Status, Symbol: string(b.Symbol), Provider: string(b.Provider),
		Span: b.From.Format(time.DateTime) + " to " + b.To.Format(time.DateTime), Calls: b.Calls, Prices: b.Prices, Repeated: b.Repeated,
		CanStop: b.EndedAt == nil}
	if b.ReachedAt != nil {
		view.Reached = b.ReachedAt.Format(time.DateTime)
	}
	if e := b.LastError; e != nil {
		view.Error = a.ago(e.Timestamp) + ": " + e.Reason
	}
	return view
}
