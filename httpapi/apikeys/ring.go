package apikeys

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
)

const (
	// pollEvery is how often a Ring looks whether keys changed: a revoked key is refused
	// after this time, and that of a query.
	pollEvery = 500 * time.Millisecond
	// missEvery is how often it looks because of keys that it does not know.
	missEvery = 100 * time.Millisecond
	// lookTimeout bounds a look.
	lookTimeout = 5 * time.Second
	// maxUnconfirmed is how long keys are taken for valid while the database does not answer.
	maxUnconfirmed = 30 * time.Second
	// useEvery is how often it is saved that a key is used.
	useEvery = time.Minute
)

// ErrUnconfirmed says that the database has not answered for so long that a key may have
// been revoked since.
var ErrUnconfirmed = errors.New("the API keys cannot be read")

// Ring keeps the valid keys in memory. It is safe for concurrent use.
type Ring struct {
	db    *store.Store
	log   *slog.Logger
	now   func() time.Time
	state atomic.Pointer[state]
	// confirmed is when the last look began that found the state to be that of the database.
	confirmed atomic.Pointer[time.Time]

	looking sync.Mutex // held during a look
	looked  time.Time  // when the last one began
	looks   atomic.Int64
}

// state is the keys at one time.
type state struct {
	version  int64
	keys     map[string]*entry // the valid ones, by id
	required bool
	// replaced is closed once another state has taken the place of this one.
	replaced chan struct{}
}

// entry is a valid key. It stays the same for as long as the key is valid.
type entry struct {
	row
	used  atomic.Int64 // Unix seconds; 0 for never
	saved int64        // what used was when it was last saved; of Run alone
}

// Open reads the keys.
func Open(ctx context.Context, db *store.Store, log *slog.Logger, now func() time.Time) (*Ring, error) {
	r := &Ring{db: db, log: log, now: now}
	r.state.Store(&state{version: -1, replaced: make(chan struct{})})
	return r, r.look(ctx, time.Time{})
}

// Required reports whether clients need a key: there is one, or there was. To revoke the
// last one does not open the API to all; Forget does.
func (r *Ring) Required() bool { return r.state.Load().required }

// Changed returns a channel that is closed once the keys are others than now.
func (r *Ring) Changed() <-chan struct{} { return r.state.Load().replaced }

// Find returns the key that is secret, or nil where no valid key is. It waits for a look
// into the database where it does not know the key, which may be new. The error wraps
// ErrUnconfirmed where nothing certain can be said.
func (r *Ring) Find(ctx context.Context, secret string) (*Key, error) {
	id, wellFormed := idOf(secret)
	if !wellFormed {
		return nil, nil
	}
	now := r.now()
	found := r.find(id, secret)
	if found == nil {
		if err := r.lookAfterMiss(ctx, now); err != nil {
			return nil, errors.Join(ErrUnconfirmed, err)
		}
		if found = r.find(id, secret); found == nil {
			return nil, nil
		}
	}
	if now.Sub(*r.confirmed.Load()) > maxUnconfirmed {
		return nil, ErrUnconfirmed
	}
	if second := now.Unix(); second > found.used.Load() {
		found.used.Store(second)
	}
	return &found.Key, nil
}

func (r *Ring) find(id, secret string) *entry {
	known := r.state.Load().keys[id]
	if known == nil || !hash(secret).equals(known.Hash) {
		return nil
	}
	return known
}

// lookAfterMiss waits for a look that began after a moment. Looks keep a distance from
// each other, so that clients cannot have more of them by keys that they make up.
func (r *Ring) lookAfterMiss(ctx context.Context, moment time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	r.looking.Lock()
	last := r.looked
	r.looking.Unlock()
	if rest := missEvery - r.now().Sub(last); rest > 0 && !last.After(moment) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(rest, missEvery)):
		}
	}
	return r.look(ctx, moment)
}

// look reads the keys again if they changed, unless a look began after a moment, and
// finished.
func (r *Ring) look(ctx context.Context, unless time.Time) error {
	r.looking.Lock()
	defer r.looking.Unlock()
	if confirmed := r.confirmed.Load(); confirmed != nil && !unless.IsZero() && confirmed.After(unless) {
		return nil
	}
	began := r.now()
	r.looked = began
	r.looks.Add(1)
	held := r.state.Load()
	// The version first: a change between the two reads is seen by the next look.
	v, err := version(ctx, r.db)
	if err != nil {
		return err
	}
	if v != held.version {
		rows, err := readAll(ctx, r.db)
		if err != nil {
			return err
		}
		next := &state{version: v, keys: make(map[string]*entry, len(rows)), required: len(rows) > 0, replaced: make(chan struct{})}
		for _, row := range rows {
			switch known := held.keys[row.ID]; {
			case row.RevokedAt != nil:
			case known != nil:
				next.keys[row.ID] = known // with when it was used
			default:
				next.keys[row.ID] = newEntry(row)
			}
		}
		r.state.Store(next)
		close(held.replaced)
	}
	r.confirmed.Store(&began)
	return nil
}

func newEntry(row row) *entry {
	e := &entry{row: row}
	if row.LastUsedAt != nil {
		e.saved = row.LastUsedAt.Unix()
		e.used.Store(e.saved)
	}
	return e
}

// Run follows the changes of keys, and saves when keys were used, until ctx is done.
func (r *Ring) Run(ctx context.Context) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := r.tick(ctx)
		if err != nil && ctx.Err() == nil && !failing { // once, until it works again
			r.log.Warn("following the API keys failed", "error", err)
		}
		failing = err != nil
	}
}

func (r *Ring) tick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := r.look(ctx, time.Time{}); err != nil {
		return err
	}
	used, entries := map[string]time.Time{}, map[*entry]int64{}
	for id, e := range r.state.Load().keys {
		if second := e.used.Load(); time.Duration(second-e.saved)*time.Second >= useEvery {
			used[id], entries[e] = time.Unix(second, 0).UTC(), second
		}
	}
	if len(used) == 0 {
		return nil
	}
	if err := saveUse(ctx, r.db, used); err != nil {
		return err
	}
	for e, second := range entries {
		e.saved = second
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
