package normalize

import (
	"context"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Replay gives the events again that the stage gave for stored answers, with their ids, without
// writing anything. It remembers the last prices, so it is to be shown the records of a partition
// from the first on.
type Replay struct {
	h     *handler
	known *pipeline.Cache[string, last]
}

// NewReplay returns a Replay that has seen nothing; false for another handler than that of this
// stage.
func NewReplay(h pipeline.Handler) (*Replay, bool) {
	own, ours := h.(*handler)
	if !ours {
		return nil, false
	}
	return &Replay{own, pipeline.CacheFor[string, last](&pipeline.Tx{}, own)}, true
}

// Events are those that follow from each record.
func (r *Replay) Events(ctx context.Context, q store.Querier, in []pipeline.Record) ([][]schema.Event, error) {
	definitions, err := r.h.definitions.Load(ctx, q, versions(in))
	if err != nil {
		return nil, err
	}
	events := make([][]schema.Event, len(in))
	for i := range in {
		in[i].State.Stage, in[i].State.Derived = Name, 0
		found := r.h.read(&in[i], definitions)
		found.doubt(r.known)
		events[i] = emit(found, r.known, map[string]last{})
	}
	return events, nil
}

// Prices are the events of the prices that each of some stored answers holds, whether they were
// known or not.
func (r *Replay) Prices(ctx context.Context, q store.Querier, in []pipeline.Record) ([][]schema.Payload, error) {
	definitions, err := r.h.definitions.Load(ctx, q, versions(in))
	if err != nil {
		return nil, err
	}
	prices := make([][]schema.Payload, len(in))
	for i := range in {
		for _, p := range r.h.read(&in[i], definitions).prices {
			prices[i] = append(prices[i], observed(in[i].Event.Payload.(schema.QuoteStored), p))
		}
	}
	return prices, nil
}
