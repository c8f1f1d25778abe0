package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/pipeline"
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
func (l letters) List(ctx context.Context, stage string, limit int) ([]store.DeadLetterSummary, error) {
	if err := l.known(ctx, stage); err != nil {
		return nil, err
	}
	found, err := store.DeadLetters(ctx, l.db, stage, limit)
	return found, passingLetters(err)
}

// Get implements httpapi.DeadLetters.
func (l letters) Get(ctx context.Context, id int64) (httpapi.DeadLetter, error) {
	letter, err := readDeadLetter(ctx, l.db, id)
	return letter, passingLetters(err)
}

// Count implements httpapi.DeadLetters.
func (l letters) Count(ctx context.Context, which store.Letters) ([]store.StageLetters, error) {
	if err := l.known(ctx, which.Stage); err != nil {
		return nil, err
	}
	counts, err := store.CountLetters(ctx, l.db, which)
	return counts, passingLetters(err)
}

// Retry implements httpapi.DeadLetters.
func (l letters) Retry(ctx context.Context, which store.Letters) (store.LetterRetry, error) {
	order, err := l.db.OrderRetry(ctx, which)
	if err == nil {
		order, err = pipeline.AwaitRetry(ctx, l.db, order.ID, letterWait)
	}
	return order, passingLetters(err)
}

// ReadRetry implements httpapi.DeadLetters.
func (l letters) ReadRetry(ctx context.Context, id string) (store.LetterRetry, error) {
	order, err := store.ReadRetry(ctx, l.db, id)
	return order, passingLetters(err)
}

// Discard implements httpapi.DeadLetters.
func (l letters) Discard(ctx context.Context, which store.Letters) (int64, error) {
	n, err := l.db.Discard(ctx, which)
	return n, passingLetters(err)
}

// known returns projections.ErrNotFound for the name of a stage that never ran here.
func (l letters) known(ctx context.Context, stage string) error {
	err := knownStage(ctx, l.db, stage)
	if errors.Is(err, errUsage) {
		return projections.ErrNotFound
	}
	return passingLetters(err)
}

// passingLetters marks what is no refusal: the database is away, or was too slow.
func passingLetters(err error) error {
	for _, refusal := range []error{nil, store.ErrNoDeadLetter, store.ErrRetrying, store.ErrNoRetry} {
		if errors.Is(err, refusal) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", httpapi.ErrUnavailable, err)
}
