// Package state is what the engine keeps in the values that it hands to plugins: in each
// record, and in each transaction.
package state

import "slices"

// Record is what the engine knows of a record besides what a plugin sees.
type Record struct {
	Stage   string // whose stage this is, for the ids of derived events
	Derived int    // events derived so far
	Epoch   int64  // the topic's epoch, for row ids
	Renewed int    // how often the log of the topic lost its end
	Lineage string // see store.Topic.Lineage; empty where it is the topic's id
	// Unwanted says that the handler does not take this type of event.
	Unwanted bool
	// Late says that the record was a dead letter: later ones are applied already.
	Late bool
	// Fault is why the record must become a dead letter.
	Fault error
}

// Tx is what the engine keeps of the transaction of a batch. The zero value is outside
// a lane, where every cache is empty.
type Tx struct {
	Caches map[any]Cache // nil outside a lane
	Hooks  []func()      // to be called after the commit
	// Abandoned says that a handler may still be at it.
	Abandoned bool
}

// Cache is what a lane must do with Values at the end of a transaction.
type Cache interface {
	// Merge keeps what the transaction put, Discard drops it.
	Merge()
	Discard()
	// Begin and End are around a savepoint: where it is not kept, what was put
	// since is taken back. For a cache that is made within the savepoint, Begin is
	// not called.
	Begin()
	End(keep bool)
}

// MaxCached bounds the keys that Values keep. Past it, they are emptied and fill
// again from SQL as keys are used.
const MaxCached = 200_000

// Values are those of one cache: what was committed, and over it what the transaction
// under way has put.
type Values[K comparable, V any] struct {
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

// valuesKey keeps the values of two owners apart that share a lane.
type valuesKey[K comparable, V any] struct{ owner any }

// ValuesFor returns those of a transaction's lane that belong to owner. Outside a lane
// they are new each time.
func ValuesFor[K comparable, V any](tx *Tx, owner any) *Values[K, V] {
	key := valuesKey[K, V]{owner}
	if known, ok := tx.Caches[key]; ok {
		return known.(*Values[K, V])
	}
	made := &Values[K, V]{committed: map[K]V{}, overlay: map[K]V{}}
	if tx.Caches != nil {
		tx.Caches[key] = made
	}
	return made
}

// Get returns the value of k; false where there is none.
func (c *Values[K, V]) Get(k K) (V, bool) {
	if v, ok := c.overlay[k]; ok {
		return v, true
	}
	v, ok := c.committed[k]
	return v, ok
}

// Put sets the value of k for this transaction.
func (c *Values[K, V]) Put(k K, v V) {
	if c.saved {
		old, had := c.overlay[k]
		c.before = append(c.before, replaced[K, V]{k, old, had})
	}
	c.overlay[k] = v
}

// Merge implements Cache.
func (c *Values[K, V]) Merge() {
	if len(c.committed)+len(c.overlay) > MaxCached {
		clear(c.committed)
	}
	for k, v := range c.overlay {
		c.committed[k] = v
	}
	clear(c.overlay)
}

// Discard implements Cache.
func (c *Values[K, V]) Discard() { clear(c.overlay) }

// Begin implements Cache.
func (c *Values[K, V]) Begin() { c.saved = true }

// End implements Cache.
func (c *Values[K, V]) End(keep bool) {
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
