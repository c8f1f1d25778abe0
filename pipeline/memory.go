package pipeline

import (
	"context"
	"slices"

	"github.com/pricemill/pricemill/pipeline/store"
)

// Lane is the order in which batches of some partitions are applied, one at a
// time, with what handlers remember from one to the next. It is not safe for
// concurrent use.
type Lane struct{ memories map[any]memory }

// NewLane returns a lane that remembers nothing.
func NewLane() *Lane { return &Lane{memories: map[any]memory{}} }

// Run runs f in a transaction. What f puts into a Memory is kept if, and only
// if, it commits.
func (l *Lane) Run(ctx context.Context, db *store.Store, f func(tx *Tx) error) error {
	committed := false
	tx := &Tx{memories: l.memories}
	// After a panic as well: the router catches it, and delivers the batch again.
	defer func() {
		if tx.abandoned {
			l.memories = map[any]memory{}
			return
		}
		for _, m := range l.memories {
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
	memories map[any]memory // nil outside a lane
	hooks    []func()
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

// memory is what a lane must do with a Memory at the end of a transaction.
type memory interface {
	merge()
	discard()
	// begin and end are around a part of the transaction: where it is not kept,
	// what it put is taken back. Of a memory that is made within the part, begin is
	// not called.
	begin()
	end(keep bool)
}

// maxRemembered bounds the keys a Memory keeps. Past it, the memory is emptied
// and fills again from SQL as keys are used.
const maxRemembered = 200_000

// Memory is state that a handler keeps between the batches of one lane so as
// not to read it from SQL each time. What a transaction writes is seen by that
// transaction at once and by later ones only if it commits. It is dropped
// whenever the lane's partitions are assigned anew, so a key that is absent
// must be loaded from SQL.
//
// Values are shared between transactions: treat them as immutable and Put a
// changed copy.
type Memory[K comparable, V any] struct {
	committed map[K]V
	overlay   map[K]V
	// part says that a part of the transaction runs; before is what its changes
	// took the place of, in their order.
	part   bool
	before []replaced[K, V]
}

// replaced is what a key had in the overlay, if anything.
type replaced[K comparable, V any] struct {
	key   K
	value V
	had   bool
}

// memoryKey keeps the memories of two handlers apart that share a stage's lane.
type memoryKey[K comparable, V any] struct{ owner any }

// Remember returns the lane's memory that belongs to owner, any comparable
// value, usually the handler itself. Outside a lane it is new each time.
func Remember[K comparable, V any](tx *Tx, owner any) *Memory[K, V] {
	key := memoryKey[K, V]{owner}
	if m, ok := tx.memories[key]; ok {
		return m.(*Memory[K, V])
	}
	m := &Memory[K, V]{committed: map[K]V{}, overlay: map[K]V{}}
	if tx.memories != nil {
		tx.memories[key] = m
	}
	return m
}

// Get returns the value of k; false means it must be loaded.
func (m *Memory[K, V]) Get(k K) (V, bool) {
	if v, ok := m.overlay[k]; ok {
		return v, true
	}
	v, ok := m.committed[k]
	return v, ok
}

// Put sets the value of k for this transaction, and for later ones if it
// commits.
func (m *Memory[K, V]) Put(k K, v V) {
	if m.part {
		old, had := m.overlay[k]
		m.before = append(m.before, replaced[K, V]{k, old, had})
	}
	m.overlay[k] = v
}

func (m *Memory[K, V]) merge() {
	if len(m.committed)+len(m.overlay) > maxRemembered {
		clear(m.committed)
	}
	for k, v := range m.overlay {
		m.committed[k] = v
	}
	clear(m.overlay)
}

func (m *Memory[K, V]) discard() { clear(m.overlay) }

func (m *Memory[K, V]) begin() { m.part = true }

func (m *Memory[K, V]) end(keep bool) {
	switch {
	case keep:
	case !m.part: // made within the part
		clear(m.overlay)
	default:
		for _, r := range slices.Backward(m.before) {
			if r.had {
				m.overlay[r.key] = r.value
			} else {
				delete(m.overlay, r.key)
			}
		}
	}
	m.part, m.before = false, nil
}
