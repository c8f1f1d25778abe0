package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Stale is a serving generation that no running binary updates, and that lacks what was
// written since.
type Stale struct {
	Generation int
	// Serves is its fold, Is that of this binary.
	Serves, Is string
	// Age is how long ago someone fed it.
	Age time.Duration
}

// StaleGenerations are the stale generations, by the name of their projections. One of
// another fold that processes of that fold feed is not stale.
func StaleGenerations(ctx context.Context, q store.Querier, all []pipeline.Projection) (map[string]Stale, error) {
	found := map[string]Stale{}
	for _, p := range all {
		serves, fold, err := servedGeneration(ctx, q, p.Name())
		if err != nil {
			return nil, err
		}
		if fold == "" || fold == fingerprint(p) {
			continue
		}
		behind := false
		for _, topic := range topicsOf(p) {
			late, err := store.IsBehind(ctx, q, topic, stageName(serves))
			if err != nil {
				return nil, err
			}
			behind = behind || late
		}
		if !behind {
			continue
		}
		var fed []schema.Time
		if err := q.Select(ctx, &fed, `SELECT moved_at FROM positions WHERE stage = $1 ORDER BY moved_at DESC LIMIT 1`, stageName(serves)); err != nil {
			return nil, fmt.Errorf("reading when %s was fed: %w", stageName(serves), err)
		}
		stale := Stale{Generation: serves.Number, Serves: fold, Is: fingerprint(p)}
		if len(fed) > 0 {
			stale.Age = max(0, time.Since(fed[0].Time))
		}
		found[p.Name()] = stale
	}
	return found, nil
}
