package pipeline

import (
	"github.com/pricemill/pricemill/pipeline/internal/state"
	"github.com/pricemill/pricemill/pipeline/store"
)

// Tx is the transaction of a batch.
type Tx struct {
	*store.Tx
	// State is the engine's; plugins leave it alone.
	State state.Tx
}

// OnCommit runs f after the transaction was committed, before the next batch of
// the lane; not at all after a rollback. f must not block.
func (t *Tx) OnCommit(f func()) { t.State.Hooks = append(t.State.Hooks, f) }

// Cache is state that a handler keeps between the batches of one lane so as
// not to read it from SQL each time. What a transaction writes is seen by that
// transaction at once and by later ones only if it commits. It is dropped
// whenever the lane's partitions are assigned again, or when it has grown too large,
// so a key that is absent must be loaded from SQL.
//
// Values are shared between transactions: treat them as immutable and Put a
// changed copy.
type Cache[K comparable, V any] struct{ values *state.Values[K, V] }

// CacheFor returns the lane's cache that belongs to owner, any comparable
// value, usually the handler itself. Outside a lane it is new each time.
func CacheFor[K comparable, V any](tx *Tx, owner any) *Cache[K, V] {
	return &Cache[K, V]{state.ValuesFor[K, V](&tx.State, owner)}
}

// Get returns the value of k; false means it must be loaded.
func (c *Cache[K, V]) Get(k K) (V, bool) { return c.values.Get(k) }

// Put sets the value of k for this transaction, and for later ones if it
// commits.
func (c *Cache[K, V]) Put(k K, v V) { c.values.Put(k, v) }
