package requests

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Waiter waits for the outcomes of requests. However many wait, one query at a
// time asks for all of them. It is safe for concurrent use.
type Waiter struct {
	db store.Querier
	// changed returns a channel that is closed at the next commit of a stage in
	// this process.
	changed func() <-chan struct{}
	log     *slog.Logger
	// complained is when Run last logged an error.
	complained time.Time

	mu      sync.Mutex
	waiting map[string][]chan Request
	awake   chan struct{} // tells Run that someone waits
}

// NewWaiter returns a waiter; Run serves it.
func NewWaiter(db store.Querier, changed func() <-chan struct{}, log *slog.Logger) *Waiter {
	return &Waiter{db: db, changed: changed, log: log, waiting: map[string][]chan Request{}, awake: make(chan struct{}, 1)}
}

const (
	// look is how soon an outcome is seen that another process committed.
	look = 20 * time.Millisecond
	// lookTimeout is when a look is given up for another: on a connection that
	// hangs, all who wait would wait for it.
	lookTimeout = time.Second
)

// Wait blocks until the request has an outcome, or ctx is done. A request that
// is not known yet is waited for as well.
func (w *Waiter) Wait(ctx context.Context, requestID string) (Request, error) {
	answer := make(chan Request, 1)
	w.mu.Lock()
	w.waiting[requestID] = append(w.waiting[requestID], answer)
	w.mu.Unlock()
	select {
	case w.awake <- struct{}{}:
	default:
	}
	select {
	case r := <-answer:
		return r, nil
	case <-ctx.Done():
		w.forget(requestID, answer)
		return Request{}, fmt.Errorf("waiting for the outcome of request %s: %w", requestID, ctx.Err())
	}
}

func (w *Waiter) forget(requestID string, answer chan Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.waiting[requestID][:0]
	for _, other := range w.waiting[requestID] {
		if other != answer {
			kept = append(kept, other)
		}
	}
	w.waiting[requestID] = kept
	if len(kept) == 0 {
		delete(w.waiting, requestID)
	}
}

// Run answers those who wait until ctx is done. While the database does not
// answer, they wait on.
func (w *Waiter) Run(ctx context.Context) {
	timer := time.NewTimer(look)
	defer timer.Stop()
	for {
		changed := w.changed() // before the query: a commit during it is seen
		if !w.answer(ctx) {
			select {
			case <-ctx.Done():
				return
			case <-w.awake:
			}
			continue
		}
		timer.Reset(look)
		select {
		case <-ctx.Done():
			return
		case <-w.awake:
		case <-changed:
		case <-timer.C:
		}
	}
}

// answer looks once for the outcomes of all who wait, and reports whether
// anyone still does.
func (w *Waiter) answer(ctx context.Context) bool {
	w.mu.Lock()
	ids := make([]string, 0, len(w.waiting))
	for id := range w.waiting {
		ids = append(ids, id)
	}
	w.mu.Unlock()
	if len(ids) == 0 {
		return false
	}
	looking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	finished, err := store.SelectIn[stored](looking, w.db, `SELECT request_id, provider, symbol, state, price, timestamp,
		received_at, code, reason FROM requests WHERE request_id IN (?) AND state <> 'pending'`, ids)
	if err != nil {
		if ctx.Err() == nil && time.Since(w.complained) > time.Second {
			w.complained = time.Now()
			w.log.Warn("looking for the outcomes of requests failed, trying again", "error", err)
		}
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, row := range finished {
		for _, answer := range w.waiting[row.RequestID] {
			answer <- row.request()
		}
		delete(w.waiting, row.RequestID)
	}
	return len(w.waiting) > 0
}

// stored is a row as it is in the table.
type stored struct {
	Request
	Price      sql.Null[schema.Decimal] `db:"price"`
	Timestamp  sql.Null[schema.Time]    `db:"timestamp"`
	ReceivedAt sql.Null[schema.Time]    `db:"received_at"`
}

func (s stored) request() Request {
	r := s.Request
	r.Price, r.Timestamp, r.ReceivedAt = s.Price.V, s.Timestamp.V, s.ReceivedAt.V
	return r
}
