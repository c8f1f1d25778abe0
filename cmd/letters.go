package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
)

// letters is httpapi.DeadLetters over the database. A retry is carried out by the
// process that runs the stage.
type letters struct{ db *store.Store }

var _ httpapi.DeadLetters = letters{}

// letterWait is how long a request waits for the outcome of a retry: the process
// that carries it out looks every second.
const letterWait = 3 * time.Second

// List implements httpapi.DeadLetters.
func (l letters) List(ctx context.Context, stage string, limit int) ([]httpapi.DeadLetterSummary, error) {
	if err := l.known(ctx, stage); err != nil {
		return nil, err
	}
	found, err := store.DeadLetters(ctx, l.db, stage, limit)
	listed := make([]httpapi.DeadLetterSummary, len(found))
	for i, f := range found {
		listed[i] = httpapi.DeadLetterSummary{ID: f.ID, Stage: f.Stage, Topic: f.Topic, TopicID: f.TopicID, Partition: f.Part,
			Offset: f.Offset, Bytes: f.Bytes, Reason: f.Reason, CreatedAt: f.CreatedAt, Retrying: f.Retrying}
	}
	return listed, letterError(err)
}

// Get implements httpapi.DeadLetters.
func (l letters) Get(ctx context.Context, id int64) (httpapi.DeadLetter, error) {
	letter, err := readDeadLetter(ctx, l.db, id)
	return letter, letterError(err)
}

// Count implements httpapi.DeadLetters.
func (l letters) Count(ctx context.Context, which httpapi.WhichDeadLetters) ([]httpapi.StageDeadLetters, error) {
	if err := l.known(ctx, which.Stage); err != nil {
		return nil, err
	}
	found, err := store.CountLetters(ctx, l.db, store.Letters(which))
	counts := make([]httpapi.StageDeadLetters, len(found))
	for i, f := range found {
		counts[i] = httpapi.StageDeadLetters(f)
	}
	return counts, letterError(err)
}

// Retry implements httpapi.DeadLetters.
func (l letters) Retry(ctx context.Context, which httpapi.WhichDeadLetters) (httpapi.DeadLetterRetry, error) {
	order, err := l.db.OrderRetry(ctx, store.Letters(which))
	if err == nil {
		order, err = engine.AwaitRetry(ctx, l.db, order.ID, letterWait)
	}
	return httpapi.DeadLetterRetry(order), letterError(err)
}

// ReadRetry implements httpapi.DeadLetters.
func (l letters) ReadRetry(ctx context.Context, id string) (httpapi.DeadLetterRetry, error) {
	order, err := store.ReadRetry(ctx, l.db, id)
	return httpapi.DeadLetterRetry(order), letterError(err)
}

// Discard implements httpapi.DeadLetters.
func (l letters) Discard(ctx context.Context, which httpapi.WhichDeadLetters) (int64, error) {
	n, err := l.db.Discard(ctx, store.Letters(which))
	return n, letterError(err)
}

// known returns projections.ErrNotFound for the name of a stage that never ran here.
func (l letters) known(ctx context.Context, stage string) error {
	err := knownStage(ctx, l.db, stage)
	if errors.Is(err, errUsage) {
		return projections.ErrNotFound
	}
	return letterError(err)
}

// letterError translates refusals; any other error is that the database is down, or
// was too slow.
func letterError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNoDeadLetter), errors.Is(err, store.ErrNoRetry):
		return fmt.Errorf("%w: %w", projections.ErrNotFound, err)
	case errors.Is(err, store.ErrRetrying):
		return fmt.Errorf("%w: %w", httpapi.ErrRetrying, err)
	}
	return fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
}
