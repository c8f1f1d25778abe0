package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// A read model is looked at after pauses that double from firstLook to lastLook.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 80 * time.Millisecond
)

// numbered is how far a chain is written, or read, on one partition.
type numbered struct {
	Part   int32  `db:"part"`
	Outbox string `db:"outbox"` // the chain's name
	Number int64  `db:"number"`
}

// Settle returns once a projection has folded all events of a topic that were
// written to the outbox before it was called, by whatever process: what it does
// not know then did not exist. When ctx is done first, it returns that error.
func Settle(ctx context.Context, q store.Querier, projection string, topic schema.Topic) error {
	// A topic that was created again has a chain of its own.
	const epoch = `(SELECT MAX(epoch) FROM topics WHERE name = $1)`
	what := "how far " + projection + " is"
	var written []numbered
	if err := q.Select(ctx, &written, `SELECT part, outbox, last AS number FROM chains WHERE epoch = `+epoch, topic); err != nil {
		return QueryError(what, err)
	}
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		g := pipeline.Generation{Projection: projection}
		if err := q.Get(ctx, &g.Number, `SELECT number FROM generations WHERE projection = $1 AND active = 1`, projection); err != nil {
			return QueryError(what, err)
		}
		var read []numbered
		if err := q.Select(ctx, &read, `SELECT part, chain_outbox AS outbox, chain_seq AS number FROM positions WHERE topic = $1 AND stage = $2
			AND topic_id = (SELECT topic_id FROM topics WHERE epoch = `+epoch+`)`, topic, stageName(g)); err != nil {
			return QueryError(what, err)
		}
		if reached(read, written) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s to catch up with the log: %w", projection, ctx.Err())
		case <-time.After(pause):
		}
	}
}

func reached(read, written []numbered) bool {
	at := map[int32]numbered{}
	for _, r := range read {
		at[r.Part] = r
	}
	for _, w := range written {
		// Numbers of different names say nothing about each other.
		if r := at[w.Part]; w.Number > 0 && (r.Outbox != w.Outbox || r.Number < w.Number) {
			return false
		}
	}
	return true
}
