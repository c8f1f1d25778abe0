package projections

import (
	"context"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
)

const (
	// maxKept bounds what a Kept keeps, in values.
	maxKept = 50_000
	// restAfterMove is how long a Kept reads the rows themselves after it saw the read model
	// change; twice as long each time that it changed again, up to longestRest.
	restAfterMove = 5 * time.Millisecond
	longestRest   = time.Second
)

// Kept keeps what was read from the rows of a projection for as long as they stay as they
// are. One small statement, which all who ask at that time share, says whether they have:
// whatever writes rows moves a position of the stage, or has another generation serve, in the
// same transaction. So an answer is as of a moment after it was asked for, as if the rows had
// been read, in whatever process they are written. While they change all the time, nothing
// is kept and nothing asked. It is safe for concurrent use.
type Kept[K comparable, V any] struct {
	projection string
	stamps     *store.Loader[string, string]

	mu     sync.RWMutex
	stamp  string    // that values are of
	values map[K]*V  // nil for what is not there
	rest   time.Time // until when nothing is kept
	pause  time.Duration
}

// NewKept returns one that has kept nothing yet.
func NewKept[K comparable, V any](db store.Committed, projection string) *Kept[K, V] {
	return &Kept[K, V]{projection: projection, values: map[K]*V{},
		stamps: store.NewLoader(1, func(ctx context.Context, names []string) (map[string]string, error) {
			stamp, err := readStamp(ctx, db, names[0])
			return map[string]string{names[0]: stamp}, err
		})}
}

// readStamp reads a text that is another one whenever rows of the generation that serves are
// others.
func readStamp(ctx context.Context, q store.Querier, projection string) (stamp string, err error) {
	// The columns are what a stage moves (next_offset, chain), what a retry of dead letters
	// does (retried), and what tells a log or a database that was set back from one that was
	// not (topic_id, moved_at). Their order is any: another one costs reading the rows, no more.
	// See stageName for that of the stage.
	err = q.Get(ctx, &stamp, `SELECT g.number || COALESCE((SELECT string_agg(' ' || p.topic || ' ' || p.part || ' ' || p.topic_id || ' ' || p.next_offset
		|| ' ' || p.chain_outbox || ' ' || p.chain_seq || ' ' || p.retried || ' ' || p.moved_at, '')
		FROM positions p WHERE p.stage = g.projection || '.g' || g.number), '') FROM generations g WHERE g.projection = $1 AND g.active = 1`, projection)
	return stamp, err
}

// Load returns the values of keys, in their order: those that are kept, or else what read
// reads by one statement. One that is nil is not there. The values are not to be changed.
func (k *Kept[K, V]) Load(ctx context.Context, keys []K, read func(ctx context.Context, keys []K) (map[K]V, error)) ([]*V, error) {
	stamp := k.now(ctx)
	found := make([]*V, len(keys))
	if stamp != "" && k.find(stamp, keys, found) {
		return found, nil
	}
	rows, err := read(ctx, keys)
	if err != nil {
		return nil, err
	}
	for i, key := range keys {
		if value, known := rows[key]; known {
			found[i] = &value
		}
	}
	// Rows that are read after the stamp may be newer than it. Those that are kept are all of
	// one moment.
	if stamp != "" && k.now(ctx) == stamp {
		k.keep(stamp, keys, found)
	}
	return found, nil
}

// now is the stamp of this moment; empty where it is not the one that values are of, or not
// to be asked for.
func (k *Kept[K, V]) now(ctx context.Context) string {
	k.mu.RLock()
	rests := time.Now().Before(k.rest)
	k.mu.RUnlock()
	if rests {
		return ""
	}
	stamp, err := k.stamps.Load(ctx, k.projection)
	if err != nil {
		return "" // whatever is wrong, those who read the rows find it
	}
	k.mu.RLock()
	stands, rested := stamp == k.stamp, k.pause == 0
	k.mu.RUnlock()
	if stands && rested {
		return stamp
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if stamp == k.stamp {
		k.pause = 0
		return stamp
	}
	k.stamp = stamp
	clear(k.values)
	k.pause = min(max(2*k.pause, restAfterMove), longestRest)
	k.rest = time.Now().Add(k.pause)
	return ""
}

// find reports whether all keys are kept, and sets what is found.
func (k *Kept[K, V]) find(stamp string, keys []K, found []*V) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.stamp != stamp {
		return false
	}
	for i, key := range keys {
		value, kept := k.values[key]
		if !kept {
			return false
		}
		found[i] = value
	}
	return true
}

func (k *Kept[K, V]) keep(stamp string, keys []K, found []*V) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stamp != stamp {
		return
	}
	if len(k.values)+len(keys) > maxKept {
		clear(k.values)
	}
	for i, key := range keys {
		k.values[key] = found[i]
	}
}
