package projections

import (
	"context"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// BehindError says that a read model did not catch up with the log in time.
type BehindError = store.BehindError

// WaitCaughtUp returns once a projection has folded all events of a topic that were
// written to the outbox before it was called: see store.WaitCaughtUp.
func WaitCaughtUp(ctx context.Context, q store.Querier, projection string, topic schema.Topic) error {
	err := store.WaitCaughtUp(ctx, q, topic, func(ctx context.Context) (string, error) {
		g := pipeline.Generation{Projection: projection}
		err := q.Get(ctx, &g.Number, `SELECT number FROM generations WHERE projection = $1 AND active = 1`, projection)
		return stageName(g), err
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	return QueryError("how far "+projection+" is", err)
}
