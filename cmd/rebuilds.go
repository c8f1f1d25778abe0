package cmd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
)

// rebuilds is httpapi.Rebuilds over the database. The work is done by processes
// that run projections; what swaps tables is a transaction, which any process can
// do.
type rebuilds struct {
	db  *store.Store
	all []pipeline.Projection
}

var _ httpapi.Rebuilds = rebuilds{}

// Projections implements httpapi.Rebuilds.
func (r rebuilds) Projections() []string {
	names := make([]string, len(r.all))
	for i, p := range r.all {
		names[i] = p.Name()
	}
	slices.Sort(names)
	return names
}

// Start implements httpapi.Rebuilds.
func (r rebuilds) Start(ctx context.Context, name string, o projections.Order) (projections.Rebuild, error) {
	for _, p := range r.all {
		if p.Name() == name {
			started, err := projections.NewRebuild(ctx, r.db, p, o)
			return started, passing(err)
		}
	}
	return projections.Rebuild{}, projections.ErrNotFound
}

// Get implements httpapi.Rebuilds.
func (r rebuilds) Get(ctx context.Context, id string) (projections.Rebuild, error) {
	return projections.GetRebuild(ctx, r.db, id)
}

// List implements httpapi.Rebuilds.
func (r rebuilds) List(ctx context.Context, limit int) ([]projections.Rebuild, error) {
	return projections.Rebuilds(ctx, r.db, limit)
}

// Cancel implements httpapi.Rebuilds.
func (r rebuilds) Cancel(ctx context.Context, id string) (projections.Rebuild, error) {
	return r.after(ctx, id, projections.CancelRebuild(ctx, r.db, r.all, id))
}

// Promote implements httpapi.Rebuilds.
func (r rebuilds) Promote(ctx context.Context, id string, stale bool) (projections.Rebuild, error) {
	return r.after(ctx, id, projections.PromoteRebuild(ctx, r.db, r.all, id, stale))
}

// RollBack implements httpapi.Rebuilds.
func (r rebuilds) RollBack(ctx context.Context, id string, stale bool) (projections.Rebuild, error) {
	return r.after(ctx, id, projections.RollBackRebuild(ctx, r.db, r.all, id, stale))
}

func (r rebuilds) after(ctx context.Context, id string, err error) (projections.Rebuild, error) {
	if err != nil {
		return projections.Rebuild{}, passing(err)
	}
	return r.Get(ctx, id)
}

// passing marks what is no refusal: someone held a table for too long, or the
// database is down.
func passing(err error) error {
	for _, refusal := range []error{nil, projections.ErrNotFound, projections.ErrRebuilding, projections.ErrRebuildState, projections.ErrBehind,
		projections.ErrServes} {
		if errors.Is(err, refusal) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
}

// staleness knows which projections no running binary updates.
type staleness struct {
	db  *store.Store
	all []pipeline.Projection

	mu    sync.Mutex
	asked time.Time
	found map[string]projections.Stale
}

const (
	// staleFor is how long an answer is good: each request would ask otherwise.
	staleFor     = time.Second
	staleTimeout = time.Second
)

func newStaleness(db *store.Store, all []pipeline.Projection) *staleness {
	return &staleness{db: db, all: all}
}

// look asks now and then. While the database does not answer, the last answer is
// good.
func (f *staleness) look(ctx context.Context) map[string]projections.Stale {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.asked) < staleFor {
		return f.found
	}
	f.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, staleTimeout)
	defer cancel()
	if found, err := projections.StaleGenerations(ctx, f.db, f.all); err == nil {
		f.found = found
	}
	return f.found
}

// age is for httpapi.Ports.
func (f *staleness) age(name string) (time.Duration, bool) {
	one, there := f.look(context.Background())[name]
	return one.Age, there
}

// checks warn of what no one feeds: it serves, and grows old.
func (f *staleness) checks(ctx context.Context) []httpapi.Check {
	found := f.look(ctx)
	var checks []httpapi.Check
	for _, name := range slices.Sorted(maps.Keys(found)) {
		one := found[name]
		checks = append(checks, httpapi.Check{Name: "projection " + name, State: httpapi.CheckWarning, Reason: fmt.Sprintf(
			"generation %d serves, which was built by %q and last fed %d s ago: this process has %q; see pricemill rebuild list",
			one.Generation, one.Serves, int(one.Age.Seconds()), one.Is)})
	}
	return checks
}
