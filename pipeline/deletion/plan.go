package deletion

import (
	"context"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/schema"
)

// NewPlan says what would be deleted. It writes nothing.
func NewPlan(ctx context.Context, c Config) (Plan, error) {
	p, _, err := c.withDefaults().plan(ctx)
	return p, err
}

func (c Config) plan(ctx context.Context) (Plan, found, error) {
	p := Plan{Rows: map[string]int64{}, Cleared: map[string]int64{}, Emptied: map[string]int64{}}
	f, err := c.scan(ctx)
	if err != nil {
		return p, f, err
	}
	p.Records = f.records
	rows, err := c.rowsOf(ctx, sorted(f.jobs), nil)
	if err != nil {
		return p, f, err
	}
	for _, r := range rows.rules {
		n, err := r.count(ctx, c.Store)
		if err != nil {
			return p, f, err
		}
		r.countIn(p.Rows, p.Cleared, p.Emptied, n)
	}
	letters, err := c.letters(ctx)
	if err != nil {
		return p, f, err
	}
	streams, err := c.streams(ctx, c.Store)
	if err != nil {
		return p, f, err
	}
	revisions, err := c.revisions(ctx)
	if err != nil {
		return p, f, err
	}
	countIn(p.Rows, "revised_prices", int64(len(revisions)))
	countIn(p.Rows, "dead_letters", int64(len(letters)))
	countIn(p.Cleared, "streams", int64(len(streams)))
	p.Refilled, p.Left = stagesOf(rows.refilled), append(rows.left, f.left...)
	if c.Kafka != nil {
		if err := c.planTopics(ctx, &p, f); err != nil {
			return p, f, err
		}
	}
	p.Asking, err = c.stillAsking(ctx)
	return p, f, err
}

// countIn counts rows as what the rule makes of them.
func (r rule) countIn(deleted, cleared, emptied map[string]int64, n int64) {
	switch {
	case r.emptied:
		countIn(emptied, r.table, n)
	case r.set != "":
		countIn(cleared, r.table, n)
	default:
		countIn(deleted, r.table, n)
	}
}

func countIn[K comparable](counts map[K]int64, of K, n int64) {
	if n > 0 {
		counts[of] += n
	}
}

func stagesOf(generations []generation) []string {
	var names []string
	for _, g := range generations {
		names = append(names, g.stages()[0])
	}
	return names
}

// stillAsking are what asks for the data, in words.
func (c Config) stillAsking(ctx context.Context) ([]string, error) {
	var found []string
	for _, of := range []struct {
		name, table, id, symbols string
		statuses                 []string
	}{
		{"polling job", "schedules", "job_id", "symbols", []string{string(schema.JobActive)}},
		{"stream", "streams", "stream_id", "symbols", []string{"active", "failing"}},
		{"backfill", "backfills", "backfill_id", "symbol", []string{"active", "failing"}},
	} {
		all, err := c.asking(ctx, of.table, of.id, of.symbols)
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			if slices.Contains(of.statuses, a.Status) {
				found = append(found, of.name+" "+a.ID)
			}
		}
	}
	var reading []string
	err := c.Store.Select(ctx, &reading, `SELECT id FROM renormalizations WHERE state IN ('reading', 'building') AND provider IN ('', $1) ORDER BY seq`, c.Subject.Provider)
	if err != nil {
		return nil, fmt.Errorf("looking for renormalizations: %w", err)
	}
	for _, id := range reading {
		found = append(found, "renormalization "+id)
	}
	return found, nil
}
