package fetch

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// request is a row of fetch_queue.
type request struct {
	ID          string          `db:"request_id"`
	Provider    schema.Provider `db:"provider"`
	Symbol      schema.Symbol   `db:"symbol"`
	Deadline    schema.Time     `db:"deadline"`
	Traceparent string          `db:"traceparent"`
}

// claimMillis is how long a claim lasts unless it is renewed: what a process
// that died was working on is taken over after that.
const claimMillis = 3000

// maxOverdue bounds the overdue requests of one transaction.
const maxOverdue = 100

// queue is the view that one process has of the table.
type queue struct {
	owner string
	emit  pipeline.Emitter
}

func newQueue(emit pipeline.Emitter) (*queue, error) {
	owner, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("naming the owner of claims: %w", err)
	}
	return &queue{owner: owner.String(), emit: emit}, nil
}

// claim renews the claims already held and takes open requests, the oldest
// first: as many of each provider as free says, and in any case those that are
// overdue, since they need no answer any more.
func (q *queue) claim(ctx context.Context, now schema.Time, free func(schema.Provider) int) ([]request, error) {
	var claimed []request
	_, err := q.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		// All that this owner claimed is under way, so all of it is renewed.
		if _, err := tx.Exec(ctx, own(tx)+`UPDATE fetch_queue SET claimed_until = `+tx.NowMillis()+` + $2
			WHERE request_id IN (SELECT request_id FROM held) AND claimed_by = $1`, q.owner, claimMillis); err != nil {
			return nil, fmt.Errorf("renewing claims: %w", err)
		}
		var err error
		if claimed, err = q.take(ctx, tx, `deadline <= $3`, now, maxOverdue); err != nil {
			return nil, err
		}
		var providers []schema.Provider
		if err := tx.Select(ctx, &providers, `SELECT DISTINCT provider FROM fetch_queue`); err != nil {
			return nil, fmt.Errorf("looking for open requests: %w", err)
		}
		for _, provider := range providers {
			slots := free(provider)
			if slots <= 0 {
				continue
			}
			some, err := q.take(ctx, tx, `provider = $3`, provider, slots)
			if err != nil {
				return nil, err
			}
			claimed = append(claimed, some...)
		}
		return nil, nil
	})
	return claimed, err
}

// own begins a statement on all claims of owner $1. They are locked in one
// order, so that two statements of different processes never wait in a circle.
func own(tx *pipeline.Tx) string {
	return `WITH held AS (SELECT request_id FROM fetch_queue WHERE claimed_by = $1
		ORDER BY request_id ` + tx.LockRows("fetch_queue") + `) `
}

// take claims the oldest open requests that meet a condition on parameter $3.
func (q *queue) take(ctx context.Context, tx *pipeline.Tx, condition string, arg any, most int) ([]request, error) {
	var taken []request
	// Rows that another process is about to take are passed over.
	err := tx.Select(ctx, &taken, `WITH held AS (SELECT request_id FROM fetch_queue
			WHERE `+condition+` AND claimed_until < `+tx.NowMillis()+`
			ORDER BY requested_at, request_id LIMIT $4 `+tx.LockFreeRows("fetch_queue")+`)
		UPDATE fetch_queue SET claimed_by = $1, claimed_until = `+tx.NowMillis()+` + $2
		WHERE request_id IN (SELECT request_id FROM held)
		RETURNING request_id, provider, symbol, deadline, traceparent`, q.owner, claimMillis, arg, most)
	if err != nil {
		return nil, fmt.Errorf("claiming requests where %s: %w", condition, err)
	}
	return taken, nil
}

// release gives up all claims, so that whoever comes next need not wait until
// they end.
func (q *queue) release(ctx context.Context) error {
	_, err := q.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		_, err := tx.Exec(ctx, own(tx)+`UPDATE fetch_queue SET claimed_by = '', claimed_until = 0
			WHERE request_id IN (SELECT request_id FROM held) AND claimed_by = $1`, q.owner)
		return nil, err
	})
	if err != nil {
		return fmt.Errorf("giving up claims: %w", err)
	}
	return nil
}

// finish publishes the outcomes of requests and removes them, in one
// transaction. A request that another process finished meanwhile is left out:
// each has one outcome.
func (q *queue) finish(ctx context.Context, outcomes []outcome) error {
	_, err := q.emit.Emit(ctx, func(tx *pipeline.Tx) ([]schema.Event, error) {
		ids := make([]string, len(outcomes))
		byID := make(map[string]outcome, len(outcomes))
		for i, o := range outcomes {
			ids[i], byID[o.request.ID] = o.request.ID, o
		}
		removed, err := store.SelectIn[string](ctx, tx, `WITH held AS (SELECT request_id FROM fetch_queue
				WHERE request_id IN (?) ORDER BY request_id `+tx.LockRows("fetch_queue")+`)
			DELETE FROM fetch_queue WHERE request_id IN (SELECT request_id FROM held) RETURNING request_id`, ids)
		if err != nil {
			return nil, fmt.Errorf("removing finished requests: %w", err)
		}
		events := make([]schema.Event, len(removed))
		for i, id := range removed {
			o := byID[id]
			events[i] = schema.Event{ID: schema.DeriveID(Name, id), Source: "pricemill/" + Name,
				Traceparent: o.request.Traceparent, Payload: o.payload}
		}
		return events, nil
	})
	return err
}
