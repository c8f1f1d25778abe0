package engine

import (
	"context"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/internal/state"
	"github.com/pricemill/pricemill/pipeline/store"
)

// Lane is the order in which batches of some partitions are applied, one at a
// time, with what handlers cache from one to the next. It is not safe for
// concurrent use.
type Lane struct{ caches map[any]state.Cache }

// NewLane returns a lane with an empty cache.
func NewLane() *Lane { return &Lane{caches: map[any]state.Cache{}} }

// Run runs f in a transaction. What f puts into a Cache is kept if, and only
// if, it commits.
func (l *Lane) Run(ctx context.Context, db *store.Store, f func(tx *pipeline.Tx) error) error {
	committed := false
	tx := &pipeline.Tx{State: state.Tx{Caches: l.caches}}
	// After a panic as well: the router catches it, and delivers the batch again.
	defer func() {
		if tx.State.Abandoned {
			l.caches = map[any]state.Cache{}
			return
		}
		for _, c := range l.caches {
			if committed {
				c.Merge()
			} else {
				c.Discard()
			}
		}
	}()
	if err := runTx(ctx, db, tx, f); err != nil {
		return err
	}
	committed = true
	return nil
}

// runTx runs f in a transaction, and what it left for after the commit.
func runTx(ctx context.Context, db *store.Store, tx *pipeline.Tx, f func(tx *pipeline.Tx) error) error {
	err := db.Write(ctx, func(inner *store.Tx) error {
		tx.Tx = inner
		return f(tx)
	})
	if err != nil {
		return err
	}
	for _, hook := range tx.State.Hooks {
		hook()
	}
	return nil
}

// savepoint runs f under a savepoint: where f fails, all that it did, cached and left
// for after the commit is undone. Savepoints do not nest.
func savepoint(ctx context.Context, tx *pipeline.Tx, f func() error) error {
	hooks := len(tx.State.Hooks)
	for _, c := range tx.State.Caches {
		c.Begin()
	}
	err := tx.Savepoint(ctx, f)
	if tx.State.Abandoned {
		return err
	}
	if err != nil {
		tx.State.Hooks = tx.State.Hooks[:hooks]
	}
	for _, c := range tx.State.Caches {
		c.End(err == nil)
	}
	return err
}

// abandon gives up the transaction and what the lane has cached: the handler that has
// not returned may still use both.
func abandon(tx *pipeline.Tx) {
	tx.Abandon()
	tx.State.Abandoned = true
}
