package pipeline

import (
	"context"
	"slices"

	"github.com/pricemill/pricemill/pipeline/store"
)

// Lane is the order in which batches of some partitions are applied, one at a
// time, with what handlers cache from one to the next. It is not safe for
// concurrent use.
type Lane struct{ caches map[any]cache }

// NewLane returns a lane with an empty cache.
func NewLane() *Lane { return &Lane{caches: map[any]cache{}} }

// Run runs f in a transaction. What f puts into a Cache is kept if, and only
// if, it commits.
func (l *Lane) Run(ctx context.Context, db *store.Store, f func(tx *Tx) error) error {
	committed := false
	tx := &Tx{caches: l.caches}
	// After a panic as well: the router catches it, and delivers the batch again.
	defer func() {
		if tx.abandoned {
			l.caches = map[any]cache{}
			return
		}
		for _, m := range l.caches {
			if committed {
				m.merge()
			} else {
				m.discard()
			}
		}
	}()
	if err := tx.run(ctx, db, f); err != nil {
		return err
	}
	committed = true
	return nil
}

// Tx is the transaction of a batch.
type Tx struct {
	*store.Tx
	caches map[any]cache // nil outside a lane
	hooks  []func()
	// abandoned says that a handler may still be at it.
	abandoned bool
}

// run runs f in a transaction, and what it left for after the commit.
func (t *Tx) run(ctx context.Context, db *store.Store, f func(tx *Tx) error) error {
	err := db.Write(ctx, func(tx *store.Tx) error {
		t.Tx = tx
		return f(t)
	})
	if err != nil {
		return err
	}
	for _, hook := range t.hooks {
		hook()
	}
	return nil
}

// OnCommit runs f after the transaction was committed, before the next batch of
// the lane; not at all after a rollback. f must not block.
func (t *Tx) OnCommit(f func()) { t.hooks = append(t.hooks, f) }

// cache is what a lane must do with a Cache at the end of a transaction.
type cache interface {
	merge()
	discard()
	// begin and end are around a savepoint: where it is not kept, what was put
	// since is taken back. For a cache that is made within the savepoint, begin is
	// not called.
	begin()
	end(keep bool)
}

// maxCached bounds the keys a Cache keeps. Past it, the cache is emptied
// and fills again from SQL as keys are used.
const maxCached = 200_000

// Cache is state that a handler keeps between the batches of one lane so as
// not to read it from SQL each time. What a transaction writes is seen by that
// transaction at once and by later ones only if it commits. It is dropped
// whenever the lane's partitions are assigned anew, so a key that is absent
// must be loaded from SQL.
//
// Values are shared between transactions: treat them as immutable and Put a
// changed copy.
type Cache[K comparable, V any] struct {
	committed map[K]V
	overlay   map[K]V
	// saved says that a savepoint is open; before is what the changes since
	// replaced, in their order.
	saved  bool
	before []replaced[K, V]
}

// replaced is what a key had in the overlay, if anything.
type replaced[K comparable, V any] struct {
	key   K
	value V
	had   bool
}

// cacheKey keeps the caches of two handlers apart that share a stage's lane.
type cacheKey[K comparable, V any] struct{ owner any }

// CacheFor returns the lane's cache that belongs to owner, any comparable
// value, usually the handler itself. Outside a lane it is new each time.
func CacheFor[K comparable, V any](tx *Tx, owner any) *Cache[K, V] {
	key := cacheKey[K, V]{owner}
	if m, ok := tx.caches[key]; ok {
		return m.(*Cache[K, V])
	}
	m := &Cache[K, V]{committed: map[K]V{}, overlay: map[K]V{}}
	if tx.caches != nil {
		tx.caches[key] = m
	}
	return m
}

// Get returns the value of k; false means it must be loaded.
func (c *Cache[K, V]) Get(k K) (V, bool) {
	if v, ok := c.overlay[k]; ok {
		return v, true
	}
	v, ok := c.committed[k]
	return v, ok
}

// Put sets the value of k for this transaction, and for later ones if it
// commits.
func (c *Cache[K, V]) Put(k K, v V) {
	if c.saved {
		old, had := c.overlay[k]
		c.before = append(c.before, replaced[K, V]{k, old, had})
	}
	c.overlay[k] = v
}

func (c *Cache[K, V]) merge() {
	if len(c.committed)+len(c.overlay) > maxCached {
		clear(c.committed)
	}
	for k, v := range c.overlay {
		c.committed[k] = v
	}
	clear(c.overlay)
}

func (c *Cache[K, V]) discard() { clear(c.overlay) }

func (c *Cache[K, V]) begin() { c.saved = true }

func (c *Cache[K, V]) end(keep bool) {
	switch {
	case keep:
	case !c.saved: // made within the savepoint
		clear(c.overlay)
	default:
		for _, r := range slices.Backward(c.before) {
			if r.had {
				c.overlay[r.key] = r.value
			} else {
				delete(c.overlay, r.key)
			}
		}
	}
	c.saved, c.before = false, nil
}
