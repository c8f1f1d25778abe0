package cmd

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pricemill/pricemill/handlers/backfill"
	"github.com/pricemill/pricemill/handlers/normalize"
	"github.com/pricemill/pricemill/handlers/rawstore"
	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// appliedWait is how long a question about backfills waits for their prices to be applied.
const appliedWait = 500 * time.Millisecond

// backfills is httpapi.Backfills over the table of the stage.
type backfills struct {
	backfill.Reader
	projections []pipeline.Projection
	// applied are the ids of those of which it is known that they are applied.
	applied *sync.Map
}

var _ httpapi.Backfills = backfills{}

func newBackfills(db *store.Store, m *modules) backfills {
	return backfills{backfill.Reader{DB: db}, m.projections, &sync.Map{}}
}

// Get implements httpapi.Backfills.
func (b backfills) Get(ctx context.Context, id string) (httpapi.Backfill, error) {
	found, err := b.Reader.Get(ctx, id)
	if err == nil {
		err = b.noteApplied(ctx, []backfill.Backfill{found})
	}
	if err != nil {
		return httpapi.Backfill{}, projections.QueryError("backfill "+id, err)
	}
	return b.body(found), nil
}

// List implements httpapi.Backfills.
func (b backfills) List(ctx context.Context, limit int) ([]httpapi.Backfill, error) {
	found, err := b.Reader.List(ctx, limit)
	if err == nil {
		err = b.noteApplied(ctx, found)
	}
	if err != nil {
		return nil, projections.QueryError("the backfills", err)
	}
	all := make([]httpapi.Backfill, len(found))
	for i, one := range found {
		all[i] = b.body(one)
	}
	return all, nil
}

// Covering implements httpapi.Backfills.
func (b backfills) Covering(ctx context.Context, provider schema.Provider, symbol schema.Symbol, from, to schema.Time) (string, error) {
	id, err := b.Reader.Covering(ctx, provider, symbol, from, to)
	if err != nil {
		return "", projections.QueryError("which backfills are under way", err)
	}
	return id, nil
}

// Open implements httpapi.Backfills.
func (b backfills) Open(ctx context.Context, ids []string) (int, []string, error) {
	open, known, err := b.Reader.Open(ctx, ids)
	if err != nil {
		return 0, nil, projections.QueryError("how many backfills there are", err)
	}
	return open, known, nil
}

// WaitCaughtUp implements httpapi.Backfills.
func (b backfills) WaitCaughtUp(ctx context.Context) error {
	if err := b.Reader.WaitCaughtUp(ctx); err != nil {
		return projections.QueryError("how far the backfills are", err)
	}
	return nil
}

// noteApplied notes which of some backfills are applied. The prices of a backfill are in one
// partition, in their order. So once the last of them is stored, all are on their way in the
// chains of the topics, and applied once each stage has come as far as these are now.
func (b backfills) noteApplied(ctx context.Context, all []backfill.Backfill) error {
	lasts := map[string][]string{} // ids of backfills by that of their last price
	var ids []string
	for _, one := range all {
		if _, known := b.applied.Load(one.ID); known || one.Status != backfill.Completed {
			continue
		}
		if one.LastID == "" {
			b.applied.Store(one.ID, true) // it brought nothing
			continue
		}
		if lasts[one.LastID] == nil {
			ids = append(ids, one.LastID)
		}
		lasts[one.LastID] = append(lasts[one.LastID], one.ID)
	}
	stored, err := rawstore.Known(ctx, b.DB, ids)
	if err != nil || len(stored) == 0 {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, appliedWait)
	defer cancel()
	switch err := b.waitApplied(waiting); {
	case err == nil:
		for _, id := range stored {
			for _, of := range lasts[id] {
				b.applied.Store(of, true)
			}
		}
	case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return nil
}

// waitApplied waits until the prices of all answers that are stored are in every read model
// that serves.
func (b backfills) waitApplied(ctx context.Context) error {
	err := store.WaitCaughtUp(ctx, b.DB, schema.StoredQuotes, func(context.Context) (string, error) { return normalize.Name, nil })
	if err != nil {
		return err
	}
	serving, err := projections.Fed(ctx, b.DB, b.projections)
	if err != nil {
		return err
	}
	for _, stage := range serving {
		if !slices.Contains(stage.Topics(), schema.PriceEvents) {
			continue
		}
		err := store.WaitCaughtUp(ctx, b.DB, schema.PriceEvents, func(context.Context) (string, error) { return stage.Name, nil })
		if err != nil {
			return err
		}
	}
	return nil
}

func (b backfills) body(one backfill.Backfill) httpapi.Backfill {
	_, applied := b.applied.Load(one.ID)
	body := httpapi.Backfill{BackfillID: one.ID, Status: string(one.Status), Provider: one.Provider, Symbol: one.Symbol,
		From: one.From, To: one.To, StartedAt: one.StartedAt, EndedAt: one.EndedAt, OwnerAlive: one.Owned,
		Calls: one.Calls, Prices: one.Prices, Repeated: one.Repeated, ReachedAt: one.Reached, Applied: applied}
	if one.LastErrorAt != nil {
		body.LastError = &httpapi.BackfillError{Reason: one.LastError, Timestamp: *one.LastErrorAt}
	}
	return body
}
